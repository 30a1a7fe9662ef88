"""Fixtures of the faults: light jobs, a process that gives batches many lives, a library that breaks the disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # fault_kit

from fault_kit import HERE, Lives, write_job


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled fault_shim.c, to be preloaded."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the shim preloads into Linux processes")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the library that breaks the disk")
    library = tmp_path_factory.mktemp("shim") / "fault_shim.so"
    source = str(HERE / "fault_shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    return library


@pytest.fixture
def light_job(tmp_path: Path) -> Path:
    """A job file over six light checkpoints and twenty texts."""
    return write_job(tmp_path)


@pytest.fixture(scope="session")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    """A process that runs batches in forked children."""
    server = Lives(tmp_path_factory.mktemp("lives"))
    yield server
    server.close()
