"""Agreement of two corpora on the KL between the same models: correlations over pairs, with errors over models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
MIN_MODELS = 4  # six pairs; the three pairs of three models are too few for a correlation


@dataclass(frozen=True, slots=True)
class Agreement:
    """Correlations of KL over the pairs of the same models on two corpora, with jackknife errors over models.

    `pearson` is of ln KL, `spearman` of ranks, `ratio` the median of KL on the second corpus over that on the first.
    NaN with too few models.
    """

    n_models: int
    n_pairs: int
    pearson: float
    pearson_se: float
    spearman: float
    spearman_se: float
    ratio: float


def agreement(first_KK: ArrayLike, second_KK: ArrayLike) -> Agreement:
    """Agreement of two K x K KL matrices, without pairs that are undefined or 0 in either.

    Pairs that share a model are not independent: se^2 = (K - 1) / K sum_k (r_without_k - mean)^2 leaves out models.
    """
    one, other = np.asarray(first_KK, dtype=np.float64), np.asarray(second_KK, dtype=np.float64)
    K = len(one)
    x, y = _pairs(one, other, np.arange(K))
    ratio = float(np.median(y / x)) if len(x) else math.nan
    if K < MIN_MODELS or len(x) < 3:
        return Agreement(K, len(x), math.nan, math.nan, math.nan, math.nan, ratio)
    (pearson, pearson_se), (spearman, spearman_se) = (
        (
            correlation(x, y),
            _jackknife([correlation(*_pairs(one, other, np.delete(np.arange(K), k))) for k in range(K)]),
        )
        for correlation in (_pearson, _spearman)
    )
    return Agreement(K, len(x), pearson, pearson_se, spearman, spearman_se, ratio)


def _pairs(one: Array, other: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
    """(x, y): the KLs in both matrices of those pairs of the models `rows` for which both are positive."""
    upper = np.triu_indices(len(rows), 1)
    x, y = one[np.ix_(rows, rows)][upper], other[np.ix_(rows, rows)][upper]
    used = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    return x[used], y[used]


def _jackknife(without: list[float]) -> float:
    values = np.array(without)
    if not np.isfinite(values).all():
        return math.nan
    K = len(values)
    return float(np.sqrt((K - 1) / K * np.square(values - values.mean()).sum()))  # jackknife (Tukey 1958)


def _pearson(x: Array, y: Array) -> float:
    return _correlated(np.log(x), np.log(y))


def _spearman(x: Array, y: Array) -> float:
    from scipy.stats import rankdata

    return _correlated(rankdata(x), rankdata(y))


def _correlated(x: Array, y: Array) -> float:
    if len(x) < 3:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else math.nan  # Pearson's r
