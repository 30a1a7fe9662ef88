"""Reads what the interface lists first in another process, while this one still imports the interface.

Importing takes most of the time to the first frame and one core; the list then follows that frame without waiting for
SQLite to be imported and asked.
"""

from __future__ import annotations

import fcntl
import gc
import io
import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, NoReturn

from kltui.termination import ENDING
from kltui.threads import HELPER_NICENESS, has_idle_core
from kltui.tui.terminal.guard import end_with

PATIENCE_S = 10.0  # after which this process reads for itself
_PIPE_BYTES = (
    1 << 20
)  # the largest that Linux allows every user, so that the other process need not wait to be read
_CHUNK = 1 << 16


class ReadAhead:
    """The answer of another process to `question`, which it begins to find at once.

    Without a second core that is idle it would delay the interface, so there is no such process, and the answer is None.
    """

    def __init__(self, question: Callable[[], object]) -> None:
        self._pid = self._pipe = 0
        if not has_idle_core():
            return
        with suppress(OSError):  # no process or file descriptor is left
            self._begin(question)

    def _begin(self, question: Callable[[], object]) -> None:
        pipe, theirs = os.pipe()
        asking = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(pipe)
            os.close(theirs)
            raise
        if pid == 0:
            _answer(question, theirs, asking)
        os.close(theirs)
        self._pid, self._pipe = pid, pipe

    def result(self) -> Any:
        """The answer, which may be None; None too if there was an error, or no answer after PATIENCE_S. Can be called once."""
        if not self._pid:
            return None
        data, end = b"", time.monotonic() + PATIENCE_S
        while select.select([self._pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            if not (got := os.read(self._pipe, _CHUNK)):
                break
            data += got
        self.close()
        # There is no whole answer after an error, when time is up, or if the other process was killed.
        with suppress(EOFError, pickle.UnpicklingError):
            return pickle.loads(data)
        return None

    def close(self) -> None:
        """Ends the other process."""
        if self._pid:
            pid, self._pid = self._pid, 0
            os.close(self._pipe)
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with suppress(OSError):
                os.waitpid(pid, 0)


def _answer(question: Callable[[], object], pipe: int, asking: int) -> NoReturn:
    """In the other process: sends the answer, or nothing after an error, which the interface will meet itself."""
    try:
        with suppress(Exception):
            for number in ENDING:
                signal.signal(number, signal.SIG_DFL)
            end_with(asking)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):  # the terminal is the interface's alone
                os.dup2(nowhere, fd)
            gc.disable()
            with suppress(OSError):  # some systems refuse niceness
                os.nice(HELPER_NICENESS)
            with suppress(OSError, AttributeError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            data = _pickled(question())
            while data:
                data = data[os.write(pipe, data) :]
    finally:
        os._exit(0)


def _pickled(answer: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(answer)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Pickles rows and paths as calls of their classes: those are read in half the time."""

    def reducer_override(self, made: Any) -> Any:
        kind = type(made)
        if is_dataclass(kind) and "__slots__" in vars(kind):
            return kind, tuple(getattr(made, field.name) for field in fields(kind))
        if isinstance(made, PurePath):
            return kind, (str(made),)
        return NotImplemented
