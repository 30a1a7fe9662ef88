"""The one file of a workspace: SQLite, opened to read or, by one process at a time, to write."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kltui.errors import StoreError
from kltui.scoring.settings import Progress
from kltui.store import writer_lock
from kltui.store.filesystem import file_system, is_network
from kltui.store.job_table import Jobs
from kltui.store.schema import check_version, migrate
from kltui.store.side_tables import Fingerprints, SideFiles, WeightDistances
from kltui.store.tables import Checkpoints, Corpora, Vectors

FILE_NAME = "kltui.sqlite"
BUSY_TIMEOUT_S = 30.0


class Store:
    """A workspace's database. Use `Store.read` or `Store.write`, and close it."""

    def __init__(
        self, folder: Path, db: sqlite3.Connection, notices: sqlite3.Connection | None = None
    ) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        self.db = db
        self._notices = notices
        self.taken_from: writer_lock.Writer | None = None
        self.corpora = Corpora(db)
        self.checkpoints = Checkpoints(db)
        self.vectors = Vectors(db)
        self.jobs = Jobs(db)
        self.side_files = SideFiles(db)
        self.weight_distances = WeightDistances(db)
        self.fingerprints = Fingerprints(db)

    @classmethod
    def read(cls, folder: Path) -> Store:
        """The store in `folder`, read-only; never waits for a writer under WAL. Raises StoreError."""
        path = folder / FILE_NAME
        if not path.exists():
            raise StoreError(
                f"no kltui workspace in {folder}",
                "A workspace is made by scoring: kltui --batch job.toml, or kltui --demo.",
            )
        with _explained(path):
            db = _connect_reader(path)
            check_version(db)
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'vector'").fetchone():
                raise StoreError(f"{path} holds no kltui tables", "Remove that file and score again.")
        return cls(folder, db)

    @classmethod
    def write(cls, folder: Path) -> Store:
        """The store in `folder`, made when missing, locked for this process. Raises StoreError."""
        path = folder / FILE_NAME
        with _explained(path):
            folder.mkdir(parents=True, exist_ok=True)
            db = _connect_writer(path, durable=True)
            try:
                migrate(db)
                taken_from = writer_lock.acquire(db, str(folder))
            except BaseException:
                db.close()
                raise
            store = cls(folder, db, notices=_connect_writer(path, durable=False))
        store.taken_from = taken_from
        return store

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """One transaction: all of the block is stored and synced to disk, or none of it."""
        with _explained(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def note_progress(self, job_id: int, progress: dict[int, Progress]) -> None:
        """Renews the sign of life and records progress, in a transaction that need not reach the disk.

        Losing the last of it in a power cut costs nothing, so it is spared the fsync a vector gets.
        """
        assert self._notices is not None, "the store is open read-only"
        with _explained(self.path):
            jobs = Jobs(self._notices)
            self._notices.execute("BEGIN IMMEDIATE")
            writer_lock.beat(self._notices)
            for checkpoint_id, state in progress.items():
                jobs.item_progress(job_id, checkpoint_id, state)
            self._notices.execute("COMMIT")

    def generation(self) -> int:
        """A number that changes whenever another connection has committed."""
        return int(self.db.execute("PRAGMA data_version").fetchone()[0])

    def writer(self) -> writer_lock.Writer | None:
        """The process that holds the store for writing, dead or alive."""
        return writer_lock.current_writer(self.db)

    def close(self) -> None:
        """Closes the connections and, for a writer, gives the lock up."""
        if self._notices is not None:
            self._notices.close()
            writer_lock.release(self.db)
        self.db.close()


def _connect_writer(path: Path, *, durable: bool) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    db.execute("PRAGMA page_size = 16384")
    journal = "DELETE" if is_network(file_system(path.parent)) else "WAL"
    db.execute(f"PRAGMA journal_mode = {journal}")
    db.execute(f"PRAGMA synchronous = {'FULL' if durable or journal == 'DELETE' else 'NORMAL'}")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _connect_reader(path: Path) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    db = sqlite3.connect(
        f"{uri}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        if os.access(path.parent, os.W_OK) or _has_wal(path):
            raise
        # On read-only media nobody writes, and WAL's shared memory cannot be made.
        db = sqlite3.connect(
            f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
    return db


def _has_wal(path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns SQLite's and the system's errors into ones that say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path}: {error}", _hint(str(error))) from error
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"{path} is damaged: {error}",
            "Restore it from a copy, or move it away and score again; sqlite3's .recover may save part of it.",
        ) from error
    except PermissionError as error:
        raise StoreError(
            f"{path}: {error.strerror}", "This workspace cannot be written: check its permissions."
        ) from error


def _hint(error: str) -> str:
    if "locked" in error:
        return "Another process holds the database. Try again when it is done."
    if "full" in error or "disk I/O" in error:
        return "The disk is full or failing. Everything acknowledged so far is kept; free space and run the job again."
    if "readonly" in error or "unable to open" in error:
        return "Check that the folder exists and that you may write there."
    return "The workspace could not be used; kltui --doctor tells more."
