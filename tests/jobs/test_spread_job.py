"""A job that spreads its models: another way to run, the same vectors."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import Cli

import kltui


@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_a_spread_job_keeps_what_a_plain_one_scored(cli: Cli, job: Path) -> None:
    few = ("--batch", str(job), "--json", "--set", "scoring.device=cpu")
    spread = (*few, "--set", "engine.device_map=auto")
    only_alpha = ("--set", f'models=[{{path="{_alpha(job)}"}}]')
    done = cli(*spread, *only_alpha)
    assert done.returncode == 0, done.stderr
    with kltui.open(job.parent / "ws") as ws:
        first = ws.map().loglik_KN.copy()
    again = cli(*few, *only_alpha)
    assert again.returncode == 0, again.stderr
    ends = [e for line in again.stdout.splitlines() if (e := json.loads(line))["event"] == "checkpoint"]
    assert len(ends) == 4 and all(e["kept"] for e in ends)
    with kltui.open(job.parent / "ws") as ws:
        assert (ws.map().loglik_KN == first).all()
    assert not list((job.parent / "ws" / "cache").glob("offload-*"))


def _alpha(job: Path) -> str:
    return next(line for line in job.read_text().splitlines() if line.endswith('/alpha"')).split('"')[1]
