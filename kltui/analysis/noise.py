"""Measurement noise of a run: the floor that it adds to every distance, with its interval, an upper bound, and reasons to reject it.

Checkpoint t is measured as y_t = x_t + e_t, errors e independent with |e_t|^2 = s2. They add a constant floor to distances:

    D(i, j) = |y_i - y_j|^2 = |x_i - x_j|^2 + f,   f = 2 s2

The estimate fits D = a tau^c + f to all windows of a run. Its error is over texts, by leaving out a twentieth of them in
turn. A bent curve fits that shape too, so the floor must also respect a bound. For weights c that sum to 0,

    |sum c_t y_t|^2 = |sum c_t x_t|^2 + s2 sum c_t^2  >=  s2 sum c_t^2,   so   f <= 2 |sum c_t y_t|^2 / sum c_t^2

for any path x. The bound is the smallest of those by first, second and third differences of neighbouring checkpoints, each
raised by its standard error over texts. On a smooth path these differences are small however bent it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.kl import kl_matrix, kl_pair
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]

PARTS = 20  # of the texts, left out in turn
INTERVAL = 1.96  # standard errors: 95 %
DETECTED = 4.0  # standard errors by which a floor must exceed 0; errors near 0 have long tails
MISFIT = 5.0  # standard errors by which the worst of some ten lags may deviate from the fitted shape
_DIFFERENCES = ((1.0, -1.0), (1.0, -2.0, 1.0), (1.0, -3.0, 3.0, -1.0))


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """A run's measurement noise in bits/byte: `value` is subtracted from every distance; 0 if the correction is rejected.

    `estimate` with its 95 % interval is fitted to the shape of the distances (below 0: no noise), `bound` the maximum that the KLs between
    neighbouring checkpoints allow; `why` is the reason for rejecting a correction, or "". NaN: unknown.
    """

    value: float = 0.0
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    bound: float = math.nan
    why: str = ""


NO_FLOOR = NoiseFloor()


@one_blas_thread
def measured_floor(
    windows: Sequence[Sequence[int]],
    steps: Sequence[int],
    loglik_TN: Array,
    text_bytes_N: NDArray[np.int64],
    text_ids_N: NDArray[np.intp] | None = None,
) -> NoiseFloor:
    """The noise floor of one run of T vectors over N texts; `windows` are the (start, later steps) of its exponents."""
    parts = _parts(loglik_TN.shape[1], text_ids_N)
    if parts.max(initial=0) < 2:
        return NoiseFloor(why="its error needs at least three distinct texts")
    taus = [np.array(w[1:], dtype=np.float64) - w[0] for w in windows]
    at = {s: i for i, s in enumerate(steps)}

    def distances(texts: NDArray[np.bool_]) -> list[Array]:
        kl = kl_matrix(loglik_TN[:, texts], text_bytes_N[texts])
        return [kl[at[w[0]], [at[s] for s in w[1:]]] for w in windows]

    estimate, misfit = fitted_floor(taus, distances(np.ones(len(parts), dtype=np.bool_)))
    if not math.isfinite(estimate):
        return NoiseFloor(why="no window has three positive distances")
    without = [fitted_floor(taus, distances(parts != g)) for g in range(parts.max() + 1)]
    se = float(_jackknife(np.array([f for f, _ in without])))
    low, high = estimate - INTERVAL * se, estimate + INTERVAL * se
    used = sorted({at[s] for w in windows for s in w})
    bound = _bound(loglik_TN[used], text_bytes_N, text_ids_N)
    off = np.abs(misfit) > MISFIT * _jackknife(np.array([r for _, r in without]))
    why = _refusal(estimate, se, bound, misfit[off])
    return NoiseFloor(0.0 if why else min(estimate, bound), estimate, low, high, bound, why)


def _refusal(estimate: float, se: float, bound: float, misfit: Array) -> str:
    """Why a floor is rejected; "" if it is accepted."""
    if not estimate > 0:
        return "the fit gives no noise"
    if not estimate - INTERVAL * se <= bound:
        return f"more than the KLs between neighbouring checkpoints allow, {bound:.2g} bits/byte: the curve is bent"
    if misfit.size:
        worst = float(np.abs(misfit).max())
        return f"no power law with a floor fits: distances are off by up to {worst:.1%}, more than {MISFIT:g} standard errors"
    if not estimate > DETECTED * se:
        return f"less than {DETECTED:g} standard errors from 0"
    return ""


def _parts(n: int, text_ids_N: NDArray[np.intp] | None) -> NDArray[np.intp]:
    """A random but reproducible number below PARTS for every text, (N,); copies of a text have the same number."""
    _, place = np.unique(np.arange(n) if text_ids_N is None else text_ids_N, return_inverse=True)
    differing = int(place.max(initial=-1)) + 1
    shuffled = np.random.default_rng(0).permutation(differing) % max(min(PARTS, differing), 1)
    return np.asarray(shuffled[place], dtype=np.intp)


def _jackknife(without_G: Array) -> Array:
    """Standard error from G values, each without one of G parts of the texts; along the first axis."""
    G = len(without_G)
    spread = np.square(without_G - without_G.mean(axis=0)).sum(axis=0)
    # delete-a-group jackknife (Kott 2001): se^2 = (G - 1) / G sum_g (f_without_g - mean)^2
    return np.asarray(np.sqrt((G - 1) / G * spread))


def _bound(y_TN: Array, text_bytes_N: NDArray[np.int64], text_ids_N: NDArray[np.intp] | None) -> float:
    """The most that independent noise can add to a distance, in bits/byte, by the module's second equation; NaN if unknown."""
    limits = []
    for weights in map(np.array, _DIFFERENCES):
        for k in range(len(y_TN) - len(weights) + 1):
            mixed = weights @ y_TN[k : k + len(weights)]
            kl = kl_pair(mixed, np.zeros_like(mixed), text_bytes_N, text_ids_N)
            error = kl.se if math.isfinite(kl.se) else 0.0
            # f <= 2 |sum c_t y_t|^2 / sum c_t^2 (the module's second equation), with the upper end of its error
            limits.append(2.0 * (kl.value + INTERVAL * error) / float(weights @ weights))
    known = [limit for limit in limits if math.isfinite(limit)]
    return min(known, default=math.nan)


