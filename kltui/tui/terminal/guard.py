"""Runs the interface in a child process, so that the parent restores the terminal however the child ends.

A process killed by the kernel (a truncated mapped file, no memory, a fault in a library) cannot restore its
terminal. The parent imports nothing and only waits: it forwards signals, stops when the child is stopped, so that
a shell sees one job, and ends with the child's exit code, or 128 + n after signal n.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Turns off what Textual turns on: bracketed paste, mouse, focus and size reports, kitty keys, alternate screen; and
# turns on line wrap and the cursor.
LEAVE = (
    "\x1b[?2004l\x1b[?7h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1016l\x1b[?1004l\x1b[?2026l\x1b[?2048l"
    "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[0m\r"
)
HINTS = {
    signal.SIGBUS: "A file was truncated while it was read, or its disk failed.",
    signal.SIGKILL: "The system may have run out of memory.",
}
PASSED_ON = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGWINCH")
)
WAITED_FOR = {*PASSED_ON, signal.SIGCHLD, signal.SIGCONT}
CONTINUE_S = 0.1  # time in which the child continues if SIGCONT was sent to both processes
_PR_SET_PDEATHSIG = 1
_SENT_BY_KERNEL = 0x80


def guarded(run: Callable[[], int]) -> int:
    """The exit code of `run`, called in a child process; the terminal on standard input is restored afterwards."""
    before = termios.tcgetattr(sys.stdin.fileno())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        end_with(parent)
        return run()
    for number in signal.sigpending().intersection(PASSED_ON):
        os.kill(pid, number)  # the terminal may have sent it before there was a child
    try:
        status = _watched(pid)
        _put_back(before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _code(status)


def end_with(parent: int) -> None:
    """On Linux, makes the kernel send this process SIGHUP when its parent ends."""
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGHUP)


def _watched(pid: int) -> int:
    """The child's wait status after its end; until then, the parent stops and continues when the child does."""
    while True:
        number, is_for_all = _next_signal()
        status: int | None = None
        if number == signal.SIGCHLD:
            status = _news(pid, os.WUNTRACED)
            # If SIGCONT is pending, the child has been continued too, and its stop is over.
            if status is not None and os.WIFSTOPPED(status) and signal.SIGCONT not in signal.sigpending():
                os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT:
            status = _go_on(pid)
        elif not is_for_all:
            os.kill(pid, number)
        if status is not None and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            return status


def _news(pid: int, options: int) -> int | None:
    """The child's wait status if it has changed since the last call, otherwise None."""
    changed, status = os.waitpid(pid, os.WNOHANG | options)
    return status if changed else None


def _next_signal() -> tuple[int, bool]:
    """(the next signal, whether the terminal sent it, in which case the child received it too)."""
    wait: Any = getattr(signal, "sigwaitinfo", None)
    if wait is None:
        number = signal.sigwait(WAITED_FOR)
        return number, number in (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
    found = wait(WAITED_FOR)
    return found.si_signo, found.si_code == _SENT_BY_KERNEL and found.si_signo != signal.SIGHUP


def _go_on(pid: int) -> int | None:
    """Sends the child SIGCONT if it does not continue by itself; the child's new wait status, or None.

    A shell continues the whole process group, `kill` perhaps only this process.
    """
    end = time.monotonic() + CONTINUE_S
    while time.monotonic() < end:
        if (status := _news(pid, os.WCONTINUED)) is not None:
            return status
        time.sleep(0.005)
    os.kill(pid, signal.SIGCONT)
    return None


def _put_back(before: list[Any]) -> None:
    """Restores the terminal's state if the child did not."""
    with suppress(termios.error, OSError):
        if termios.tcgetattr(sys.stdin.fileno()) == before:
            return
        # In the background this would stop the process, and the terminal belongs to the foreground process group.
        if os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
            return
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)
        os.set_blocking(sys.stderr.fileno(), True)
        os.write(sys.stderr.fileno(), LEAVE.encode())


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    number = signal.Signals(-code)
    with suppress(OSError):
        hint = f" {HINTS[number]}" if number in HINTS else ""
        sys.stderr.write(
            f"kltui: the interface was ended by {number.name}.{hint}\n  Jobs are not affected.\n"
        )
    return 128 + number
