"""kill -9 at random moments: whatever was acknowledged is there, and the end is the same to the last bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fault_kit import Lives, check_stored, truths, vectors, write_job


@pytest.mark.parametrize("inline", [True, False], ids=["in one process", "with workers"])
def test_thirty_random_kills_lose_nothing_and_change_no_bit(
    lives: Lives, tmp_path: Path, inline: bool
) -> None:
    job = write_job(tmp_path, checkpoints=24)
    moments = random.Random(7)
    acknowledged: list[str] = []
    longest, kills = (0.15, 24) if inline else (1.0, 6)
    for _ in range(kills):
        life = lives.run("--batch", str(job), "--json", inline=inline, kill_after=moments.uniform(0, longest))
        assert life.code in (-9, 0), life.err
        acknowledged += life.acknowledged
        check_stored(job, acknowledged)
    assert lives.run("--batch", str(job), "--json", inline=inline).code == 0
    assert vectors(tmp_path / "ws") == truths(job)


def test_random_kills_on_a_network_file_system(
    lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("somewhere / nfs4 rw 0 0\n")
    monkeypatch.setattr("kltui.store.filesystem.MOUNTS", mounts)
    job, moments, acknowledged = write_job(tmp_path, checkpoints=16), random.Random(11), list[str]()
    for _ in range(12):
        moment = moments.uniform(0, 0.2)
        life = lives.run("--batch", str(job), "--json", kill_after=moment, FAULT_MOUNTS=str(mounts))
        acknowledged += life.acknowledged
        check_stored(job, acknowledged)
    assert lives.run("--batch", str(job), "--json", FAULT_MOUNTS=str(mounts)).code == 0
    assert vectors(tmp_path / "ws") == truths(job)
