"""Removes checkpoints and all their results from a store, and restores them row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from kltui.errors import StoreError
from kltui.store.store import Store
from kltui.store.tables import DETAILS

# Tables in the order in which their rows are restored, each with the condition of rows that belong to a checkpoint.
_OF_CHECKPOINT = {
    "checkpoint": "id = :id",
    "vector": "checkpoint_id = :id",
    "job_item": "checkpoint_id = :id",
    "side_file": "checkpoint_id = :id",
    "benchmark_score": "name = :name",
    "record": f"kind = '{DETAILS}' AND name = :name"
    " OR kind = 'renamed' AND json_extract(value, '$.checkpoint') = :id",
}


class Removed:
    """The removed rows, in a temporary database, until they are restored or discarded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: tuple[str, ...] = ()
        # With an empty name SQLite uses a temporary file, deleted with the connection: vectors may be larger than memory.
        self._rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._columns: dict[str, str] = {}

    @classmethod
    def of(cls, folder: Path, names: Sequence[str]) -> Self:
        """Removes the checkpoints `names` from the store in `folder`, in one transaction; returns their rows.

        Raises StoreError, and removes nothing, if one does not exist or another process writes to the store.
        """
        made = cls(folder)
        store = Store.write(folder)
        try:
            ids = {store.checkpoints.id_of(name): name for name in dict.fromkeys(names)}
            for table in _OF_CHECKPOINT:
                made._copy_shape(store.db, table)
            with store.atomic():
                for id_, name in ids.items():
                    made._take(store.db, id_, name)
        except BaseException:
            made.close()
            raise
        finally:
            store.close()
        made.names = tuple(ids.values())
        return made

    def _copy_shape(self, db: sqlite3.Connection, table: str) -> None:
        # Checksums are computed again by the store's triggers; a vector's id may by then belong to another vector.
        left_out = ("checksum", "id") if table == "vector" else ("checksum",)
        listed = db.execute("SELECT name FROM pragma_table_info(?)", (table,))
        columns = ", ".join(name for (name,) in listed if name not in left_out)
        self._columns[table] = columns
        self._rows.execute(f"CREATE TABLE {table} ({columns})")

    def _take(self, db: sqlite3.Connection, id_: int, name: str) -> None:
        values = {"id": id_, "name": name}
        for table, condition in _OF_CHECKPOINT.items():
            rows = db.execute(
                f"SELECT {self._columns[table]} FROM {table} WHERE {condition} ORDER BY rowid", values
            )
            self._put(self._rows, table, rows)
        for table, condition in reversed(_OF_CHECKPOINT.items()):
            db.execute(f"DELETE FROM {table} WHERE {condition}", values)

    def _put(self, db: sqlite3.Connection, table: str, rows: sqlite3.Cursor) -> None:
        columns = self._columns[table]
        places = ", ".join("?" * len(columns.split(", ")))
        for row in rows:
            db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)

    def put_back(self) -> None:
        """Restores all rows, checkpoints under their old ids and vectors under new ones. Raises StoreError if a name is in use again."""
        store = Store.write(self.folder)
        try:
            there = {row.name for row in store.checkpoints.all()}
            if again := [name for name in self.names if name in there]:
                raise StoreError(
                    f"{again[0]} is in the workspace again, so nothing was restored",
                    "Rename the new one, or keep it.",
                )
            with store.atomic():
                for table, columns in self._columns.items():
                    self._put(store.db, table, self._rows.execute(f"SELECT {columns} FROM {table}"))
        except sqlite3.IntegrityError as error:
            raise StoreError(f"the checkpoints cannot be restored: {error}", "Score them again.") from None
        finally:
            store.close()
        self.close()

    def give_up(self) -> None:
        """Deletes the token files that only the removed rows referred to, and discards the rest."""
        with suppress(sqlite3.ProgrammingError):  # restored or discarded before
            paths = {str(path) for (path,) in self._rows.execute("SELECT path FROM side_file")}
            for path in paths - self._in_use():
                with suppress(OSError):
                    (self.folder / path).unlink()
        self.close()

    def _in_use(self) -> set[str]:
        store = Store.read(self.folder)
        try:
            return {str(path) for (path,) in store.db.execute("SELECT path FROM side_file")}
        finally:
            store.close()

    def close(self) -> None:
        """Discards the removed rows."""
        self._rows.close()
