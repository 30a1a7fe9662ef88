"""Connections to the database, whose errors say what happened and what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from kltui.errors import StoreError
from kltui.store.damage import RESTORE as RESTORE
from kltui.store.damage import DamageError as DamageError
from kltui.store.filesystem import file_system, is_network

BUSY_TIMEOUT_S = 30.0
_AT_ONCE = 64  # rows that a loop over a query fetches at once, because fetching them one by one is slow
_OURS = (
    sqlite3.ProgrammingError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
)  # mistakes of the program, which are raised as they are


class DiskError(StoreError):
    """Raised for a full or failing disk: acknowledged writes are stored, others are not."""


class Cursor(sqlite3.Cursor):
    """A cursor that raises StoreError, also while rows are read: damage shows only when a page is reached."""

    connection: Connection

    def execute(self, *arguments: Any) -> Self:
        with self.connection.explained:
            super().execute(*arguments)
        return self

    def executemany(self, *arguments: Any) -> Self:
        with self.connection.explained:
            super().executemany(*arguments)
        return self

    def executescript(self, script: str, /) -> Self:
        with self.connection.explained:
            super().executescript(script)
        return self

    def fetchone(self) -> Any:
        with self.connection.explained:
            return super().fetchone()

    def fetchall(self) -> list[Any]:
        with self.connection.explained:
            return super().fetchall()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # which says that it is itself
        while rows := self._next_few():
            yield from rows

    def _next_few(self) -> list[Any]:
        with self.connection.explained:
            return super().fetchmany(_AT_ONCE)

    def __next__(self) -> Any:
        with self.connection.explained:
            return super().__next__()


class Connection(sqlite3.Connection):
    """A connection whose cursors are `Cursor`."""

    explained: _Explained

    def cursor(self, factory: Any = Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    def executescript(self, script: str, /) -> Any:
        return self.cursor().executescript(script)


class _Explained:
    """Reusable context in which SQLite's errors are raised as StoreErrors that name the file and say what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # In a damaged file, names and SQLite's own messages may not be valid UTF-8.
        if not isinstance(error, sqlite3.Error | UnicodeDecodeError) or isinstance(error, _OURS):
            return
        if not isinstance(error, sqlite3.OperationalError):
            raise DamageError(f"{self._path} is damaged: {error}", RESTORE) from error
        raise _operational(self._path, str(error)) from error


def _operational(path: Path, error: str) -> StoreError:
    if "full" in error or "disk I/O" in error:
        return _disk_error(path, error)
    if "decode" in error:
        return DamageError(f"{path} is damaged: {error}", RESTORE)
    if "locked" in error:
        hint = "Another process has locked the database. Try again when it is done."
    elif "readonly" in error or "unable to open" in error:
        hint = "Check that the folder exists and that you may write there."
    else:
        hint = "The workspace could not be used; see kltui --doctor."
    return StoreError(f"{path}: {error}", hint)


def _disk_error(path: Path, error: str) -> DiskError:
    return DiskError(
        f"{path}: {error}",
        "The disk is full or failing. Everything reported as done so far is stored; free space and run the job again.",
    )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Context in which errors of the system and of SQLite are raised as StoreErrors about `path` that say what to do."""
    try:
        with _Explained(path):
            yield
    except OSError as error:
        where, said = Path(error.filename or path), error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise _disk_error(where, said) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "This workspace cannot be written: check its permissions."
        else:
            hint = "A workspace must be a folder: name another one, or move the file with this name."
        raise StoreError(f"{where}: {said}", hint) from error


def connect_writer(path: Path, *, durable: bool) -> Connection:
    """A connection for writing. With `durable`, every commit is synced to the disk before it returns. Raises StoreError."""
    db = _connect(path, str(path), uri=False)
    try:
        db.execute("PRAGMA page_size = 16384")
        wanted = "DELETE" if is_network(file_system(path.parent)) else "WAL"
        journal = _in_journal(db, path, wanted)
        # With a rollback journal a commit is the removal of a file: EXTRA syncs the folder too.
        level = ("FULL", "EXTRA") if journal != "wal" else ("NORMAL", "FULL")
        db.execute(f"PRAGMA synchronous = {level[durable]}")
        db.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        db.close()
        raise
    return db


def _in_journal(db: Connection, path: Path, wanted: str) -> str:
    """The journal mode of a database after it was set to `wanted`. Raises StoreError if other processes prevent it."""
    try:
        (journal,) = db.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    except StoreError as error:
        if wanted != "DELETE" or "locked" not in error.message:
            raise
        raise StoreError(
            f"{path} has a write-ahead log, which is not safe on this file system ({file_system(path.parent)}), and other"
            " processes have it open",
            "Close the interfaces and notebooks that show this workspace, and run it again: the log is then given up for good.",
        ) from error
    return str(journal)


def connect_reader(path: Path) -> Connection:
    """A read-only connection, usable from any thread; works for a store on read-only media.

    A rollback journal left by a killed writer must be undone before reading: if there may be one, the file
    is opened for writing and the connection is restricted to queries. Raises StoreError.
    """
    uri = path.resolve().as_uri()
    try:
        if is_network(file_system(path.parent)):
            return _confined(path, uri)
        try:
            return _probed(_connect(path, f"{uri}?mode=ro", uri=True))
        except StoreError:
            if not left_by_writer(path, "-journal"):
                raise
            return _confined(path, uri)
    except StoreError as error:
        left = left_by_writer(path, "-wal") or left_by_writer(path, "-journal")
        is_full = isinstance(error, DiskError)
        if not is_full and (left or os.access(path.parent, os.W_OK)):
            raise
        if is_full and left:
            return _alone(path, uri)
    # On read-only media, or on a full disk without a log, no process writes, and WAL's shared file cannot be created.
    return _probed(_connect(path, f"{uri}?mode=ro&immutable=1", uri=True))


def _confined(path: Path, uri: str) -> Connection:
    """A connection that can undo a rollback journal and otherwise only run queries."""
    db = _probed(_connect(path, f"{uri}?mode=rw", uri=True))
    db.execute("PRAGMA query_only = ON")
    return db


def _alone(path: Path, uri: str) -> Connection:
    """A connection with WAL's index in its own memory, because the disk has no space for the shared file."""
    db = _connect(path, f"{uri}?mode=rw", uri=True)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA query_only = ON")
    return _probed(db)


def _probed(db: Connection) -> Connection:
    """`db` after a first query, which raises StoreError if the file cannot be read; `db` is then closed."""
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _connect(path: Path, target: str, *, uri: bool) -> Connection:
    with _Explained(path):
        db = sqlite3.connect(
            target,
            uri=uri,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=not uri,
            factory=Connection,
        )
    db.explained = _Explained(path)
    _distrust(db)
    return db


def _distrust(db: Connection) -> None:
    """Prevents the file from running code or opening other files, and lets SQLite check every page that it reads."""
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    if sys.version_info >= (3, 12):
        db.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "temp_store = MEMORY"):
        db.execute(f"PRAGMA {pragma}")


def left_by_writer(path: Path, suffix: str) -> bool:
    """Whether a non-empty log or journal of the database exists."""
    left = path.with_name(path.name + suffix)
    return left.exists() and left.stat().st_size > 0
