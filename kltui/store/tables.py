"""Reading and writing of checkpoints and vectors, one small class per table."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sqlite3
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kltui.analysis.point import line_label, trajectory_of
from kltui.errors import StoreError, TryAgainError
from kltui.registry.checkpoint import (
    Checkpoint,
    HubSource,
    LocalSource,
    ServedSource,
    Source,
    layer_name,
)
from kltui.sanitize import safe_text
from kltui.store.checksums import Checks, VectorReader, vector_reader
from kltui.store.damage import RESTORE, DamageError, decoded
from kltui.store.job_table import Jobs
from kltui.store.rows import Beginning, CheckpointRow, CheckpointStatus, VectorRow
from kltui.store.side_tables import Records

if TYPE_CHECKING:
    # numpy is imported only where arrays are needed, because a list of checkpoints needs none.
    import numpy as np
    from numpy.typing import NDArray


FINAL_LAYER = -1


# Kind of the records with fields of a checkpoint that have no column, by its name.
DETAILS = "checkpoint"
RUNS = "run"  # kind of the records with runs' numbers, which determine their colours and markers


class Checkpoints:
    """The registry of a workspace."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks
        self._records = Records(db, checks)

    def upsert(self, checkpoint: Checkpoint, kind: str = "") -> int:
        """Adds a checkpoint, or updates the one with its name; returns its row id. `kind` is "import" for imported vectors."""
        where, revision, commit = _source_columns(checkpoint.source)
        values = (
            checkpoint.name,
            checkpoint.run,
            checkpoint.step,
            kind or ("hub" if isinstance(checkpoint.source, HubSource) else "local"),
            where,
            revision,
            commit,
            checkpoint.quantization,
            checkpoint.seed,
            checkpoint.size,
            checkpoint.type,
            checkpoint.parent,
            json.dumps(checkpoint.tags),
            checkpoint.tokenizer,
        )
        self._db.execute(
            "INSERT INTO checkpoint (name, run, step, kind, location, revision, commit_hash, quantization,"
            " seed, size, type, parent, tags, tokenizer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET run = excluded.run, step = excluded.step, kind = excluded.kind,"
            " location = excluded.location, revision = excluded.revision, tokenizer = excluded.tokenizer,"
            " commit_hash = CASE WHEN excluded.commit_hash = '' THEN commit_hash ELSE excluded.commit_hash END,"
            # corrections made by the user are kept if the job file does not state the field
            " seed = COALESCE(excluded.seed, seed), size = COALESCE(NULLIF(excluded.size, ''), size),"
            " type = COALESCE(NULLIF(excluded.type, ''), type),"
            " parent = COALESCE(NULLIF(excluded.parent, ''), parent),"
            " tags = COALESCE(NULLIF(excluded.tags, '[]'), tags)",
            values,
        )
        self._put_details(checkpoint)
        self._number(trajectory_of(checkpoint.run, checkpoint.tags))
        self._number(line_label(checkpoint.run, checkpoint.quantization, checkpoint.tags))
        return self.id_of(checkpoint.name)

    def _number(self, run: str, like: str = "") -> None:
        """Gives a run without a number the next one, or that of the run `like`. It determines its colour and marker."""
        if run not in (numbers := self.run_numbers()):
            number = numbers.get(like, max(numbers.values(), default=-1) + 1)
            self._records.put(RUNS, run, {"number": number})

    def run_numbers(self) -> dict[str, int]:
        """{run, variant of a run, or interpolation grid: its number}, counted from 0 in the order of their first checkpoints."""
        return {run: int(str(value.get("number", 0))) for run, value in self._records.all(RUNS).items()}

    def _put_details(self, checkpoint: Checkpoint) -> None:
        details = _details(checkpoint)
        if details:
            self._records.put(DETAILS, checkpoint.name, details)
        else:
            self._records.remove(DETAILS, checkpoint.name)

    def relabel(self, checkpoint_id: int, checkpoint: Checkpoint) -> None:
        """Changes the name and lineage of a stored checkpoint to those of `checkpoint`, and its name in other rows.

        Raises StoreError if another checkpoint has the new name.
        """
        query = "SELECT name, run FROM checkpoint WHERE id = ?"
        before, before_run = self._db.execute(query, (checkpoint_id,)).fetchone()
        c, now = checkpoint, checkpoint.name
        if now != before and self._db.execute("SELECT 1 FROM checkpoint WHERE name = ?", (now,)).fetchone():
            raise StoreError(f"there is already a checkpoint {now!r}", "Give it another run or step.")
        self._db.execute(
            "UPDATE checkpoint SET name = ?, run = ?, step = ?, seed = ?, size = ?, type = ?, parent = ?, tags = ?"
            " WHERE id = ?",
            (now, c.run, c.step, c.seed, c.size, c.type, c.parent, json.dumps(c.tags), checkpoint_id),
        )
        if now != before:
            self._follow(before, now)
        self._number(trajectory_of(c.run, c.tags), like=before_run)
        self._number(
            line_label(c.run, c.quantization, c.tags), like=line_label(before_run, c.quantization, c.tags)
        )

    def _follow(self, before: str, now: str) -> None:
        """Replaces a checkpoint's old name in the parents of others, in benchmark scores and in its own record."""
        found = self._db.execute(
            "SELECT id, parent FROM checkpoint WHERE instr(parent, ?)", (before,)
        ).fetchall()
        for child, parents in found:
            renamed = ",".join(now if p.strip() == before else p for p in str(parents).split(","))
            self._db.execute("UPDATE checkpoint SET parent = ? WHERE id = ?", (renamed, child))
        self._db.execute("UPDATE OR REPLACE benchmark_score SET name = ? WHERE name = ?", (now, before))
        self._records.rename(DETAILS, before, now)

    def id_of(self, name: str) -> int:
        """Row id of the checkpoint `name`. Raises StoreError if there is none."""
        row = self._db.execute("SELECT id FROM checkpoint WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise StoreError(
                f"no checkpoint {name!r} in this workspace", "See the Registry screen for the names."
            )
        return int(row[0])

    def weights(self, checkpoint_id: int) -> str:
        """The identity of the checkpoint's weights, "" before it is known."""
        query = "SELECT weights FROM checkpoint WHERE id = ?"
        return str(self._db.execute(query, (checkpoint_id,)).fetchone()[0])

    def set_weights(self, checkpoint_id: int, weights: str, commit: str = "") -> None:
        """Records the identity of the checkpoint's current weights (fingerprint or commit)."""
        self._db.execute(
            "UPDATE checkpoint SET weights = ?, commit_hash = CASE WHEN ? = '' THEN commit_hash ELSE ? END"
            " WHERE id = ?",
            (weights, commit, commit, checkpoint_id),
        )

    @decoded
    def all(self) -> list[CheckpointRow]:
        """Every checkpoint with its state, by run, step and variant."""
        self._checks.require("checkpoint", "job", "job_item", "vector")
        details = self._records.all(DETAILS)
        found = self._rows(only="")
        return [_with_details(row, details[row.name]) if row.name in details else row for row in found]

    def count(self) -> int:
        """How many checkpoints there are."""
        return int(self._db.execute("SELECT COUNT(*) FROM checkpoint").fetchone()[0])

    @decoded
    def beginning(self, n: int) -> Beginning:
        """The first n checkpoints of `all`, and the numbers of checkpoints of all runs, read quickly and not verified.

        It is for a list that is shown while `all` is read. Fields that are stored in records (DETAILS) are missing.
        """
        order = f"SELECT id FROM checkpoint c NOT INDEXED ORDER BY {_ORDER} LIMIT ?"
        ids = [i for (i,) in self._db.execute(order, (n,))]
        rows = self._rows("AND c.id IN (SELECT value FROM json_each(?2))", json.dumps(ids))
        counts: dict[str, tuple[int, int]] = {}
        for run, tags, count, scored in self._db.execute(_COUNTS.format(facts=self._checks.facts)):
            name = trajectory_of(run, json.loads(tags))
            before = counts.get(name, (0, 0))
            counts[name] = before[0] + count, before[1] + scored
        return Beginning(rows, counts)

    def _rows(self, only: str, *which: str) -> list[CheckpointRow]:
        query = _CHECKPOINT_ROWS.format(facts=self._checks.facts, only=only, order=_ORDER)
        waiting = json.dumps(Jobs(self._db, self._checks).waiting())
        return [_checkpoint_row(row) for row in self._db.execute(query, (waiting, *which))]


