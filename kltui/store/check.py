"""Verifies a whole store against its checksums; lists what is damaged, and what to do about it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kltui.errors import NoWorkspaceError, StoreError, TryAgainError
from kltui.sanitize import safe_text
from kltui.store import lock_file
from kltui.store.checksums import (
    TABLES,
    VECTOR_NAME,
    Checks,
    Examined,
    check_commits,
    examine,
    text_identity,
    vector_reader,
)
from kltui.store.connection import Connection, connect_reader, explained
from kltui.store.schema import CHECKED_SINCE, MIGRATIONS, check_schema, check_version, show_as_newest
from kltui.store.side_tables import SideFileTable
from kltui.store.store import FILE_NAME
from kltui.store.writer_lock import current_writer

_RESTORE = "restore it from a copy"
_MEND = "restore it from a copy, or remove it with --mend, and "
_ADVICE = {
    "corpus": _MEND + "score the corpus again, unless its texts are intact",
    "text": _MEND + "score the corpus again",
    "checkpoint": _MEND + "run its job again",
    "vector": _MEND + "run its job again, or import it again",
    "job": _MEND + "run the job again",
    "job_item": _MEND + "run the job again",
    "side_file": _MEND + "run its job again with scoring.tokens = true",
    "weight_distance": _MEND + "recompute it with --report, or import it again",
    "fingerprint": "remove it with --mend: it is then recomputed",
    "benchmark_score": _MEND + "import the scores again",
    "record": _MEND + "save the map or draw the texts again",
}


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged row or file: where it is (a table or file), its name, what is wrong, and what to do."""

    where: str
    name: str
    seen: str
    advice: str


@dataclass
class Counts:
    """How many rows, vectors, texts and files were read, and the schema of the store."""

    rows: int = 0
    vectors: int = 0
    texts: int = 0
    files: int = 0
    schema: int = 0


def check_store(folder: Path, counts: Counts) -> Iterator[Damage]:
    """Everything damaged in the store in `folder`; `counts` records how much was read. Raises StoreError if there is no store."""
    path = folder / FILE_NAME
    with explained(path):
        is_there = path.exists()
    if not is_there:
        raise NoWorkspaceError(
            f"no kltui workspace in {folder}", "Name the folder that contains kltui.sqlite."
        )
    noted = lock_file.noted(folder)
    try:
        db = connect_reader(path)
    except StoreError as error:
        yield Damage("database", FILE_NAME, safe_text(error.message), _RESTORE)
        return
    try:
        yield from _checked(db, folder, noted, counts)
    finally:
        db.close()


def _checked(db: Connection, folder: Path, noted: tuple[int, int] | None, counts: Counts) -> Iterator[Damage]:
    try:
        counts.schema = version = check_version(db)
        check_schema(db, version)
    except StoreError as error:
        yield Damage("database", FILE_NAME, safe_text(error.message), error.hint or _RESTORE)
        return
    _begin_reading(db, folder)
    steps: list[Callable[[], Iterator[Damage]]] = [lambda: _integrity(db)]
    if version < len(MIGRATIONS):
        show_as_newest(db)
    if version >= CHECKED_SINCE:
        steps.append(lambda: _commits(db, noted))
        steps += [lambda table=table: _table(db, table, counts) for table in TABLES]  # type: ignore[misc]
    steps += [
        lambda: _vectors(db, counts, checked=version >= CHECKED_SINCE),
        lambda: _corpora(db),
        lambda: _json(db),
        lambda: _side_files(db, folder, counts),
    ]
    for step in steps:
        try:
            yield from step()
        except (StoreError, ValueError, TypeError) as error:
            # Unreadable pages, or values of a wrong type: other tables may still be readable.
            yield Damage("database", FILE_NAME, safe_text(str(error).splitlines()[0], 200), _RESTORE)


def _begin_reading(db: Connection, folder: Path) -> None:
    """Begins a transaction, so that everything is read as it is now. Raises TryAgainError if that would block a running job."""
    with suppress(StoreError, ValueError, TypeError):
        (journal,) = db.execute("PRAGMA journal_mode").fetchone()
        writer = current_writer(db)
        if journal != "wal" and writer is not None and writer.alive:
            raise TryAgainError(
                f"{folder} is being written by process {writer.pid} on {safe_text(writer.host)}",
                "It has no write-ahead log, so the job would have to wait for the check: try again when the job is done.",
            )
        db.execute("BEGIN")


