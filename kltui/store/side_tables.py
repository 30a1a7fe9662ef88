"""Small tables besides the vectors: weight distances, fingerprints, benchmark scores, records, files with hashes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from kltui.errors import StoreError
from kltui.store.checksums import Checks
from kltui.store.damage import decoded


class WeightDistances:
    """Squared distances between weights, stored by the identities of both weights (smaller string first)."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks

    def put(self, sqdist: Mapping[tuple[str, str], float], n_params: int) -> None:
        """Stores distances {(weights a, weights b): sum of squared differences} of models with `n_params` parameters."""
        self._db.executemany(
            "INSERT OR REPLACE INTO weight_distance (a_weights, b_weights, sqdist, n_params) VALUES (?, ?, ?, ?)",
            ((*sorted(pair), value, n_params) for pair, value in sqdist.items()),
        )

    def drop(self, weights: Collection[str]) -> None:
        """Removes the distances to and from these weights."""
        self._db.executemany(
            "DELETE FROM weight_distance WHERE a_weights = ? OR b_weights = ?", ((w, w) for w in weights)
        )

    def all(self) -> dict[tuple[str, str], float]:
        """Every stored squared distance, {(weights a, weights b): distance}, each in both orders.

        Negative and infinite ones, which are no distances, count as unknown.
        """
        self._checks.require("weight_distance")
        query = "SELECT a_weights, b_weights, sqdist FROM weight_distance NOT INDEXED WHERE sqdist BETWEEN 0 AND ?"
        stored = self._db.execute(query, (sys.float_info.max,))
        return {pair: d for a, b, d in stored for pair in ((a, b), (b, a))}


class Fingerprints:
    """Fingerprints of local model folders, each valid while the `signature` (sizes and times) of its files is the same."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks

    def all(self) -> dict[tuple[str, str], str]:
        """Every stored fingerprint, {(folder, signature): sha256}."""
        self._checks.require("fingerprint")
        rows = self._db.execute("SELECT path, signature, sha256 FROM fingerprint NOT INDEXED")
        return {(path, seen): sha for path, seen, sha in rows}

    def put(self, folder: Path, signature: str, sha256: str) -> None:
        """Stores a folder's fingerprint."""
        self._db.execute(
            "INSERT OR REPLACE INTO fingerprint (path, signature, sha256) VALUES (?, ?, ?)",
            (str(folder), signature, sha256),
        )


class BenchmarkScores:
    """Imported benchmark scores, by checkpoint or run and by task."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks

    def put(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Stores {name: {task: score}}, replacing scores of the same names and tasks."""
        self._db.executemany(
            "INSERT OR REPLACE INTO benchmark_score (name, task, score) VALUES (?, ?, ?)",
            ((name, task, float(score)) for name, tasks in scores.items() for task, score in tasks.items()),
        )

    def follow(self, before: str, now: str) -> None:
        """Moves the scores of the name `before` to `now`, except for tasks of which `now` has a score already."""
        self._db.execute("UPDATE OR IGNORE benchmark_score SET name = ? WHERE name = ?", (now, before))

    def all(self) -> dict[str, dict[str, float]]:
        """Every score, {name: {task: score}}."""
        self._checks.require("benchmark_score")
        found: dict[str, dict[str, float]] = {}
        query = "SELECT name, task, score FROM benchmark_score NOT INDEXED ORDER BY name, task"
        rows = self._db.execute(query)
        for name, task, score in rows:
            found.setdefault(name, {})[task] = score
        return found


