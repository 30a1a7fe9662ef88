"""Textual's driver for POSIX terminals, extended to detect that the terminal is gone or that the process was stopped."""

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
            # Another program on the same terminal may have left it so that writing fails where it should wait.
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

    Stopping and going on are the event loop's work. A Python signal handler may run while the same thread is within a
    write, whose lock it would wait for, or within another such handler, and then leave two of everything.
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
            return self.input_tty  # so it was one
        return False

    @property
    def has_shell(self) -> bool:
        """Whether a shell with job control started this process group, and would let it go on when it is stopped."""
        try:
            session, group = os.getsid(0), os.getpgrp()
            for pid in _ancestors():
                if os.getsid(pid) != session:
                    return False
                if os.getpgid(pid) != group:
                    return True
        except OSError:  # it is gone, or another's
            pass
        return False

    def to_shell(self) -> None:
        """Leaves the terminal, then stops the whole process group, with whatever wraps this program."""
        self._leave()
        os.killpg(os.getpgrp(), signal.SIGSTOP)

    async def ask(self, question: str, late: bool = False) -> TerminalReplies:
        """The terminal's reply to `question`, whose last part every terminal answers; keys pressed meanwhile are kept.

        `late`: the reply to an earlier question comes first.
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
        """What is no reply to a question of ours; as long as one is open, everything waits."""
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
        """Writes to the terminal; nothing while it is left to others."""
        if not self._away:
            super().write(data)

    def run_input_thread(self) -> None:
        """Reads the terminal until the interface ends or leaves it, whatever is sent."""
        source = Input(is_debugging(self))
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            leaving = False
            while not leaving:
                leaving = self.exit_event.is_set()  # then what waits is read for a last time
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
        """What the terminal has sent; nothing once it is gone."""
        try:
            return os.read(self.fileno, READ_BYTES)
        except OSError:
            return b""

    def _pass_on(self, messages: Iterable[Message]) -> None:
        for message in messages:
            # A size that is reported is believed where the system says the same: frames of any other fill the memory.
            if not isinstance(message, Resize) or tuple(message.size) == terminal_size(self):
                self.process_message(message)

    def _report_hang_up(self) -> None:
        app = app_of(self)
        with contextlib.suppress(RuntimeError):  # the loop has ended: the app is leaving anyway
            loop_of(self).call_soon_threadsafe(app.hung_up)

    def _stop(self) -> None:
        """Leaves the terminal as it was found, and stops."""
        if not self._away:
            self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _go_on(self) -> None:
        """Takes the terminal up again, unless the signal only follows a hang-up, as the kernel sends it.

        Who was stopped by a SIGSTOP has not left the screen; meanwhile a shell may have changed the terminal.
        """
        if not is_to_go_on(self):
            return
        if self.is_gone:
            self._report_hang_up()
            return
        if not self._in_foreground():
            # Sent to the background: there is nothing to do there, and the terminal is the shell's.
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
        except OSError:  # not the terminal that controls this session: nobody else's either
            return True


def _ancestors() -> Iterator[int]:
    """The parent's process id, its parent's, and so on, as far as the system shows them."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
