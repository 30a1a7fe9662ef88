"""A tiny suite on disk, made once: two runs of four checkpoints and thirty texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import write_run

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


@pytest.fixture
def job(suite: Path, tmp_path: Path) -> Path:
    """A job file in an empty folder over all eight checkpoints."""
    texts = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 7)}dogs" for i in range(30)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(suite=suite))
    return path
