"""KL divergence in bits per byte from log-likelihood vectors, with its standard error.

KL(i, j) = Var_s(l_i - l_j) / (2 B ln 2), population variance over texts s, B the mean bytes of the texts in
use (arXiv 2502.16173). It is a second-order estimate: good where models are close, too high where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui import native

Array = NDArray[np.float64]

LN2 = math.log(2.0)
_BLOCK = 2048  # texts per product: the powers of one block stay small beside K x N
_CLOSE = 1e-8  # below this share of the norms a moment is taken from the differences themselves


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


def kl_pair(l_i: ArrayLike, l_j: ArrayLike, text_bytes_N: ArrayLike) -> KL:
    """KL of two vectors in bits/byte; texts that either lacks are left out and counted.

    >>> round(kl_pair([0, 0, 0, 0], [1, -1, 1, -1], [10, 10, 10, 10]).value, 7)
    0.0721348
    """
    d = np.asarray(l_i, dtype=np.float64) - np.asarray(l_j, dtype=np.float64)
    used = np.isfinite(d)
    n = int(used.sum())
    if n < 2:
        return KL(math.nan, math.nan, n, d.size - n)
    size = np.asarray(text_bytes_N, dtype=np.float64)
    if n < d.size:
        d, size = d[used], size[used]
    mean_bytes = float(size.mean())
    d = d - d.mean()
    d *= d
    m2, m4 = float(d.mean()), float(d @ d) / n
    unit = 2.0 * mean_bytes * LN2
    return KL(m2 / unit, math.sqrt(max(m4 - m2 * m2, 0.0) / n) / unit, n, used.size - n, mean_bytes)


def kl_bootstrap_se(
    l_i: ArrayLike, l_j: ArrayLike, text_bytes_N: ArrayLike, draws: int = 1000, seed: int = 42
) -> float:
    """Standard error of `kl_pair` in bits/byte by resampling texts `draws` times: the check of the moment formula."""
    d = np.asarray(l_i, dtype=np.float64) - np.asarray(l_j, dtype=np.float64)
    used = np.isfinite(d)
    d, size = d[used], np.asarray(text_bytes_N, dtype=np.float64)[used]
    if d.size < 2:
        return math.nan
    rng = np.random.default_rng(seed)
    variances = [np.var(d[rng.integers(0, d.size, d.size)]) for _ in range(draws)]
    return float(np.std(variances)) / (2.0 * float(size.mean()) * LN2)


def kl_matrix(L_KN: ArrayLike, text_bytes_N: ArrayLike) -> Array:
    """K x K KL in bits/byte, symmetric with a zero diagonal; NaN for pairs that share fewer than two texts."""
    X = double_centre(L_KN)
    text_bytes = np.asarray(text_bytes_N, dtype=np.float64)
    if X.shape[1] >= 2 and is_complete(X):
        return _complete_kl(X, text_bytes)
    sums = _pair_sums(X, text_bytes, fourth=False)
    kl = _ratio(sums.variance(), _unit(sums))
    _refine(kl, None, X, sums)
    return _symmetric(kl, sums.n)


def is_complete(values: Array) -> bool:
    """Whether every value is finite, by one product: also False where squares overflow, as no log-likelihood's do."""
    flat = values.ravel()
    return bool(values.size) and math.isfinite(float(flat @ flat))


def _complete_kl(X_KN: Array, text_bytes_N: Array) -> Array:
    """K x K KL in bits/byte of centred rows without gaps, by one product of the rows with themselves."""
    K, N = X_KN.shape
    s2 = X_KN @ X_KN.T
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


def kl_standard_errors(L_KN: ArrayLike, text_bytes_N: ArrayLike) -> Array:
    """K x K standard errors of `kl_matrix` in bits/byte: sqrt((m4 - m2^2) / n) / (2 B ln 2), m of l_i - l_j."""
    X = double_centre(L_KN)
    sums = _pair_sums(X, np.asarray(text_bytes_N, dtype=np.float64), fourth=True)
    m2 = sums.variance()
    spread = np.maximum(sums.fourth_moment() - m2 * m2, 0.0)
    se = _ratio(np.sqrt(_ratio(spread, sums.n)), _unit(sums))
    _refine(None, se, X, sums)
    return _symmetric(se, sums.n)


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

    def fourth_moment(self) -> Array:
        mean, second = _ratio(self.s1, self.n), _ratio(self.s2, self.n)
        third, fourth = _ratio(self.s3, self.n), _ratio(self.s4, self.n)
        return fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4