# A checkpoint's state is that of its item in a job that waits or runs, else of the item that ended last; unfinished items of
# stopped jobs are ignored. SQLite takes the other columns from the row with the maximum. Only vectors of the present weights
# count; of the final ones, those without any value only where there is no other.
_CHECKPOINT_ROWS = """
WITH item AS (
    SELECT checkpoint_id, status, error, hint, ended, status IN ('done', 'failed') AS is_over,
           job_id IN (SELECT value FROM json_each(?1)) AS is_waiting
    FROM job_item NOT INDEXED
), latest AS (
    SELECT checkpoint_id, status, error, hint,
           MAX(CASE WHEN is_over THEN COALESCE(ended, 0) WHEN status = 'running' THEN 3e12 ELSE 2e12 END)
    FROM item WHERE is_over OR is_waiting GROUP BY checkpoint_id
), final AS (
    SELECT v.checkpoint_id, v.mean_loglik, MAX(v.id * (v.mean_loglik IS NOT NULL)) FROM vector v {facts}
    JOIN checkpoint c ON c.id = v.checkpoint_id AND c.weights = v.weights
    WHERE v.layer = -1 {only} GROUP BY v.checkpoint_id
), lens AS (
    SELECT v.checkpoint_id, COUNT(DISTINCT v.layer) AS layers FROM vector v {facts}
    JOIN checkpoint c ON c.id = v.checkpoint_id AND c.weights = v.weights
    WHERE v.layer >= 0 {only} GROUP BY v.checkpoint_id
)
SELECT c.id, c.run, c.step, c.kind, c.location, c.revision, c.commit_hash, c.quantization, c.seed, c.size,
       c.type, c.parent, c.tags, c.tokenizer, c.weights, final.checkpoint_id IS NOT NULL, final.mean_loglik,
       COALESCE(lens.layers, 0), latest.status, latest.error, latest.hint
FROM checkpoint c
LEFT JOIN final ON final.checkpoint_id = c.id
LEFT JOIN lens ON lens.checkpoint_id = c.id
LEFT JOIN latest ON latest.checkpoint_id = c.id
WHERE TRUE {only}
ORDER BY {order}
"""
_ORDER = "c.run, c.step IS NOT NULL, c.step, c.quantization <> 'none', c.quantization"
# Numbers of checkpoints and of scored ones by run and tags; the tags tell grids of interpolated models apart.
_COUNTS = """
SELECT c.run, c.tags, COUNT(*), SUM(EXISTS (
    SELECT 1 FROM vector v {facts} WHERE v.checkpoint_id = c.id AND v.layer = -1 AND v.weights = c.weights
    AND v.mean_loglik IS NOT NULL))
FROM checkpoint c NOT INDEXED GROUP BY c.run, c.tags ORDER BY c.run
"""


