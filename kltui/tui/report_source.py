"""Starts the process that computes the Report screen's sections (`report_worker`), one after another."""

from __future__ import annotations

import asyncio
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

from kltui.errors import KltuiError
from kltui.tui.child_output import output_of
from kltui.tui.report_worker import BROKEN_OFF, MADE, SAID, Made, ReportRequest

PATIENCE_S = 2.0
LISTENS_S = 0.5  # time to react to the cancelling of a section, after which the process is killed


class BrokenOffError(KltuiError):
    """The current section was cancelled."""


class ReportProcess:
    """Gets sections from a child process. A new request cancels the current section, and kills a process that does not react."""

    def __init__(self) -> None:
        self._child: Popen[bytes] | None = None
        self._answers: BufferedReader | None = None
        self._running: asyncio.Future[Made] | None = None

    async def section(self, asked: ReportRequest, said: Callable[[str], None]) -> Made:
        """The section; `said` is called with progress messages while it is computed.

        Raises KltuiError if it cannot be computed, or if the process ended early.
        """
        loop = asyncio.get_running_loop()

        def pass_on(text: str) -> None:
            with suppress(RuntimeError):  # the interface has closed
                loop.call_soon_threadsafe(said, text)

        while True:
            await self._break_off()
            child, answers = self._started()
            running = loop.run_in_executor(None, _answer, child, answers, asked, pass_on)
            running.add_done_callback(_taken_note_of)
            self._running = running
            try:
                return await asyncio.shield(running)
            except BrokenOffError:
                continue  # the cancelling of the section before came only after that had ended

    async def _break_off(self) -> None:
        """Cancels the section that is still being computed, which nobody waits for any more."""
        running, child = self._running, self._child
        if running is None or child is None or running.done():
            return
        child.send_signal(signal.SIGINT)
        await asyncio.wait({running}, timeout=LISTENS_S)
        if not running.done():
            self.end()

    def _started(self) -> tuple[Popen[bytes], BufferedReader]:
        from kltui.jobs.process import python_command

        if self._child is not None and self._child.poll() is not None:
            self.end()
        if self._child is None or self._answers is None:
            command = python_command("kltui.tui.report_worker", "main")
            self._child = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
            self._answers = output_of(self._child, self._child.stdout)
        return self._child, self._answers

    def end(self) -> None:
        """Kills the process and waits LISTENS_S for its end at most; the next section starts another one."""
        child, running, self._child, self._answers, self._running = (
            self._child,
            self._running,
            None,
            None,
            None,
        )
        if child is None:
            return
        child.kill()
        if running is None or running.done():
            _close(child)
        else:  # a pipe that a thread reads cannot be closed before that has seen the end
            running.add_done_callback(lambda _: _close(child))


def _close(child: Popen[bytes]) -> None:
    with suppress(TimeoutExpired):
        child.wait(LISTENS_S)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _taken_note_of(running: asyncio.Future[Made]) -> None:
    """Marks an exception as retrieved, so that asyncio does not report that of a cancelled request."""
    if not running.cancelled():
        running.exception()


def _answer(
    child: Popen[bytes], answers: BufferedReader, asked: ReportRequest, said: Callable[[str], None]
) -> Made:
    assert child.stdin is not None
    try:
        pickle.dump(asked, child.stdin)
        child.stdin.flush()
        while True:
            kind, value = pickle.load(answers)
            if kind == SAID:
                said(value)
            elif kind == MADE:
                return value  # type: ignore[no-any-return]
            elif kind == BROKEN_OFF:
                raise BrokenOffError(kind)
            else:
                raise KltuiError(*value)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        code = 0
        with suppress(TimeoutExpired):  # its pipe is closed, but it may not have ended yet
            code = child.wait(PATIENCE_S)
        how = f" by signal {-code}" if code < 0 else ""
        raise KltuiError(
            f"the process that computes the report was ended{how}",
            "Reload (by default r) to compute it again.",
        ) from None
