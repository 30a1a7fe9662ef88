"""KL divergence in bits per byte from log-likelihood vectors, with its standard error.

KL(i, j) = Var_s(l_i - l_j) / (2 B ln 2), population variance over texts s, B the mean bytes of the texts in
use (arXiv 2502.16173). It is a second-order estimate: good where models are close, too high where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui import native
from kltui.analysis.number_text import with_error
from kltui.html_table import html_table

Array = NDArray[np.float64]
# From K x N vectors without gaps, in nats: (Q, Q Q^T), what `centred_gram` gives; None: have it done here.
CentredGram = Callable[[Array], tuple[Array, Array] | None]

LN2 = math.log(2.0)
_BLOCK = 2048  # texts per product: the powers of one block stay small beside K x N
_CLOSE = 1e-8  # below this share of the norms a moment is taken from the differences themselves
LEAST_TEXTS = 3  # differing ones that a standard error needs: two deviate alike, whatever the models
NO_SPREAD = 1e-12  # share of a value below which its spread over texts is rounding


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


def double_centre(L_KN: ArrayLike, weights_N: ArrayLike | None = None) -> Array:
    """Q = L - row mean - column mean + grand mean, K x N in nats; rows weighted by `weights_N` where given.

    With NaN in it, each mean is over what is defined, and NaN stays NaN.
    """
    L = np.asarray(L_KN, dtype=np.float64)
    if is_complete(L):
        return native.double_centre(L, weights_N)
    defined = np.isfinite(L)
    w = np.ones(L.shape[1]) if weights_N is None else np.asarray(weights_N, dtype=np.float64)
    Q: Array = np.where(defined, L, 0.0)
    Q -= _ratio(Q @ w, defined @ w)[:, None]
    Q[~defined] = 0.0
    Q -= _ratio(Q.sum(axis=0), defined.sum(axis=0))
    Q[~defined] = np.nan
    return Q


def centred_gram(L_KN: Array, elsewhere: CentredGram | None = None) -> tuple[Array, Array]:
    """(Q, Q Q^T): the double-centred vectors (K x N, nats) and their products (K x K); by `elsewhere` where it will."""
    made = elsewhere(L_KN) if elsewhere else None
    if made is None:
        Q = double_centre(L_KN)
        made = Q, Q @ Q.T
    return made


def kl_pair(
    l_i: ArrayLike, l_j: ArrayLike, text_bytes_N: ArrayLike, text_ids_N: NDArray[np.intp] | None = None
) -> KL:
    """KL of two vectors in bits/byte; texts that either lacks are left out and counted.

    Equal `text_ids_N` mark equal texts (None: all differ), which count once in the error: it is NaN, for unknown,
    with fewer than three differing texts or where all deviate alike.

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
    d = d - d.mean()
    d *= d
    m2 = float(d.mean())
    unit = 2.0 * mean_bytes * LN2
    se = _error_of_variance(d, m2, None if text_ids_N is None else text_ids_N[used])
    if m2 <= _rounding(float(first @ first) / n):
        se = math.nan
    return KL(m2 / unit, se / unit, n, used.size - n, mean_bytes)


def _rounding(mean_square: float) -> float:
    """The variance that rounding alone makes of differences between values of that mean square."""
    return (4.0 * np.finfo(np.float64).eps) ** 2 * mean_square


def _error_of_variance(square_n: Array, m2: float, ids_n: NDArray[np.intp] | None) -> float:
    """Standard error of a variance m2 = mean of n squared deviations; NaN where the texts cannot tell it.

    se^2 = sum over differing texts of (sum over its copies of (square - m2))^2 / n^2: with n differing texts that is
    (m4 - m2^2) / n, and copies, which are no new evidence, leave it as it is.
    """
    deviation: Array = square_n - m2
    if ids_n is not None:
        _, place = np.unique(ids_n, return_inverse=True)
        deviation = np.bincount(place, deviation).astype(np.float64)
    se = math.sqrt(float(deviation @ deviation)) / len(square_n)
    known = len(deviation) >= LEAST_TEXTS and se > NO_SPREAD * m2
    return se if known else math.nan


