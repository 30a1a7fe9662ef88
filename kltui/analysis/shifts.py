"""Shifts of models by one treatment, such as quantisation, and the cosines between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.lineage import Pair
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shifts:
    """Cosines between the shifts q_after - q_before of M pairs, M x M; lengths (M) in nats per text.

    NaN for a shift of length 0. Source: arXiv 2505.15353, quantisation (0.91 to 0.98 within a family).
    """

    names: tuple[str, ...]
    cosine: Array
    length: Array
    n_texts: int


@one_blas_thread
def shifts(L_KN: ArrayLike, pairs: Sequence[Pair], names: Sequence[str]) -> Shifts:
    """Cosines of the shifts of (before, after) rows, over the texts that all of them have.

    Column means cancel in a difference, so only rows are centred. Raises KltuiError if these are fewer than two texts.
    """
    L = np.asarray(L_KN, dtype=np.float64)
    before, after = ([p[side] for p in pairs] for side in (0, 1))
    d: Array = L[after] - L[before]
    d = d[:, np.isfinite(d).all(axis=0)]
    if len(pairs) and d.shape[1] < 2:
        raise KltuiError(
            f"only {d.shape[1]} texts were scored by all {len(pairs)} pairs",
            "leave out checkpoints with unscored texts",
        )
    d -= d.mean(axis=1, keepdims=True)
    gram = d @ d.T
    length = np.sqrt(np.diag(gram))
    size = np.multiply.outer(length, length)
    cosine: Array = np.full_like(gram, np.nan)
    # cos(a, b) = a b / (|a| |b|) of shifts q_after - q_before (arXiv 2505.15353, quantisation)
    np.divide(gram, size, out=cosine, where=size > 0)
    np.clip(cosine, -1.0, 1.0, out=cosine)
    return Shifts(tuple(names), cosine, length / np.sqrt(max(d.shape[1], 1)), d.shape[1])
