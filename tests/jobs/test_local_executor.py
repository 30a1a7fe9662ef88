"""Workers that crash cost one checkpoint at most; every worker is gone after stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Pipe
from multiprocessing.reduction import send_handle
from pathlib import Path
from types import SimpleNamespace

import pytest

from kltui.jobs import fork_server
from kltui.jobs.executors.forks import ForkedProcess, may_fork
from kltui.jobs.executors.local import LocalExecutor, begin_early
from kltui.jobs.messages import Died, Failed, FirstModel, Message, Setup, Task, TaskScored
from kltui.registry.reading import Hashed
from kltui.scoring.settings import ScoringSettings
from kltui.threads import usable_cores


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


def test_a_worker_is_a_fork_and_another_takes_its_place_in_a_moment(suite: Path) -> None:
    pool, folder = executor(), suite / "alpha" / "step0"
    try:
        pool.submit(Task(0, Hashed(folder, ""), "none"))
        first = next_message(pool, TaskScored)
        process = pool._workers[0].process
        assert isinstance(process, ForkedProcess) is (sys.platform == "linux")
        os.kill(process.pid, signal.SIGKILL)
        assert next_message(pool, Died) == Died(None, -signal.SIGKILL)
        pool.submit(Task(1, Hashed(folder, ""), "none"))
        again = next_message(pool, TaskScored)
        assert isinstance(first, TaskScored) and isinstance(again, TaskScored)
        assert {type(value) for value in first.result.key.values()} == {str}, "or to read it imports torch"
        assert first.result.vectors[0].loglik_N.tobytes() == again.result.vectors[0].loglik_N.tobytes()
    finally:
        pool.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")
def test_where_nothing_can_be_forked_a_worker_is_a_process_of_its_own(suite: Path) -> None:
    pool = executor()
    try:
        pool.submit(Task(0, Hashed(suite / "alpha" / "step0", ""), "none"))
        assert pool._server is not None
        pool._server._process.kill()
        assert isinstance(next_message(pool, TaskScored), TaskScored)
        assert isinstance(pool._workers[0].process, subprocess.Popen)
    finally:
        pool.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")
def test_a_process_begun_before_the_job_was_read_is_the_one_that_forks(suite: Path) -> None:
    setup = Setup(
        ("one two three",), "sha", ScoringSettings(device="cpu"), Path("/nonexistent-cache"), usable_cores()
    )
    begun = begin_early("cpu", 1)
    pool = LocalExecutor(replace(setup, first=FirstModel()), 1, begun=begun)
    try:
        assert begun is not None and pool._server is begun
        pool.submit(Task(0, Hashed(suite / "alpha" / "step0", ""), "none"))
        assert isinstance(next_message(pool, TaskScored), TaskScored)
        assert isinstance(pool._workers[0].process, ForkedProcess)
    finally:
        pool.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")
def test_all_threads_of_a_forked_worker_have_the_niceness_of_the_job(suite: Path) -> None:
    wanted = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    for niceness in (wanted, 0):
        setup = Setup(
            ("one two three",), "sha", ScoringSettings(device="cpu"), Path("/nonexistent-cache"), 2,
            first=FirstModel(), niceness=niceness,
        )  # fmt: skip
        pool = LocalExecutor(setup, 1)
        try:
            pool.submit(Task(0, Hashed(suite / "alpha" / "step0", ""), "none"))
            assert isinstance(next_message(pool, TaskScored), TaskScored)
            threads = [int(t.name) for t in Path(f"/proc/{pool._workers[0].process.pid}/task").iterdir()]
            found = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
        finally:
            pool.stop()
        assert found == {wanted if niceness else os.getpriority(os.PRIO_PROCESS, 0)}


def test_a_system_that_refuses_niceness_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refused)
    fork_server._give_way(5)


@pytest.mark.parametrize(("first", "workers"), [(None, 1), (FirstModel(), 3)])
def test_a_process_that_does_not_suit_the_workers_is_ended(first: FirstModel | None, workers: int) -> None:
    ended: list[bool] = []
    begun = SimpleNamespace(environment={"OMP_NUM_THREADS": "another"}, stop=lambda: ended.append(True))
    setup = Setup(("one",), "sha", ScoringSettings(device="cpu"), Path("/nonexistent-cache"), 3, first=first)
    pool = LocalExecutor(setup, workers, begun=begun)  # type: ignore[arg-type] - nothing is forked from it
    pool.stop()
    assert ended and pool._server is None


def test_a_process_with_threads_is_not_forked() -> None:
    ours, theirs = Pipe()

    def serve() -> None:
        with pytest.raises(EOFError):
            fork_server._serve_forks(theirs, None, None)  # type: ignore[arg-type] - no fork asks for them

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    worker, its_end = Pipe()
    ours.send(fork_server.Fork(3, False))
    with its_end:
        send_handle(ours, its_end.fileno(), os.getpid())
    assert ours.poll(60) and ours.recv() == fork_server.Forked(3, None)
    assert worker.poll(60), "the worker's pipe ends, so that nobody waits for it"
    ours.close()
    serving.join(60)


def test_on_a_gpu_no_worker_is_a_fork() -> None:
    assert not any(map(may_fork, ("cuda", "cuda:1", "mps")))
    assert may_fork("cpu") is (sys.platform == "linux")
