"""Small tables beside the vectors: weight distances, fingerprints, files with hashes."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from kltui.errors import StoreError


class WeightDistances:
    """Squared distances between weights, keyed by the two weight fingerprints (smaller string first)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def put(self, sqdist: Mapping[tuple[str, str], float], n_params: int) -> None:
        """Stores distances {(weights a, weights b): sum of squared differences}."""
        self._db.executemany(
            "INSERT OR REPLACE INTO weight_distance VALUES (?, ?, ?, ?)",
            ((*sorted(pair), value, n_params) for pair, value in sqdist.items()),
        )

    def all(self) -> dict[tuple[str, str], float]:
        """Every stored distance, both ways round."""
        stored = self._db.execute("SELECT a_weights, b_weights, sqdist FROM weight_distance")
        return {pair: d for a, b, d in stored for pair in ((a, b), (b, a))}


class Fingerprints:
    """Content hashes of local model folders, valid while sizes and times of their files stand."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def all(self) -> dict[tuple[str, str], str]:
        """Every remembered fingerprint, {(folder, signature): sha256}."""
        return {(path, seen): sha for path, seen, sha in self._db.execute("SELECT * FROM fingerprint")}

    def put(self, folder: Path, signature: str, sha256: str) -> None:
        """Remembers a folder's fingerprint."""
        self._db.execute(
            "INSERT OR REPLACE INTO fingerprint VALUES (?, ?, ?)", (str(folder), signature, sha256)
        )


class SideFiles:
    """Files too large for the database, by path relative to the workspace, with their SHA-256."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def put(
        self, checkpoint_id: int, corpus_id: int, kind: str, settings: str, path: str, sha256: str
    ) -> None:
        """Records a file that has been written and synced."""
        self._db.execute(
            "INSERT OR REPLACE INTO side_file VALUES (?, ?, ?, ?, ?, ?)",
            (checkpoint_id, corpus_id, kind, settings, path, sha256),
        )

    def find(self, folder: Path, checkpoint_id: int, corpus_id: int, kind: str) -> Path | None:
        """Path of the newest such file after its hash was checked, or None. Raises StoreError on bit rot."""
        row = self._db.execute(
            "SELECT path, sha256 FROM side_file WHERE checkpoint_id = ? AND corpus_id = ? AND kind = ?"
            " ORDER BY rowid DESC",
            (checkpoint_id, corpus_id, kind),
        ).fetchone()
        if row is None or not (folder / row[0]).exists():
            return None
        path = folder / str(row[0])
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != row[1]:
                raise StoreError(
                    f"{path} is damaged: its hash has changed", "Delete it and run the job again."
                )
        return path
