"""The corpus of imported vectors: determined by their texts or by the command line; otherwise an error."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kltui.corpus.corpus import Corpus
from kltui.errors import UsageError
from kltui.importers.imported import Imported, ImportedVector, Texts
from kltui.sanitize import safe_text
from kltui.store import CorpusRow, Store

Digests = tuple[bytes, ...]
Order = NDArray[np.intp]
ENOUGH_VALUES = (
    3  # distinct ones: vectors that agree in all of so many float64 values are considered the same
)
TOO_SURE_NATS = 0.02  # per byte, over a corpus; the best language models have 0.4


class Placing:
    """Assigns imported vectors to the corpora of a workspace, within a transaction of its store.

    Two sources share a corpus if their texts are the same, in any order; vectors are then put in the order
    of the existing corpus. The number of texts alone is not enough.
    """

    def __init__(self, store: Store, found: Imported, over: str, notify: Callable[[str], None]) -> None:
        self._store, self._found, self._notify = store, found, notify
        self._homes: dict[Digests, tuple[int, Order | None]] = {}
        self._digests: dict[int, Digests] = {}
        self._named = [(corpus, *self._home(corpus)) for corpus in found.named]
        self._over = self._asked(over) if over else None

    def placed(self) -> list[tuple[int, ImportedVector]]:
        """(row id of the corpus, vector in that corpus' order) of every vector. Raises UsageError if its texts are unknown."""
        placed = [self._place(vector) for vector in self._found.vectors]
        self._report_unused({id_ for id_, _ in placed})
        _report_implausible([(self._lengths(id_), vector) for id_, vector in placed], self._notify)
        return placed

    def _report_unused(self, used: set[int]) -> None:
        """Reports texts that were named on the command line and belong to none of the vectors."""
        for corpus, id_, _ in self._named:
            if used and id_ not in used:
                source = safe_text(str(corpus.record.get("source", "")), 200)
                self._notify(f"note: none of the vectors covers the {len(corpus)} texts of {source}")

    def _place(self, vector: ImportedVector) -> tuple[int, ImportedVector]:
        texts = vector.texts
        if texts is not None and texts.known:
            return self._by_texts(vector, texts)
        id_, order, n = self._undeclared(vector)
        if len(vector.loglik) != n:
            raise UsageError(
                f"{safe_text(vector.point.name, 80)} has {len(vector.loglik)} values, the corpus has {n}",
                "These vectors cover other texts: also name the file of those texts.",
            )
        made = id_, _ordered(vector, order)
        if texts is not None and texts.text_bytes:
            self._check_lengths(vector, texts, id_, order)
        return made

    def _by_texts(self, vector: ImportedVector, texts: Texts) -> tuple[int, ImportedVector]:
        if texts.corpus is not None:
            id_, order = self._home(texts.corpus)
            return id_, _ordered(vector, order)
        here = self._same_texts(texts.digests)
        if here is None:
            raise UsageError(
                f"{safe_text(str(vector.origin))} covers {len(texts.digests)} texts that are not in this workspace",
                "Also name the file of the texts: kltui --import VECTORS --import texts.json WORKSPACE",
            )
        return here[0], _ordered(vector, here[1])

    def _home(self, corpus: Corpus) -> tuple[int, Order | None]:
        """(row id of the stored corpus of the same texts, positions of its texts in `corpus`, None if equal); stored first if there is none."""
        if corpus.digests not in self._homes:
            here = self._same_texts(corpus.digests)
            if here is None:
                here = self._store.corpora.add(corpus, "imported"), None
            elif here[1] is not None:
                self._notify(
                    f"note: {len(corpus)} texts are the same as those of corpus {self._row(here[0]).sha256[:12]} in another order:"
                    " vectors are reordered to match it"
                )
            self._homes[corpus.digests] = here
        return self._homes[corpus.digests]

    def _same_texts(self, digests: Digests) -> tuple[int, Order | None] | None:
        """The stored corpus with exactly these texts, preferably in the same order, as `_home`; None if there is none."""
        rows = [row for row in self._store.corpora.all() if row.n == len(digests)]
        for row in rows:
            if self._digests_of(row.id) == digests:
                return row.id, None
        for row in rows:
            if sorted(self._digests_of(row.id)) == sorted(digests):
                return row.id, _places(self._digests_of(row.id), digests)
        return None

    def _digests_of(self, corpus_id: int) -> Digests:
        if corpus_id not in self._digests:
            corpora = self._store.corpora
            prompts = corpora.prompts(self._row(corpus_id).sha256)
            self._digests[corpus_id] = Corpus(tuple(corpora.texts(corpus_id)), prompts=prompts).digests
        return self._digests[corpus_id]

    def _row(self, corpus_id: int) -> CorpusRow:
        return next(row for row in self._store.corpora.all() if row.id == corpus_id)

    def _lengths(self, corpus_id: int) -> NDArray[np.int64]:
        return self._store.corpora.text_bytes(corpus_id)

    def _asked(self, over: str) -> CorpusRow:
        """The workspace's corpus that --over names by the beginning of its hash. Raises UsageError unless there is exactly one."""
        rows = self._store.corpora.all()
        found = [row for row in rows if row.sha256.startswith(over.lower())]
        if len(found) != 1:
            listed = ", ".join(f"{row.sha256[:12]} ({row.n} texts)" for row in rows) or "none"
            raise UsageError(
                f"--over {safe_text(over, 80)} matches {len(found)} corpora of this workspace",
                f"Known corpora: {listed}.",
            )
        return found[0]

    def _undeclared(self, vector: ImportedVector) -> tuple[int, Order | None, int]:
        """(row id of the corpus, order, N) of a vector whose file does not identify its texts. Raises UsageError if unknown."""
        if self._over is not None:
            return self._over.id, None, self._over.n
        if len(self._named) == 1:
            corpus, id_, order = self._named[0]
            return id_, order, len(corpus)
        origin = safe_text(str(vector.origin))
        if self._named:
            raise UsageError(
                f"{origin} does not say which of the {len(self._named)} named corpora its vectors are over",
                "Import them separately, each with its own texts.",
            )
        known = self._seen_before.get(vector.origin, set())
        if len(known) == 1:
            (id_,) = known
            return id_, None, self._row(id_).n
        rows = self._store.corpora.all()
        n = len(vector.loglik)
        fitting = [row.sha256[:12] for row in rows if row.n == n]
        own = f" If the texts are in this workspace: --over {' or --over '.join(fitting)}" if fitting else ""
        raise UsageError(
            f"the vectors of {origin} are over {n} texts, and it is not known which: an equal number of texts does not make them the same",
            f"Also name the corpus: kltui --import {vector.origin.name} --import texts.json WORKSPACE.{own}",
        )

    @cached_property
    def _seen_before(self) -> dict[Path, set[int]]:
        """{file: corpora over which a vector with the same values as one of that file is stored}."""
        stored: dict[str, set[int]] = defaultdict(set)
        for row in self._store.vectors.rows(current_only=False):
            stored[row.key_fields.get("values", "")].add(row.corpus_id)
        found: dict[Path, set[int]] = defaultdict(set)
        for vector in self._found.vectors:
            finite = vector.loglik[np.isfinite(vector.loglik)]
            if len(np.unique(finite)) >= ENOUGH_VALUES:
                found[vector.origin] |= stored.get(values_digest(vector.loglik), set())
        return found

    def _check_lengths(
        self, vector: ImportedVector, texts: Texts, corpus_id: int, order: Order | None
    ) -> None:
        own = np.array(texts.text_bytes)
        here = self._lengths(corpus_id)
        differing = int((here != (own if order is None else own[order])).sum())
        if differing:
            raise UsageError(
                f"{safe_text(str(vector.origin))} is over other texts: {differing} of {len(own)} differ in length (bytes)"
                " from those of the corpus",
                "Name the texts of these vectors.",
            )


def values_digest(loglik: NDArray[np.float64]) -> str:
    """Hex SHA-256 of a vector's values, by which equal vectors are recognised."""
    return hashlib.sha256(loglik.astype("<f8").tobytes()).hexdigest()


def _places(wanted: Digests, have: Digests) -> Order:
    """Index in `have` of each of `wanted`; copies of a text are matched in order."""
    at: dict[bytes, list[int]] = defaultdict(list)
    for place in range(len(have) - 1, -1, -1):
        at[have[place]].append(place)
    return np.array([at[digest].pop() for digest in wanted], dtype=np.intp)


def _ordered(vector: ImportedVector, order: Order | None) -> ImportedVector:
    if order is None:
        return vector
    scored = None if vector.n_scored is None else vector.n_scored[order]
    return replace(vector, loglik=vector.loglik[order], n_scored=scored)


def _report_implausible(
    placed: Sequence[tuple[NDArray[np.int64], ImportedVector]], notify: Callable[[str], None]
) -> None:
    """Reports values that cannot be sums of natural logarithms of probabilities; `placed` has (bytes of the texts, vector)."""
    above = [v.point.name for _, v in placed if (v.loglik > 0).any()]
    if above:
        notify(
            f"note: {len(above)} vectors have values above 0, such as {above[0]}: log-likelihoods are never positive; these may be"
            " losses with the opposite sign"
        )
    sure = [v.point.name for n_bytes, v in placed if _nats_a_byte(v.loglik, n_bytes) < TOO_SURE_NATS]
    if sure:
        notify(
            f"note: {len(sure)} vectors have less than {TOO_SURE_NATS} nats per byte, such as {sure[0]}: no language model is so"
            " certain; are these means over tokens? kltui needs sums in nats (natural logarithms)"
        )


def _nats_a_byte(loglik: NDArray[np.float64], n_bytes: NDArray[np.int64]) -> float:
    """Loss in nats per byte over the scored texts; infinite if there are none, or if their sum is positive."""
    scored = np.isfinite(loglik) & (n_bytes > 0)
    return (
        float(-loglik[scored].sum() / n_bytes[scored].sum())
        if scored.any() and loglik[scored].sum() <= 0
        else np.inf
    )
