"""Worker processes that are forks of one process, as seen from the batch; see `kltui.jobs.fork_server`."""

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
    """What an executor needs of a worker's process, as `subprocess.Popen` has it."""

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
    """The process that workers are forked from, begun at once: it imports torch before it is told what to `score`."""

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
                # numpy's BLAS would begin its threads as it is imported
                env={"OPENBLAS_NUM_THREADS": "1"} | self.environment,
            )

    def score(self, setup: Setup) -> None:
        """Says what workers are set up with, before the first is asked for."""
        self._send(Start(setup, self.environment))

    def fork(self, pipe: Connection, *, compares_dtypes: bool) -> ForkedProcess:
        """A worker at that end of a pipe, which is on its way: it begins once this process has imported torch."""
        worker = ForkedProcess(self, len(self._workers))
        self._workers.append(worker)
        self._send(Fork(worker.number, compares_dtypes), pipe.fileno())
        return worker

    def ask_status(self, worker: ForkedProcess) -> None:
        """Asks for a worker's exit status, waited for by `listen`."""
        self._send(Wait(worker.number, worker.pid))

    def _send(self, message: Start | Fork | Wait, handle: int | None = None) -> None:
        try:
            self._line.send(message)
            if handle is not None:
                send_handle(self._line, handle, self._process.pid)
        except OSError:
            self._lose()

    def listen(self, timeout_s: float | None = 0.0) -> None:
        """Takes in what is answered, waiting for the first answer up to `timeout_s`."""
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
        """Ends the process; workers are ended one by one before."""
        self.is_gone = True
        self._line.close()
        self._process.kill()  # it keeps nothing that is to be put away
        self._process.wait()


class ForkedProcess:
    """A requested worker: starting, running, refused or ended."""

    def __init__(self, server: ForkServer, number: int) -> None:
        self._server, self.number = server, number
        self._pid: int | None = None
        self._status: int | None = None
        self._answered = self._asked = False

    def answer(self, answer: Forked | Ended) -> None:
        """Takes what the server says of this worker."""
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
        """Its process id, waited for; 0 for one that was refused."""
        return 0 if self.is_refused else self._pid or 0

    def poll(self) -> int | None:
        """Its exit status once it is known; of one that never began 0, as soon as it cannot begin any more."""
        self._server.listen()
        if self._status is None and self._server.is_gone and (self._pid is None or not _is_there(self._pid)):
            self._status = 0 if self._pid is None else 1  # init has it: nobody will know how it ended
        return self._status

    def terminate(self) -> None:
        """Asks it to end, if it has begun; one on its way ends when it finds its pipe closed."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it, if it has begun."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        self._server.listen()
        # Its number is not another's: the server waits for a worker when it is asked to, not before.
        if self._pid is not None and self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal; raises TimeoutExpired. One on its way is not waited for: 0."""
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
