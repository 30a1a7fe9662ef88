"""A job that spreads its models over memory and disk: another way to run, the same vectors under the same keys."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command import Cli

import kltui
from kltui.store import Store

CLOSE = 1e-5  # nats a text, in float32
SMALL_ROOM = Path(__file__).with_name("small_room.py")


@pytest.mark.skipif(
    "KLTUI_TEST_WARM" not in os.environ, reason="what is run first is run by forks, on Linux alone"
)
@pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
def test_a_spread_job_scores_and_keeps_what_a_plain_one_does(cli: Cli, job: Path, suite: Path) -> None:
    few = (
        "--batch",
        str(job),
        "--json",
        "--set",
        "scoring.device=cpu",
        "--set",
        f'models=[{{path="{suite}/alpha"}}]',
    )
    apart = (*few, "--set", "engine.device_map=auto", "--set", "workspace=apart")
    size = next((suite / "alpha").glob("*/model.safetensors")).stat().st_size
    small = {"KLTUI_TEST_PATCH": str(SMALL_ROOM), "KLTUI_TEST_ROOM": str(int(0.6 * size))}
    done = cli(*apart, **small)
    assert done.returncode == 0, done.stderr
    # with the first, and at the end with the count
    assert done.stderr.count("the model is spread over cpu, disk") == 2
    assert "for 4 checkpoints: the model is spread over cpu, disk" in done.stderr
    assert not list((job.parent / "apart" / "cache").glob("offload-*"))
    plain = cli(*few, **small)  # packs no weights either, as no model does that is large for its machine
    assert plain.returncode == 0 and "spread over" not in plain.stderr, plain.stderr
    with kltui.open(job.parent / "ws") as ws, kltui.open(job.parent / "apart") as other:
        assert ws.map().names == other.map().names
        np.testing.assert_allclose(ws.map().loglik_KN, other.map().loglik_KN, rtol=0, atol=CLOSE)
    assert keys(job.parent / "ws") == keys(job.parent / "apart")
    again = cli(*few, "--set", "workspace=apart")
    assert [e["kept"] for e in map(json.loads, again.stdout.splitlines()) if e["event"] == "checkpoint"] == [
        True
    ] * 4


def keys(folder: Path) -> list[dict[str, str]]:
    """The key of every vector of a workspace."""
    store = Store.read(folder)
    try:
        return [json.loads(row.key) for row in store.vectors.rows()]
    finally:
        store.close()
