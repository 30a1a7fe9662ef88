"""Trains runs in parallel, each in a single-threaded process, which ends when the process that started it does."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Literal

from kltui.demo.prepared import FOLDER, load
from kltui.demo.suite import PlannedRun, Suite
from kltui.errors import KltuiError
from kltui.scoring.third_party_messages import silence_libraries

REPORT_EVERY_S = 0.25
POLL_S = 0.5
ENDS_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Progress of a run: `step` updates done, the loss of the last batch in nats per token; `done` when everything is saved."""

    run: str
    step: int
    loss: float
    done: bool = False


@dataclass(frozen=True, slots=True)
class _Task:
    kind: Literal["train", "8-bit", "gguf", "adapters"]
    run: str


class WorkerPool:
    """`n_workers` training processes for one suite; a context manager, which ends them."""

    def __init__(self, workspace: Path, suite: Suite, n_workers: int) -> None:
        self._workers = [_opened(workspace, suite) for _ in range(n_workers)]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, connection in self._workers:
            connection.close()  # a worker ends when it next uses its connection
        for process, _ in self._workers:
            process.join(ENDS_WITHIN_S)
            process.terminate()
            process.join()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [process.pid for process, _ in self._workers if process.pid is not None]

    def train(self, runs: Sequence[PlannedRun]) -> Iterator[RunProgress | None]:
        """Trains `runs`, each after its parent; yields the progress, and None if there was none for `POLL_S` seconds.

        Raises KltuiError if a worker fails or is killed; saved checkpoints remain.
        """
        waiting, busy = list(runs), dict[Connection, str]()
        while waiting or busy:
            for _, connection in self._workers:
                if connection not in busy and (run := _next(waiting, set(busy.values()))):
                    waiting.remove(run)
                    busy[connection] = run.name
                    with suppress(
                        BrokenPipeError, ConnectionResetError
                    ):  # that a worker has ended is noticed below
                        connection.send(_Task("train", run.name))
            ready = wait(list(busy), POLL_S)
            if not ready:
                yield None
            for connection in [c for c in busy if c in ready]:
                moved = self._answer(connection)
                assert isinstance(moved, RunProgress)
                if moved.done:
                    del busy[connection]
                yield moved

    def scores_eight_bit(self, run: PlannedRun) -> bool:
        """Whether this machine can load the last checkpoint of `run` in 8-bit and compute with it."""
        _, connection = self._workers[0]
        connection.send(_Task("8-bit", run.name))
        return self._answer(connection) is True

    def writes_gguf(self) -> bool:
        """Trains a small Llama and writes it as a GGUF file, in a worker; False if gguf is not installed."""
        _, connection = self._workers[0]
        connection.send(_Task("gguf", ""))
        return self._answer(connection) is True

    def writes_adapters(self) -> bool:
        """Trains and saves a few LoRA adapters, in a worker; False if peft is not installed."""
        _, connection = self._workers[0]
        connection.send(_Task("adapters", ""))
        return self._answer(connection) is True

    def _answer(self, connection: Connection) -> RunProgress | bool:
        try:
            answer = connection.recv()
        except (EOFError, ConnectionError):
            process = next(p for p, c in self._workers if c is connection)
            process.join()
            raise KltuiError(
                f"A training process ended (exit status {process.exitcode})",
                "Run the same command again to continue from the last checkpoint. It needs about 1 GB of memory.",
            ) from None
        if isinstance(answer, KltuiError):
            raise answer
        assert isinstance(answer, RunProgress | bool)
        return answer


def _next(waiting: Sequence[PlannedRun], running: set[str]) -> PlannedRun | None:
    """The first run whose parent is neither waiting nor running; None if there is none."""
    unfinished = running | {run.name for run in waiting}
    return next((run for run in waiting if run.parent not in unfinished), None)


def _opened(workspace: Path, suite: Suite) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(theirs, workspace, suite), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _worker(connection: Connection, workspace: Path, suite: Suite) -> None:
    """The main function of a worker: works on tasks until the other end of the pipe is closed."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # ctrl-C reaches every process; the one that started this one handles it
    silence_libraries()
    from kltui.demo import pretrain

    pretrain.set_up_process()
    try:
        while True:
            _work(connection, workspace, suite, connection.recv())
    except (EOFError, ConnectionError):
        return


def _work(connection: Connection, workspace: Path, suite: Suite, task: _Task) -> None:
    from kltui.demo import pretrain

    if task.kind == "gguf":
        prepared = load(workspace / FOLDER, suite)
        connection.send(pretrain.writes_gguf(workspace, prepared, suite))
        return
    if task.kind == "adapters":
        from kltui.demo.adapters import writes_adapters

        connection.send(writes_adapters(workspace, load(workspace / FOLDER, suite), suite))
        return
    run = suite.run(task.run)
    if task.kind == "8-bit":
        connection.send(pretrain.computes_in_eight_bit(workspace, run))
        return
    reported = 0.0
    try:
        trained = pretrain.Trained(run.last_step, float("nan"))
        for trained in pretrain.train(workspace, load(workspace / FOLDER, suite), suite, run):
            if time.monotonic() - reported > REPORT_EVERY_S:
                reported = time.monotonic()
                connection.send(RunProgress(run.name, trained.step, trained.loss))
        connection.send(RunProgress(run.name, trained.step, trained.loss, done=True))
    except KltuiError as error:
        connection.send(error)
    except ConnectionError:
        raise
    except Exception as error:
        hint = "Run the same command again; if that fails too, name a new folder: kltui --demo DIR."
        connection.send(KltuiError(f"Training {run.name} failed: {type(error).__name__}: {error}", hint))
