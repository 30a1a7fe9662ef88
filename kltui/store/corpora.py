"""Reading and writing of corpora, texts included."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
import time
from array import array
from typing import TYPE_CHECKING, Any, cast

from kltui.store.checksums import Checks, row_checksum, settle
from kltui.store.damage import RESTORE, DamageError, decoded
from kltui.store.rows import CorpusRow
from kltui.store.side_tables import Records

if TYPE_CHECKING:
    # numpy is imported only where arrays are needed, because a list of checkpoints needs none.
    import numpy as np
    from numpy.typing import NDArray

    from kltui.corpus.corpus import Corpus, Prompt

PROMPTS = "prompts"  # kind of the records of a corpus's prompts, named by its SHA-256


class Corpora:
    """The corpora of a workspace, texts included."""

    def __init__(self, db: sqlite3.Connection, checks: Checks) -> None:
        self._db, self._checks = db, checks
        self._records = Records(db, checks)

    def add(self, corpus: Corpus, source: str) -> int:
        """Row id of `corpus`, stored with its texts unless it is there already; damaged texts are written again."""
        found = self._db.execute("SELECT id FROM corpus WHERE sha256 = ?", (corpus.sha256,)).fetchone()
        if found:
            corpus_id = int(found[0])
            try:
                self._texts(corpus_id)
            except DamageError:
                self._db.execute("DELETE FROM text WHERE corpus_id = ?", (corpus_id,))
                self._put_texts(corpus_id, corpus)
                settle(self._db, "text")
            if corpus.prompts and corpus.sha256 not in self._records.all(PROMPTS):
                self._put_prompts(corpus)
            return corpus_id
        cursor = self._db.execute(
            "INSERT INTO corpus (sha256, n, source, record, created, text_bytes) VALUES (?, ?, ?, ?, ?, ?)",
            (
                corpus.sha256,
                len(corpus),
                source,
                json.dumps(corpus.record, default=str),
                time.time(),
                corpus.text_bytes.astype("<i8").tobytes(),
            ),
        )
        self._put_texts(int(cursor.lastrowid or 0), corpus)
        if corpus.prompts:
            self._put_prompts(corpus)
        return int(cursor.lastrowid or 0)

    def _put_prompts(self, corpus: Corpus) -> None:
        self._records.put(PROMPTS, corpus.sha256, {"prompts": corpus.prompts})

    def distinguished(self, corpus_id: int) -> list[object]:
        """The contents that distinguish the texts of a corpus, in order: the texts, for pairs with their prompts."""
        texts = self.texts(corpus_id)
        query = "SELECT sha256 FROM corpus WHERE id = ?"
        prompts = self.prompts(str(self._db.execute(query, (corpus_id,)).fetchone()[0]))
        return list(zip(prompts, texts, strict=True)) if prompts else list(texts)

    @decoded
    def prompts(self, sha256: str) -> tuple[Prompt, ...]:
        """The prompt of every text of a corpus of pairs, in order; () for a corpus of texts."""
        found = self._records.all(PROMPTS).get(sha256, {}).get("prompts", [])
        return tuple(tuple((str(role), str(text)) for role, text in prompt) for prompt in cast("Any", found))

    def _put_texts(self, corpus_id: int, corpus: Corpus) -> None:
        domains = corpus.domains or ("",) * len(corpus)
        self._db.executemany(
            "INSERT INTO text (corpus_id, idx, domain, body) VALUES (?, ?, ?, ?)",
            (
                (corpus_id, i, d, t.encode())
                for i, (d, t) in enumerate(zip(domains, corpus.texts, strict=True))
            ),
        )

    @decoded
    def all(self) -> list[CorpusRow]:
        """Every corpus, oldest first."""
        self._checks.require("corpus")
        rows = self._db.execute(
            "SELECT id, sha256, n, text_bytes, source, created, record FROM corpus NOT INDEXED ORDER BY id"
        )
        return [
            CorpusRow(
                i,
                sha,
                n,
                _mean_length(lengths) if n else math.nan,
                src,
                at,
                json.loads(rec),
            )
            for i, sha, n, lengths, src, at, rec in rows
        ]

    @decoded
    def text_bytes(self, corpus_id: int) -> NDArray[np.int64]:
        """Length of every text in UTF-8 bytes, shape (N,). Raises DamageError if the stored lengths were altered."""
        import numpy as np

        self._checks.require("corpus")
        (blob,) = self._db.execute("SELECT text_bytes FROM corpus WHERE id = ?", (corpus_id,)).fetchone()
        lengths_N = np.frombuffer(blob, "<i8").astype(np.int64)
        if not self._checks.active:
            # An older schema has no checksums: compare with the texts.
            query = "SELECT LENGTH(body) FROM text WHERE corpus_id = ? ORDER BY idx"
            if lengths_N.tolist() != [n for (n,) in self._db.execute(query, (corpus_id,))]:
                raise DamageError(
                    "the workspace is damaged: the stored lengths do not match its texts", RESTORE
                )
        return lengths_N

    @decoded
    def texts(self, corpus_id: int) -> list[str]:
        """The texts of a corpus, in order. Raises DamageError if one is missing or was altered."""
        return [body.decode() for _, body in self._texts(corpus_id)]

    @decoded
    def domains(self, corpus_id: int) -> list[str]:
        """The domain of every text, in order; "" if the corpus has none. Raises DamageError like `texts`."""
        return [domain.decode() for domain, _ in self._texts(corpus_id)]

    def _texts(self, corpus_id: int) -> list[tuple[bytes, bytes]]:
        """(domain, text) of every text of a corpus, in order, as UTF-8. Raises DamageError if one is missing or was altered."""
        (n,) = self._db.execute("SELECT n FROM corpus WHERE id = ?", (corpus_id,)).fetchone()
        query = "SELECT idx, CAST(domain AS BLOB), body, checksum FROM text WHERE corpus_id = ? ORDER BY idx"
        found = []
        for idx, domain, body, checksum in self._db.execute(query, (corpus_id,)):
            if self._checks.active and row_checksum("text", corpus_id, idx, domain, body) != checksum:
                raise DamageError(f"the workspace is damaged: text {idx} was altered", RESTORE)
            found.append((domain, body))
        if len(found) != n:
            raise DamageError(
                f"the workspace is damaged: a corpus has {len(found)} texts instead of {n}", RESTORE
            )
        return found


def _mean_length(lengths: bytes) -> float:
    """The mean of little-endian int64 numbers, computed without importing numpy."""
    numbers = array("q", lengths)
    if sys.byteorder == "big":
        numbers.byteswap()
    return sum(numbers) / len(numbers)