def _source_columns(source: Source) -> tuple[str, str, str]:
    if isinstance(source, HubSource):
        return source.repo, source.revision, source.commit
    return source.endpoint if isinstance(source, ServedSource) else str(source.path), "", ""


def _details(checkpoint: Checkpoint) -> dict[str, object]:
    """Fields of a checkpoint that have no column of their own; {} for most checkpoints."""
    source = checkpoint.source
    found: dict[str, object] = {"base": checkpoint.base}
    if isinstance(source, HubSource):
        found["file"] = source.file
    elif isinstance(source, ServedSource):
        found["served"] = asdict(source)
    return {key: value for key, value in found.items() if value}


def _with_details(row: CheckpointRow, details: Mapping[str, object]) -> CheckpointRow:
    """The row with the fields that `_details` stored in a record."""
    source = row.checkpoint.source
    if isinstance(source, HubSource):
        source = replace(source, file=str(details.get("file", "")))
    elif "served" in details:
        source = ServedSource(**cast("dict[str, Any]", details["served"]))
    return replace(row, checkpoint=replace(row.checkpoint, source=source, base=str(details.get("base", ""))))


@functools.lru_cache(maxsize=1024)
def _tags(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))


def _word(stored: object) -> str:
    """`stored` as an interned string, because many checkpoints share it."""
    return sys.intern(str(stored))


