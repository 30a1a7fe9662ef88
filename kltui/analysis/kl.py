"""KL divergence in bits per byte from log-likelihood vectors, with its standard error.

KL(i, j) = Var_s(l_i - l_j) / (2 B ln 2), population variance over texts s, B the mean bytes of the texts in
use (arXiv 2502.16173). It is a second-order estimate: good if models are close, too high if they are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.number_text import with_error
from kltui.analysis.pair_sums import LN2 as LN2
from kltui.analysis.pair_sums import NO_SPREAD as NO_SPREAD
from kltui.analysis.pair_sums import PairTiles, Picked, have_all, ratio
from kltui.analysis.products import blocks, each_tile, self_product, tile_rows
from kltui.html_table import html_table
from kltui.kernels import native
from kltui.threads import in_parallel, one_blas_thread

Array = NDArray[np.float64]
# From K x N vectors without gaps, in nats: (Q, Q Q^T) as new arrays, as `centred_gram`; None if it cannot do it.
CentredGram = Callable[[Array], tuple[Array, Array] | None]

_BAND = 256  # rows per product
MIN_TEXTS = 3  # distinct texts that a standard error needs: two always deviate equally


@dataclass(frozen=True, slots=True)
class KL:
    """One KL in bits/byte with its standard error over texts; NaN where undefined."""

    value: float
    se: float
    n_texts: int
    n_dropped: int
    mean_bytes: float = math.nan

    @property
    def nats(self) -> float:
        """The same KL in nats per text."""
        return self.value * self.mean_bytes * LN2

    @property
    def nats_se(self) -> float:
        """Its standard error in nats per text."""
        return self.se * self.mean_bytes * LN2

    def __repr__(self) -> str:
        return f"KL({with_error(self.value, self.se)} bits/byte, {self._texts})"

    @property
    def _texts(self) -> str:
        return f"{self.n_texts} texts" + (f", {self.n_dropped} left out" if self.n_dropped else "")

    def _repr_html_(self) -> str:
        rows = (
            ("bits per byte", with_error(self.value, self.se)),
            ("nats per text", with_error(self.nats, self.nats_se)),
        )
        return html_table(f"KL over {self._texts}", ("", "KL ± standard error"), rows)


def length_share(a_N: Array, b_N: Array, bytes_N: ArrayLike) -> float:
    """Share of Var(a - b), and so of a KL, that is explained by text length: the squared correlation with the texts' bytes, 0 to 1.

    If two models differ in loss, their log-likelihoods differ more on longer texts, and unequal lengths increase the KL. NaN if all texts have the same length or the vectors do not differ.
    """
    d_N, size_N = a_N - b_N, np.asarray(bytes_N, np.float64)
    known = np.isfinite(d_N)
    d_N, size_N = d_N[known], size_N[known]
    if len(d_N) < MIN_TEXTS or np.ptp(size_N) == 0:
        return math.nan
    d_N, size_N = d_N - d_N.mean(), size_N - size_N.mean()
    largest = np.abs(d_N).max()  # without this, squares of tiny differences would underflow to 0
    if largest == 0:
        return math.nan
    d_N = d_N / largest
    return float((d_N @ size_N) ** 2 / ((d_N @ d_N) * (size_N @ size_N)))  # Pearson's r^2 of d and bytes


@one_blas_thread
def double_centre(L_KN: ArrayLike, weights_N: ArrayLike | None = None) -> Array:
    """Q = L - row mean - column mean + grand mean, K x N in nats; rows weighted by `weights_N` where given.

    With NaN, each mean is over the defined values, and NaN stays NaN.
    """
    L = np.asarray(L_KN, dtype=np.float64)
    if is_complete(L):
        # Q_is = L_is - mean_s - mean_i + mean_is (arXiv 2502.16173)
        return native.double_centre(L, weights_N)
    defined = np.isfinite(L)
    w = np.ones(L.shape[1]) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    Q: Array = np.where(defined, L, 0.0)
    Q -= ratio(Q @ w, defined @ w)[:, None]
    Q[~defined] = 0.0
    Q -= ratio(Q.sum(axis=0), defined.sum(axis=0))
    Q[~defined] = np.nan
    return Q


def centred_gram(L_KN: Array, elsewhere: CentredGram | None = None) -> tuple[Array, Array]:
    """(Q, Q Q^T): the double-centred vectors (K x N, nats) and their products (K x K); computed by `elsewhere` if it is given and can."""
    made = elsewhere(L_KN) if elsewhere else None
    if made is None:
        Q = double_centre(L_KN)
        made = Q, self_product(Q)
    return made


@one_blas_thread
def kl_pair(
    l_i: ArrayLike, l_j: ArrayLike, text_bytes_N: ArrayLike, text_ids_N: NDArray[np.intp] | None = None
) -> KL:
    """KL of two vectors in bits/byte; texts that either lacks are left out and counted.

    Equal `text_ids_N` mark equal texts (None: all differ), which count once in the error. The error is NaN (unknown) with
    fewer than three distinct texts, or if all deviate equally. Differences as small as rounding are 0.

    >>> round(kl_pair([0, 0, 0, 0], [1, -1, 1, -1], [10, 10, 10, 10]).value, 7)
    0.0721348
    """
    first = np.asarray(l_i, dtype=np.float64)
    d = first - np.asarray(l_j, dtype=np.float64)
    used = np.isfinite(d)
    n = int(used.sum())
    if n < 2:
        return KL(math.nan, math.nan, n, d.size - n)
    size = np.asarray(text_bytes_N, dtype=np.float64)
    if n < d.size:
        first, d, size = first[used], d[used], size[used]
    mean_bytes = float(size.mean())
    if mean_bytes == 0.0:  # texts without bytes, such as empty responses: KL per byte is undefined
        return KL(math.nan, math.nan, n, used.size - n, mean_bytes)
    d = d - d.mean()
    d *= d
    m2 = float(d.mean())
    unit = 2.0 * mean_bytes * LN2
    se = _error_of_variance(d, m2, None if text_ids_N is None else text_ids_N[used])
    if m2 <= _rounding(float(first @ first) / n):
        m2, se = 0.0, math.nan
    return KL(m2 / unit, se / unit, n, used.size - n, mean_bytes)  # Var / (2 B ln 2), arXiv 2502.16173


def _rounding(mean_square: float) -> float:
    """The variance, by rounding alone, of differences between values with that mean square."""
    return (4.0 * np.finfo(np.float64).eps) ** 2 * mean_square


def _error_of_variance(square_n: Array, m2: float, ids_n: NDArray[np.intp] | None) -> float:
    """Standard error of a variance m2 = mean of n squared deviations; NaN where the texts are too few for it.

    se^2 = sum over distinct texts of (sum over its copies of (square - m2))^2 / n^2. With n distinct texts that is
    (m4 - m2^2) / n; copies add no information, so they do not lower it.
    """
    deviation: Array = square_n - m2
    if ids_n is not None:
        _, place = np.unique(ids_n, return_inverse=True)
        deviation = np.bincount(place, deviation).astype(np.float64)
    # sqrt((m4 - m2^2) / n), as Var(x^2) = m4 - m2^2
    se = math.sqrt(float(deviation @ deviation)) / len(square_n)
    known = len(deviation) >= MIN_TEXTS and se > NO_SPREAD * m2
    return se if known else math.nan


def kl_matrix(L_KN: ArrayLike, text_bytes_N: ArrayLike, gram: CentredGram | None = None) -> Array:
    """K x K KL in bits/byte, symmetric with a zero diagonal; NaN for pairs that share fewer than two texts.

    Vectors without gaps are centred and multiplied by `gram`, if given.
    """
    pairs = KLPairs(L_KN, text_bytes_N, gram=partial(centred_gram, elsewhere=gram))
    return _of_tiles(pairs.n_rows, pairs.kl, pairs.gram)


def kl_standard_errors(
    L_KN: ArrayLike, text_bytes_N: ArrayLike, text_ids_N: NDArray[np.intp] | None = None
) -> Array:
    """K x K standard errors of `kl_matrix` in bits/byte: sqrt((m4 - m2^2) / n) / (2 B ln 2), m of l_i - l_j.

    Equal texts count once, and NaN means unknown, as in `kl_pair`; only the diagonal is 0.
    """
    pairs = KLPairs(L_KN, text_bytes_N, text_ids_N)
    return _of_tiles(pairs.n_rows, pairs.standard_errors)


def _of_tiles(K: int, tile: Callable[[slice, slice], Array], into: Array | None = None) -> Array:
    """The symmetric K x K matrix whose upper triangle `tile` computes, tile by tile.

    It is written `into` an array, if given, from which `tile` may read the tile that it computes.
    """
    out: Array = np.empty((K, K)) if into is None else into

    def fill(rows: slice, columns: slice) -> None:
        out[rows, columns] = tile(rows, columns)
        if rows != columns:
            out[columns, rows] = out[rows, columns].T

    each_tile(K, fill)
    return out


class CentredOnDemand:
    """Q of `double_centre`, computed row by row on demand: equal up to rounding, without a second K x N array."""

    def __init__(self, L_KN: Array) -> None:
        self._L = L_KN
        self._row_mean = np.full(len(L_KN), np.nan)
        self.complete_N = np.ones(L_KN.shape[1], dtype=np.bool_)
        total, n = np.zeros(L_KN.shape[1]), np.zeros(L_KN.shape[1])
        for block in blocks(len(L_KN)):
            defined = np.isfinite(L_KN[block])
            values = np.where(defined, L_KN[block], 0.0)
            mean = ratio(values.sum(axis=1), defined.sum(axis=1))
            self._row_mean[block] = mean
            self.complete_N &= defined.all(axis=0)
            total += np.where(defined, values - mean[:, None], 0.0).sum(axis=0)
            n += defined.sum(axis=0)
        self._column_mean = ratio(total, n)

    def __len__(self) -> int:
        return len(self._L)

    def __getitem__(self, picked: Picked) -> Array:
        Q: Array = self._L[picked] - self._row_mean[picked][:, None]
        Q -= self._column_mean
        return Q


class KLPairs:
    """KL and standard errors of K vectors (K x N, nats) by tiles of pairs, without a K x K array.

    Equal `text_ids_N` mark equal texts, as in `kl_pair`; `gram` as in `kl_matrix`. Values are those of `kl_matrix` and
    `kl_standard_errors`, to the last bit; with `by_need`, which centres rows on demand, up to rounding.
    """

    def __init__(
        self,
        L_KN: ArrayLike,
        text_bytes_N: ArrayLike,
        text_ids_N: NDArray[np.intp] | None = None,
        gram: CentredGram | None = None,
        *,
        by_need: bool = False,
    ) -> None:
        L, size = (np.asarray(given, dtype=np.float64) for given in (L_KN, text_bytes_N))
        self.n_rows = len(L)
        squares = _sum_of_squares(L)
        complete = L.size > 0 and math.isfinite(squares)
        all_N = np.ones(L.shape[1], dtype=np.bool_)
        self._rounding = _rounding(squares / max(L.size, 1) if complete else _mean_square(L))
        if by_need:
            lazy = CentredOnDemand(L)
            self._values = PairTiles(lazy, size, lazy.complete_N)
        else:
            made = gram(L) if gram and L.shape[1] >= 2 and complete else None
            X, products = (double_centre(L), None) if made is None else made
            self._values = PairTiles(X, size, all_N if complete else have_all(X), gram_KK=products)
        self._errors = self._values
        if text_ids_N is not None and len(np.unique(text_ids_N)) < len(size):
            merged, size, copies = _merged(double_centre(L), size, text_ids_N)
            self._errors = PairTiles(merged, size, have_all(merged), copies)

    @property
    def gram(self) -> Array | None:
        """The products given by `gram`, K x K; do not request a tile again after it was overwritten."""
        return self._values.gram_KK

    @one_blas_thread
    def kl(self, rows: Picked, columns: slice) -> Array:
        """KL of some rows to others, bits/byte; NaN for pairs that share fewer than two texts, 0 where it is rounding."""
        return self._values.kl(rows, columns, self._rounding)

    def rows(self, rows: NDArray[np.intp]) -> Array:
        """M x K KL of some rows to all, bits/byte."""
        out: Array = np.empty((len(rows), self.n_rows))

        def fill(some: slice, columns: slice) -> None:
            out[some, columns] = self.kl(rows[some], columns)

        side = tile_rows(self.n_rows)
        every = blocks(self.n_rows, side)
        in_parallel([partial(fill, some, columns) for some in blocks(len(rows), side) for columns in every])
        return out

    def ahead(self, n: int) -> Array:
        """K x n KL of every row to the n rows after it, bits/byte; NaN beyond the last."""
        out: Array = np.full((self.n_rows, n), np.nan)

        def fill(some: slice) -> None:
            tile = self.kl(some, slice(some.start, min(some.stop + n, self.n_rows)))
            for i, row in enumerate(range(some.start, some.stop)):
                later = tile[i, i + 1 : i + 1 + n]
                out[row, : len(later)] = later

        in_parallel([partial(fill, some) for some in blocks(self.n_rows, _BAND)])
        return out

    @one_blas_thread
    def standard_errors(self, rows: slice, columns: slice) -> Array:
        """Standard errors over texts of KL of some rows to others, bits/byte; NaN where the texts are too few for them."""
        return self._errors.standard_errors(rows, columns, self._rounding, MIN_TEXTS)


def _mean_square(L_KN: Array) -> float:
    """Mean square of the finite values, 0 without any."""
    values = L_KN[np.isfinite(L_KN)]
    return _sum_of_squares(values) / max(values.size, 1)


@one_blas_thread
def _sum_of_squares(values: Array) -> float:
    """The sum, which is not finite if a value is not."""
    flat = values.ravel()
    return float(flat @ flat)


def is_complete(values: Array) -> bool:
    """Whether every value is finite, by a single product. Also False if squares overflow, which those of log-likelihoods do not."""
    return bool(values.size) and math.isfinite(_sum_of_squares(values))


def _merged(X_KN: Array, size_N: Array, text_ids_N: NDArray[np.intp]) -> tuple[Array, Array, Array]:
    """(rows, sizes, number of copies) with the columns of equal texts merged into one, their mean."""
    _, place, copies = np.unique(text_ids_N, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(copies)[:-1]])
    mean: Array = np.add.reduceat(X_KN[:, order], starts, axis=1) / copies
    return mean, size_N[order][starts], copies.astype(np.float64)
