"""Textual's driver for POSIX terminals, extended for a terminal that is gone and a process that is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import termios
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from textual.drivers.linux_driver import LinuxDriver
from textual.events import Resize
from textual.message import Message

from kltui.tui.terminal.input import Input
from kltui.tui.terminal.pixels import AFTER_S, PATIENCE_S, TerminalReplies
from kltui.tui.terminal.textual_private import (
    announce_resuming,
    app_of,
    is_debugging,
    is_to_go_on,
    loop_of,
    terminal_size,
    wrap_output,
)

READ_BYTES = 4096


class TerminalOutput:
    """The output to a terminal. After the terminal is gone, output is dropped; `gone` is called once.

    Textual's writing thread would end at the first failure, and writers would wait for it forever.
    """

    def __init__(self, file: IO[str], gone: Callable[[], None]) -> None:
        self._file = file
        self._report = gone
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
            # Another program on the same terminal may have made it non-blocking; writes would then fail.
            if not os.get_blocking(self._file.fileno()):
                os.set_blocking(self._file.fileno(), True)
            send()
        except (OSError, ValueError):  # ValueError: the file is closed
            self._gone = True
            self._report()

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()


class TerminalDriver(LinuxDriver):
    """Calls the application's `hung_up` when its terminal is gone, and sends SignalResume when the process continues after a stop.

    Stopping and continuing are handled in the event loop. A Python signal handler could interrupt a write in the same
    thread, and then wait for the lock of that write forever, or interrupt another such handler.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        wrap_output(self, lambda file: TerminalOutput(file, self._report_hang_up))
        self._away = False
        self._answers: TerminalReplies | None = None
        self._asking = False
        self._answered = asyncio.Event()
        loop_of(self).add_signal_handler(signal.SIGTSTP, self._stop)
        loop_of(self).add_signal_handler(signal.SIGCONT, self._go_on)

    @property
    def is_gone(self) -> bool:
        """Whether the terminal is gone."""
        try:
            termios.tcgetattr(self.fileno)
        except termios.error:
            return self.input_tty  # it was a terminal at the start
        return False

    @property
    def has_shell(self) -> bool:
        """Whether a shell with job control started this process group, which can continue it after a stop."""
        try:
            session, group = os.getsid(0), os.getpgrp()
            for pid in _ancestors():
                if os.getsid(pid) != session:
                    return False
                if os.getpgid(pid) != group:
                    return True
        except OSError:  # the ancestor has ended, or belongs to another user
            pass
        return False

    def to_shell(self) -> None:
        """Restores the terminal, then stops the whole process group, including programs that started kltui."""
        self._leave()
        os.killpg(os.getpgrp(), signal.SIGSTOP)

    async def ask(self, question: str, late: bool = False) -> TerminalReplies:
        """The terminal's replies to `question`, whose last part every terminal answers; keys pressed meanwhile are not lost.

        `late`: replies to the other parts may come after that to the last part, so waits AFTER_S seconds for them.
        """
        self._answered.clear()
        self._asking, answers = True, TerminalReplies()
        self._answers = answers
        self.write(question)
        self.flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), PATIENCE_S)
        if late:
            await asyncio.sleep(AFTER_S)
        self._asking = False
        return answers

    def _without_replies(self, data: bytes) -> bytes:
        """The input without replies to questions; while a question is open, all input is held back."""
        answers = self._answers
        if answers is None:
            return data
        if answers.feed(data):
            loop_of(self).call_soon_threadsafe(self._answered.set)
        if self._asking:
            return b""
        self._answers = None
        return answers.rest()

    def write(self, data: str) -> None:
        """Writes to the terminal; does nothing while the process is suspended."""
        if not self._away:
            super().write(data)

    def run_input_thread(self) -> None:
        """Reads the terminal until the interface ends or suspends; no input ends it earlier."""
        source = Input(is_debugging(self))
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            leaving = False
            while not leaving:
                leaving = self.exit_event.is_set()  # input that has already arrived is read once more
                data = b""
                if selector.select(0.1):
                    data = self._read()
                    if not data:
                        self._report_hang_up()
                        break
                self._pass_on(source.feed(self._without_replies(data)))
                self._pass_on(source.tick())
        source.close()

    def _read(self) -> bytes:
        """Bytes from the terminal; b"" once it is gone."""
        try:
            return os.read(self.fileno, READ_BYTES)
        except OSError:
            return b""

    def _pass_on(self, messages: Iterable[Message]) -> None:
        for message in messages:
            # A false report of a huge size would fill the memory with frames.
            if not isinstance(message, Resize) or tuple(message.size) == terminal_size(self):
                self.process_message(message)

    def _report_hang_up(self) -> None:
        app = app_of(self)
        with contextlib.suppress(RuntimeError):  # the loop has ended: the application is quitting anyway
            loop_of(self).call_soon_threadsafe(app.hung_up)

    def _stop(self) -> None:
        """Restores the terminal and stops this process."""
        if not self._away:
            self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _go_on(self) -> None:
        """Sets up the terminal again after SIGCONT, unless the terminal is gone: the kernel sends it after a hang-up too.

        After a SIGSTOP the terminal was not restored, and a shell may have changed it since.
        """
        if not is_to_go_on(self):
            return
        if self.is_gone:
            self._report_hang_up()
            return
        if not self._in_foreground():
            # Continued in the background: the terminal belongs to the shell.
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        if not self._away:
            self._leave()
        self._away = False
        self.resume_application_mode()

    def _leave(self) -> None:
        self.suspend_application_mode()
        self._away = True
        announce_resuming(self)

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self.fileno) == os.getpgrp()
        # not the controlling terminal of this session, so there is no other group in its foreground
        except OSError:
            return True


def _ancestors() -> Iterator[int]:
    """The process ids of the parent, its parent, and so on, as far as /proc shows them."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