def _pair_sums(X_KN: Array, text_bytes_N: Array, *, fourth: bool) -> _PairSums:
    """Sums over texts block by block: texts that all vectors have need no mask, the others carry one.

    Third powers enter by the mean difference, which is 0 for centred rows without gaps.
    """
    total = _PairSums.zeros(X_KN.shape[0], fourth=fourth)
    defined = np.isfinite(X_KN)
    complete = defined.all(axis=0)
    for columns in _blocks(np.flatnonzero(complete)):
        _add(total, X_KN[:, columns], None, text_bytes_N[columns], fourth, not complete.all())
    for columns in _blocks(np.flatnonzero(~complete)):
        mask = defined[:, columns]
        Z = np.where(mask, X_KN[:, columns], 0.0)
        _add(total, Z, mask * 1.0, text_bytes_N[columns], fourth, with_third=True)
    return total


def _blocks(columns: NDArray[np.intp]) -> Iterator[slice | NDArray[np.intp]]:
    for start in range(0, len(columns), _BLOCK):
        block = columns[start : start + _BLOCK]
        run = block[-1] - block[0] + 1 == len(block)
        yield slice(int(block[0]), int(block[-1]) + 1) if run else block


def _add(
    total: _PairSums, Z: Array, mask: Array | None, text_bytes: Array, fourth: bool, with_third: bool
) -> None:
    """Adds the block Z (K x n, zero where undefined) with its mask to the sums."""

    def over_shared(P: Array) -> Array:
        return P.sum(axis=1)[:, None] if mask is None else P @ mask.T

    K = Z.shape[0]
    total.n += np.full((K, K), float(Z.shape[1])) if mask is None else mask @ mask.T
    total.size += text_bytes.sum() if mask is None else (mask * text_bytes) @ mask.T
    Z2 = Z * Z
    first, second = over_shared(Z), over_shared(Z2)
    total.s1 += first - first.T
    total.s2 += second + second.T - 2.0 * (Z @ Z.T)
    total.norm2 += Z2.sum(axis=1)
    if fourth:
        Z3 = Z2 * Z
        if with_third:
            third, mixed = over_shared(Z3), Z2 @ Z.T
            total.s3 += third - third.T - 3.0 * (mixed - mixed.T)
        top, mixed = over_shared(Z2 * Z2), Z3 @ Z.T
        total.s4 += top + top.T - 4.0 * (mixed + mixed.T) + 6.0 * (Z2 @ Z2.T)
        total.norm4 += np.einsum("kn,kn->k", Z2, Z2)


def _refine(kl: Array | None, se: Array | None, X_KN: Array, sums: _PairSums) -> None:
    """Recomputes, from the differences, pairs so close that the sums above lost them to rounding."""
    close = _close(sums.s2, sums.norm2) if se is None else _close(sums.s4, sums.norm4)
    _recompute(close & (sums.n >= 2), kl, se, X_KN, sums)


def _recompute(
    close: NDArray[np.bool_], kl: Array | None, se: Array | None, X_KN: Array, sums: _PairSums
) -> None:
    """Writes KL and errors of the pairs marked, from the differences of their rows."""
    for i in np.flatnonzero(close.any(axis=1)):
        for columns in _blocks(np.flatnonzero(close[i])):
            d = X_KN[columns] - X_KN[i]
            d -= np.nanmean(d, axis=1, keepdims=True)
            d *= d
            m2 = np.nanmean(d, axis=1)
            unit = 2.0 * LN2 * sums.size[i, columns] / sums.n[i, columns]
            if kl is not None:
                kl[i, columns] = m2 / unit
            if se is not None:
                spread = np.maximum(np.nanmean(d * d, axis=1) - m2 * m2, 0.0)
                se[i, columns] = np.sqrt(spread / sums.n[i, columns]) / unit


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
