"""Nearest neighbours without a K x K matrix: random projections find candidates, and the full vectors rank them.

A projection to d random coordinates preserves squared distances with a relative standard error of sqrt(2 / d)
(Johnson and Lindenstrauss), whatever K and N; rows are sketched one by one, as they are scored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.axes import complete_texts
from kltui.analysis.kl import LN2
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Rows = NDArray[np.float32]
Index = NDArray[np.intp]
DIMS = 256
BLOCK = 2048
BLOCK_VALUES = 1 << 24  # of a block of distances: 64 MB


@one_blas_thread
def sketch(L_KN: ArrayLike, mean_bytes: float, dims: int, seed: int = 42) -> Rows:
    """K x dims float32 whose squared distances estimate KL in bits/byte, without bias.

    A row's sketch does not depend on the other rows, so later checkpoints can be added with the same `seed`.
    Raises KltuiError for values that are not finite.
    """
    L = np.asarray(L_KN)
    if not np.isfinite(L).all():
        raise KltuiError("vectors with unscored texts cannot be sketched", "leave those texts out first")
    N = L.shape[1]
    signs_Nd = np.random.default_rng(seed).integers(0, 2, (N, dims), dtype=np.int8) * np.float32(2) - 1
    # random signs: |(x - y) R|^2 / d is an unbiased estimate of |x - y|^2 (Achlioptas 2003); then 1 / (2 N B ln 2)
    scale = 1.0 / math.sqrt(2.0 * N * mean_bytes * LN2 * dims)
    out = np.empty((len(L), dims), np.float32)
    for start in range(0, len(L), BLOCK):
        rows = L[start : start + BLOCK]
        centred = (rows - rows.mean(axis=1, dtype=np.float64, keepdims=True)).astype(np.float32)
        out[start : start + BLOCK] = (centred @ signs_Nd) * np.float32(scale)
    return out


@one_blas_thread
def nearest_rows(S_Kd: ArrayLike, rows_M: ArrayLike, n: int) -> Index:
    """The n rows of S nearest to each of `rows_M` (M x n, nearest first), themselves left out, by blocked products."""
    S = np.asarray(S_Kd, dtype=np.float32)
    rows = np.asarray(rows_M, dtype=np.intp)
    n = min(n, len(S) - 1)
    S = S - S.mean(axis=0, dtype=np.float64).astype(np.float32)  # otherwise float32 loses small distances
    square_K = np.einsum("kd,kd->k", S, S)
    found = np.empty((len(rows), n), np.intp)
    step = max(1, min(BLOCK, BLOCK_VALUES // len(S)))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        # |q|^2 is the same for a whole row of candidates: the order needs the rest only.
        distance = square_K - 2.0 * (S[block] @ S.T)
        distance[np.arange(len(block)), block] = np.inf
        near = np.argpartition(distance, n - 1, axis=1)[:, :n]
        order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
        found[start : start + step] = np.take_along_axis(near, order, axis=1)
    return found


@dataclass(frozen=True, eq=False)
class Candidates:
    """M x n rows: for each of M rows the nearest according to a sketch of `dims` dimensions, ranked by KL of the full vectors."""

    nearest_Mn: Index
    dims: int

    @property
    def relative_se(self) -> float:
        """Relative standard error of a squared distance of the sketch."""
        return math.sqrt(2.0 / self.dims)


@one_blas_thread
def candidates(
    L_KN: ArrayLike, text_bytes_N: ArrayLike, rows_M: ArrayLike, n: int, dims: int = DIMS
) -> Candidates:
    """The n apparently nearest vectors of some rows, compared in full over the texts that all vectors have.

    A true neighbour is missed if n others seem nearer in the sketch. `L_KN` may be a memory map.
    """
    L = np.asarray(L_KN)
    used = complete_texts(L)
    shared = L if len(used) == L.shape[1] else L[:, used]
    mean_bytes = float(np.asarray(text_bytes_N, dtype=np.float64)[used].mean())
    found = nearest_rows(sketch(shared, mean_bytes, dims), rows_M, n)
    return Candidates(reranked(shared, rows_M, found, n), dims)


def reranked(L_KN: ArrayLike, rows_M: ArrayLike, candidates_Mc: Index, n: int) -> Index:
    """The n of each row's candidates with the smallest KL according to the full vectors, nearest first (M x n).

    `L_KN` may be a memory map: of each row only its own vector and its candidates' are read.
    """
    L = np.asarray(L_KN)
    best = np.empty((len(candidates_Mc), min(n, candidates_Mc.shape[1])), np.intp)
    for place, (row, candidates) in enumerate(
        zip(np.asarray(rows_M, dtype=np.intp), candidates_Mc, strict=True)
    ):
        # 2 B ln 2 KL, which has the same order
        variance = (L[candidates] - L[row]).var(axis=1, dtype=np.float64)
        best[place] = candidates[np.argsort(variance, kind="stable")[:n]]
    return best
