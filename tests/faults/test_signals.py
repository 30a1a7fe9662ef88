"""Signals at the worst moments, and what a job says and leaves behind when it is asked to end early."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import finished
from fault_kit import Lives, check_stored, run_cli, start, truths, vectors, write_job
from safetensors.numpy import save_file

import kltui
from kltui.errors import StoreError
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan
from kltui.jobs.shard import InboxWriter
from kltui.jobs.signals import Signals
from kltui.store import JobRow, side_tables


def jobs(folder: Path) -> list[JobRow]:
    try:
        with kltui.open(folder) as ws:
            return ws.jobs()
    except StoreError:  # it is just being made
        return []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (signal.SIGTERM, 143, "stopped"),
        (signal.SIGHUP, 129, "stopped"),
        (signal.SIGINT, 130, "stopped"),
        (signal.SIGUSR1, 128 + signal.SIGUSR1, "paused"),
    ],
)
def test_a_signal_in_the_first_moments_ends_the_job_as_one_later_does(
    lives: Lives, tmp_path: Path, number: int, code: int, status: str
) -> None:
    job = write_job(tmp_path, checkpoints=3)
    ended = lives.run("--batch", str(job), struck=("register", number), inline=False)
    assert ended.code == code, ended.err
    (row,) = jobs(tmp_path / "ws")
    assert (row.status, row.done, ended.out) == (status, 0, "")
    assert "0 scored, 3 left: run the job again to continue; this took " in ended.err
    assert lives.run("--batch", str(job), "--json").code == 0
    assert vectors(tmp_path / "ws") == truths(job)


def test_ctrl_c_twice_stops_at_once_whatever_came_between() -> None:
    with Signals() as signals:
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.raise_signal(number)
        assert signals.finish_current and not signals.stop_now
        signal.raise_signal(signal.SIGINT)
        assert signals.stop_now and signals.received == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_last_moments_leaves_a_job_that_is_done(
    lives: Lives, tmp_path: Path, number: int
) -> None:
    job = write_job(tmp_path, checkpoints=2)
    ended = lives.run("--batch", str(job), "--json", struck=("finish", number), inline=False)
    assert ended.code == 0, ended.err
    (row,) = jobs(tmp_path / "ws")
    assert (row.status, row.done) == ("done", 2)


def pause_after_one(job: Path) -> subprocess.CompletedProcess[str]:
    """A batch of slow checkpoints that is asked to pause while it scores one."""
    process = start("--batch", str(job), cwd=job.parent, KLTUI_LIGHT_SECONDS="1")
    wait_until(lambda: is_scoring(job.parent / "ws", process.pid))
    process.send_signal(signal.SIGUSR1)
    return finished(process, 60)


def is_scoring(folder: Path, pid: int) -> bool:
    """Whether the batch in that process has a checkpoint at work, as the store tells."""
    try:
        with kltui.open(folder) as ws:
            now = next((j for j in ws.jobs() if j.status == "running" and j.pid == pid), None)
            return now is not None and any(item.status == "running" for item in ws.job_items(now.id))
    except StoreError:  # it is just being made
        return False


def test_a_paused_job_tells_what_is_left_and_leaves_the_report_to_the_end(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=6)
    for _ in range(2):
        paused = pause_after_one(job)
        assert paused.returncode == 128 + signal.SIGUSR1, paused.stderr
        assert paused.stdout == "", "the report belongs to a job that was worked to its end"
        assert f"{6 - check_stored(job)} left: run the job again to continue" in paused.stderr
    assert jobs(tmp_path / "ws")[0].status == "paused"
    with kltui.open(tmp_path / "ws") as ws:
        assert not ws.weight_distances()
    whole = run_cli("--batch", str(job), cwd=tmp_path)
    assert whole.returncode == 0 and whole.stdout.startswith("Summary")
    assert vectors(tmp_path / "ws") == truths(job)


def test_what_is_stored_counts_although_it_was_not_looked_at(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=6)
    some = job.with_name("some.toml")
    paths = "".join(f'[[models]]\npath = "run/step{s}"\nrun = "run"\n' for s in (5, 1, 3))
    some.write_text(job.read_text().replace('[[models]]\npath = "run"\n', paths))
    first = lives.run("--batch", str(some), "--json")
    assert first.code == 0, first.err
    for number in (1, 2):
        ended = lives.run("--batch", str(job), struck=("register", signal.SIGTERM), inline=False)
        assert "0 scored, 3 already stored, 3 left: run the job again to continue" in ended.err, number
        row = jobs(tmp_path / "ws")[0]
        assert (row.status, row.done, row.total) == ("stopped", 3, 6)
        assert row.message.startswith("0 scored, 3 already stored, 3 left")


def test_a_part_counts_what_waits_in_the_inbox_and_what_was_taken_in(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=4)
    plan = make_plan(load_job(job))
    assert InboxWriter(plan).count_kept(range(4)) == set()
    assert lives.run("--batch", str(job), "--json", "--shard", "0/2").code == 0
    inbox = tmp_path / "ws" / "inbox"
    (inbox / "half.safetensors").write_bytes(b"half a file")
    foreign = {"x": np.zeros(1)}
    for i, about in enumerate(("[1]", "{", '"a word, not an object"', "{}")):
        save_file(foreign, inbox / f"foreign{i}.safetensors", {"about": about})
    assert InboxWriter(plan).count_kept(range(4)) == {0, 2}
    assert InboxWriter(plan).count_kept([1, 2, 3]) == {2}
    lives.run("--batch", str(job), "--collect")
    assert InboxWriter(plan).count_kept(range(4)) == {0, 2}
    assert lives.run("--batch", str(job), "--json", "--shard", "1/2").code == 0
    assert InboxWriter(plan).count_kept(range(4)) == {0, 1, 2, 3}


def test_a_part_that_is_stopped_reads_no_token_file(
    lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, checkpoints=3, extra="[scoring]\ntokens = true\n")
    assert lives.run("--batch", str(job), "--json", "--shard", "0/1").code == 0
    assert lives.run("--batch", str(job), "--json", "--collect").code == 0
    hashed: list[Path] = []
    whole = side_tables._sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return whole(path)

    monkeypatch.setattr(side_tables, "_sha256", counted)
    writer = InboxWriter(make_plan(load_job(job)))
    assert len(hashed) == 3, "once, as it starts: a damaged file is made anew"
    assert writer.count_kept([0, 2]) == {0, 2} and len(hashed) == 3
