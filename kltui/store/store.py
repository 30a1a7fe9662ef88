"""The one file of a workspace: SQLite, opened to read or, by one process at a time, to write."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.errors import StoreError
from kltui.store import lock_file, writer_lock
from kltui.store.checksums import TABLES, Checks, check_commits, check_indexes, count_commit, keep_checksums
from kltui.store.connection import (
    Connection,
    DiskError,
    connect_reader,
    connect_writer,
    explained,
    left_by_writer,
)
from kltui.store.corpora import Corpora
from kltui.store.filesystem import file_system, is_network
from kltui.store.job_table import Jobs
from kltui.store.lock_file import LockFile
from kltui.store.schema import (
    CHECKED_SINCE,
    MIGRATIONS,
    check_schema,
    check_version,
    migrate,
    show_as_newest,
)
from kltui.store.side_tables import BenchmarkScores, Fingerprints, Records, SideFileTable, WeightDistances
from kltui.store.tables import Checkpoints, Vectors

if TYPE_CHECKING:
    from kltui.scoring.settings import Progress

FILE_NAME = "kltui.sqlite"
_PATIENCE_S = 10.0
# Tables that no job stands on: they are verified when they are read.
_BESIDE = ("text", "weight_distance", "benchmark_score", "record")

log = logging.getLogger(__name__)


class Store:
    """A workspace's database. Use `Store.read` or `Store.write`, and close it."""

    def __init__(self, folder: Path, db: Connection, checks: Checks, hold: _Hold | None = None) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        self.db = db
        self.checks = checks
        self._hold = hold
        self.previous_owner = hold.previous_owner if hold else None
        self.corpora = Corpora(db, checks)
        self.checkpoints = Checkpoints(db, checks)
        self.vectors = Vectors(db, checks)
        self.jobs = Jobs(db, checks)
        self.side_files = SideFileTable(db, checks)
        self.weight_distances = WeightDistances(db, checks)
        self.fingerprints = Fingerprints(db, checks)
        self.benchmark_scores = BenchmarkScores(db, checks)
        self.records = Records(db, checks)

    @classmethod
    def read(cls, folder: Path) -> Store:
        """The store in `folder`, read-only; never waits for a writer under WAL. Raises StoreError."""
        path = folder / FILE_NAME
        with explained(path):
            is_there = path.exists()  # a name may be too long, a folder closed
        if not is_there:
            raise StoreError(
                f"no kltui workspace in {folder}",
                "To create a workspace, score something: kltui --batch job.toml, or kltui --demo.",
            )
        noted = lock_file.noted(folder)
        db = connect_reader(path)
        try:
            version = check_version(db)
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'vector'").fetchone():
                raise StoreError(
                    f"{path} contains no kltui tables",
                    "It may be in the process of being created: try again. Otherwise remove that file and score again.",
                )
            check_schema(db, version)
            if version < len(MIGRATIONS):
                show_as_newest(db)
            else:
                check_commits(db, noted)
        except BaseException:
            db.close()
            raise
        return cls(folder, db, Checks(db, active=version >= CHECKED_SINCE))

    @classmethod
    def write(cls, folder: Path) -> Store:
        """The store in `folder`, made when missing, locked for this process. Raises StoreError."""
        with ExitStack() as undo:
            hold = _Hold.take(folder, undo)
            checks = Checks(hold.db)
            checks.require(*(table for table in TABLES if table not in _BESIDE))
            check_indexes(hold.db)
            undo.pop_all()
        return cls(folder, hold.db, checks, hold)

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """One transaction: all of the block is stored and synced to disk, or none of it.

        Raises StoreError if another process has taken over the store in the meantime.
        """
        with _transaction(self.db):
            writer_lock.check_held(self.db, str(self.folder))
            yield
            commits = count_commit(self.db)
        if self._hold is not None:
            self._hold.lock.note(*commits)

    def note_progress(self, job_id: int, progress: dict[int, Progress]) -> None:
        """Renews the sign of life and records progress, in a transaction that need not reach the disk.

        Losing the last of it in a power cut costs nothing, so it is spared the fsync a vector gets; nor does a disk
        that is full at the moment stop hours of work.
        """
        assert self._hold is not None, "the store is open read-only"
        notices = self._hold.notices
        jobs = Jobs(notices, self.checks)
        try:
            with _transaction(notices):
                writer_lock.check_held(notices, str(self.folder))
                writer_lock.beat(notices)
                for checkpoint_id, state in progress.items():
                    jobs.item_progress(job_id, checkpoint_id, state)
        except DiskError as error:
            log.warning("progress could not be recorded: %s", error.message)

    def generation(self) -> int:
        """A number that changes whenever another connection has committed."""
        return int(self.db.execute("PRAGMA data_version").fetchone()[0])

    def writer(self) -> writer_lock.Writer | None:
        """The process that holds the store for writing, dead or alive."""
        return writer_lock.current_writer(self.db)

    def close(self) -> None:
        """Closes the connections and, for a writer, gives the lock up."""
        if self._hold is None:
            self.db.close()
        else:
            self._hold.release(self.path)


