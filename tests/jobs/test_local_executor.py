"""Workers that crash cost one checkpoint at most; every worker is gone after stop."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from kltui.jobs.executors.local import LocalExecutor
from kltui.jobs.messages import Died, Failed, Message, Setup, Task, TaskScored
from kltui.registry.reading import Hashed
from kltui.scoring.settings import ScoringSettings

pytestmark = pytest.mark.usefixtures("warmed")


def executor(texts: tuple[str, ...] = ("one two three", "four five")) -> LocalExecutor:
    return LocalExecutor(Setup(texts, "sha", ScoringSettings(device="cpu"), Path("/nonexistent-cache"), 1), 1)


def next_message(pool: LocalExecutor, kind: type[Message], seconds: float = 60) -> Message:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for message in pool.wait(0.2):
            if isinstance(message, kind):
                return message
    raise AssertionError(f"no {kind.__name__}")


def test_a_failure_is_a_message_and_the_worker_lives_on(suite: Path, tmp_path: Path) -> None:
    pool = executor()
    try:
        pool.submit(Task(0, Hashed(tmp_path, ""), "none"))
        failed = next_message(pool, Failed)
        assert isinstance(failed, Failed) and failed.index == 0 and failed.error
        pid = pool._workers[0].process.pid
        pool.submit(Task(1, Hashed(suite / "alpha" / "step0", ""), "none"))
        scored = next_message(pool, TaskScored)
        assert isinstance(scored, TaskScored) and scored.index == 1
        assert pool._workers[0].process.pid == pid and pool.idle == 1
    finally:
        pool.stop()


def test_a_killed_worker_is_told_and_replaced(suite: Path) -> None:
    pool = executor()
    try:
        pool.submit(Task(0, Hashed(suite / "alpha" / "step0", ""), "none"))
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        died = next_message(pool, Died)
        assert died == Died(0, -signal.SIGKILL)
        pool.submit(Task(0, Hashed(suite / "alpha" / "step0", ""), "none"))
        assert isinstance(next_message(pool, TaskScored), TaskScored)
    finally:
        pool.stop()


def test_stop_leaves_no_process(suite: Path) -> None:
    pool = executor()
    pool.submit(Task(0, Hashed(suite / "alpha" / "step0", ""), "none"))
    process = pool._workers[0].process
    pool.stop()
    assert process.poll() is not None
