"""Detached jobs: they outlive their starter, rest when asked, and go on from what is stored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running_jobs import wait_for

import kltui
from kltui.errors import KltuiError, UsageError
from kltui.jobs import launch
from kltui.store import JobRow


def test_pause_rests_after_a_checkpoint_and_resume_finishes(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLTUI_TEST_WARM_MAIN", "1")
    folder = job.parent / "ws"
    launch.start_detached(job)
    launch.pause(wait_for(folder, lambda row: row.status == "running" and row.done >= 1))
    paused = wait_for(folder, lambda row: row.status != "running")
    assert paused.status in ("paused", "done")
    if paused.status == "paused":
        assert 1 <= paused.done < 8
        launch.resume(paused, folder)
    done = wait_for(folder, lambda row: row.status == "done" and row.done == 8)
    assert done.id == paused.id, "a resumed job is the same job"
    assert "8 checkpoints" in done.log.read_text()


def test_a_job_outlives_the_process_group_that_started_it(job: Path, tmp_path: Path) -> None:
    # Whoever runs the tests under nohup hands an ignored SIGHUP down.
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    code += f"from pathlib import Path; from kltui.jobs import launch; print(launch.start_detached(Path({str(job)!r})), flush=True); input()"
    starter = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(kltui.__file__).parents[1],
    )
    assert starter.stdout is not None and starter.stdin is not None
    pid = int(starter.stdout.readline())
    os.killpg(starter.pid, signal.SIGHUP)
    starter.wait()
    starter.stdin.close()
    starter.stdout.close()
    done = wait_for(job.parent / "ws", lambda row: row.status == "done")
    assert (done.pid, done.done) == (pid, 8)


def test_what_cannot_be_done_is_told(job: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no job file"):
        launch.start_detached(tmp_path / "none.toml")
    row = JobRow(7, "done", 0.0, None, None, 1, "here", Path(), "", 1, 0, 1)
    with pytest.raises(KltuiError, match="job 7 is not running"):
        launch.stop(row)
    away = JobRow(7, "running", 0.0, None, None, 1, "elsewhere", Path(), "", 1, 0, 1)
    with pytest.raises(KltuiError, match="runs on elsewhere"):
        launch.stop(away)