@dataclass(frozen=True)
class _Hold:
    """What a writer holds: its connections, the lock file, and the dead writer it took the store from, if any."""

    db: Connection
    notices: Connection
    lock: LockFile
    previous_owner: writer_lock.Writer | None

    @classmethod
    def take(cls, folder: Path, undo: ExitStack) -> _Hold:
        """The hold on the store in `folder`, brought to the newest schema; `undo` gives it up again."""
        db, lock, previous_owner = _opened(folder, undo, damaged=False)
        keep_checksums(db)
        notices = connect_writer(folder / FILE_NAME, durable=False)
        undo.callback(notices.close)
        keep_checksums(notices)
        return cls(db, notices, lock, previous_owner)

    def release(self, path: Path) -> None:
        """Gives up the writer's row, the connections and then the lock."""
        self.notices.close()
        # On a full disk the row stays, and the next writer sees that this process is gone.
        with suppress(StoreError):
            writer_lock.release(self.db)
        self.db.close()
        self.lock.release(log_left=left_by_writer(path, "-wal"))


def _opened(
    folder: Path, undo: ExitStack, *, damaged: bool
) -> tuple[Connection, LockFile, writer_lock.Writer | None]:
    """The first connection of a writer, the lock, and the dead writer before it; `damaged`: opened as it lies."""
    path = folder / FILE_NAME
    with explained(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = LockFile(folder)
        decided = _locked(lock, folder)
    undo.callback(lambda: lock.release(log_left=left_by_writer(path, "-wal")))
    noted = lock_file.noted(folder)
    if path.exists():
        _vet(path)
    db = connect_writer(path, durable=True)
    undo.callback(db.close)
    if not damaged:
        migrate(db)
        check_commits(db, noted)
    previous_owner = writer_lock.acquire(db, str(folder), decided=decided)
    undo.callback(writer_lock.release, db)
    return db, lock, previous_owner


def _vet(path: Path) -> None:
    """Raises StoreError for a database that is not kltui's, before anything is written to it."""
    db = connect_reader(path)
    try:
        check_schema(db, check_version(db))
    finally:
        db.close()


@contextmanager
def opened_as_it_lies(folder: Path) -> Iterator[tuple[Connection, LockFile]]:
    """A store locked for this process, without verification and without updating checksums. Raises StoreError."""
    with ExitStack() as undo:
        db, lock, _ = _opened(folder, undo, damaged=True)
        yield db, lock


def _locked(lock: LockFile, folder: Path) -> bool:
    """Whether the operating system's lock decides who writes in `folder`. Raises StoreError while another holds it."""
    until = time.monotonic() + _PATIENCE_S
    while (got := lock.take()) is False:
        # Whoever holds it may just be starting or ending: soon its name is in the store, or the lock is free.
        writer = _named_writer(folder / FILE_NAME)
        if time.monotonic() > until or (writer and writer.alive):
            raise writer_lock.held_by(str(folder), writer)
        time.sleep(0.05)
    # Between hosts some network file systems take locks without telling each other.
    return bool(got) and not is_network(file_system(folder))


def _named_writer(path: Path) -> writer_lock.Writer | None:
    with suppress(StoreError):
        db = connect_reader(path)
        try:
            return writer_lock.current_writer(db)
        finally:
            db.close()
    return None


@contextmanager
def _transaction(db: Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # After some faults SQLite has rolled back by itself.
        if db.in_transaction:
            with suppress(StoreError):
                db.execute("ROLLBACK")
        raise
