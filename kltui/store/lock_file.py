"""A file next to the store, locked by the operating system while the writer lives, with a count of committed transactions.

The lock also works between containers that share a host name and even process ids. The count reveals transactions that were
committed and then lost with a missing, truncated or damaged write-ahead log, where SQLite sees an older, valid store.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kltui.store.checksums import row_checksum

NAME = "kltui.lock"
_LENGTH = 128
_HELD_ELSEWHERE = (errno.EWOULDBLOCK, errno.EACCES)


@dataclass
class _Held:
    """A lock file that this process has open: whether it is locked (None: without locks), for how many stores."""

    fd: int
    locked: bool | None
    stores: int = 0


# By (device, inode): one process may write a store through several connections, and a lock is had once.
_open: dict[tuple[int, int], _Held] = {}


class LockFile:
    """The lock file of a workspace folder, made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._key = (0, 0)

    def take(self) -> bool | None:
        """Whether this process holds the lock now; None on a file system without locks. Raises OSError."""
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            state = os.fstat(fd)
            key = (state.st_dev, state.st_ino)
            if key in _open:
                os.close(fd)
                break
            locked = _locked(fd)
            if locked is not False and self._is(key):
                _open[key] = _Held(fd, locked)
                break
            os.close(fd)
            if locked is False:
                return False
            # Whoever held it took the file away while we waited: there is, or will be, another.
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
        """Records the number of transactions committed by `store`; call it after the commit is on the disk."""
        if self._key in _open:
            words = f"kltui {store} {commits} {row_checksum(NAME, store, commits)}"
            # Where it cannot be written the count stays behind, which is never taken for a loss.
            with suppress(OSError):
                os.pwrite(_open[self._key].fd, words.ljust(_LENGTH - 1).encode() + b"\n", 0)

    def release(self, *, log_left: bool) -> None:
        """Releases the lock. The file is kept if a write-ahead log remains, because its count reveals whether that is complete."""
        held = _open.get(self._key)
        if held is None:
            return
        held.stores -= 1
        if held.stores == 0:
            with suppress(OSError):
                if not log_left and self._is(self._key):
                    self._path.unlink()
            del _open[self._key]
            os.close(held.fd)
        self._key = (0, 0)


def _locked(fd: int) -> bool | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD_ELSEWHERE else None
    return True


def noted(folder: Path) -> tuple[int, int] | None:
    """(store, transactions) as last noted in a folder, or None where nothing legible is."""
    try:
        with (folder / NAME).open("rb") as file:
            words = file.read(_LENGTH).decode().split()
        store, commits, checksum = (int(word) for word in words[1:])
    except (OSError, ValueError):
        return None
    return (store, commits) if row_checksum(NAME, store, commits) == checksum else None
