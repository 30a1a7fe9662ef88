"""Real models on a Ray cluster: layers, tokens and all, bit for bit what a local worker makes of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from command import Cli

import kltui


def stored(folder: Path) -> dict[str, bytes]:
    """Every vector and per-token file of a workspace, as bytes."""
    with kltui.open(folder) as ws:
        m = ws.map(layers=True)
        found = {name: m.loglik_KN[k].tobytes() for k, name in enumerate(m.names)}
        for row in ws.checkpoints():
            path = ws.token_logprobs(row.name)
            assert path is not None
            found[f"{row.name} tokens"] = path.read_bytes()
        return found


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_an_actor_stores_what_a_local_worker_stores(cli: Cli, job: Path) -> None:
    asked = ["--set", "scoring.layers=all", "--set", "scoring.tokens=true"]
    ray = ["--set", "engine.kind=ray", "--set", "workspace=ray"]
    done = cli("--batch", str(job), *asked, *ray, "--json")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("{") for line in done.stdout.splitlines()), "Ray wrote between the events"
    assert cli("--batch", str(job), *asked, "--json").returncode == 0
    truth = stored(job.parent / "ws")
    assert stored(job.parent / "ray") == truth and len(truth) == 48
