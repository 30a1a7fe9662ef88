"""The real program on a pseudo-terminal: keys in, bytes and times out."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from warm_process import WARM

import kltui

HERE = Path(__file__).resolve().parent
PACKAGE = Path(kltui.__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PATHS = os.pathsep.join([str(WARM), str(PACKAGE)])  # processes that kltui starts are forks: see tests/warm


@dataclass(frozen=True)
class Answer:
    """What followed a key: all bytes until the line was quiet, and seconds to the first of them (nan: none)."""

    data: bytes
    first: float

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")


class Terminal:
    """A program on a pty of the given size; `close` ends it."""

    @classmethod
    def of_fake(
        cls,
        checkpoints: int,
        width: int,
        height: int,
        *options: str,
        controlling: bool = True,
        **environment: str,
    ) -> Terminal:
        """The interface on a fixed workspace of about so many checkpoints (0: the standard one)."""
        command = [sys.executable, str(HERE / "big_app.py"), str(checkpoints), *options]
        return cls(command, width, height, controlling=controlling, **environment)

    def __init__(
        self, command: list[str], width: int, height: int, *, controlling: bool = True, **environment: str
    ) -> None:
        self.started = time.perf_counter()
        self._ahead = b""  # read, but not yet given to anyone
        env = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": PATHS, "HOME": "/dev/null"}
        for name in ("NO_COLOR", "COLORTERM", "SSH_CONNECTION", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
            env.pop(name, None)
        env |= environment
        if _may_fork(command, environment):
            self.pid, self.fd = _forked(command[1:], env, controlling=controlling)
        else:
            self.pid, self.fd = pty.fork() if controlling else _fork_without_control()
            if self.pid == 0:
                os.chdir("/")
                os.execvpe(command[0], command, env)
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, quiet: float, maximum: float = 20.0, patience: float = 0.0) -> Answer:
        """Everything until nothing came for `quiet` seconds; for the first of it `patience` where that is longer."""
        begun, first = time.perf_counter(), float("nan")
        data, self._ahead = self._ahead, b""
        while time.perf_counter() - begun < maximum:
            ready, _, _ = select.select([self.fd], [], [], quiet if data else max(quiet, patience))
            if not ready:
                break
            try:
                got = os.read(self.fd, 1 << 16)
            except OSError:
                break
            if not got:
                break
            if first != first:
                first = time.perf_counter() - begun
            data += got
        return Answer(data, first)

    def until(self, wanted: str, maximum: float = 60.0) -> tuple[float, bytes]:
        """Seconds from the start until `wanted` was shown, and all bytes up to its end; what follows is read next."""
        end = time.perf_counter() + maximum
        while (at := self._ahead.find(wanted.encode())) < 0 and time.perf_counter() < end:
            ready, _, _ = select.select([self.fd], [], [], 0.2)
            if ready:
                try:
                    self._ahead += os.read(self.fd, 1 << 16)
                except OSError:  # the program has ended
                    break
        if at < 0:
            raise AssertionError(
                f"{wanted!r} was not shown (in {maximum} s at most); there was {self._ahead[-2000:]!r}"
            )
        at += len(wanted.encode())
        data, self._ahead = self._ahead[:at], self._ahead[at:]
        return time.perf_counter() - self.started, data

    def press(self, keys: str, quiet: float = 0.12) -> Answer:
        """What follows these keys, which may be nothing."""
        os.write(self.fd, keys.encode())
        return self.read(quiet)

    def shown_for(self, keys: str, quiet: float = 0.12) -> Answer:
        """What follows these keys, which show something, however busy the machine is."""
        os.write(self.fd, keys.encode())
        return self.read(quiet, patience=60.0)

    def wait(self, maximum: float = 60.0) -> int:
        """The exit status (negative: the signal), while the rest is read."""
        return self.ended(maximum)[0]

    def ended(self, maximum: float = 60.0) -> tuple[int, bytes]:
        """(the exit status, negative for a signal, and all that was still written) of a program that is to end by itself."""
        rest, end = b"", time.perf_counter() + maximum
        while time.perf_counter() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if self.fd >= 0:
                rest += self.read(0.05, 20.0 if pid else 0.1).data
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status), rest
            if self.fd < 0:
                time.sleep(0.05)
        raise AssertionError(f"still running after {maximum} s")

    def hang_up(self) -> None:
        """Takes the terminal away, as a lost connection does."""
        os.close(self.fd)
        self.fd = -1

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        if self.fd >= 0:
            self.hang_up()


def _may_fork(command: list[str], environment: dict[str, str]) -> bool:
    """Whether a fork of a process that has imported the interface is as good as a new one.

    Not where times count, or for a variable that is read at an import.
    """
    is_python = command[0] == sys.executable and (command[1] == "-m" or command[1].endswith(".py"))
    is_read_later = environment.keys() <= {"HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"}
    return sys.platform == "linux" and is_python and is_read_later and "KLTUI_TEST_SLOWNESS" not in os.environ


@cache
def _forks() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The line to the process that forks, and that process, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "interface_forks.py"), str(theirs.fileno())],
            env=os.environ
            | {"PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return ours, process


def _forked(words: list[str], env: dict[str, str], *, controlling: bool) -> tuple[int, int]:
    """(process id, the terminal's other end) of a fork, whose parent is this process from now on."""
    ours, theirs = os.openpty()
    prctl, (line, _) = ctypes.CDLL(None).prctl, _forks()
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # meanwhile orphans become children of this process
    try:
        request = {"words": words, "env": env, "controlling": controlling}
        socket.send_fds(line, [json.dumps(request).encode()], [theirs])
        return int(line.recv(20)), ours
    finally:
        os.close(theirs)
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _fork_without_control() -> tuple[int, int]:
    """Like pty.fork, but no hang-up is told to the child: its session has no controlling terminal."""
    ours, theirs = os.openpty()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for fd in range(3):
            os.dup2(theirs, fd)
        os.closerange(3, max(ours, theirs) + 1)
        return 0, -1
    os.close(theirs)
    return pid, ours
