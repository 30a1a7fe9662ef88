"""A first look at something, taken by another process while this one loads what it draws with.

On two cores the list of checkpoints is there with the first frame. What comes of it is shown and no more: the interface
reads the workspace itself soon after, and where this look fails for whatever reason, at once.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Generic, NoReturn, TypeVar

Seen = TypeVar("Seen")


class ReadAhead(Generic[Seen]):
    """A process that looks, and the pipe through which it tells."""

    def __init__(self, pid: int, said: BinaryIO) -> None:
        self.pid, self._said = pid, said

    @classmethod
    def begin(cls, look: Callable[[], Seen]) -> ReadAhead[Seen] | None:
        """Has another process call `look` from now on; None where there is none for that."""
        theirs, ours = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(theirs)
            os.close(ours)
            return None
        if pid == 0:
            _tell(ours, look)
        os.close(ours)
        return cls(pid, os.fdopen(theirs, "rb"))

    def result(self) -> Seen | None:
        """What it saw, waited for; None where the look failed."""
        found: Seen | None = None
        with suppress(EOFError, pickle.UnpicklingError), self._said:
            found = pickle.load(self._said)  # from a process of ours
        self._reap()
        return found

    def give_up(self) -> None:
        """Ends it."""
        self._said.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _tell(pipe: int, look: Callable[[], object]) -> NoReturn:
    """Looks, tells and ends this process, whatever happens, with nothing written to the terminal that it has."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        with os.fdopen(pipe, "wb") as said:
            pickle.dump(look(), said, pickle.HIGHEST_PROTOCOL)
    finally:
        os._exit(0)
