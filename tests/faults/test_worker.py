"""Workers that crash, run out of memory or never start: one checkpoint fails in words, the others are scored."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_kit import Started, behave, check_stored, ends, run_cli, start, truths, vectors, write_job

# What a checkpoint does to its worker -> (the error of that checkpoint, what its hint says)
BAD = {
    "segfault": ("the scoring process ended twice (SIGSEGV)", ""),
    "abort": ("the scoring process ended twice (SIGABRT)", ""),
    "kill": ("the scoring process ended twice (SIGKILL)", "Probably out of memory"),
    "bus": ("the scoring process ended twice (SIGBUS)", "A weight file was truncated while it was read"),
    "half": ("the scoring process ended twice (exit status 1)", ""),
    "device": ("the scoring process ended twice (exit status 70)", "The GPU reported a persistent error"),
    "memory": ("out of memory", "Lower scoring.batch_tokens"),
    "raise": ("ValueError: something the scorer did not expect", "the traceback is in the log"),
    "error": ("this checkpoint is broken", "mend it"),
}
CRASHES = ("segfault", "abort", "kill", "bus", "half", "device")


def test_bad_checkpoints_fail_each_alone(tmp_path: Path) -> None:
    """Every second one is bad, each in its own way: those between them, and after the last, are scored."""
    job = write_job(tmp_path, checkpoints=2 * len(BAD) + 1)
    steps = dict(zip(BAD, range(1, 2 * len(BAD), 2), strict=True))
    for behaviour, step in steps.items():
        behave(job, step, behaviour)
    done = run_cli("--batch", str(job), "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    reported = ends(done.stdout)
    failed = {name: end for name, end in reported.items() if end["status"] == "failed"}
    assert len(reported) == 2 * len(BAD) + 1 and failed.keys() == {f"run@{step}" for step in steps.values()}
    for behaviour, (error, hint) in BAD.items():
        end = failed[f"run@{steps[behaviour]}"]
        assert end["error"] == error and hint in (end["hint"] or ""), behaviour
    assert done.stderr.count("trying once more") == len(CRASHES)
    assert check_stored(job) == len(BAD) + 1


def test_workers_lost_once_are_replaced_and_nothing_fails(tmp_path: Path) -> None:
    job, crashes = write_job(tmp_path, checkpoints=6), ("segfault", "kill", "half", "device")
    for step, behaviour in enumerate(crashes, 1):
        behave(job, step, f"once {behaviour}")
    done = run_cli("--batch", str(job), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trying once more") == len(crashes)
    assert vectors(tmp_path / "ws") == truths(job)


def test_a_worker_that_cannot_be_set_up_says_why(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=2)
    done = run_cli("--batch", str(job), "--json", cwd=tmp_path, KLTUI_LIGHT_NO_DEVICE="1")
    assert done.returncode == 1
    assert {e["error"] for e in ends(done.stdout).values()} == {
        "device 'cuda' was asked for, but there is none"
    }


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc for a process's children")
def test_no_worker_outlives_a_killed_batch(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=4)
    nowhere = subprocess.DEVNULL
    process = start(
        "--batch", str(job), cwd=tmp_path, stdout=nowhere, stderr=nowhere, KLTUI_LIGHT_SECONDS="1"
    )
    wait_until(lambda: bool(children(process.pid)))
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def stopping(job: Path, held: int) -> Started:
    """A batch that has been asked once to stop while it scores checkpoint `held`, which it does until `let_go`."""
    behave(job, held, "hold")
    process = start("--batch", str(job), "--json", cwd=job.parent)
    wait_until((job.parent / "run" / f"step{held}" / "held").exists)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("press again to stop at once" in line for line in process.stderr)
    return process


def let_go(job: Path, held: int) -> None:
    """Has the checkpoint go on that `stopping` holds."""
    (job.parent / "run" / f"step{held}" / "behaviour").unlink()


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits until something holds; fails after a minute, which only a mistake takes."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_once_finishes_the_checkpoint_and_twice_stops_at_once(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=8)
    process = stopping(job, held=1)
    let_go(job, 1)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(ends(out)) == check_stored(job) == 2

    process = stopping(job, held=3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "run the job again" in err
    new = [name for name, end in ends(out).items() if not end.get("kept")]
    assert len(new) == 1 and check_stored(job) == 3
    let_go(job, 3)
    assert run_cli("--batch", str(job), "--json", cwd=tmp_path).returncode == 0
    assert vectors(tmp_path / "ws") == truths(job)


def test_a_reader_or_log_that_goes_away_does_not_stop_the_job(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=3)
    reported, heard = os.pipe()
    os.close(reported)
    process = start("--batch", str(job), "--json", cwd=tmp_path, stdout=heard, stderr=heard)
    os.close(heard)
    assert process.wait(120) == 0
    assert vectors(tmp_path / "ws") == truths(job)
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            words = ("--batch", str(job), "--json", "--set", "workspace=full")
            again = start(*words, cwd=tmp_path, stdout=full, stderr=full)
        assert again.wait(120) == 0
        assert vectors(tmp_path / "full") == truths(job)
