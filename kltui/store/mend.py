"""Removes damaged rows from a store, so that the rest can be used and the lost parts scored again."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from kltui.errors import StoreError
from kltui.sanitize import safe_text
from kltui.store import lock_file
from kltui.store.checksums import (
    COMMITS,
    TABLES,
    VECTOR_NAME,
    commits,
    examine,
    reseal,
    row_checksum,
    seal,
    stored_row,
    text_identity,
    vector_reader,
)
from kltui.store.connection import DamageError, explained
from kltui.store.schema import CHECKED_SINCE
from kltui.store.store import FILE_NAME, opened_unverified

# Texts and corpora are repaired separately, because most of their rows can be restored.
_DELETED_FROM = tuple(table for table in TABLES if table not in ("text", "corpus"))


def mend(folder: Path) -> list[str]:
    """Removes damaged rows in one transaction, after copying the database; returns one line for each change and the copy.

    Raises StoreError if another process writes to the store, DamageError if it cannot be repaired.
    """
    with opened_unverified(folder) as (db, lock):
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version < CHECKED_SINCE:
            raise StoreError(
                f"the workspace is of schema {version}, which has no checksums, so it cannot be repaired",
                "The next job, import or draw in it adds them.",
            )
        with explained(folder / FILE_NAME):
            kept = _copy(folder)
        try:
            db.execute("REINDEX")
            db.execute("BEGIN IMMEDIATE")
            done = _mended(db, folder)
            db.execute("COMMIT")
        except (StoreError, sqlite3.IntegrityError, ValueError, TypeError) as error:
            raise DamageError(
                f"{folder / FILE_NAME} is damaged beyond repair: {safe_text(str(error).splitlines()[0], 200)}",
                "Restore it from a copy, or move it away and score again; sqlite3's .recover may restore part of it.",
            ) from error
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        lock.note(*commits(db))
    return [*done, f"a copy of the damaged database is in {kept.name}"]


def _mended(db: sqlite3.Connection, folder: Path) -> list[str]:
    done = [*_texts(db), *_corpora(db)]
    done += [line for table in _DELETED_FROM for line in _deleted(db, table)]
    done += _orphans(db)
    for table in TABLES:
        # While texts are damaged, their table keeps its old checksums, so that the damage stays visible.
        if table != "text" or not examine(db, table).damaged:
            seal(db, table)
    return [*done, *_settled_commits(db, folder)]


def _copy(folder: Path) -> Path:
    """Copies the database and its log to files next to them; returns the path of the database's copy."""
    kept = folder / f"{FILE_NAME}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", "-wal"):
        source = folder / f"{FILE_NAME}{suffix}"
        if source.exists() and source.stat().st_size:
            shutil.copy2(source, kept.with_name(kept.name + suffix))
    return kept


def _deleted(db: sqlite3.Connection, table: str) -> Iterator[str]:
    found = examine(db, table, whole=True)
    damaged = dict(found.damaged)
    if table == "vector":
        names = db.execute(f"SELECT id, {VECTOR_NAME} FROM vector NOT INDEXED").fetchall()
        read = vector_reader(db)
        damaged |= {i: name for i, name in names if i not in damaged and read(i) is None}
    for rowid, name in damaged.items():
        db.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
        yield f"removed from {table}: {safe_text(str(name), 80)}"
    if not found.damaged and not found.adds_up:
        yield f"{found.words()}: what is missing cannot be restored"


def _texts(db: sqlite3.Connection) -> Iterator[str]:
    """Clears the domains of damaged rows whose corpus has all its texts; only a job can restore texts. Yields what was done."""
    whole = {i for i, sha in _identities(db) if text_identity(db, i)[0].encode() == sha}
    for rowid, name in examine(db, "text", whole=True).damaged:
        (corpus_id,) = db.execute("SELECT corpus_id FROM text WHERE rowid = ?", (rowid,)).fetchone()
        if corpus_id in whole:
            db.execute("UPDATE text SET domain = '' WHERE rowid = ?", (rowid,))
            reseal(db, "text", rowid)
            yield f"the domain of {safe_text(name, 80)} was discarded"
        else:
            yield f"{safe_text(name, 80)} stays damaged: run a job on that corpus to store its texts again"


def _corpora(db: sqlite3.Connection) -> Iterator[str]:
    """Restores damaged values of corpora that follow from their texts; removes other damaged corpora with all their vectors."""
    for corpus_id, name in examine(db, "corpus", whole=True).damaged:
        checksum, row = stored_row(db, "corpus", corpus_id)
        sha256, lengths = text_identity(db, corpus_id)
        row |= {"sha256": sha256.encode(), "text_bytes": lengths, "n": len(lengths) // 8}
        if row_checksum("corpus", *row.values()) == checksum:
            query = "UPDATE corpus SET sha256 = ?, text_bytes = ?, n = ? WHERE id = ?"
            db.execute(query, (sha256, lengths, row["n"], corpus_id))
            yield f"corpus {sha256[:12]}: its byte lengths were restored"
            continue
        for table in ("vector", "side_file"):
            db.execute(f"DELETE FROM {table} WHERE corpus_id = ?", (corpus_id,))
        db.execute("DELETE FROM corpus WHERE id = ?", (corpus_id,))
        yield f"removed from corpus, with all its vectors: {safe_text(name, 12)}"


def _identities(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
    return db.execute("SELECT id, CAST(sha256 AS BLOB) FROM corpus").fetchall()


def _orphans(db: sqlite3.Connection) -> Iterator[str]:
    """Removes rows whose checkpoint, corpus or job is missing."""
    rows = db.execute("PRAGMA foreign_key_check").fetchall()
    for table, rowid, parent, _ in rows:
        db.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
        yield f"removed from {table}: row {rowid}, whose {parent} is missing"


def _settled_commits(db: sqlite3.Connection, folder: Path) -> Iterator[str]:
    """Sets the number of transactions to that of the lock file if the store has fewer; yields how many were lost."""
    noted = lock_file.noted(folder)
    found = db.execute("SELECT total, n FROM ledger WHERE name = ?", (COMMITS,)).fetchone()
    store, here = found or noted or (secrets.randbits(62), 0)
    if noted and noted[0] == store and noted[1] > here:
        yield f"the last {noted[1] - here} transactions were discarded"
        here = noted[1]
    line = (COMMITS, here + 1, store)
    db.execute("INSERT OR REPLACE INTO ledger (name, n, total) VALUES (?, ?, ?)", line)
