"""Workspaces for the view tests, each written once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sklearn.manifold  # loaded now, so that its threads can be limited
from threadpoolctl import threadpool_limits

from kltui.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))  # small_workspace

from small_workspace import Builder
from small_workspace import suite as made_suite


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


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Two sizes, three seeds, a fine-tune, quantised variants, layer vectors; no weight files."""
    with made_suite(tmp_path_factory.mktemp("suite") / "work") as ws:
        yield ws


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """An empty workspace to be filled."""
    return Builder(tmp_path / "work")