def _checkpoint_row(row: tuple[object, ...]) -> CheckpointRow:
    (cid, run, step, kind, location, revision, commit, quant, seed, size, type_, parent, tags) = row[:13]
    tokenizer, weights, has_vector, mean, layers, item_status, error, hint = row[13:]
    scored = isinstance(mean, float)
    source: Source = (
        HubSource(str(location), str(revision), str(commit))
        if kind == "hub"
        else LocalSource(Path(str(location)))
    )
    checkpoint = Checkpoint(
        run=_word(run),
        source=source,
        step=_optional_int(step),
        quantization=_word(quant),
        seed=_optional_int(seed),
        size=_word(size),
        type=_word(type_),
        parent=_word(parent),
        tags=_tags(str(tags)),
        tokenizer=str(tokenizer),
    )
    return CheckpointRow(
        id=int(str(cid)),
        checkpoint=checkpoint,
        scored=scored,
        layers=int(str(layers)),
        mean_loglik=float(mean) if isinstance(mean, float) else math.nan,
        status=_status(scored, str(item_status or ""), bool(has_vector), bool(layers)),
        error=str(error or ""),
        hint=str(hint or ""),
        weights=str(weights),
    )


def _status(scored: bool, item: str, has_vector: bool, has_layers: bool) -> CheckpointStatus:
    if item == "failed":
        return "failed"
    if item == "running":
        return "running"
    if scored:
        return "scored"
    if item == "queued":
        return "queued"
    return "empty" if has_vector else "layers" if has_layers else "new"


def _optional_int(value: object) -> int | None:
    return int(value) if isinstance(value, int) else None


def replaced_meanwhile() -> TryAgainError:
    """The error if a vector that was just listed is not stored any more."""
    return TryAgainError("vectors were replaced while they were read", "Try again.")