def _integrity(db: sqlite3.Connection) -> Iterator[Damage]:
    for (words,) in db.execute("PRAGMA integrity_check(20)"):
        if words != "ok":
            seen = safe_text(str(words).replace("*** in database main ***\n", ""), 200)
            yield Damage("database", FILE_NAME, seen, f"{_RESTORE}, or try --mend")
    for table, rowid, parent, _ in db.execute("PRAGMA foreign_key_check"):
        yield Damage(table, f"row {rowid}", f"its entry in {parent} is missing", _ADVICE[table])


def _commits(db: sqlite3.Connection, noted: tuple[int, int] | None) -> Iterator[Damage]:
    try:
        check_commits(db, noted)
    except StoreError as error:
        yield Damage("log", f"{FILE_NAME}-wal", safe_text(error.message), error.hint)


def _table(db: sqlite3.Connection, table: str, counts: Counts) -> Iterator[Damage]:
    found = examine(db, table, whole=True)
    counts.rows += found.n
    if table == "text":
        counts.texts += found.n
    yield from damages(found)


def damages(found: Examined) -> Iterator[Damage]:
    """One Damage for each damaged row of a verified table, or one for rows that are missing or added."""
    for _, name in found.damaged:
        seen = "it was altered"
        yield Damage(found.table, safe_text(name, 80), seen, _ADVICE[found.table])
    if not found.adds_up and not found.damaged:
        yield Damage(found.table, "rows", found.words(), _ADVICE[found.table])


def _vectors(db: sqlite3.Connection, counts: Counts, *, checked: bool) -> Iterator[Damage]:
    listed = f"SELECT v.id, CAST({VECTOR_NAME} AS BLOB), c.n FROM vector v LEFT JOIN corpus c ON c.id = v.corpus_id"
    read = vector_reader(db, checked=checked)
    for vector_id, name, n in db.execute(listed).fetchall():
        counts.vectors += 1
        numbers = read(vector_id)
        called = safe_text(bytes(name or b"?").decode(errors="replace"), 80)
        if numbers is None:
            yield Damage("vector", called, "its numbers were altered", _ADVICE["vector"])
        elif (len(numbers[0]), len(numbers[1])) != (8 * (n or 0), 4 * (n or 0)):
            yield Damage("vector", called, "its length differs from its corpus", _ADVICE["vector"])


def _corpora(db: sqlite3.Connection) -> Iterator[Damage]:
    for corpus_id, sha256, n, lengths in db.execute(
        "SELECT id, CAST(sha256 AS BLOB), n, text_bytes FROM corpus"
    ):
        reported, measured = text_identity(db, corpus_id)
        name = bytes(sha256).decode(errors="replace")[:12]
        if reported.encode() != sha256:
            yield Damage("corpus", safe_text(name), "its texts do not match its SHA-256", _ADVICE["text"])
        if measured != lengths or len(measured) != 8 * n:
            yield Damage(
                "corpus", safe_text(name), "the stored byte lengths do not match its texts", _ADVICE["corpus"]
            )


def _json(db: sqlite3.Connection) -> Iterator[Damage]:
    """Damaged columns of JSON text, which other readers parse only when they use them."""
    for table, column in (
        ("corpus", "record"),
        ("checkpoint", "tags"),
        ("vector", "key"),
        ("record", "value"),
    ):
        for rowid, text in db.execute(f"SELECT rowid, CAST({column} AS BLOB) FROM {table}"):
            try:
                json.loads(text)
            except (ValueError, TypeError):
                yield Damage(table, f"row {rowid}", f"its {column} is not JSON", _ADVICE[table])


def _side_files(db: Connection, folder: Path, counts: Counts) -> Iterator[Damage]:
    files = SideFileTable(db, Checks(db, active=False))
    for (path,) in db.execute("SELECT path FROM side_file").fetchall():
        counts.files += 1
        if not files.intact(folder, path):
            gone = not (folder / path).is_file()
            seen = "it is missing" if gone else "its SHA-256 differs from the recorded one"
            yield Damage("side_file", safe_text(path, 80), seen, _ADVICE["side_file"])
