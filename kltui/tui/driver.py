"""Textual's driver for POSIX terminals, made to see that its terminal was taken away, or that it was stopped meanwhile."""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Callable
from typing import IO, Any

from textual.drivers.linux_driver import LinuxDriver


class Output:
    """A terminal to write to. Once it is gone it takes and drops everything, and has said so once.

    Textual's writing thread would end at the first failure, and whoever writes would wait for it for ever.
    """

    def __init__(self, file: IO[str], gone: Callable[[], None]) -> None:
        self._file = file
        self._tell = gone
        self._gone = False

    def write(self, text: str) -> int:
        if not self._gone:
            self._try(lambda: self._file.write(text))
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            self._try(self._file.flush)

    def _try(self, send: Callable[[], object]) -> None:
        try:
            send()
        except (OSError, ValueError):  # ValueError: the file is closed
            self._gone = True
            self._tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()


class TerminalDriver(LinuxDriver):
    """Tells the app, a KltuiApp, that its terminal is gone by `hung_up`, and of going on after a stop by SignalResume."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        self._file: Any = Output(self._file, self._tell_hung_up)

    @property
    def is_gone(self) -> bool:
        """Whether the terminal has been taken away."""
        try:
            termios.tcgetattr(self.fileno)
        except termios.error:
            return self.input_tty  # so it was one
        return False

    @property
    def has_shell(self) -> bool:
        """Whether a shell with job control started this process, and would let it go on when it is stopped."""
        parent = os.getppid()
        try:
            return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()
        except OSError:  # it is gone, or another's
            return False

    def _tell_hung_up(self) -> None:
        app: Any = self._app
        with contextlib.suppress(RuntimeError):  # the loop has ended: the app is leaving anyway
            self._loop.call_soon_threadsafe(app.hung_up)

    def _sigcont_application(self, *_: object) -> None:
        """Takes the terminal up again, unless the signal only follows a hang-up, as the kernel sends it.

        Who was stopped by a SIGSTOP has not left the screen; meanwhile a shell may have changed the terminal.
        """
        if not self._auto_restart or self.is_gone:
            return
        if not self._must_signal_resume:
            self.suspend_application_mode()
            self._must_signal_resume = True
        self.resume_application_mode()
