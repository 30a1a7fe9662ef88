"""A scored run of tiny models with the texts they were scored on, laid out as the demo does it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from command import finished, start

sys.path.insert(0, str(Path(__file__).parent))  # scored_run

from scored_run import Run

TEXTS = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 7)}dogs" for i in range(12)]
TEXTS += ["x", "", "a <|endoftext|> in it, and <s>"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from tiny_models import write_run

    root = tmp_path_factory.mktemp("notebook") / "kltui-demo"
    write_run(root / "runs" / "tiny-seed1", "gpt_neox", steps=(0, 1, 2), seed=5)
    (root / "texts.json").write_text(json.dumps(TEXTS))
    job = 'workspace = "."\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "runs/tiny-seed1"\n[scoring]\nlayers = [1]\n'
    (root / "job.toml").write_text(job)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = finished(start("--batch", str(root / "job.toml"), cwd=root, env=env), 200)
    assert done.returncode == 0, done.stderr
    return Run(root / "runs" / "tiny-seed1", TEXTS, root)