def kl_bootstrap_se(
    l_i: ArrayLike, l_j: ArrayLike, text_bytes_N: ArrayLike, draws: int = 1000, seed: int = 42
) -> float:
    """Standard error of `kl_pair` in bits/byte by resampling texts `draws` times: the check of the moment formula."""
    d = np.asarray(l_i, dtype=np.float64) - np.asarray(l_j, dtype=np.float64)
    used = np.isfinite(d)
    d, size = d[used], np.asarray(text_bytes_N, dtype=np.float64)[used]
    if len(np.unique(d)) < LEAST_TEXTS:
        return math.nan
    rng = np.random.default_rng(seed)
    variances = [np.var(d[rng.integers(0, d.size, d.size)]) for _ in range(draws)]
    return float(np.std(variances)) / (2.0 * float(size.mean()) * LN2)


def kl_matrix(L_KN: ArrayLike, text_bytes_N: ArrayLike, gram: CentredGram | None = None) -> Array:
    """K x K KL in bits/byte, symmetric with a zero diagonal; NaN for pairs that share fewer than two texts.

    Vectors without gaps are centred and multiplied by `gram`, where one is given that will.
    """
    L = np.asarray(L_KN, dtype=np.float64)
    text_bytes = np.asarray(text_bytes_N, dtype=np.float64)
    if L.shape[1] >= 2 and is_complete(L):
        return _complete_kl(*centred_gram(L, gram), text_bytes)
    X = double_centre(L)
    sums = _pair_sums(X, text_bytes, fourth=False)
    kl = _ratio(sums.variance(), _unit(sums))
    _recompute(_close(sums.s2, sums.norm2) & (sums.n >= 2), kl, None, X, sums)
    return _symmetric(kl, sums.n)


def is_complete(values: Array) -> bool:
    """Whether every value is finite, by one product: also False where squares overflow, as no log-likelihood's do."""
    flat = values.ravel()
    return bool(values.size) and math.isfinite(float(flat @ flat))


def _complete_kl(X_KN: Array, gram_KK: Array, text_bytes_N: Array) -> Array:
    """K x K KL in bits/byte of centred rows without gaps and their products, which it writes over."""
    K, N = X_KN.shape
    s2 = gram_KK  # |x_i - x_j|^2 = |x_i|^2 + |x_j|^2 - 2 x_i x_j
    norm2 = s2.diagonal().copy()
    s2 *= -2.0
    s2 += np.add.outer(norm2, norm2)
    sums = _PairSums.zeros(0, fourth=False)
    sums.n, sums.size = (np.broadcast_to(np.float64(v), (K, K)) for v in (N, text_bytes_N.sum()))
    sums.s2, sums.norm2 = s2, norm2
    close = _close(s2, norm2)
    kl = s2
    kl /= 2.0 * LN2 * text_bytes_N.sum()
    if close.any():
        _recompute(close, kl, None, X_KN, sums)
        kl = np.triu(kl, k=1)
        kl += kl.T
    np.fill_diagonal(kl, 0.0)
    return kl


def _close(square: Array, norm: Array) -> NDArray[np.bool_]:
    """Pairs, above the diagonal, whose sum is so small beside the rows' own that rounding may have eaten it."""
    limit = np.add.outer(_CLOSE * norm, _CLOSE * norm)
    close: NDArray[np.bool_] = np.less(square, limit)
    np.fill_diagonal(close, False)
    return np.triu(close, k=1) if close.any() else close


