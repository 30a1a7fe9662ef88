"""The one file of a workspace: SQLite, opened to read or, by one process at a time, to write."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kltui.errors import StoreError
from kltui.scoring.settings import Progress
from kltui.store import writer_lock
from kltui.store.connection import Connection, DiskError, connect_reader, connect_writer, explained
from kltui.store.job_table import Jobs
from kltui.store.schema import MIGRATIONS, check_version, migrate, show_as_newest
from kltui.store.side_tables import BenchmarkScores, Fingerprints, Records, SideFiles, WeightDistances
from kltui.store.tables import Checkpoints, Corpora, Vectors

FILE_NAME = "kltui.sqlite"

log = logging.getLogger(__name__)


class Store:
    """A workspace's database. Use `Store.read` or `Store.write`, and close it."""

    def __init__(self, folder: Path, db: Connection, notices: Connection | None = None) -> None:
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
        self.benchmark_scores = BenchmarkScores(db)
        self.records = Records(db)

    @classmethod
    def read(cls, folder: Path) -> Store:
        """The store in `folder`, read-only; never waits for a writer under WAL. Raises StoreError."""
        path = folder / FILE_NAME
        if not path.exists():
            raise StoreError(
                f"no kltui workspace in {folder}",
                "A workspace is made by scoring: kltui --batch job.toml, or kltui --demo.",
            )
        db = connect_reader(path)
        try:
            version = check_version(db)
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'vector'").fetchone():
                raise StoreError(
                    f"{path} holds no kltui tables",
                    "It may just be being made: try again. Else remove that file and score again.",
                )
            if version < len(MIGRATIONS):
                show_as_newest(db)
        except BaseException:
            db.close()
            raise
        return cls(folder, db)

    @classmethod
    def write(cls, folder: Path) -> Store:
        """The store in `folder`, made when missing, locked for this process. Raises StoreError."""
        path = folder / FILE_NAME
        with explained(path):
            folder.mkdir(parents=True, exist_ok=True)
        db = connect_writer(path, durable=True)
        try:
            migrate(db)
            taken_from = writer_lock.acquire(db, str(folder))
            store = cls(folder, db, notices=connect_writer(path, durable=False))
        except BaseException:
            db.close()
            raise
        store.taken_from = taken_from
        return store

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """One transaction: all of the block is stored and synced to disk, or none of it.

        Raises StoreError where another process has taken the store over meanwhile.
        """
        with _transaction(self.db):
            writer_lock.check_held(self.db, str(self.folder))
            yield

    def note_progress(self, job_id: int, progress: dict[int, Progress]) -> None:
        """Renews the sign of life and records progress, in a transaction that need not reach the disk.

        Losing the last of it in a power cut costs nothing, so it is spared the fsync a vector gets; nor does a disk
        that is full at the moment stop hours of work.
        """
        assert self._notices is not None, "the store is open read-only"
        jobs = Jobs(self._notices)
        try:
            with _transaction(self._notices):
                writer_lock.check_held(self._notices, str(self.folder))
                writer_lock.beat(self._notices)
                for checkpoint_id, state in progress.items():
                    jobs.item_progress(job_id, checkpoint_id, state)
        except DiskError as error:
            log.warning("progress could not be noted: %s", error.message)

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
            # On a full disk the row stays, and the next writer sees that this process is gone.
            with suppress(StoreError):
                writer_lock.release(self.db)
        self.db.close()


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
