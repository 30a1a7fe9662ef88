"""Processes that a warm one forks when a test asks, in place of new interpreters; see warm/."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

PIPE = subprocess.PIPE


class Started(Protocol):
    """A process that was started: what tests use of subprocess.Popen."""

    pid: int
    returncode: int | None
    stdout: IO[str] | None
    stderr: IO[str] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(self, *, timeout: float | None = None) -> tuple[Any, Any]: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Fork:
    """A fork of the warm process at `socket_path` that calls `main` of a module, or runs `code`: a `Started` of its own process id.

    `session` makes it the first process of a session. Its standard input is empty.
    """

    def __init__(
        self,
        socket_path: str,
        module: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: int | IO[Any] = PIPE,
        stderr: int | IO[Any] = PIPE,
        session: bool = False,
        code: str = "",
    ) -> None:
        self.returncode: int | None = None
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(socket_path)
        ends = [_output(stdout), _output(stderr)]
        self.stdout, self.stderr = (end.file for end in ends)
        asked: dict[str, Any] = {"code": code} if code else {"module": module}
        asked |= {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        data = json.dumps(asked | {"passed": [], "session": session}).encode()
        with Path(os.devnull).open() as nothing:
            fds = [nothing.fileno(), *(end.fd for end in ends)]
            socket.send_fds(self._line, [len(data).to_bytes(8, "little")], fds)
        self._line.sendall(data)
        for end in ends:
            if end.is_ours:
                os.close(end.fd)
        self.pid = int(self._answer())

    def _answer(self) -> bytes:
        """The next line of the warm process; nothing of what follows it is read."""
        answer = b""
        while not answer.endswith(b"\n"):
            byte = self._line.recv(1)
            if not byte:
                raise EOFError(f"the warm process ended: {answer!r}")
            answer += byte
        return answer

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("kltui", timeout or 0.0)
            self.returncode = int(self._answer())
            self._line.close()
        return self.returncode

    def communicate(self, *, timeout: float | None = None) -> tuple[str | None, str | None]:
        """What is left to read of (standard output, standard error); it is killed when the time is up."""
        files = (self.stdout, self.stderr)
        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(file.read) if file else None for file in files]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        for file in files:
            if file:
                file.close()
        out, err = (part.result() if part else None for part in reading)
        return out, err

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _End(NamedTuple):
    """Where a process writes, whether that was opened here, and what is to be read of it."""

    fd: int
    is_ours: bool
    file: IO[str] | None = None


def _output(asked: int | IO[Any]) -> _End:
    if asked == PIPE:
        ours, theirs = os.pipe()
        return _End(theirs, is_ours=True, file=os.fdopen(ours, encoding="utf-8"))
    if asked == subprocess.DEVNULL:
        return _End(os.open(os.devnull, os.O_WRONLY), is_ours=True)
    return _End(asked if isinstance(asked, int) else asked.fileno(), is_ours=False)
