"""Files that take another's place whole: written aside under a name of the writer's own, then renamed."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".part"
LEFT_AFTER_S = 3600.0


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and is gone when it does not.

    However many write one path at once, each has a file of its own and the last to end stands. `durable`: file and
    name are on the disk before this returns. Makes the folder. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the name itself, which may be as long as names can be.
    aside = path.with_name(f".{_stem(path)}.{secrets.token_hex(8)}{_SUFFIX}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):
                # Held while it is written: who finds it unheld knows that its writer is gone.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            aside.replace(path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _tidy(path)


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in `folder` last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stem(path: Path) -> str:
    return os.fsencode(path.name)[:100].decode(errors="ignore")


def _tidy(path: Path) -> None:
    """Removes what killed writers of the same path have left, once it is old and nobody holds it."""
    before = time.time() - LEFT_AFTER_S
    start = f".{_stem(path)}."
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            is_aside = entry.name.startswith(start) and entry.name.endswith(_SUFFIX)
            if is_aside and entry.stat(follow_symlinks=False).st_mtime < before:
                _remove_unheld(Path(entry.path))


def _remove_unheld(path: Path) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)
