"""A workspace's file with damage or odd values: what is read of it is what was stored, or it is a StoreError.

The input is a script of changes to one small workspace: bytes anywhere in its file, sectors of zeros, a cut, values of
cells, and the schema. After damage to bytes nothing may be read that was not stored; values that somebody put into
cells through SQLite may be read where they make sense.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import scratch

sys.path.insert(0, str(Path(__file__).parents[2] / "view"))
from small_workspace import Builder

from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.store.store import FILE_NAME
from kltui.workspace import Workspace

SECTOR = 512
BYTES, ZEROS, CUT, CELL, SCHEMA = range(5)
_HEAD = struct.Struct("<BIB")  # kind, where, how many bytes follow
SCHEMAS = (
    "DROP TABLE text", "DROP TABLE writer", "DROP TABLE record", "DELETE FROM corpus", "DELETE FROM checkpoint", "DELETE FROM text",
    "ALTER TABLE vector RENAME TO old; CREATE VIEW vector AS SELECT * FROM old",
    "ALTER TABLE vector RENAME COLUMN crc TO sum", "ALTER TABLE vector DROP COLUMN created", "ALTER TABLE job ADD COLUMN x TEXT",
    "CREATE TRIGGER t AFTER INSERT ON writer BEGIN DELETE FROM vector; END", "CREATE TABLE other (a) STRICT",
    "PRAGMA user_version = 0", "PRAGMA user_version = 99", "PRAGMA user_version = -1", "PRAGMA application_id = 7", "PRAGMA journal_mode = WAL",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE text (a)' WHERE name = 'text'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 2", "PRAGMA writable_schema = ON; DELETE FROM sqlite_master",
    "UPDATE checkpoint SET name = 'run@1' || id", "PRAGMA foreign_keys = OFF; DELETE FROM checkpoint", "VACUUM",
)  # fmt: skip


def _image() -> tuple[bytes, list[tuple[str, str]]]:
    """(the bytes of a small workspace's file, (table, column) of every cell), equal whenever it is made."""
    with mock.patch("time.time", return_value=1.7e9), mock.patch("os.getpid", return_value=7):
        made = Builder(scratch.FOLDER / "made", n_texts=4)
        for step in (0, 1, 1000):
            at = Checkpoint(
                run="a", source=LocalSource(Path("/models/a")), step=step, size="tiny", seed=1, tags=("x",)
            )
            made.add(at, made.base_N * (1 + step))
            made.add(at, made.base_N - step, layer=0)
        made.add(
            Checkpoint(run="b", source=HubSource("o/b", "main"), type="llama", parent="a@0"),
            made.base_N - 3.0,
        )
        made.add(Checkpoint(run="c", source=LocalSource(Path("/models/c"))), None)
        made.weights("a", (0, 1, 1000))
        with made.store.atomic():
            made.store.benchmark_scores.put({"a@0": {"arc": 20.5}, "b": {"arc": 31.0}})
            made.store.fingerprints.put(Path("/models/a"), "seen", "f" * 64)
            job = made.store.jobs.register("d" * 64, 'workspace = "w"\n', [1, 2], None)
            made.store.jobs.item_done(job, 1, {"seconds_score": 1.0}, 4)
            made.store.jobs.item_failed(job, 2, "an error", "a hint")
            made.store.jobs.finish(job, "done", "")
            made.store.side_files.put(1, 1, "tokens", "settings", "tokens/x", "f" * 64)
        made.store.close()
        with Workspace.open(made.folder) as ws:
            ws.save_map("kept")
    with contextlib.closing(sqlite3.connect(made.folder / FILE_NAME)) as db:
        tables = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        cells = [(t, row[1]) for t in tables for row in db.execute(f"PRAGMA table_info({t})")]
    return (made.folder / FILE_NAME).read_bytes(), cells


IMAGE, CELLS = _image()
_PLACE = scratch.FOLDER / "store" / FILE_NAME


def one_input(data: bytes) -> None:
    """Makes the changes and reads the workspace as its readers do."""
    for left in ("-wal", "-shm", "-journal"):
        _PLACE.with_name(FILE_NAME + left).unlink(missing_ok=True)
    changes = list(_changes(data))
    scratch.put(f"store/{FILE_NAME}", IMAGE)
    for kind, where, body in changes:
        if kind in (CELL, SCHEMA):
            _by_sql(kind, where, body)
    image = _damaged(_PLACE.read_bytes(), changes)
    _PLACE.write_bytes(image)
    found = _read()
    if not any(kind in (CELL, SCHEMA) for kind, _, _ in changes):
        for name, value in found.items():
            assert value == RIGHT[name], f"{name} is {value!r} and was {RIGHT[name]!r}"


def _changes(script: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, place, bytes) of every change that the script tells."""
    at = 0
    while at + _HEAD.size <= len(script):
        kind, where, n = _HEAD.unpack_from(script, at)
        at += _HEAD.size
        yield kind % 5, where, script[at : at + n]
        at += n


def _damaged(image: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for kind, where, body in changes:
        where %= max(len(image), 1)
        if kind == ZEROS:
            where -= where % SECTOR
            body = bytes(min(SECTOR, len(image) - where))
        if kind == CUT:
            image = image[:where]
        elif kind in (BYTES, ZEROS):
            image = image[:where] + body[: len(image) - where] + image[where + len(body) :]
    return image


def _by_sql(kind: int, where: int, body: bytes) -> None:
    """Changes a cell or the schema as any program with SQLite can; what SQLite refuses is left as it was."""
    with (
        contextlib.closing(sqlite3.connect(_PLACE)) as db,
        contextlib.suppress(sqlite3.Error, ValueError, OverflowError),
    ):
        if kind == SCHEMA:
            db.executescript(SCHEMAS[where % len(SCHEMAS)])
            return
        table, column = CELLS[where % len(CELLS)]
        row = where // len(CELLS)
        query = f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET ?)"
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute(query, (_value(body), row % 4))
        db.commit()


def _value(body: bytes) -> object:
    """A value of SQLite: the first byte says of which type."""
    kind, rest = body[:1], body[1:]
    if kind == b"i":
        return int.from_bytes(rest[:8], "little", signed=True)
    if kind == b"r":
        return struct.unpack("<d", rest[:8].ljust(8, b"\0"))[0]
    if kind == b"t":
        return rest.decode(errors="replace")
    return rest if kind == b"b" else None


def _read() -> dict[str, object]:
    """Everything that a reader gets, by name; what it refuses is left out."""
    ws = scratch.answer(lambda: Workspace.open(_PLACE.parent))
    if ws is None:
        return {}
    with ws:
        readers: dict[str, Callable[[], object]] = {
            "checkpoints": lambda: [(r.checkpoint, r.scored, r.layers, r.weights) for r in ws.checkpoints()],
            "corpora": lambda: [(c.sha256, c.n, c.mean_bytes, c.source) for c in ws.corpora()],
            "texts": ws.texts,
            "domains": ws.domains,
            "map": lambda: _numbers(ws.map()),
            "layers": lambda: _numbers(ws.map(layers=True)),
            "distances": ws.weight_distances,
            "scores": ws.benchmark_scores,
            "saved": lambda: _numbers(ws.saved_map("kept")),
            "diffusion": lambda: bool(ws.diffusion()),
        }
        found = {name: scratch.answer(read) for name, read in readers.items()}
        for job in scratch.answer(ws.jobs) or ():
            scratch.answer(lambda job=job: ws.job_items(job.id))  # type: ignore[misc]
    return {name: value for name, value in found.items() if value is not None}


def _numbers(m: object) -> object:
    """Names, log-likelihoods, counts and bytes of a map."""
    return m.names, m.loglik_KN.tobytes(), m.n_scored_KN.tobytes(), m.text_bytes_N.tolist()  # type: ignore[attr-defined]


def _first() -> dict[str, object]:
    scratch.put(f"store/{FILE_NAME}", IMAGE)
    return _read()


RIGHT = _first()


def mutate(script: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """The same script with a change put in, left out or made elsewhere."""
    changes = list(_changes(script))
    kind = random.randrange(4)
    if kind == 0 and changes:
        del changes[random.randrange(len(changes))]
    elif kind == 1 and changes:
        which = random.randrange(len(changes))
        how, where, body = changes[which]
        changes[which] = how, where, change(body, 64) if body else body
    elif kind == 2 and changes:
        which = random.randrange(len(changes))
        how, where, body = changes[which]
        changes[which] = how, max(0, where + random.randrange(-40, 40)), body
    else:
        changes.append(_any_change(random))
    return b"".join(_HEAD.pack(k, w, len(b[:255])) + b[:255] for k, w, b in changes)


def _any_change(random: Random) -> tuple[int, int, bytes]:
    kind = random.choice((BYTES, BYTES, BYTES, ZEROS, CUT, CELL, CELL, CELL, SCHEMA))
    where = random.randrange(len(IMAGE))
    if kind == BYTES:
        used = [
            i for i in range(where, min(where + 20000, len(IMAGE))) if IMAGE[i]
        ]  # most of a page is empty
        where = used[0] if used else where
        return kind, where, bytes([IMAGE[where] ^ (1 << random.randrange(8))])
    if kind == CELL:
        number = random.choice((0, 1, -1, 7, 2**31, -(2**63)))
        values = (b"i" + number.to_bytes(8, "little", signed=True), b"r" + struct.pack("<d", random.choice((0.0, np.nan, np.inf, 1e308))),
                  b"t" + random.choice((b"", b"x", b"[]", b"{}", b"null", b'{"a": 1}', b"[1]", b"a@0", b"\0")), b"b" + bytes(random.randrange(40)), b"n")  # fmt: skip
        return kind, where, random.choice(values)
    return kind, where, b""


def seeds() -> dict[str, bytes]:
    """No change, one of every kind, and a cell of every table with another value."""

    def script(*changes: tuple[int, int, bytes]) -> bytes:
        return b"".join(_HEAD.pack(k, w, len(b)) + b for k, w, b in changes)

    made = {"none": b"", "cut": script((CUT, len(IMAGE) // 2, b"")), "empty": script((CUT, 0, b""))}
    made |= {f"zeros_{i:02}": script((ZEROS, i * len(IMAGE) // 16, b"")) for i in range(16)}
    made |= {f"schema_{i:02}": script((SCHEMA, i, b"")) for i in range(len(SCHEMAS))}
    last = {table: i for i, (table, _) in enumerate(CELLS)}
    made |= {
        f"cell_of_{table}": script((CELL, i, b"i\x07"), (CELL, i - 1, b"t[]")) for table, i in last.items()
    }
    return made