def kl_standard_errors(
    L_KN: ArrayLike, text_bytes_N: ArrayLike, text_ids_N: NDArray[np.intp] | None = None
) -> Array:
    """K x K standard errors of `kl_matrix` in bits/byte: sqrt((m4 - m2^2) / n) / (2 B ln 2), m of l_i - l_j.

    Equal texts count once, and NaN is unknown, as in `kl_pair`; 0 stands on the diagonal alone.
    """
    X = double_centre(L_KN)
    size = np.asarray(text_bytes_N, dtype=np.float64)
    copies = None
    if text_ids_N is not None and len(np.unique(text_ids_N)) < X.shape[1]:
        X, size, copies = _merged(X, size, text_ids_N)
    sums = _pair_sums(X, size, fourth=copies is None, weight=copies)
    high = sums if copies is None else _pair_sums(X, size, fourth=True, weight=copies**2)
    m2 = sums.variance()
    spread = _ratio(high.deviations(_ratio(sums.s1, sums.n), m2), sums.n * sums.n)
    se = _ratio(np.sqrt(np.maximum(spread, 0.0)), _unit(sums))
    doubtful = _close(high.s4, high.norm4) | np.triu(spread <= _CLOSE * m2 * m2, k=1)
    _recompute(doubtful & (sums.n >= 2), None, se, X, sums, copies)
    values = np.asarray(L_KN, dtype=np.float64)
    values = values[np.isfinite(values)]
    se[m2 <= _rounding(float(values @ values) / max(values.size, 1))] = np.nan
    shared = np.isfinite(X) * 1.0
    full = _symmetric(se, shared @ shared.T)
    full[(shared @ shared.T < LEAST_TEXTS) & ~np.eye(len(X), dtype=bool)] = np.nan
    return full


