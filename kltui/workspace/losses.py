"""Losses for lists of checkpoints, from the stored means, without reading the vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kltui.errors import TryAgainError
from kltui.store.damage import DamageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.store import Store
    from kltui.store.rows import CheckpointRow, CheckpointStatus
    from kltui.store.tables import Vectors


@dataclass(frozen=True, slots=True)
class StoredLoss:
    """Loss of one checkpoint in bits/byte, as in the report; `vector` is the id of its vector.

    `is_exact` is false if some texts were not scored; the loss then assumes that they have the mean length.
    """

    bits_per_byte: float
    is_exact: bool
    vector: int


def stored_losses(means: Mapping[int, tuple[float, int, int]], mean_bytes: float) -> dict[int, StoredLoss]:
    """{checkpoint id: loss} from {id: (nats per scored text, texts not scored, vector id)} and the mean bytes of a text; {} without texts.

    >>> stored_losses({3: (-8 * math.log(2), 0, 5)}, 8.0)
    {3: StoredLoss(bits_per_byte=1.0, is_exact=True, vector=5)}
    """
    if not mean_bytes > 0:
        return {}
    nats = mean_bytes * math.log(2.0)
    return {id_: StoredLoss(-mean / nats, gaps == 0, vector) for id_, (mean, gaps, vector) in means.items()}


def on_corpus(rows: Sequence[CheckpointRow], vectors: Vectors, corpus_id: int) -> list[CheckpointRow]:
    """The rows with the vectors of one corpus only."""
    means, empty = vectors.means(corpus_id), vectors.empty(corpus_id)
    n_layers = vectors.n_layers(corpus_id)
    return [_on_corpus(row, means.get(row.id), row.id in empty, n_layers.get(row.id, 0)) for row in rows]


def _on_corpus(
    row: CheckpointRow, found: tuple[float, int, int] | None, is_empty: bool, layers: int
) -> CheckpointRow:
    if found is not None:
        return replace(row, layers=layers, mean_loglik=found[0])
    status: CheckpointStatus = row.status
    if status in ("scored", "empty", "layers", "new"):
        lacks: CheckpointStatus = "elsewhere" if row.status == "scored" else "new"
        status = "empty" if is_empty else "layers" if layers else lacks
    return replace(row, scored=False, layers=layers, mean_loglik=math.nan, status=status)


def read_losses(
    store: Store, corpus_id: int, text_ids_N: NDArray[np.intp] | None, vectors: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """{vector id: (loss, its standard error) in bits/byte} of final vectors on a corpus; damaged and replaced ones are left out.

    `text_ids_N` numbers equal texts equally (`corpus.text_ids`; None: all differ), so that the error counts each once.
    """
    from kltui.analysis.loss import bits_per_byte

    text_bytes_N, found = store.corpora.text_bytes(corpus_id), dict[int, tuple[float, float]]()
    for vector in vectors:
        with suppress(DamageError, TryAgainError):
            loglik_KN, _ = store.vectors.load((vector,), len(text_bytes_N))
            found[vector] = bits_per_byte(loglik_KN[0], text_bytes_N, text_ids_N)
    return found