def fitted_floor(taus: Sequence[Array], sqdists: Sequence[Array]) -> tuple[float, Array]:
    """(f of the best fit of D = a tau^c + f to all windows of a run, mean relative misfit by position in the window).

    f is in D's unit, below 0 if the curve bends the other way, NaN if no window can be fitted. Each window has its own a
    and c, f is shared; the misfit is relative to D, so that long lags do not dominate.
    """
    kept = [(t, d) for t, d in zip(taus, sqdists, strict=True) if np.isfinite(d).all() and (d > 0).all()]
    kept = [(t, d) for t, d in kept if len(t) > 2]
    if not kept:
        return math.nan, np.zeros(0)
    top = float(min(d.min() for _, d in kept)) * (1 - 1e-6)
    stacked = [
        (np.log([t for t, _ in kept if len(t) == n]), np.array([d for t, d in kept if len(t) == n]))
        for n in sorted({len(t) for t, _ in kept})
    ]

    def misfit(floor: float) -> float:
        return sum(float(np.square(_residuals(log_tau, d, floor)).sum()) for log_tau, d in stacked)

    grid = top * np.linspace(-1.0, 1.0, 129)
    best = int(np.argmin([misfit(f) for f in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    floor = _golden(misfit, low, high)
    longest = max(len(t) for t, _ in kept)
    off = [row for log_tau, d in stacked for row in _residuals(log_tau, d, floor)]
    return floor, np.array([np.mean([row[i] for row in off if len(row) > i]) for i in range(longest)])


def _residuals(log_tau_Sw: Array, d_Sw: Array, floor: float) -> Array:
    """(D - fit) / D of S windows of w points, S x w, each window fitted by a line in logarithms."""
    # weighted least squares of ln(D - f) on ln tau, with residuals relative to D: d ln(D - f) (D - f) / D = dD / D
    y, weight = np.log(d_Sw - floor), ((d_Sw - floor) / d_Sw) ** 2
    total = weight.sum(axis=1, keepdims=True)
    x = log_tau_Sw - (log_tau_Sw * weight).sum(axis=1, keepdims=True) / total
    middle = (y * weight).sum(axis=1, keepdims=True) / total
    c = (x * y * weight).sum(axis=1, keepdims=True) / (x * x * weight).sum(axis=1, keepdims=True)
    return np.asarray((d_Sw - np.exp(middle + c * x) - floor) / d_Sw)


def _golden(f: Callable[[float], float], low: float, high: float, rounds: int = 40) -> float:
    """Argument of the minimum of f on [low, high] by golden-section search."""
    ratio = (math.sqrt(5.0) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(rounds):
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2
