"""The batch's side of worker processes that are forks of one process; the other side is `kltui.jobs.fork_server`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import send_handle
from typing import Protocol

from kltui.gpus import system_gpus
from kltui.jobs.fork_server import Ended, Fork, Forked, Start, Wait
from kltui.jobs.messages import Setup
from kltui.jobs.process import python_command

_LOOK_S = 0.02
_GONE = (EOFError, OSError)


class WorkerProcess(Protocol):
    """The methods of `subprocess.Popen` that an executor needs."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


def may_fork(device: str) -> bool:
    """Whether workers on `device` may be forks: only on a CPU under Linux, because a fork cannot use a GPU."""
    return sys.platform == "linux" and (device == "cpu" or (device == "auto" and not system_gpus()))


class ForkServer:
    """The process from which workers are forked. It starts at once and imports torch before `score` sends it the job."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._line, theirs = Pipe()
        self._workers: list[ForkedProcess] = []
        self.is_gone = False
        with theirs:
            self._process = subprocess.Popen(
                python_command("kltui.jobs.fork_server", "main", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # otherwise numpy's BLAS starts its threads when it is imported
                env={"OPENBLAS_NUM_THREADS": "1"} | self.environment,
            )

    def score(self, setup: Setup) -> None:
        """Sends the setup that all workers share; to be called before the first `fork`."""
        self._send(Start(setup, self.environment))

    def fork(self, pipe: Connection, *, compares_dtypes: bool) -> ForkedProcess:
        """Requests a worker that talks through `pipe` and returns at once; it starts once the server has imported torch."""
        worker = ForkedProcess(self, len(self._workers))
        self._workers.append(worker)
        self._send(Fork(worker.number, compares_dtypes), pipe.fileno())
        return worker

    def ask_status(self, worker: ForkedProcess) -> None:
        """Requests a worker's exit status; `listen` receives it."""
        self._send(Wait(worker.number, worker.pid))

    def _send(self, message: Start | Fork | Wait, handle: int | None = None) -> None:
        try:
            self._line.send(message)
            if handle is not None:
                send_handle(self._line, handle, self._process.pid)
        except OSError:
            self._lose()

    def listen(self, timeout_s: float | None = 0.0) -> None:
        """Receives all answers that have arrived; waits for the first up to `timeout_s` seconds, without limit if None."""
        try:
            while not self.is_gone and self._line.poll(timeout_s):
                answer: Forked | Ended = self._line.recv()
                self._workers[answer.number].answer(answer)
                timeout_s = 0.0
        except _GONE:
            self._lose()

    def _lose(self) -> None:
        self.is_gone = True

    def stop(self) -> None:
        """Ends the server, not its workers: the caller ends these first."""
        self.is_gone = True
        self._line.close()
        self._process.kill()  # it has nothing to save
        self._process.wait()


class ForkedProcess:
    """A requested worker: starting, running, refused or ended."""

    def __init__(self, server: ForkServer, number: int) -> None:
        self._server, self.number = server, number
        self._pid: int | None = None
        self._status: int | None = None
        self._answered = self._asked = False

    def answer(self, answer: Forked | Ended) -> None:
        """Stores the server's answer about this worker."""
        self._answered = True
        if isinstance(answer, Forked):
            self._pid = answer.pid
        else:
            self._status = answer.status

    @property
    def is_refused(self) -> bool:
        """Waits and returns whether the worker was refused, because the server cannot be forked or has ended."""
        while not self._answered and not self._server.is_gone:
            self._server.listen(None)
        return self._pid is None

    @property
    def pid(self) -> int:
        """Its process id, once the server has answered; 0 if it was refused."""
        return 0 if self.is_refused else self._pid or 0

    def poll(self) -> int | None:
        """Its exit status, None while unknown; 0 if it never started and cannot any more, 1 if its status was lost."""
        self._server.listen()
        if self._status is None and self._server.is_gone and (self._pid is None or not _is_there(self._pid)):
            self._status = (
                0 if self._pid is None else 1
            )  # only its parent, the server, could have reported the status
        return self._status

    def terminate(self) -> None:
        """Sends SIGTERM if it has started; a worker that has not ends when it finds its pipe closed."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL if it has started."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        self._server.listen()
        # The process id cannot be another's by now: the server reaps a worker only when asked for its status.
        if self._pid is not None and self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal; raises TimeoutExpired. Returns 0 at once if it has not started yet."""
        until = None if timeout is None else time.monotonic() + timeout
        self._server.listen()
        if not self._answered and self._status is None:
            return 0
        if not self._asked and self._pid is not None and not self._server.is_gone:
            self._asked = True
            self._server.ask_status(self)
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("a worker", timeout or 0.0)
            if self._server.is_gone:
                time.sleep(_LOOK_S)
            else:
                self._server.listen(_LOOK_S)
        return status


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