class Vectors:
    """The log-likelihood vectors."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks

    def put(
        self,
        checkpoint_id: int,
        corpus_id: int,
        layer: int | None,
        key: dict[str, str],
        settings: str,
        loglik_N: NDArray[np.float64],
        n_scored_N: NDArray[np.int32],
        job_id: int | None,
    ) -> None:
        """Stores one vector, replacing one with the same checkpoint, corpus, layer and key.

        `layer` is None for the final vector; log-likelihoods are in nats, NaN for texts that were not scored; `n_scored_N` is
        the number of scored tokens of each text.
        """
        import numpy as np

        key_json = json.dumps(key, sort_keys=True)
        loglik, n_scored = loglik_N.astype("<f8").tobytes(), n_scored_N.astype("<i4").tobytes()
        scored = loglik_N[~np.isnan(loglik_N)]
        self._db.execute(
            "INSERT OR REPLACE INTO vector (checkpoint_id, corpus_id, layer, key_hash, key, weights, settings, job_id,"
            " created, mean_loglik, n_unscored, crc, loglik, n_scored) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                checkpoint_id,
                corpus_id,
                FINAL_LAYER if layer is None else layer,
                hashlib.sha256(key_json.encode()).hexdigest(),
                key_json,
                key.get("weights", ""),
                settings,
                job_id,
                time.time(),
                float(scored.mean()) if scored.size else None,
                int(np.isnan(loglik_N).sum()),
                zlib.crc32(n_scored, zlib.crc32(loglik)),
                loglik,
                n_scored,
            ),
        )

    def drop(self, ids: Iterable[int]) -> None:
        """Removes the vectors `ids`."""
        self._db.executemany("DELETE FROM vector WHERE id = ?", ((i,) for i in ids))

    @decoded
    def rows(self, current_only: bool = True) -> list[VectorRow]:
        """Every vector without its values, oldest first; with `current_only`, only those of checkpoints' present weights."""
        self._checks.require("checkpoint", "vector")
        query = (
            "SELECT v.id, v.checkpoint_id, v.corpus_id, v.layer, v.settings, v.weights, v.key, v.mean_loglik,"
            f" v.n_unscored, v.created FROM vector v {self._checks.facts} JOIN checkpoint c ON c.id = v.checkpoint_id"
            + (" WHERE v.weights = c.weights" if current_only else "")
            + " ORDER BY v.id"
        )
        return [
            VectorRow(
                i, cp, co, None if la == FINAL_LAYER else la, se, w, k, math.nan if m is None else m, u, at
            )
            for i, cp, co, la, se, w, k, m, u, at in self._db.execute(query)
        ]

    @decoded
    def means(self, corpus_id: int) -> dict[int, tuple[float, int, int]]:
        """{checkpoint id: (nats per scored text, texts not scored, vector id)} of each newest final vector over a corpus."""
        self._checks.require("checkpoint", "vector")
        query = (
            "SELECT v.checkpoint_id, v.mean_loglik, v.n_unscored, MAX(v.id) FROM vector v"
            f" {self._checks.facts} JOIN checkpoint c ON c.id = v.checkpoint_id AND c.weights = v.weights"
            " WHERE v.corpus_id = ? AND v.layer = ? AND v.mean_loglik IS NOT NULL GROUP BY v.checkpoint_id"
        )
        rows = self._db.execute(query, (corpus_id, FINAL_LAYER))
        return {int(id_): (float(mean), int(gaps), int(vector)) for id_, mean, gaps, vector in rows}

    @decoded
    def empty(self, corpus_id: int) -> set[int]:
        """The ids of checkpoints with a final vector of their present weights over a corpus that has no value for any text."""
        self._checks.require("checkpoint", "vector")
        query = (
            f"SELECT v.checkpoint_id FROM vector v {self._checks.facts}"
            " JOIN checkpoint c ON c.id = v.checkpoint_id AND c.weights = v.weights"
            " WHERE v.corpus_id = ? AND v.layer = ? AND v.mean_loglik IS NULL"
        )
        return {int(id_) for (id_,) in self._db.execute(query, (corpus_id, FINAL_LAYER))}

    @decoded
    def n_layers(self, corpus_id: int) -> dict[int, int]:
        """{checkpoint id: number of layer vectors of its present weights over a corpus}, without those that have none."""
        self._checks.require("checkpoint", "vector")
        query = (
            f"SELECT v.checkpoint_id, COUNT(DISTINCT v.layer) FROM vector v {self._checks.facts}"
            " JOIN checkpoint c ON c.id = v.checkpoint_id AND c.weights = v.weights"
            " WHERE v.corpus_id = ? AND v.layer >= 0 GROUP BY v.checkpoint_id"
        )
        return {int(id_): int(count) for id_, count in self._db.execute(query, (corpus_id,))}

    @decoded
    def stored_layers(
        self, checkpoint_id: int, corpus_id: int, settings: str, weights: str
    ) -> dict[int | None, str]:
        """Layers (None: final) stored for these weights under these settings, with the request that made each.

        A vector that is damaged, or in which no text is scored, counts as not stored.
        """
        self._checks.require("vector")
        read = vector_reader(self._db, checked=self._checks.active)
        rows = self._db.execute(
            f"SELECT layer, json_extract(key, '$.layers'), id FROM vector {self._checks.facts}"
            " WHERE checkpoint_id = ? AND corpus_id = ? AND settings = ? AND weights = ?"
            " AND mean_loglik IS NOT NULL",
            (checkpoint_id, corpus_id, settings, weights),
        )
        return {
            None if layer == FINAL_LAYER else layer: request or ""
            for layer, request, vector_id in rows
            if read(vector_id) is not None
        }

    @decoded
    def load(
        self, ids: Iterable[int], n: int, rows_in: BinaryIO | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """(loglik K x N float64 in nats, n_scored K x N int32, not to be modified) of the vectors `ids`, in that order.

        With `rows_in`, an empty file, the log-likelihoods are written to it and returned as a memory map; so are the counts,
        in a temporary file, if they differ between vectors. Raises DamageError if a vector is missing or damaged.
        """
        import numpy as np

        id_list = list(ids)
        read = vector_reader(self._db, checked=self._checks.active)
        if rows_in is not None:
            return self._load_into(rows_in, id_list, n, read)
        shape, first = (len(id_list), n), b""
        loglik_KN = np.empty(shape, np.float64)
        # The counts of one tokenizer are equal for all vectors: they are stored once until one differs.
        n_scored_KN: NDArray[np.int32] = np.zeros((0, n), np.int32)
        for row, vector_id in enumerate(id_list):
            values, counts = self._numbers(read, vector_id, n)
            loglik_KN[row] = np.frombuffer(values, "<f8")
            first = first or counts
            if counts != first and not len(n_scored_KN):
                n_scored_KN = np.empty(shape, np.int32)
                n_scored_KN[:row] = np.frombuffer(first, "<i4")
            if len(n_scored_KN):
                n_scored_KN[row] = np.frombuffer(counts, "<i4")
        if id_list and not len(n_scored_KN):
            n_scored_KN = np.broadcast_to(np.frombuffer(first, "<i4"), shape)
        return loglik_KN, n_scored_KN

    def _load_into(
        self, rows_in: BinaryIO, ids: Sequence[int], n: int, read: VectorReader
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        import numpy as np

        shape, first, alike = (len(ids), n), b"", True
        with tempfile.TemporaryFile() as counts_in:
            for vector_id in ids:
                values, counts = self._numbers(read, vector_id, n)
                first = first or counts
                alike = alike and counts == first
                rows_in.write(values)
                counts_in.write(counts)
            rows_in.flush()
            counts_in.flush()
            loglik_KN = np.memmap(rows_in, "<f8", "r", shape=shape)
            if alike:  # as for one tokenizer: one row in memory is enough
                return loglik_KN, np.broadcast_to(np.frombuffer(first, "<i4"), shape)
            return loglik_KN, np.memmap(counts_in, "<i4", "r", shape=shape)

    def _numbers(self, read: VectorReader, vector_id: int, n: int) -> tuple[bytes, bytes]:
        """The bytes (log-likelihoods, counts) of one vector of n texts. Raises DamageError if it is missing or damaged."""
        numbers = read(vector_id)
        if numbers is None and not self._is_listed(vector_id):
            raise replaced_meanwhile()
        if numbers is None or len(numbers[0]) != 8 * n or len(numbers[1]) != 4 * n:
            raise DamageError(
                f"the workspace is damaged: the vector of {self._name_of(vector_id)} was altered",
                RESTORE,
            )
        return numbers

    def _is_listed(self, vector_id: int) -> bool:
        """Whether the index has a vector; one that only the table lacks was damaged, not replaced."""
        if not self._checks.active:
            return True
        ids = self._db.execute(f"SELECT id FROM vector {self._checks.facts}")
        return any(listed == vector_id for (listed,) in ids)

    def _name_of(self, vector_id: int) -> str:
        """The name of a vector for messages."""
        query = (
            "SELECT c.name, v.layer FROM vector v JOIN checkpoint c ON c.id = v.checkpoint_id WHERE v.id = ?"
        )
        name, layer = self._db.execute(query, (vector_id,)).fetchone() or (f"row {vector_id}", FINAL_LAYER)
        return layer_name(safe_text(name), None if layer == FINAL_LAYER else layer)
