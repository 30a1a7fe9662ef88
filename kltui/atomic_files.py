"""Atomic replacement of files: written under a unique temporary name, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kltui.termination import undisturbed

_SUFFIX = ".part"
_ASIDE = ".kltui-export-"
LEFT_AFTER_S = 3600.0  # age from which an unlocked temporary file is deleted


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Context with a file to write, which replaces `path` if the block succeeds and is deleted otherwise.

    If several processes write one path at the same time, the last to finish wins. `durable`: both the contents and the
    name are synced to the disk. Creates the folder. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Only the beginning of the name, which may already have the maximum length.
    aside = path.with_name(f".{_stem(path)}.{os.urandom(8).hex()}{_SUFFIX}")
    try:
        # Inside the try block, because a signal handler may raise as soon as the file exists.
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):
                # A process that can lock the file knows that its writer has ended.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            aside.replace(path)
        if durable:
            sync_folder(path.parent)
    except BaseException as error:
        _name_file(error, path)
        with suppress(OSError):  # a file system that became read-only refuses this too
            aside.unlink(missing_ok=True)
        raise
    _tidy(path)


def _name_file(error: BaseException, path: Path) -> None:
    """Adds the path to an error of a full or failing disk, which a write raises without one."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    if isinstance(error, OSError) and error.filename is None and error.errno in full:
        error.filename = str(path)


@contextmanager
def replacing_together(folder: Path, obsolete: Iterable[str] = ()) -> Iterator[Path]:
    """Context with a folder to write files in; if the block succeeds, they replace the files with the same names in `folder`.

    All are replaced or none: on failure, existing files are unchanged, and `folder` is deleted if it was created here.
    The files `obsolete` in `folder` are deleted on success. Raises OSError.
    """
    aside = folder / f"{_ASIDE}{os.urandom(8).hex()}"
    made = [f for f in (folder, *folder.parents) if not f.exists()]
    # Entered twice, because a signal may arrive while the first is being entered.
    with _removed(aside, made), _removed(aside, made):
        folder.mkdir(parents=True, exist_ok=True)
        _tidy_folders(folder)
        aside.mkdir(0o700)
        with _locked(aside):
            yield aside
        with undisturbed():
            _exchange(aside, folder, obsolete)


@contextmanager
def _removed(aside: Path, made: Sequence[Path]) -> Iterator[None]:
    """Context at whose end the folder `aside` is deleted, and each folder of `made` that is empty."""
    try:
        yield
    except OSError as error:
        _name_file(error, aside.parent)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Context in which the folder is locked, so that other processes do not delete it (`_tidy_folders`)."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _exchange(aside: Path, folder: Path, obsolete: Iterable[str]) -> None:
    """Moves the files of `aside` into `folder` and removes the files `obsolete` from it; on an error, restores `folder`. Raises OSError."""
    before = aside / ".before"
    before.mkdir()
    names = [path.name for path in aside.iterdir() if path != before]
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        source.rename(target)
        moved.append((source, target))

    try:
        for name in dict.fromkeys([*names, *obsolete]):
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))
            if (folder / name).exists() or (folder / name).is_symlink():
                move(folder / name, before / name)
        for name in names:
            move(aside / name, folder / name)
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise
    sync_folder(folder)


def _tidy_folders(folder: Path) -> None:
    """Deletes temporary folders that killed writers left in `folder`: those older than LEFT_AFTER_S that are not locked."""
    for path in folder.glob(f"{_ASIDE}*"):
        with suppress(OSError):
            if path.is_symlink() or time.time() - path.stat().st_mtime < LEFT_AFTER_S:
                continue
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(handle)


def sync_folder(folder: Path) -> None:
    """Syncs `folder` to the disk, so that renames and deletions in it survive a crash. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stem(path: Path) -> str:
    """The first 100 bytes of the file's name, without a character that is cut."""
    return os.fsencode(path.name)[:100].decode(errors="ignore")


def _tidy(path: Path) -> None:
    """Deletes temporary files that killed writers of `path` left: those older than LEFT_AFTER_S that are not locked."""
    before = time.time() - LEFT_AFTER_S
    start = f".{_stem(path)}."
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            is_aside = entry.name.startswith(start) and entry.name.endswith(_SUFFIX)
            if is_aside and entry.stat(follow_symlinks=False).st_mtime < before:
                _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    """Deletes a file unless its writer has it locked."""
    with suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)
