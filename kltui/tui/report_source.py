"""Where the Report screen's sections come from: a process that computes them one after another."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from contextlib import suppress
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.tui.report_worker import MADE, SAID, Asked

if TYPE_CHECKING:
    from kltui.view.sections.section import Section

PATIENCE_S = 2.0


class ReportProcess:
    """Sections from a child process, which is ended where another section is wanted before it has answered."""

    def __init__(self) -> None:
        self._child: Popen[bytes] | None = None
        self._busy = False

    async def section(self, asked: Asked, said: Callable[[str], None]) -> Section:
        """The section; `said` gets a line now and then while it is computed.

        Raises KltuiError where it cannot be made, and where the process ended before it had answered.
        """
        if self._busy:
            self.end()
        loop = asyncio.get_running_loop()
        child, self._busy = self._started(), True

        def pass_on(text: str) -> None:
            with suppress(RuntimeError):  # the interface has closed
                loop.call_soon_threadsafe(said, text)

        try:
            found = await asyncio.to_thread(_answer, child, asked, pass_on)
        except asyncio.CancelledError:
            # What it still computes would be taken for the next answer.
            if child is self._child:
                self.end()
            raise
        finally:
            if child is self._child:
                self._busy = False
        return found

    def _started(self) -> Popen[bytes]:
        from kltui.jobs.process import python_command

        if self._child is not None and self._child.poll() is not None:
            self.end()
        if self._child is None:
            command = python_command("kltui.tui.report_worker", "main")
            self._child = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        return self._child

    def end(self) -> None:
        """Ends the process; the next section starts another."""
        child, self._child, self._busy = self._child, None, False
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _answer(child: Popen[bytes], asked: Asked, said: Callable[[str], None]) -> Section:
    assert child.stdin is not None and child.stdout is not None
    try:
        pickle.dump(asked, child.stdin)
        child.stdin.flush()
        while True:
            kind, value = pickle.load(child.stdout)
            if kind == SAID:
                said(value)
            elif kind == MADE:
                return value  # type: ignore[no-any-return]
            else:
                raise KltuiError(*value)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        code = 0
        with suppress(TimeoutExpired):  # it has closed its pipe, and may not have ended yet
            code = child.wait(PATIENCE_S)
        how = f" by signal {-code}" if code < 0 else ""
        raise KltuiError(
            f"the process that computes the report was ended{how}", "r computes it again."
        ) from None
