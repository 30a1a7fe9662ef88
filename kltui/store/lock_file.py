"""A file next to the store that the writing process keeps locked, with a count of committed transactions.

The lock also works between containers that share a host name and even process ids. The count reveals transactions that were
committed and then lost with a missing, truncated or damaged write-ahead log, where SQLite sees an older, valid store.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kltui.store.checksums import row_checksum

NAME = "kltui.lock"
_LENGTH = 128
_HELD_ELSEWHERE = (errno.EWOULDBLOCK, errno.EACCES)


@dataclass
class _OpenFile:
    """A lock file that this process has open. `locked` is None on a file system without locks, `stores` the number of users."""

    fd: int
    locked: bool | None
    stores: int = 0


# By (device, inode). One process may write to a store through several connections, which share one lock.
_open: dict[tuple[int, int], _OpenFile] = {}
_guard = threading.Lock()  # of `_open`


class LockFile:
    """The lock file of a workspace folder; `take` creates it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._key = (0, 0)

    def take(self) -> bool | None:
        """Takes the lock without waiting. Returns whether this process has it now; None on a file system without locks.

        Raises OSError.
        """
        with _guard:
            return self._take()

    def _take(self) -> bool | None:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            state = os.fstat(fd)
            key = (state.st_dev, state.st_ino)
            if key in _open:
                os.close(fd)
                break
            locked = _locked(fd)
            if locked is not False and self._is(key):
                _open[key] = _OpenFile(fd, locked)
                break
            os.close(fd)
            if locked is False:
                return False
            # The process that had the lock removed the file after it was opened here: open the new one.
        self._key = key
        _open[key].stores += 1
        return _open[key].locked

    def _is(self, key: tuple[int, int]) -> bool:
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return False
        return (state.st_dev, state.st_ino) == key

    def note(self, store: int, commits: int) -> None:
        """Writes the number of transactions that `store` has committed to the file; call it after the commit is on the disk."""
        if self._key in _open:
            line = f"kltui {store} {commits} {row_checksum(NAME, store, commits)}"
            # If this fails, the file has too low a count, which is not treated as a loss.
            with suppress(OSError):
                os.pwrite(_open[self._key].fd, line.ljust(_LENGTH - 1).encode() + b"\n", 0)

    def release(self, *, log_left: bool) -> None:
        """Releases the lock. The file is kept if a write-ahead log remains, because its count reveals whether that is complete."""
        with _guard:
            file = _open.get(self._key)
            if file is None:
                return
            file.stores -= 1
            if file.stores == 0:
                with suppress(OSError):
                    if not log_left and self._is(self._key):
                        self._path.unlink()
                del _open[self._key]
                os.close(file.fd)
            self._key = (0, 0)


def _locked(fd: int) -> bool | None:
    """Whether an open file could be locked: False if another process has the lock, None on a file system without locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD_ELSEWHERE else None
    return True


def noted(folder: Path) -> tuple[int, int] | None:
    """(id of the store, its number of transactions) as last written by `LockFile.note`; None if there is no valid record."""
    try:
        with (folder / NAME).open("rb") as file:
            words = file.read(_LENGTH).decode().split()
        store, commits, checksum = (int(word) for word in words[1:])
    except (OSError, ValueError):
        return None
    return (store, commits) if row_checksum(NAME, store, commits) == checksum else None
