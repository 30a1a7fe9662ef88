"""Workspaces for the view tests, each written once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kltui.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))  # small_workspace

from short_tsne import one_thread, short_tsne  # noqa: F401 - fixtures of every test here
from small_workspace import Builder
from small_workspace import suite as made_suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Two sizes, three seeds, a fine-tune, quantised variants, layer vectors; no weight files."""
    with made_suite(tmp_path_factory.mktemp("suite") / "work") as ws:
        yield ws


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """An empty workspace to be filled."""
    return Builder(tmp_path / "work")
