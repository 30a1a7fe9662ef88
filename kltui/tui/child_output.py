"""Reading what a child process writes, without waiting for anything after it has ended."""

from __future__ import annotations

import io
import os
import select
from subprocess import Popen
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LOOKS_S = 0.2  # how often it is seen whether a silent child still runs


class ChildOutput(io.RawIOBase):
    """One pipe of a child. Its end is the child's end, even if another process, such as one that the child had started,
    keeps the pipe open. Closing it is left to the child's `Popen`.
    """

    def __init__(self, child: Popen[bytes], pipe: IO[bytes]) -> None:
        self._child, self._fd = child, pipe.fileno()

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Waits until there is something to read, or the child has ended; the number of bytes (0: the end)."""
        while not _has_more(self._fd, LOOKS_S):
            # What it had written before it ended is there by now.
            if self._child.poll() is not None and not _has_more(self._fd, 0.0):
                return 0
        return os.readv(self._fd, [buffer])


def output_of(child: Popen[bytes], pipe: IO[bytes] | None) -> io.BufferedReader:
    """A buffered reader of one pipe of a child, its `stdout` or `stderr`, which nothing else may read."""
    assert pipe is not None
    return io.BufferedReader(ChildOutput(child, pipe))


def _has_more(fd: int, timeout_s: float) -> bool:
    """Whether there are bytes, or the end of the pipe, to read."""
    poll = select.poll()  # not select.select, which cannot look at descriptors from 1024 on
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(1000 * timeout_s))
