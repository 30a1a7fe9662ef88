"""Maps from fewer texts: texts drawn by their likelihood variance, and models added with only those texts.

Source: arXiv 2505.15428 (LS and KL sampling of texts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.kl import LN2, MIN_TEXTS, NO_SPREAD, double_centre
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]
Method = Literal["uniform", "ls", "kl"]
METHODS: tuple[Method, ...] = ("uniform", "ls", "kl")


@dataclass(frozen=True, eq=False)
class TextSample:
    """A sample of texts, u distinct ones out of N: `index` (u, rising) and `weight` (u), sqrt(times drawn / (n p)).

    Squared distances over the drawn columns, each times its weight, estimate those over all N texts without bias.
    """

    index: NDArray[np.intp]
    weight: Array
    n_drawn: int
    n_texts: int
    method: str
    seed: int


@dataclass(frozen=True, slots=True)
class ResamplingError:
    """The error of maps from n drawn texts (`n_different` distinct ones), compared with the full map, over several draws.

    `absolute` is the Frobenius norm of the error of the K x K squared distances, relative to that of the true ones;
    `relative` the root mean square of the pairs' relative errors. All three are root mean squares over draws.
    """

    method: str
    n_drawn: int
    n_different: float
    absolute: float
    relative: float


def sampling_probabilities(Q_KN: ArrayLike, method: str) -> Array:
    """p_N, the probability of drawing each text.

    "ls": p_s ~ sum_i Q_is^2. "kl": p_s ~ sqrt(sum over pairs of (q_is - q_js)^4), by power sums.
    Raises KltuiError for another `method`, values that are not finite, or equal vectors.
    """
    Q = np.asarray(Q_KN, dtype=np.float64)
    if method not in METHODS:
        raise KltuiError(f"unknown way to draw texts {method!r}", f"known: {', '.join(METHODS)}")
    if not np.isfinite(Q).all():
        raise KltuiError(
            "texts can be drawn only from a map without unscored texts", "leave those texts out first"
        )
    if method == "uniform":
        return np.full(Q.shape[1], 1.0 / Q.shape[1])
    square = Q * Q
    score: Array = square.sum(axis=0)  # LS sampling (arXiv 2505.15428): p_s ~ sum_i Q_is^2
    if method == "kl":
        fourth, third, first = (square * square).sum(axis=0), (square * Q).sum(axis=0), Q.sum(axis=0)
        # KL sampling (arXiv 2505.15428): sum_ij (q_i - q_j)^4 = 2 K sum q^4 + 6 (sum q^2)^2 - 8 sum q sum q^3
        score = np.sqrt(np.maximum(2.0 * len(Q) * fourth + 6.0 * score**2 - 8.0 * first * third, 0.0))
    if not score.sum() > 0:
        raise KltuiError(
            "all vectors of the map are the same, so no text is informative", "draw texts uniformly"
        )
    score /= score.sum()
    return score


def draw(p_N: ArrayLike, n: int, seed: int = 42, method: str = "") -> TextSample:
    """n texts drawn with replacement with probabilities `p_N`; each distinct text once, with its summed weight."""
    p = np.asarray(p_N, dtype=np.float64)
    drawn = np.random.default_rng(seed).choice(len(p), size=n, p=p / p.sum())
    index, count = np.unique(drawn, return_counts=True)
    # importance weights 1 / (n p_s), square roots because distances are squared (arXiv 2505.15428)
    return TextSample(index, np.sqrt(count / (n * p[index])), n, len(p), method, seed)


def draw_texts(L_KN: ArrayLike, method: str, n: int, seed: int = 42) -> TextSample:
    """n texts drawn for the map L by `method`."""
    return draw(sampling_probabilities(double_centre(L_KN), method), n, seed, method)


@one_blas_thread
def resampled_coordinates(L_Ku: ArrayLike, d: TextSample, mean_bytes: float) -> Array:
    """K x u scaled Q of a map on a sample of texts: the columns `L_Ku` centred with squared weights, times the weights.

    Squared distances estimate KL in bits/byte. `mean_bytes` is that of all N texts.
    """
    L = np.asarray(L_Ku, dtype=np.float64)
    square = d.weight**2
    Q: Array = L - (L @ square / square.sum())[:, None]  # weighted double centring (arXiv 2505.15428)
    Q -= Q.mean(axis=0)
    Q *= d.weight / math.sqrt(2.0 * d.n_texts * mean_bytes * LN2)
    return Q


def square_distances(Q_KN: Array) -> Array:
    """K x K squared distances of rows, by one product."""
    norm = np.einsum("kn,kn->k", Q_KN, Q_KN)
    D: Array = norm[:, None] + norm[None, :] - 2.0 * (Q_KN @ Q_KN.T)  # |q_i|^2 + |q_j|^2 - 2 q_i q_j
    np.maximum(D, 0.0, out=D)
    np.fill_diagonal(D, 0.0)
    return D


@one_blas_thread
def resampling_errors(
    L_KN: ArrayLike, methods: Sequence[str], sizes: Sequence[int], draws: int = 20, seed: int = 42
) -> list[ResamplingError]:
    """The error of each method and number of drawn texts against the full map, over `draws` draws each."""
    L = np.asarray(L_KN, dtype=np.float64)
    Q = double_centre(L)
    truth = square_distances(Q) / Q.shape[1]
    off = ~np.eye(len(L), dtype=bool) & (truth > 0)
    rows = []
    for method in methods:
        p = sampling_probabilities(Q, method)
        for n in sizes:
            errors = [_one_error(L, draw(p, n, seed + r, method), truth, off) for r in range(draws)]
            different, absolute, relative = np.sqrt(np.mean(np.square(errors), axis=0))
            rows.append(ResamplingError(method, n, float(different), float(absolute), float(relative)))
    return rows


def _one_error(
    L_KN: Array, d: TextSample, truth: Array, off: NDArray[np.bool_]
) -> tuple[float, float, float]:
    got = square_distances(resampled_coordinates(L_KN[:, d.index], d, 1.0 / (2.0 * LN2)))
    size = float(np.linalg.norm(truth))
    absolute = float(np.linalg.norm(got - truth)) / size if size > 0 else math.nan  # Frobenius norms
    relative = float(np.sqrt(np.mean(((got - truth)[off] / truth[off]) ** 2))) if off.any() else math.nan
    return len(d.index), absolute, relative


def add_models(
    L_Ku: ArrayLike, new_Mu: ArrayLike, d: TextSample, mean_bytes: float, clip_threshold: float = -math.inf
) -> Array:
    """Scaled Q, (K + M) x u, of a map and M models scored only on the u drawn texts.

    `L_Ku` are the old map's drawn columns (clipped already), `new_Mu` the new values, clipped at the old threshold.
    Raises KltuiError if the columns are not the drawn texts.
    """
    new = np.maximum(np.asarray(new_Mu, dtype=np.float64), clip_threshold)
    old = np.asarray(L_Ku, dtype=np.float64)
    if new.shape[1:] != (len(d.index),) or old.shape[1:] != (len(d.index),):
        raise KltuiError(
            f"{len(d.index)} texts were drawn, but values for {old.shape[-1]} and {new.shape[-1]} are given",
            "score the new model on the drawn texts, in their order",
        )
    return resampled_coordinates(np.concatenate([old, new]), d, mean_bytes)


@dataclass(frozen=True, eq=False)
class KLToMap:
    """KL in bits/byte of M added models to K of a map, M x K, and its standard error from the sampling of texts.

    The error is NaN (unknown) if fewer than three distinct texts were drawn or all of them contribute equally.
    """

    value: Array
    se: Array


@one_blas_thread
def kl_to_map(
    L_Ku: ArrayLike, new_Mu: ArrayLike, d: TextSample, count_u: ArrayLike, mean_bytes: float
) -> KLToMap:
    """KL of new models to those of a map, both given on the sampled texts and clipped as the map was.

    `count_u` says how often each text was drawn. The error is the jackknife's: each single draw is left out once, which accounts
    for the mean that is subtracted, and is not too small for few draws (Efron and Stein 1981).
    """
    Q = add_models(L_Ku, new_Mu, d, mean_bytes)
    K = len(np.asarray(L_Ku))
    count = np.asarray(count_u, dtype=np.float64)
    value, se = np.empty((len(Q) - K, K)), np.full((len(Q) - K, K), np.nan)
    for m, q in enumerate(Q[K:]):
        value[m] = ((Q[:K] - q) ** 2).sum(axis=1)
        if len(count) >= MIN_TEXTS:
            se[m] = _jackknife_se((Q[:K] - q) / d.weight, d.weight**2, count)
        se[m, se[m] <= NO_SPREAD * value[m]] = np.nan
    return KLToMap(value, se)


def _jackknife_se(difference_Ku: Array, share_u: Array, count_u: Array) -> Array:
    """Standard errors (K) of sum_s share_s difference_s^2, for differences with the weighted mean 0, by the draws that make them."""
    n = float(count_u.sum())
    one_u, again = share_u / count_u, n / (n - 1.0)  # a draw's share; the others' is larger without it
    # sums over the other draws of 1, d and d^2
    rest_u, square_K = share_u.sum() - one_u, difference_Ku**2 @ share_u
    first_Ku = -one_u * difference_Ku
    without_Ku = again * (square_K[:, None] - one_u * difference_Ku**2 - first_Ku**2 / rest_u)
    mean_K = without_Ku @ count_u / n
    se: Array = np.sqrt((without_Ku - mean_K[:, None]) ** 2 @ count_u * (n - 1.0) / n)
    return se
