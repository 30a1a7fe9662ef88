"""Fixtures under which t-SNE takes little time: for tests that only need its pictures to be there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import sklearn.manifold  # loaded now, so that its threads can be limited
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """t-SNE of few points on many threads of a busy machine takes ten times longer than on one."""
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True, scope="module")
def short_tsne() -> Iterator[None]:
    """t-SNE of a quarter of its iterations: its pictures are made here, and judged in tests/analysis."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.manifold, "TSNE", partial(sklearn.manifold.TSNE, max_iter=250))
        yield
