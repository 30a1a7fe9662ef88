"""A tiny suite on disk, made once: two runs of four checkpoints and thirty texts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from command import finished, start
from tiny_models import write_run

sys.path.insert(0, str(Path(__file__).parent))  # undisturbed

from undisturbed import Undisturbed

JOB = """\
workspace = "ws"
[corpus]
source = "texts.json"
[[models]]
path = "{suite}/alpha"
size = "small"
[[models]]
path = "{suite}/beta"
size = "small"
seed = 2
"""


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    write_run(folder / "alpha", seed=1)
    write_run(folder / "beta", seed=2)
    return folder


def write_job(folder: Path, suite: Path) -> Path:
    """A job file in `folder` over all eight checkpoints, and its texts."""
    texts = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 7)}dogs" for i in range(30)]
    (folder / "texts.json").write_text(json.dumps(texts))
    path = folder / "job.toml"
    path.write_text(JOB.format(suite=suite))
    return path


@pytest.fixture
def job(suite: Path, tmp_path: Path) -> Path:
    """A job file in an empty folder over all eight checkpoints."""
    return write_job(tmp_path, suite)


@pytest.fixture(scope="session")
def undisturbed(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    process = start("--batch", str(write_job(folder, suite)), "--json", cwd=folder, env=environment)
    return Undisturbed(finished(process, 120), folder / "ws")
