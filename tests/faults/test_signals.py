"""Signals at the worst moments, and what a job says and leaves behind when it is asked to end early."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fault_kit import check_stored, command, light_env, run_cli, truths, vectors, write_job
from safetensors.numpy import save_file

import kltui
from kltui.errors import StoreError
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan
from kltui.jobs.shard import InboxWriter
from kltui.jobs.signals import Signals
from kltui.store import JobRow, side_tables

# A batch that sends itself a signal when its keeper is at the method named.
STRUCK = """\
import os, sys
from kltui.cli import main
from kltui.jobs.result_writer import ResultWriter
method, number = sys.argv[1], int(sys.argv[2])
whole = getattr(ResultWriter, method)
def struck(*arguments):
    if method == "finish":
        os.kill(os.getpid(), number)
    whole(*arguments)
    if method == "register":
        os.kill(os.getpid(), number)
setattr(ResultWriter, method, struck)
sys.exit(main(sys.argv[3:]))
"""


def struck(job: Path, number: int, *arguments: str, at: str = "register") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", STRUCK, at, str(number), "--batch", str(job), *arguments],
        env=light_env(), cwd=job.parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


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
        (signal.SIGUSR1, 0, "paused"),
    ],
)
def test_a_signal_in_the_first_moments_ends_the_job_as_one_later_does(
    tmp_path: Path, number: int, code: int, status: str
) -> None:
    job = write_job(tmp_path, checkpoints=3)
    ended = struck(job, number)
    assert ended.returncode == code, ended.stderr
    (row,) = jobs(tmp_path / "ws")
    assert (row.status, row.done, ended.stdout) == (status, 0, "")
    assert "0 scored, 3 left: run the job again to continue" in ended.stderr
    assert run_cli("--batch", str(job), "--json", cwd=tmp_path).returncode == 0
    assert vectors(tmp_path / "ws") == truths(job)


def test_ctrl_c_twice_stops_at_once_whatever_came_between() -> None:
    with Signals() as signals:
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.raise_signal(number)
        assert signals.finish_current and not signals.stop_now
        signal.raise_signal(signal.SIGINT)
        assert signals.stop_now and signals.received == signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_last_moments_leaves_a_job_that_is_done(tmp_path: Path, number: int) -> None:
    job = write_job(tmp_path, checkpoints=2)
    ended = struck(job, number, "--json", at="finish")
    assert ended.returncode == 0, ended.stderr
    (row,) = jobs(tmp_path / "ws")
    assert (row.status, row.done) == ("done", 2)


def pause_after_one(job: Path) -> subprocess.CompletedProcess[str]:
    """A batch of slow checkpoints that is asked to pause while it scores one."""
    process = subprocess.Popen(
        command("--batch", str(job)), env=light_env(KLTUI_LIGHT_SECONDS="1"), cwd=job.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: is_scoring(job.parent / "ws", process.pid))
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess((), process.returncode, out, err)


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
        assert paused.returncode == 0, paused.stderr
        assert paused.stdout == "", "the report belongs to a job that was worked to its end"
        assert f"{6 - check_stored(job)} left: run the job again to continue" in paused.stderr
    assert jobs(tmp_path / "ws")[0].status == "paused"
    with kltui.open(tmp_path / "ws") as ws:
        assert not ws.weight_distances()
    whole = run_cli("--batch", str(job), cwd=tmp_path)
    assert whole.returncode == 0 and whole.stdout.startswith("Summary")
    assert vectors(tmp_path / "ws") == truths(job)


def test_what_is_stored_counts_although_it_was_not_looked_at(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=6)
    some = job.with_name("some.toml")
    paths = "".join(f'[[models]]\npath = "run/step{s}"\nrun = "run"\n' for s in (5, 1, 3))
    some.write_text(job.read_text().replace('[[models]]\npath = "run"\n', paths))
    first = run_cli("--batch", str(some), "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    for life in (1, 2):
        ended = struck(job, signal.SIGTERM)
        assert "0 scored, 3 already stored, 3 left: run the job again to continue" in ended.stderr, life
        row = jobs(tmp_path / "ws")[0]
        assert (row.status, row.done, row.total) == ("stopped", 3, 6)
        assert row.message.startswith("0 scored, 3 already stored, 3 left")


def test_a_part_counts_what_waits_in_the_inbox_and_what_was_taken_in(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=4)
    plan = make_plan(load_job(job))
    assert InboxWriter(plan).count_kept(range(4)) == set()
    assert run_cli("--batch", str(job), "--json", "--shard", "0/2", cwd=tmp_path).returncode == 0
    inbox = tmp_path / "ws" / "inbox"
    (inbox / "half.safetensors").write_bytes(b"half a file")
    foreign = {"x": np.zeros(1)}
    for i, about in enumerate(("[1]", "{", '"a word, not an object"', "{}")):
        save_file(foreign, inbox / f"foreign{i}.safetensors", {"about": about})
    assert InboxWriter(plan).count_kept(range(4)) == {0, 2}
    assert InboxWriter(plan).count_kept([1, 2, 3]) == {2}
    run_cli("--batch", str(job), "--collect", cwd=tmp_path)
    assert InboxWriter(plan).count_kept(range(4)) == {0, 2}
    assert run_cli("--batch", str(job), "--json", "--shard", "1/2", cwd=tmp_path).returncode == 0
    assert InboxWriter(plan).count_kept(range(4)) == {0, 1, 2, 3}


def test_a_part_that_is_stopped_reads_no_token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write_job(tmp_path, checkpoints=3, extra="[scoring]\ntokens = true\n")
    assert run_cli("--batch", str(job), "--json", "--shard", "0/1", cwd=tmp_path).returncode == 0
    assert run_cli("--batch", str(job), "--json", "--collect", cwd=tmp_path).returncode == 0
    hashed: list[Path] = []
    whole = side_tables._sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return whole(path)

    monkeypatch.setattr(side_tables, "_sha256", counted)
    writer = InboxWriter(make_plan(load_job(job)))
    assert len(hashed) == 3, "once, as it starts: a damaged file is made anew"
    assert writer.count_kept([0, 2]) == {0, 2} and len(hashed) == 3