def _merged(X_KN: Array, size_N: Array, text_ids_N: NDArray[np.intp]) -> tuple[Array, Array, Array]:
    """Rows and sizes with the columns of equal texts as one, their mean; and how many copies each stands for."""
    _, place, copies = np.unique(text_ids_N, return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    starts = np.concatenate([[0], np.cumsum(copies)[:-1]])
    mean: Array = np.add.reduceat(X_KN[:, order], starts, axis=1) / copies
    return mean, size_N[order][starts], copies.astype(np.float64)


@dataclass(slots=True)
class _PairSums:
    """K x K sums over shared texts of 1, d, d^2, d^3, d^4 and bytes, for d = x_i - x_j; norms per row."""

    n: Array
    size: Array
    s1: Array
    s2: Array
    s3: Array
    s4: Array
    norm2: Array
    norm4: Array

    @classmethod
    def zeros(cls, K: int, *, fourth: bool) -> _PairSums:
        high = K if fourth else 0
        shapes = {"s3": (high, high), "s4": (high, high), "norm2": (K,), "norm4": (K,)}
        return cls(**{f.name: np.zeros(shapes.get(f.name, (K, K))) for f in fields(cls)})

    def variance(self) -> Array:
        mean = _ratio(self.s1, self.n)
        return np.maximum(_ratio(self.s2, self.n) - mean * mean, 0.0)

    def deviations(self, mean: Array, m2: Array) -> Array:
        """Sum of ((d - mean)^2 - m2)^2, opened into the sums of powers."""
        second = self.s2 - 2 * mean * self.s1 + mean**2 * self.n
        fourth = (
            self.s4 - 4 * mean * self.s3 + 6 * mean**2 * self.s2 - 4 * mean**3 * self.s1 + mean**4 * self.n
        )
        return fourth - 2 * m2 * second + m2 * m2 * self.n


def _pair_sums(X_KN: Array, text_bytes_N: Array, *, fourth: bool, weight: Array | None = None) -> _PairSums:
    """Sums over texts block by block, each counted `weight` times (None: once).

    Texts that all vectors have need no mask, the others carry one. Third powers enter by the mean difference, which is
    0 for centred rows without gaps.
    """
    total = _PairSums.zeros(X_KN.shape[0], fourth=fourth)
    defined = np.isfinite(X_KN)
    complete = defined.all(axis=0)
    for columns in _blocks(np.flatnonzero(complete)):
        counted = None if weight is None else weight[columns]
        _add(total, X_KN[:, columns], None, text_bytes_N[columns], fourth, not complete.all(), counted)
    for columns in _blocks(np.flatnonzero(~complete)):
        mask = defined[:, columns]
        Z = np.where(mask, X_KN[:, columns], 0.0)
        counted = None if weight is None else weight[columns]
        _add(total, Z, mask * 1.0, text_bytes_N[columns], fourth, True, counted)
    return total


def _blocks(columns: NDArray[np.intp]) -> Iterator[slice | NDArray[np.intp]]:
    for start in range(0, len(columns), _BLOCK):
        block = columns[start : start + _BLOCK]
        run = block[-1] - block[0] + 1 == len(block)
        yield slice(int(block[0]), int(block[-1]) + 1) if run else block


def _add(
    total: _PairSums,
    Z: Array,
    mask: Array | None,
    text_bytes: Array,
    fourth: bool,
    with_third: bool,
    weight: Array | None,
) -> None:
    """Adds the block Z (K x n, zero where undefined) with its mask to the sums, each column `weight` times."""

    def weighted(P: Array) -> Array:
        return P if weight is None else P * weight

    def over_shared(P: Array) -> Array:
        return P.sum(axis=1)[:, None] if mask is None else P @ mask.T

    K, ones = Z.shape[0], np.ones(Z.shape[1])
    once = weighted(ones)
    total.n += np.full((K, K), once.sum()) if mask is None else (mask * once) @ mask.T
    total.size += (once * text_bytes).sum() if mask is None else (mask * once * text_bytes) @ mask.T
    Z2 = Z * Z
    W, W2 = weighted(Z), weighted(Z2)
    first, second = over_shared(W), over_shared(W2)
    total.s1 += first - first.T
    total.s2 += second + second.T - 2.0 * (W @ Z.T)
    total.norm2 += W2.sum(axis=1)
    if fourth:
        W3 = W2 * Z
        if with_third:
            third, mixed = over_shared(W3), W2 @ Z.T
            total.s3 += third - third.T - 3.0 * (mixed - mixed.T)
        top, mixed = over_shared(W2 * Z2), W3 @ Z.T
        total.s4 += top + top.T - 4.0 * (mixed + mixed.T) + 6.0 * (W2 @ Z2.T)
        total.norm4 += np.einsum("kn,kn->k", W2, Z2)


def _recompute(
    close: NDArray[np.bool_],
    kl: Array | None,
    se: Array | None,
    X_KN: Array,
    sums: _PairSums,
    copies_N: Array | None = None,
) -> None:
    """Writes KL and errors of the pairs marked, which the sums lost to rounding, from the differences of their rows."""
    for i in np.flatnonzero(close.any(axis=1)):
        for columns in _blocks(np.flatnonzero(close[i])):
            d = X_KN[columns] - X_KN[i]
            once = np.isfinite(d) * (1.0 if copies_N is None else copies_N)
            n = once.sum(axis=1, keepdims=True)
            d = np.where(once > 0, d, 0.0)
            d -= (d * once).sum(axis=1, keepdims=True) / n
            d *= d
            m2 = (d * once).sum(axis=1, keepdims=True) / n
            unit = 2.0 * LN2 * sums.size[i, columns] / sums.n[i, columns]
            if kl is not None:
                kl[i, columns] = m2[:, 0] / unit
            if se is not None:
                error = np.sqrt(np.square((d - m2) * once).sum(axis=1)) / n[:, 0]
                error[error <= NO_SPREAD * m2[:, 0]] = np.nan
                se[i, columns] = error / unit


def _unit(sums: _PairSums) -> Array:
    return 2.0 * LN2 * _ratio(sums.size, sums.n)


def _symmetric(upper: Array, n: Array) -> Array:
    """The upper triangle mirrored; NaN where fewer than two texts are shared, 0 on the diagonal otherwise."""
    full = np.triu(upper, k=1)
    full += full.T
    full[n < 2] = np.nan
    return full


def _ratio(a: Array, b: Array) -> Array:
    """a / b, NaN where b is 0."""
    out: Array = np.full(np.broadcast_shapes(a.shape, np.shape(b)), np.nan)
    np.divide(a, b, out=out, where=np.asarray(b) > 0)
    return out
