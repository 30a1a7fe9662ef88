"""Checksums of all rows, updated by every connection that writes and verified by every connection that reads.

A row's checksum covers all its columns; the ledger contains, for every table, the number of rows and all their checksums
combined by exclusive or. The checksums detect damage that SQLite does not see, the ledger lost and duplicated rows.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import xor

from kltui.sanitize import safe_text
from kltui.store.connection import RESTORE, DamageError

# Columns that a row's checksum does not cover. The values of a vector have a CRC, which is itself a column.
_LEFT_OUT = {"checksum", "loglik", "n_scored"}
# SQL for the name of a row in messages, for each verified table. `writer` is not verified: it changes every second.
VECTOR_NAME = (
    "COALESCE((SELECT name FROM checkpoint k WHERE k.id = checkpoint_id), checkpoint_id)"
    " || CASE WHEN layer < 0 THEN '' ELSE '#' || layer END"
)
NAMES = {
    "corpus": "sha256",
    "text": "corpus_id || ' text ' || idx",
    "checkpoint": "name",
    "vector": VECTOR_NAME,
    "job": "id",
    "job_item": "'job ' || job_id || ' item ' || ordinal",
    "side_file": "path",
    "weight_distance": "a_weights || ' ' || b_weights",
    "fingerprint": "path",
    "benchmark_score": "name || ' ' || task",
    "record": "kind || ' ' || name",
}
TABLES = tuple(NAMES)
FACTS = "INDEXED BY vector_facts"  # the index with all columns of a vector except its values
COMMITS = "commits"  # the ledger's row that counts transactions

_STORED = "(SELECT checksum FROM vector_checksum WHERE vector_id = {row}.id)"


def row_checksum(table: str, *values: int | float | bytes | None) -> int:
    """64-bit checksum (signed, as SQLite stores it) of a row: its values in order, text as UTF-8 bytes."""
    digest = hashlib.blake2b(repr((table, *values)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keep_checksums(db: sqlite3.Connection) -> None:
    """Creates temporary triggers by which this connection updates checksums and ledger with every change."""
    db.create_function("row_checksum", -1, row_checksum, deterministic=True)
    db.create_function("xor", 2, xor, deterministic=True)
    # Otherwise INSERT OR REPLACE would delete the old row without running the triggers.
    db.execute("PRAGMA recursive_triggers = ON")
    for table in TABLES:
        db.executescript(_triggers(db, table))


def seal_all(db: sqlite3.Connection) -> None:
    """Computes every checksum and the whole ledger of a store that has none yet. Raises DamageError for altered texts."""
    for corpus_id, sha256, lengths in db.execute("SELECT id, sha256, text_bytes FROM corpus").fetchall():
        if text_identity(db, corpus_id) != (sha256, lengths):
            raise DamageError("the workspace is damaged: its texts do not match their corpus", RESTORE)
    for table in TABLES:
        seal(db, table)
    # The id of this store, and the number of its transactions.
    db.execute("INSERT INTO ledger (name, n, total) VALUES (?, 0, ?)", (COMMITS, secrets.randbits(62)))


def text_identity(db: sqlite3.Connection, corpus_id: int) -> tuple[str, bytes]:
    """(SHA-256, bytes of every text as little-endian int64) of a corpus, from its stored texts; as Corpus.sha256."""
    prompts = _prompts(db, corpus_id)
    digest, lengths = hashlib.sha256(b"kltui pairs 1\n" if prompts else b""), bytearray()
    rows = db.execute("SELECT body FROM text WHERE corpus_id = ? ORDER BY idx", (corpus_id,))
    for place, (body,) in enumerate(rows):
        lengths += len(body).to_bytes(8, "little")
        for data in (*prompts[place : place + 1], body):
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest(), bytes(lengths)


def _prompts(db: sqlite3.Connection, corpus_id: int) -> list[bytes]:
    """The prompts of a corpus of pairs as bytes to hash, in order; [] for a corpus of texts, or if they cannot be read."""
    query = "SELECT r.value FROM record r JOIN corpus c ON r.name = c.sha256 WHERE r.kind = 'prompts' AND c.id = ?"
    try:
        return [
            json.dumps(prompt).encode()
            for (value,) in db.execute(query, (corpus_id,))
            for prompt in json.loads(value)["prompts"]
        ]
    except (ValueError, TypeError, KeyError):
        return []


def seal(db: sqlite3.Connection, table: str) -> None:
    """Computes the checksums of all present rows of a table, and its entry in the ledger."""
    db.create_function("row_checksum", -1, row_checksum, deterministic=True)
    of = f"row_checksum({_arguments(db, table)})"
    if table == "vector":
        db.execute("DELETE FROM vector_checksum")
        db.execute(f"INSERT INTO vector_checksum SELECT id, {of} FROM vector NOT INDEXED")
    else:
        db.execute(f"UPDATE {table} SET checksum = {of}")
    where = "vector_checksum" if table == "vector" else table
    sums = [s for (s,) in db.execute(f"SELECT checksum FROM {where}")]
    line = (table, len(sums), reduce(xor, sums, 0))
    db.execute("INSERT OR REPLACE INTO ledger (name, n, total) VALUES (?, ?, ?)", line)


def settle(db: sqlite3.Connection, table: str) -> None:
    """Rewrites a table's ledger entry after damaged rows were replaced, if all remaining rows are valid."""
    found = examine(db, table)
    if not found.damaged:
        line = (table, found.n, found.total)
        db.execute("INSERT OR REPLACE INTO ledger (name, n, total) VALUES (?, ?, ?)", line)


