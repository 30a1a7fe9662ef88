"""The leading principal axes of a map's vectors, found without their K x K products and without a centred copy of them.

Block Krylov iteration with the Rayleigh-Ritz method (Saad 2011, Numerical Methods for Large Eigenvalue Problems) on
Q^T Q (N x N, never formed): every pass reads the rows of L once, in blocks, so that they may be memory-mapped. An axis counts as
found when its residual |Q^T Q v - lambda v| is at the level of rounding relative to the largest lambda. Products run in blocks of
fixed size on one BLAS thread each and are summed in order, so results are bit-identical for any number of threads.

Shape letters: K vectors, N texts that all have, r axes, b columns of a block of the iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.kl import LN2
from kltui.errors import KltuiError
from kltui.threads import free_threads, one_blas_thread

Array = NDArray[np.float64]
Progress = Callable[[float], None]
Result = TypeVar("Result")

BLOCK_ROWS = 256
EXTRA = 10  # columns beyond the requested axes, without which the last of these converge slowly
MAX_BLOCKS = 6  # of the basis, after which the iteration restarts from its best vectors
MAX_PASSES = 60
_ROUNDING = 2e-15  # residuals up to this share of the largest eigenvalue are rounding
# After the projection on an orthonormal basis is subtracted from a column of unit length, a rest up to this length is rounding,
# with a random direction that may lie in the basis. A longer rest becomes orthogonal if the projection is subtracted again.
_NOTHING_NEW = 1e-8
_STEADY = 1e-4  # growth of the explained spread in a pass, relative to the unexplained, below which the later axes are good enough
_IN_MEMORY = 1 << 25  # a centred copy of up to so many values stays in memory: 256 MB


def complete_texts(L_KN: ArrayLike) -> NDArray[np.intp]:
    """Indices of the texts that every vector has: coordinates need all of them.

    Raises KltuiError if these are fewer than two.
    """
    L = np.asarray(L_KN)
    complete = np.ones(L.shape[1], dtype=np.bool_)
    for start in range(0, len(L), BLOCK_ROWS):
        complete &= np.isfinite(L[start : start + BLOCK_ROWS]).all(axis=0)
    if (n := int(complete.sum())) < 2:
        way_out = (
            "exclude checkpoints with unscored texts (f in the interface, --exclude)"
            if L.shape[1] > 1
            else "score a corpus of more texts"
        )
        raise KltuiError(
            f"{'1 text is' if n else 'no text is'} scored for every checkpoint of the map",
            f"Coordinates need two or more: {way_out}.",
        )
    return np.flatnonzero(complete)


def are_rounding(Q: Array, largest: float, n_vectors: int) -> bool:
    """Whether centred values are nothing but rounding, so that the vectors are equal; `largest` is their largest value before."""
    # The sum over the vectors, from which the mean is taken, has an error of up to a rounding for each of them.
    rounding = float(np.finfo(np.float64).eps) * max(64, n_vectors) * largest
    return bool(np.abs(Q).max(initial=0.0) <= rounding)


class CentredRows:
    """Scaled Q, K x N, computed block by block from rows that may be memory-mapped; its columns have mean 0."""

    def __init__(self, values_KN: ArrayLike, used_N: NDArray[np.intp], unit: float, *, by_row: bool) -> None:
        """Q = (values - row mean (`by_row`) - column mean of that) / unit, over the texts `used_N`."""
        self._values = np.asarray(values_KN)
        self.texts = used_N
        self._used = used_N if len(used_N) < self._values.shape[1] else None
        self.shape = (len(self._values), len(used_N))
        self._unit = unit
        row_means, total = [np.zeros(0)], np.zeros(len(used_N))
        for part in self.parts:
            rows = self._raw(part)
            row_means.append(rows.mean(axis=1) if by_row else np.zeros(len(rows)))
            total += (rows - row_means[-1][:, None]).sum(axis=0)
        self._row_mean_K: Array = np.concatenate(row_means)
        self._column_mean_N: Array = total / max(len(self._values), 1)
        self._kept: list[Array] = []
        if self.shape[0] * self.shape[1] <= _IN_MEMORY:
            self._kept = [self._centred(part) for part in self.parts]
        # Differences of equal vectors are 0 instead of rounding, so that no picture is made of that.
        self._are_equal = bool(self._kept) and all(map(self._is_rounding, self.parts))
        if self._are_equal:
            self._kept = [np.zeros_like(Q) for Q in self._kept]

    def _is_rounding(self, part: slice) -> bool:
        largest = float(np.abs(self._raw(part)).max(initial=0.0)) / self._unit
        return are_rounding(self.block(part), largest, self.shape[0])

    @classmethod
    def of_vectors(cls, L_KN: ArrayLike, text_bytes_N: ArrayLike) -> CentredRows:
        """The scaled Q of a map: (L - row mean - column mean + grand mean) / sqrt(2 N B ln 2), over the texts that all vectors have.

        Squared distances of its rows are KL in bits/byte.
        """
        used = complete_texts(L_KN)
        mean_bytes = float(np.asarray(text_bytes_N, dtype=np.float64)[used].mean())
        return cls(L_KN, used, math.sqrt(2.0 * len(used) * mean_bytes * LN2), by_row=True)

    @classmethod
    def of_scaled(cls, Q_KN: Array) -> CentredRows:
        """The given scaled Q with its columns centred."""
        return cls(Q_KN, np.arange(Q_KN.shape[1]), 1.0, by_row=False)

    def _raw(self, part: slice) -> Array:
        rows = np.asarray(self._values[part], dtype=np.float64)
        return rows if self._used is None else rows[:, self._used]

    def _centred(self, part: slice) -> Array:
        Q: Array = self._raw(part) - self._row_mean_K[part, None]
        Q -= self._column_mean_N
        Q /= self._unit
        return Q

    def block(self, part: slice) -> Array:
        """One block of rows of Q, as listed by `parts`."""
        return self._kept[part.start // BLOCK_ROWS] if self._kept else self._centred(part)

    def take(self, rows_M: ArrayLike) -> Array:
        """Chosen rows of Q, M x N."""
        index = np.asarray(rows_M, dtype=np.intp)
        values = np.asarray(self._values[index], dtype=np.float64)
        Q: Array = values if self._used is None else values[:, self._used]
        Q = Q - self._row_mean_K[index, None]
        Q -= self._column_mean_N
        Q /= self._unit
        return np.zeros_like(Q) if self._are_equal else Q

    @property
    def parts(self) -> list[slice]:
        """The blocks of rows, in order."""
        K = len(self._values)
        return [slice(start, min(start + BLOCK_ROWS, K)) for start in range(0, K, BLOCK_ROWS)]


@dataclass(frozen=True, eq=False)
class Axes:
    """The r leading axes, largest spread first: scores K x r in sqrt(bits/byte), directions N x r of unit length.

    `total` is the spread of all axes (the sum of Q^2); `residual` the largest |Q^T Q v - lambda v| / lambda_1 of those axes
    that were to be exact; `passes` how often the rows were read.
    """

    scores_Kr: Array
    directions_Nr: Array
    total: float
    residual: float
    passes: int

    @property
    def spread_r(self) -> Array:
        """Sum of squares along each axis: the eigenvalues of Q Q^T."""
        spread: Array = (self.scores_Kr**2).sum(axis=0)
        return spread

    @property
    def share_r(self) -> Array:
        """Share of the sum of squared distances along each axis, (r,)."""
        return self.spread_r / self.total if self.total > 0 else np.zeros(self.scores_Kr.shape[1])


def oriented(scores_Kr: Array) -> Array:
    """The signs (r,) that make the largest entry of each column positive: a picture is the same on every machine."""
    peak = np.abs(scores_Kr).argmax(axis=0)
    return np.where(scores_Kr[peak, np.arange(scores_Kr.shape[1])] < 0, -1.0, 1.0)


@one_blas_thread
def leading_axes(
    rows: CentredRows, r: int, exact: int | None = None, progress: Progress = lambda share: None
) -> Axes:
    """The r leading axes of Q: the first `exact` (None: all) to rounding precision, the others until their share of the spread is stable.

    r is lowered to min(K, N) - 1, beyond which there is no spread.
    """
    K, N = rows.shape
    r = max(1, min(r, K - 1, N - 1))
    exact = r if exact is None else min(exact, r)
    workers = free_threads()
    with ThreadPoolExecutor(workers) as pool:
        passes = _Passes(rows, pool, workers)
        b = min(r + EXTRA, K, N)
        start_Nb = np.random.default_rng(0).normal(size=(N, b))
        V, residual = _ritz_vectors(passes, np.linalg.qr(start_Nb)[0], r, exact, progress)
        scores_Kr = passes.scores(V)
    # Rounding leaves the columns not quite orthogonal, so the axes are those of the scores.
    _, turn_rr = np.linalg.eigh(scores_Kr.T @ scores_Kr)
    turn_rr = turn_rr[:, ::-1]
    scores_Kr, V = scores_Kr @ turn_rr, V @ turn_rr
    sign_r = oriented(scores_Kr)
    return Axes(scores_Kr * sign_r, V * sign_r, passes.total, residual, passes.count)


class _Passes:
    """Products with Q^T Q and Q, each one reading of all rows; `total` is known after the first."""

    def __init__(self, rows: CentredRows, pool: ThreadPoolExecutor, workers: int) -> None:
        self._rows, self._pool, self._workers = rows, pool, workers
        self.total = 0.0
        self.count = 0

    def gram(self, V_Nb: Array) -> Array:
        """Q^T (Q V), N x b."""

        def part(at: slice) -> tuple[Array, float]:
            Q = self._rows.block(at)
            return Q.T @ (Q @ V_Nb), float(np.vdot(Q, Q)) if self.count == 0 else 0.0

        out, total = np.zeros_like(V_Nb), 0.0
        for product, square in self._each(part):
            out += product
            total += square
        self.total = total if self.count == 0 else self.total
        self.count += 1
        return out

    def scores(self, V_Nr: Array) -> Array:
        """Q V, K x r."""
        self.count += 1
        return np.concatenate(list(self._each(lambda at: self._rows.block(at) @ V_Nr)))

    def _each(self, work: Callable[[slice], Result]) -> Iterator[Result]:
        """Results of the blocks in order, a few at a time, because each is N x b numbers."""
        parts, many = self._rows.parts, 2 * self._workers
        for start in range(0, len(parts), many):
            yield from self._pool.map(work, parts[start : start + many])


def _ritz_vectors(
    passes: _Passes, V_Nb: Array, r: int, exact: int, progress: Progress
) -> tuple[Array, float]:
    """(the r leading Ritz vectors N x r, the largest residual of the first `exact` beside the largest eigenvalue)."""
    basis, image = V_Nb, passes.gram(V_Nb)
    b, kept_before, worst = V_Nb.shape[1], 0.0, math.inf
    while True:
        # Rayleigh-Ritz: V^T A V c = lambda c with A = Q^T Q, Ritz vectors V c, residuals A V c - lambda V c
        values, C = np.linalg.eigh((basis.T @ image + image.T @ basis) / 2)
        values, C = values[::-1][:b], C[:, ::-1][:, :b]
        ritz, ritz_image = basis @ C, image @ C
        residual_Nb = ritz_image - ritz * values
        size_b = np.linalg.norm(residual_Nb, axis=0) / max(values[0], np.finfo(float).tiny)
        better, worst = float(size_b[:exact].max()) < 0.5 * worst, min(worst, float(size_b[:exact].max()))
        kept = float(values[:r].sum())
        steady = kept - kept_before <= _STEADY * max(passes.total - kept, 1e-12 * kept)
        kept_before = kept
        found = worst <= _ROUNDING or (worst <= 100 * _ROUNDING and not better)
        progress(min(0.99, math.log10(max(worst, 1e-16)) / -16.0))
        if (found and steady) or passes.count >= MAX_PASSES:
            return ritz[:, :r], worst
        if basis.shape[1] + b > MAX_BLOCKS * b:
            basis, image = ritz, ritz_image
        fresh = _orthonormal_to(basis, residual_Nb)
        if not fresh.shape[1]:
            return ritz[:, :r], worst
        basis = np.hstack([basis, fresh])
        image = np.hstack([image, passes.gram(fresh)])


def _orthonormal_to(basis_Nm: Array, new_Nb: Array) -> Array:
    """Orthonormal columns that, with an orthonormal basis, span `new` too; fewer than b if the basis spans part of it."""
    size = np.linalg.norm(new_Nb, axis=0)
    fresh = new_Nb[:, size > 0] / size[size > 0]
    for _ in range(2):  # a single subtraction leaves rounding errors
        fresh = fresh - basis_Nm @ (basis_Nm.T @ fresh)
    u, s, _ = np.linalg.svd(fresh, full_matrices=False)
    u = u[:, s > _NOTHING_NEW]
    u = u - basis_Nm @ (basis_Nm.T @ u)
    out: Array = np.linalg.qr(u)[0] if u.shape[1] else u
    return out