class Records:
    """Named JSON objects of several kinds, such as saved maps and draws of texts."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks

    def put(self, kind: str, name: str, value: Mapping[str, object]) -> None:
        """Stores a record, replacing one of the same kind and name. Raises ValueError for NaN and infinities."""
        text = json.dumps(value, allow_nan=False)
        self._db.execute(
            "INSERT OR REPLACE INTO record (kind, name, created, value) VALUES (?, ?, ?, ?)",
            (kind, name, time.time(), text),
        )

    def remove(self, kind: str, name: str) -> None:
        """Removes a record, if it exists."""
        self._db.execute("DELETE FROM record WHERE kind = ? AND name = ?", (kind, name))

    def rename(self, kind: str, before: str, now: str) -> None:
        """Renames a record, replacing one that has the new name."""
        self._db.execute(
            "UPDATE OR REPLACE record SET name = ? WHERE kind = ? AND name = ?", (now, kind, before)
        )

    def replace(self, kind: str, name: str, value: Mapping[str, object]) -> None:
        """Changes the value of an existing record, which keeps its place in `all`."""
        text = json.dumps(value, allow_nan=False)
        self._db.execute("UPDATE record SET value = ? WHERE kind = ? AND name = ?", (text, kind, name))

    @decoded
    def all(self, kind: str) -> dict[str, dict[str, object]]:
        """Every record of a kind by name, oldest first."""
        self._checks.require("record")
        query = "SELECT name, value FROM record NOT INDEXED WHERE kind = ? ORDER BY created"
        rows = self._db.execute(query, (kind,))
        return {name: dict(json.loads(value)) for name, value in rows}


TOKENS, TOKENS_ALONE = "tokens", "tokens-alone"  # kinds: of texts or responses, of responses without prompts


class SideFileTable:
    """Files too large for the database, by path relative to the workspace, with their SHA-256."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks

    def put(
        self, checkpoint_id: int, corpus_id: int, kind: str, settings: str, path: str, sha256: str
    ) -> str:
        """Records a file that has been written and synced; returns the path of the file that it replaces, or ""."""
        key = (checkpoint_id, corpus_id, kind, settings)
        before = self._db.execute(
            "SELECT path FROM side_file WHERE checkpoint_id = ? AND corpus_id = ? AND kind = ? AND settings = ?",
            key,
        ).fetchone()
        self._db.execute(
            "INSERT OR REPLACE INTO side_file (checkpoint_id, corpus_id, kind, settings, path, sha256)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (*key, path, sha256),
        )
        return str(before[0]) if before and before[0] != path else ""

    def intact(self, folder: Path, path: str, by_hash: bool = True) -> bool:
        """Whether the recorded file `path` exists and, with `by_hash`, has the recorded SHA-256."""
        self._checks.require("side_file")
        row = self._db.execute("SELECT sha256 FROM side_file NOT INDEXED WHERE path = ?", (path,)).fetchone()
        try:
            if row is None or not by_hash:
                return row is not None and (folder / path).is_file()
            return bool(_sha256(folder / path) == row[0])
        except OSError:
            return False

    def find(self, folder: Path, checkpoint_id: int, corpus_id: int, kind: str) -> Path | None:
        """Path of the newest such file of the checkpoint's present weights, or None. Raises StoreError if it is damaged."""
        self._checks.require("side_file", "checkpoint")
        rows = self._db.execute(
            "SELECT s.path, s.sha256, s.settings, c.name, c.weights FROM side_file s NOT INDEXED"
            " JOIN checkpoint c ON c.id = s.checkpoint_id"
            " WHERE s.checkpoint_id = ? AND s.corpus_id = ? AND s.kind = ? ORDER BY s.rowid DESC",
            (checkpoint_id, corpus_id, kind),
        )
        for path, sha256, settings, name, weights in rows:
            known = side_paths(kind, checkpoint_id, name, corpus_id, settings, weights)
            if path in known and (folder / path).exists():
                if _sha256(folder / path) != sha256:
                    raise StoreError(
                        f"{folder / path} is damaged: its hash has changed",
                        "Run the job again to recreate it.",
                    )
                return folder / str(path)
        return None


def side_paths(
    kind: str, checkpoint_id: int, name: str, corpus_id: int, settings: str, weights: str
) -> tuple[str, str]:
    """Possible paths of a side file relative to the workspace: the current one, and those of earlier releases.

    Everything that changes its contents changes the path. The name, which earlier releases used, is not part of
    it: a checkpoint can be renamed.
    """

    def of(whose: str) -> str:
        digest = hashlib.sha256("\0".join((whose, settings, weights)).encode()).hexdigest()
        return f"{kind}/{digest[:16]}-{corpus_id}.safetensors"

    return of(f"id {checkpoint_id}"), of(name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