def stored_row(
    db: sqlite3.Connection, table: str, rowid: int
) -> tuple[int, dict[str, int | float | bytes | None]]:
    """(Checksum, values by column as covered by the checksum) of one row."""
    columns = _arguments(db, table).partition(", ")[2]
    query = f"SELECT checksum, {columns} FROM {table} WHERE rowid = ?"
    checksum, *values = db.execute(query, (rowid,)).fetchone()
    return checksum, dict(zip((name for name, _ in _columns(db, table)), values, strict=True))


def reseal(db: sqlite3.Connection, table: str, rowid: int) -> None:
    """Updates the checksum of a repaired row; `seal` updates the ledger."""
    checksum = row_checksum(table, *stored_row(db, table, rowid)[1].values())
    db.execute(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", (checksum, rowid))


def _columns(db: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    """(name, type) of the columns that a row's checksum covers, in the schema's order."""
    listed = db.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
    return [(name, kind) for name, kind in listed if name not in _LEFT_OUT]


def _arguments(db: sqlite3.Connection, table: str, row: str = "") -> str:
    """SQL for the arguments of `row_checksum`. Text is passed as bytes, because damaged text may not be valid UTF-8."""
    dot = f"{row}." if row else ""
    values = [
        f"CAST({dot}{name} AS BLOB)" if kind == "TEXT" else f"{dot}{name}"
        for name, kind in _columns(db, table)
    ]
    return ", ".join([f"'{table}'", *values])


def _triggers(db: sqlite3.Connection, table: str) -> str:
    """SQL of the triggers that update checksums and ledger when rows of `table` are added, changed or removed."""
    changed = ", ".join(name for name, _ in _columns(db, table))
    computed = f"row_checksum({_arguments(db, table, 'new')})"
    before = f"row_checksum({_arguments(db, table, 'old')})"
    if table == "vector":
        old, new = _STORED.format(row="old"), _STORED.format(row="new")
        put = "INSERT OR REPLACE INTO vector_checksum VALUES (new.id, {})"
        drop = "DELETE FROM vector_checksum WHERE vector_id = old.id;"
    else:
        old, new = "old.checksum", f"(SELECT checksum FROM {table} WHERE rowid = new.rowid)"
        put = f"UPDATE {table} SET checksum = {{}} WHERE rowid = new.rowid"
        drop = ""

    def ledger(by: int, *sums: str) -> str:
        total = reduce(lambda so_far, s: f"xor({so_far}, {s})", sums, "total")
        return f"UPDATE ledger SET n = n + {by}, total = {total} WHERE name = '{table}';"

    head = f"CREATE TEMP TRIGGER {table}"
    # The old checksum is removed from the ledger before the new one replaces it. A damaged row stays damaged: its new checksum
    # is inverted, because changing one column does not repair the others.
    kept = f"CASE WHEN {old} = {before} THEN {computed} ELSE ~{computed} END"
    return f"""
        {head}_added AFTER INSERT ON main.{table} BEGIN
            {put.format(computed)}; {ledger(1, new)}
        END;
        {head}_changed AFTER UPDATE OF {changed} ON main.{table} BEGIN
            {ledger(0, old)} {put.format(kept)}; {ledger(0, new)}
        END;
        {head}_removed AFTER DELETE ON main.{table} BEGIN {ledger(-1, f"COALESCE({old}, 0)")} {drop} END;
    """


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of verifying a table.

    `damaged` are (rowid, name) of altered rows, `n` and `total` the number of rows and their combined checksum, `expected`
    the number in the ledger (None: no entry), and `adds_up` is whether number and checksum are those of the ledger.
    """

    table: str
    damaged: tuple[tuple[int, str], ...]
    n: int
    total: int
    expected: int | None
    adds_up: bool

    @property
    def sound(self) -> bool:
        return not self.damaged and self.adds_up

    def words(self, limit: int = 3) -> str:
        """What is wrong with the table, in one line."""
        named = ", ".join(safe_text(name, 80) for _, name in self.damaged[:limit])
        more = ", ..." if len(self.damaged) > limit else ""
        if self.damaged:
            return f"{len(self.damaged)} of {self.n} rows of {self.table} were altered ({named}{more})"
        if self.expected is None:
            return f"the contents of the table {self.table} are not recorded"
        if self.expected != self.n:
            return f"the table {self.table} has {self.n} rows instead of {self.expected}"
        return f"rows of {self.table} are not those written last"


def examine(db: sqlite3.Connection, table: str, *, whole: bool = False) -> Examined:
    """Verifies every row of a table and that none is missing or added; of vectors, not the values.

    `whole`: reads a vector's row itself, not only its entry in the index.
    """
    columns = _arguments(db, table, "t").partition(", ")[2]
    if table == "vector":
        index = "NOT INDEXED" if whole else FACTS
        rows = f"vector t {index} ON TRUE LEFT JOIN vector_checksum s ON s.vector_id = t.id"
    else:
        rows = f"{table} t NOT INDEXED ON TRUE"
    # One statement, so that ledger and rows are consistent while another process writes.
    query = f"SELECT l.n, l.total, t.rowid, {'s' if table == 'vector' else 't'}.checksum, {columns}"
    query += f" FROM ledger l LEFT JOIN {rows} WHERE l.name = ?"
    damaged: list[int] = []
    line: tuple[int, int] | None = None
    n = total = 0
    for lines, totals, rowid, is_stored, *values in db.execute(query, (table,)):
        line = lines, totals
        if rowid is None:  # an empty table
            continue
        n += 1
        total ^= is_stored or 0
        if row_checksum(table, *values) != is_stored:
            damaged.append(rowid)
    names = tuple(_named(db, table, damaged))
    return Examined(table, names, n, total, line[0] if line else None, line == (n, total))


VectorReader = Callable[[int], tuple[bytes, bytes] | None]


def vector_reader(db: sqlite3.Connection, *, checked: bool = True) -> VectorReader:
    """A function that returns the bytes (loglik, n_scored) of a vector by id, or None if it is missing or altered."""
    columns = _arguments(db, "vector", "t").partition(", ")[2]
    stored = "(SELECT checksum FROM vector_checksum WHERE vector_id = t.id)" if checked else "0"
    query = f"SELECT loglik, n_scored, crc, {stored}, {columns} FROM vector t WHERE id = ?"

    def read(vector_id: int) -> tuple[bytes, bytes] | None:
        row = db.execute(query, (vector_id,)).fetchone()
        if row is None:
            return None
        loglik, n_scored, crc, checksum, *values = row
        if checked and row_checksum("vector", *values) != checksum:
            return None
        return (loglik, n_scored) if zlib.crc32(n_scored, zlib.crc32(loglik)) == crc else None

    return read


def _named(db: sqlite3.Connection, table: str, rows: list[int]) -> Iterator[tuple[int, str]]:
    for rowid in rows:
        query = f"SELECT CAST({NAMES[table]} AS BLOB) FROM {table} WHERE rowid = ?"
        found = db.execute(query, (rowid,)).fetchone()
        yield rowid, bytes(found[0] if found and found[0] else b"?").decode(errors="replace")


def check_indexes(db: sqlite3.Connection) -> None:
    """Raises DamageError if the indexes of a table do not match it; the long tables `text` and `vector` are skipped."""
    for table in TABLES:
        if table not in ("text", "vector"):
            (words,) = db.execute(f"PRAGMA integrity_check({table})").fetchone()
            if words != "ok":
                raise DamageError(f"the workspace is damaged: {safe_text(words, 200)}", RESTORE)


class Checks:
    """Verifies tables before they are used, each again only after it has changed.

    Queries of a verified table must use the index that was verified, or none, because a table and its indexes may be
    damaged independently.
    """

    def __init__(self, db: sqlite3.Connection, *, active: bool = True) -> None:
        self._db, self._active = db, active
        self._seen: dict[str, tuple[int, int]] = {}

    @property
    def facts(self) -> str:
        """SQL that makes a query of `vector` use the verified index; "" if the store has no checksums."""
        return FACTS if self._active else ""

    @property
    def active(self) -> bool:
        """Whether the store has checksums: one of an older schema, opened to read, has none."""
        return self._active

    def require(self, *tables: str) -> None:
        """Raises DamageError if a row of these tables is missing, added or altered."""
        if not self._active:
            return
        lines = {name: (n, total) for name, n, total in self._db.execute("SELECT name, n, total FROM ledger")}
        for table in tables:
            line = lines.get(table)
            if line is not None and self._seen.get(table) == line:
                continue
            found = examine(self._db, table)
            if not found.sound:
                raise DamageError(f"the workspace is damaged: {found.words()}", RESTORE)
            self._seen[table] = (found.n, found.total)


def count_commit(db: sqlite3.Connection) -> tuple[int, int]:
    """Counts the current transaction; returns (store id, number of transactions)."""
    db.execute("UPDATE ledger SET n = n + 1 WHERE name = ?", (COMMITS,))
    return commits(db)


def check_commits(db: sqlite3.Connection, noted: tuple[int, int] | None) -> None:
    """Raises DamageError if a store has fewer transactions than the file next to it records as committed."""
    here = commits(db)
    if noted is not None and noted[0] == here[0] and noted[1] > here[1]:
        lost = noted[1] - here[1]
        raise DamageError(
            f"the workspace is damaged: the last {lost} of {noted[1]} transactions are missing",
            "Its log kltui.sqlite-wal was lost or damaged, or kltui.sqlite is an older copy. Restore what is missing,"
            " or continue without it: kltui --check WORKSPACE --mend",
        )


def commits(db: sqlite3.Connection) -> tuple[int, int]:
    """(the store's id, the number of transactions it has seen). Raises DamageError if the count is lost."""
    found = db.execute("SELECT total, n FROM ledger WHERE name = ?", (COMMITS,)).fetchone()
    if found is None:
        raise DamageError("the workspace is damaged: its ledger has no count of transactions", RESTORE)
    return int(found[0]), int(found[1])
