"""The one file of a workspace: SQLite, opened to read or, by one process at a time, to write."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.errors import NoWorkspaceError, StoreError
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
from kltui.store.file_name import FILE_NAME as FILE_NAME
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

_PATIENCE_S = 10.0
# Tables that jobs do not need: they are verified only when they are read.
_NOT_FOR_JOBS = ("text", "weight_distance", "benchmark_score", "record")

log = logging.getLogger(__name__)


class Store:
    """A workspace's database. Use `Store.read` or `Store.write`, and close it."""

    def __init__(
        self, folder: Path, db: Connection, checks: Checks, access: _WriteAccess | None = None
    ) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        self._moment, self._moments = threading.Lock(), 0  # how many blocks of `at_one_moment` are open
        self.db = db
        self.checks = checks
        self._access = access
        self.previous_owner = access.previous_owner if access else None
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
        path = _existing(folder)
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
        """The store in `folder`, created if missing, locked for this process. Raises StoreError."""
        with ExitStack() as undo:
            access = _WriteAccess.take(folder, undo)
            checks = Checks(access.db)
            checks.require(*(table for table in TABLES if table not in _NOT_FOR_JOBS))
            check_indexes(access.db)
            undo.pop_all()
        return cls(folder, access.db, checks, access)

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """One transaction: all of the block is stored and synced to disk, or none of it.

        Raises StoreError if another process has taken over the store in the meantime.
        """
        with _transaction(self.db):
            writer_lock.check_held(self.db, str(self.folder))
            yield
            commits = count_commit(self.db)
        if self._access is not None:
            self._access.lock.note(*commits)

    @contextmanager
    def at_one_moment(self, *, brief: bool = True) -> Iterator[None]:
        """A block in which all that is read is of one moment, whatever other processes commit; blocks may be nested.

        Under WAL no writer waits for it. With a rollback journal, as on network file systems, a writer waits until it ends:
        there, a block that is not `brief` has no effect.
        """
        entered = brief or self._is_wal
        with self._moment:
            if entered and not self._moments and self.db.in_transaction:
                entered = False  # a writer's transaction
            elif entered:
                if not self._moments:
                    self.db.execute("BEGIN")
                self._moments += 1
        try:
            yield
        finally:
            with self._moment:
                self._moments -= entered
                if (
                    entered and not self._moments and self.db.in_transaction
                ):  # SQLite ends it after some faults
                    self.db.execute("COMMIT")

    @cached_property
    def _is_wal(self) -> bool:
        return bool(self.db.execute("PRAGMA journal_mode").fetchone()[0] == "wal")

    def note_progress(self, job_id: int, progress: dict[int, Progress]) -> None:
        """Updates the heartbeat and records {checkpoint id: progress} of a job, without syncing to the disk.

        A power failure may lose the last progress, which does no harm. A full disk is logged, so that it does not end a
        job. Raises StoreError if another process has taken over the store.
        """
        assert self._access is not None, "the store is open read-only"
        notices = self._access.notices
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
        """The process registered as the writer, whether it still runs or not; None if there is none."""
        return writer_lock.current_writer(self.db)

    def close(self) -> None:
        """Closes the connections and, for a writer, releases the lock."""
        if self._access is None:
            self.db.close()
        else:
            self._access.release(self.path)


@dataclass(frozen=True)
class _WriteAccess:
    """What a writer has open: two connections and the lock file. `previous_owner` is a writer that ended without closing."""

    db: Connection
    notices: Connection
    lock: LockFile
    previous_owner: writer_lock.Writer | None

    @classmethod
    def take(cls, folder: Path, undo: ExitStack) -> _WriteAccess:
        """Locks and opens the store in `folder`, migrated to the newest schema; `undo` gets the callbacks that release it."""
        db, lock, previous_owner = _opened(folder, undo, damaged=False)
        keep_checksums(db)
        notices = connect_writer(folder / FILE_NAME, durable=False)
        undo.callback(notices.close)
        keep_checksums(notices)
        return cls(db, notices, lock, previous_owner)

    def release(self, path: Path) -> None:
        """Removes the writer's registration, closes the connections and then releases the lock."""
        self.notices.close()
        # On a full disk the registration stays, and the next writer sees that this process has ended.
        with suppress(StoreError):
            writer_lock.release(self.db)
        self.db.close()
        self.lock.release(log_left=left_by_writer(path, "-wal"))


def _opened(
    folder: Path, undo: ExitStack, *, damaged: bool
) -> tuple[Connection, LockFile, writer_lock.Writer | None]:
    """(First connection of a writer, lock, previous writer that ended without closing). `undo` gets callbacks that release them.

    `damaged`: the store is neither migrated nor verified.
    """
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
def opened_unverified(folder: Path) -> Iterator[tuple[Connection, LockFile]]:
    """Context with a store locked for this process, neither verified nor migrated, and without updates of checksums.

    Raises StoreError, NoWorkspaceError if there is none.
    """
    _existing(folder)
    with ExitStack() as undo:
        db, lock, _ = _opened(folder, undo, damaged=True)
        yield db, lock


def _existing(folder: Path) -> Path:
    """The path of the database in `folder`. Raises NoWorkspaceError if there is none, and StoreError if it cannot be known."""
    path = folder / FILE_NAME
    with explained(path):
        is_there = path.exists()  # raises OSError if the name is too long or access is denied
    if not is_there:
        raise NoWorkspaceError(
            f"no kltui workspace in {folder}",
            "To create a workspace, score something: kltui --batch job.toml, or kltui --demo.",
        )
    return path


def _locked(lock: LockFile, folder: Path) -> bool:
    """Takes the lock, waiting up to _PATIENCE_S seconds; returns whether the lock alone excludes all other writers.

    Raises StoreError if another process has it.
    """
    until = time.monotonic() + _PATIENCE_S
    while (got := lock.take()) is False:
        # The process that has it may be starting or ending: it will be registered soon, or release the lock.
        writer = _named_writer(folder / FILE_NAME)
        if time.monotonic() > until or (writer and writer.alive):
            raise writer_lock.held_by(str(folder), writer)
        time.sleep(0.05)
    # On some network file systems a lock does not exclude processes of other hosts.
    return bool(got) and not is_network(file_system(folder))


def _named_writer(path: Path) -> writer_lock.Writer | None:
    """The writer registered in a database; None if there is none, or if it cannot be read."""
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
