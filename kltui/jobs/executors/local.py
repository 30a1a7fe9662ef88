"""The interface for scoring checkpoints (submit, wait, stop), and its implementation with local worker processes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import Protocol

from kltui.jobs.executors.forks import ForkedProcess, ForkServer, WorkerProcess, may_fork
from kltui.jobs.messages import (
    Computes,
    Died,
    Expect,
    Failed,
    Message,
    PairCompared,
    PairTask,
    Setup,
    Task,
    TaskScored,
)
from kltui.jobs.process import python_command
from kltui.threads import environment_of_jobs, usable_cores, wait_passively

STOP_GRACE_S = 3.0


class Executor(Protocol):
    """Scores one checkpoint per task in other processes, several at a time."""

    @property
    def idle(self) -> int: ...
    @property
    def can_expect(self) -> bool: ...
    @property
    def expected(self) -> Task | None: ...
    def expect(self, task: Task) -> None: ...
    def submit(self, task: Task) -> None: ...
    def wait(self, timeout_s: float) -> list[Message]: ...
    def stop(self) -> None: ...


def begin_early(device: str, workers: int) -> ForkServer | None:
    """A fork server, started before the job is known; None if workers on `device` are not forks."""
    return ForkServer(_environment(_threads(usable_cores(), workers), workers)) if may_fork(device) else None


def _threads(cores: int, workers: int) -> int:
    """Threads per worker, at least 1."""
    return max(1, cores // workers)


def _environment(threads: int, workers: int) -> dict[str, str]:
    """The whole environment of each of `workers` workers, {name: value}."""
    environment = {
        "TOKENIZERS_PARALLELISM": "true",
        "OMP_NUM_THREADS": str(threads),
    } | environment_of_jobs()
    if workers > 1:
        environment["OMP_NUM_THREADS"] = str(threads)
    # with two threads beside another load, spinning takes ten times as long
    wait_passively(environment)
    return environment


@dataclass
class _Worker:
    process: WorkerProcess
    pipe: Connection
    device: str
    task: Task | PairTask | None = None
    reads_ahead: bool = False
    expects: Task | None = None
    since: float = 0.0


class LocalExecutor:
    """`workers` processes on this machine; each takes one task at a time and is replaced when it dies.

    With several workers and device "auto" or "cuda", each uses a different GPU if there are several. On a CPU they
    are forks of one process that has imported torch, if that is safe; otherwise each imports it.
    """

    def __init__(
        self, setup: Setup, workers: int, devices: tuple[str, ...] = (), begun: ForkServer | None = None
    ) -> None:
        """`begun`: a fork server from `begin_early`; used if its environment is that of these workers, else stopped."""
        self._setup = replace(setup, threads=_threads(setup.threads, workers))
        self._devices = devices or (setup.settings.device,)
        self._workers: list[_Worker] = []
        self._size = workers
        self._may_fork = all(map(may_fork, self._devices))
        self._needs_torch = True  # False if the model of the last submitted task is behind a server
        ready = self._may_fork and setup.first is not None
        self._server = self._server_begun(begun) if ready else None
        if begun is not None and self._server is not begun:
            begun.stop()

    def _server_begun(self, begun: ForkServer | None = None) -> ForkServer:
        """`begun` or a new fork server, with this job's setup sent to it."""
        environment = self._environment()
        server = begun if begun is not None and begun.environment == environment else ForkServer(environment)
        server.score(self._setup)
        return server

    @property
    def idle(self) -> int:
        """How many more tasks could start now."""
        return self._size - sum(w.task is not None for w in self._workers)

    @property
    def can_expect(self) -> bool:
        """Whether a busy worker on a GPU has no next task announced yet, so that it could read ahead."""
        return any(w.task and w.reads_ahead and not w.expects for w in self._workers)

    @property
    def expected(self) -> Task | None:
        """A task that an idle worker already expects, if there is one."""
        return next((w.expects for w in self._workers if w.task is None and w.expects), None)

    def expect(self, task: Task) -> None:
        """Announces the next task to the worker that has been working longest, so that it can read ahead."""
        ready = [w for w in self._workers if w.task and w.reads_ahead and not w.expects]
        worker = min(ready, key=lambda w: w.since)
        worker.expects = task
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send(Expect(task))

    def submit(self, task: Task | PairTask) -> None:
        """Starts `task` on an idle worker, preferably one that expects it, launching a worker if necessary."""
        idle = [w for w in self._workers if w.task is None]
        self._needs_torch = not (isinstance(task, Task) and task.served)
        worker = min(idle, key=lambda w: w.expects != task, default=None) or self._launch()
        worker.task, worker.expects, worker.since = task, None, time.monotonic()
        # A worker that died idle shows up as Died at the next wait.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send(task)

    def wait(self, timeout_s: float) -> list[Message]:
        """Messages that arrive within `timeout_s`, as soon as there is one."""
        ready = wait([w.pipe for w in self._workers], timeout_s) if self._workers else []
        messages = []
        for worker in [w for w in self._workers if w.pipe in ready]:
            try:
                message: Message = worker.pipe.recv()
            except (EOFError, OSError):  # OSError: it died in the middle of a message
                if isinstance(worker.process, ForkedProcess) and worker.process.is_refused:
                    self._spawn_instead(worker)
                    continue
                message = self._died(worker)
            if isinstance(message, TaskScored | PairCompared | Failed):
                worker.task = None
            elif isinstance(message, Computes):
                worker.reads_ahead = message.device.device.startswith("cuda")
            messages.append(message)
        return messages

    def stop(self) -> None:
        """Ends every worker, whatever it is doing."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _launch(self) -> _Worker:
        used = [w.device for w in self._workers]
        device = min(self._devices, key=used.count)
        if self._may_fork and self._needs_torch:
            self._server = self._server or self._server_begun()
            ours, theirs = Pipe()
            with theirs:
                forked = self._server.fork(theirs, compares_dtypes=self._setup.compares_dtypes)
            worker = _Worker(forked, ours, device)
            self._setup = replace(self._setup, compares_dtypes=False)
        else:
            worker = _Worker(*self._spawned(device), device)
        self._workers.append(worker)
        return worker

    def _spawn_instead(self, worker: _Worker) -> None:
        """Replaces a worker that could not be forked by a new process, which gets its task; nothing is forked from now on."""
        self._may_fork = False
        worker.pipe.close()
        worker.process, worker.pipe = self._spawned(worker.device)
        if worker.task is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                worker.pipe.send(worker.task)

    def _spawned(self, device: str) -> tuple[WorkerProcess, Connection]:
        """(a worker in a new interpreter, the pipe to it), its setup sent."""
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                python_command("kltui.jobs.worker", "main", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=self._environment(),
            )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            ours.send(replace(self._setup, settings=replace(self._setup.settings, device=device)))
        self._setup = replace(self._setup, compares_dtypes=False)
        return process, ours

    def _environment(self) -> dict[str, str]:
        """The whole environment of a worker, {name: value}."""
        return _environment(self._setup.threads, self._size)

    def _died(self, worker: _Worker) -> Died:
        self._workers.remove(worker)
        worker.pipe.close()
        try:
            status = worker.process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        return Died(worker.task.index if worker.task else None, status)
