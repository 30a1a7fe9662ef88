"""Workers that crash, run out of memory or never start: one checkpoint fails in words, the others are scored."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_kit import behave, check_stored, command, ends, light_env, run_cli, truths, vectors, write_job


@pytest.mark.parametrize(
    ("behaviour", "error", "hint"),
    [
        ("segfault", "the scoring process ended twice (SIGSEGV)", ""),
        ("abort", "the scoring process ended twice (SIGABRT)", ""),
        ("kill", "the scoring process ended twice (SIGKILL)", "Probably out of memory"),
        ("bus", "the scoring process ended twice (SIGBUS)", "A weight file was truncated while it was read"),
        ("half", "the scoring process ended twice (exit status 1)", ""),
        ("device", "the scoring process ended twice (exit status 70)", "The GPU reported a persistent error"),
        ("memory", "out of memory", "Lower scoring.batch_tokens"),
        ("raise", "ValueError: something the scorer did not expect", "the traceback is in the log"),
        ("error", "this checkpoint is broken", "mend it"),
    ],
)
def test_one_bad_checkpoint_fails_alone(tmp_path: Path, behaviour: str, error: str, hint: str) -> None:
    job = write_job(tmp_path, checkpoints=3)
    behave(job, 1, behaviour)
    done = run_cli("--batch", str(job), "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    reported = ends(done.stdout)
    assert {name: end["status"] for name, end in reported.items()} == {
        "run@0": "done", "run@1": "failed", "run@2": "done"
    }  # fmt: skip
    assert reported["run@1"]["error"] == error and hint in (reported["run@1"]["hint"] or "")
    crashed = behaviour in ("segfault", "abort", "bus", "kill", "half", "device")
    assert done.stderr.count("trying once more") == crashed
    assert check_stored(job) == 2


@pytest.mark.parametrize("behaviour", ["segfault", "kill", "half", "device"])
def test_a_worker_lost_once_is_replaced_and_nothing_fails(tmp_path: Path, behaviour: str) -> None:
    job = write_job(tmp_path, checkpoints=2)
    behave(job, 1, f"once {behaviour}")
    done = run_cli("--batch", str(job), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trying once more" in done.stderr
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
    process = subprocess.Popen(
        command("--batch", str(job)),
        env=light_env(KLTUI_LIGHT_SECONDS="1"),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: bool(children(process.pid)))
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def start(job: Path, held: int) -> subprocess.Popen[str]:
    """A batch that has been asked once to stop while it scores checkpoint `held`, which it does until `let_go`."""
    behave(job, held, "hold")
    process = subprocess.Popen(
        command("--batch", str(job), "--json"),
        env=light_env(),
        cwd=job.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until((job.parent / "run" / f"step{held}" / "held").exists)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("press again to stop at once" in line for line in process.stderr)
    return process


def let_go(job: Path, held: int) -> None:
    """Has the checkpoint go on that `start` holds."""
    (job.parent / "run" / f"step{held}" / "behaviour").unlink()


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits until something holds; fails after a minute, which only a mistake takes."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_once_finishes_the_checkpoint_and_twice_stops_at_once(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=8)
    process = start(job, held=1)
    let_go(job, 1)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(ends(out)) == check_stored(job) == 2

    process = start(job, held=3)
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
    process = subprocess.Popen(
        command("--batch", str(job), "--json"), env=light_env(), cwd=tmp_path, stdout=heard, stderr=heard
    )
    os.close(heard)
    assert process.wait(120) == 0
    assert vectors(tmp_path / "ws") == truths(job)
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            again = subprocess.run(
                command("--batch", str(job), "--json", "--set", "workspace=full"),
                env=light_env(), cwd=tmp_path, stdout=full, stderr=full,
            )  # fmt: skip
        assert again.returncode == 0
        assert vectors(tmp_path / "full") == truths(job)
