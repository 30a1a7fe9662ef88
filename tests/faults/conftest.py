"""Fixtures of the faults: light jobs, batches in forks, a library that breaks the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # fault_kit

from fault_kit import Lives, write_job


@pytest.fixture(scope="session")
def shim() -> None:
    """Skips where no library that breaks the disk is preloaded."""
    if "KLTUI_TEST_SHIM" not in os.environ:
        pytest.skip("no C compiler on Linux to build the library that breaks the disk")


@pytest.fixture
def light_job(tmp_path: Path) -> Path:
    """A job file over six light checkpoints and twenty texts."""
    return write_job(tmp_path)


@pytest.fixture(scope="session")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """Runs batches in forks."""
    if "KLTUI_TEST_LIGHT" not in os.environ:
        pytest.skip("no process to be forked: there is one on Linux alone")
    return Lives(tmp_path_factory.mktemp("lives"))
