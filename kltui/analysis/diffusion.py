"""Diffusion exponents: how squared distances in likelihood and weight space grow with training time.

Source: arXiv 2505.15353, Figure 5. D(tau) ~ tau^c: c = 1 is Brownian, below 1 subdiffusive, 2 ballistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.trajectory import even_interval

Array = NDArray[np.float64]
Distance = Callable[[int, int], float]

FROM_STEP = 1000
WINDOW = 10

# Medians per size as published (c_w, c_q, alpha).
PUBLISHED_EXPONENTS = {
    "410m": (1.1, 0.15, 0.14),
    "1b": (0.83, 0.20, 0.24),
    "1.4b": (0.91, 0.21, 0.23),
    "2.8b": (0.90, 0.26, 0.29),
    "6.9b": (0.92, 0.33, 0.36),
}


@dataclass(frozen=True, slots=True)
class Fit:
    """Slope c of ln D on ln tau with R^2, its least-squares standard error and the points used.

    The points of a window share their start, so their errors are correlated: `se` is the scatter about the
    line, not the uncertainty between starts.
    """

    c: float = math.nan
    r2: float = math.nan
    se: float = math.nan
    n: int = 0


@dataclass(frozen=True, slots=True)
class Exponent:
    """Exponents of one window: likelihood space (`_q`), weight space (`_w`), alpha = c_q / c_w, dimensions 2 / c."""

    run: str
    start: int
    window: int
    c_q: float
    r2_q: float
    se_q: float
    n_q: int
    c_w: float = math.nan
    r2_w: float = math.nan
    se_w: float = math.nan
    n_w: int = 0
    noise_floor: float = 0.0

    @property
    def alpha(self) -> float:
        """Hoelder exponent c_q / c_w; NaN where either is undefined or c_w is 0."""
        return self.c_q / self.c_w if self.c_w else math.nan

    @property
    def dimension_q(self) -> float:
        """Fractal dimension 2 / c of the trajectory in likelihood space."""
        return 2.0 / self.c_q if self.c_q else math.nan

    @property
    def dimension_w(self) -> float:
        """Fractal dimension 2 / c of the trajectory in weight space."""
        return 2.0 / self.c_w if self.c_w else math.nan


@dataclass(frozen=True, slots=True)
class ExponentSummary:
    """Median and quartiles over the starts of one run; how the paper averaged them is not stated."""

    run: str
    n_starts: int
    c_q: tuple[float, float, float]
    c_w: tuple[float, float, float]
    alpha: tuple[float, float, float]
    r2_q: float
    r2_w: float


def fit_exponent(tau: ArrayLike, sqdist: ArrayLike) -> Fit:
    """Ordinary least squares of ln D on ln tau over finite positive points; undefined below two.

    >>> round(fit_exponent([1, 2, 4], [3, 12, 48]).c, 12)
    2.0
    """
    t, d = np.asarray(tau, dtype=np.float64), np.asarray(sqdist, dtype=np.float64)
    used = np.isfinite(t) & np.isfinite(d) & (t > 0) & (d > 0)
    n = int(used.sum())
    if n < 2:
        return Fit(n=n)
    x, y = np.log(t[used]), np.log(d[used])
    x, y = x - x.mean(), y - y.mean()
    sxx, syy = float(x @ x), float(y @ y)
    if sxx == 0:
        return Fit(n=n)
    c = float(x @ y) / sxx
    residual = float(((y - c * x) ** 2).sum())
    r2 = 1.0 - residual / syy if syy > 0 else math.nan
    se = math.sqrt(residual / (n - 2) / sxx) if n > 2 else math.nan
    return Fit(c, r2, se, n)


def windows(
    steps: Sequence[int], window: int = WINDOW, from_step: int = FROM_STEP, schedule: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """(start, its next `window` saved steps) for every full window from `from_step` on.

    `schedule` lists every saved step, those of checkpoints left out too: a window then spans the same steps
    as if they were there, without them, and no window starts at one.
    """
    have = set(steps)
    saved = sorted(have | set(schedule))
    full = [tuple(saved[i : i + window + 1]) for i in range(len(saved) - window) if saved[i] >= from_step]
    return [(w[0], *(s for s in w[1:] if s in have)) for w in full if w[0] in have]


def auto_from_step(steps: Sequence[int], window: int = WINDOW) -> int:
    """1000 where a full window begins there, else the step from which the run is saved evenly."""
    if windows(steps, window, FROM_STEP):
        return FROM_STEP
    return even_interval(sorted(steps))[0]


def diffusion(
    run: str,
    steps: Sequence[int],
    kl: Distance,
    sqdist: Distance | None = None,
    *,
    window: int = WINDOW,
    from_step: int = FROM_STEP,
    schedule: Sequence[int] = (),
    noise_corrected: bool | float = False,
) -> list[Exponent]:
    """One Exponent per start with a full window; `kl(t0, t)` and `sqdist(t0, t)` give D_q and D_w of two steps.

    `noise_corrected`: a floor in bits/byte to subtract from D_q, or True to estimate one floor for the run
    (`noise_floor`).
    """
    full = windows(steps, window, from_step, schedule)
    taus = [np.array(w[1:], dtype=np.float64) - w[0] for w in full]
    d_q = [np.array([kl(w[0], t) for t in w[1:]]) for w in full]
    floor = float(noise_corrected)
    if noise_corrected is True:
        floor = noise_floor(taus, d_q)
    found = []
    for w, tau, d in zip(full, taus, d_q, strict=True):
        q = fit_exponent(tau, d - floor)
        e = Exponent(run, w[0], window, q.c, q.r2, q.se, q.n, noise_floor=floor)
        if sqdist is not None:
            f = fit_exponent(tau, [sqdist(w[0], t) for t in w[1:]])
            e = replace(e, c_w=f.c, r2_w=f.r2, se_w=f.se, n_w=f.n)
        found.append(e)
    return found


def noise_floor(taus: Sequence[Array], sqdists: Sequence[Array]) -> float:
    """The constant f of D = a tau^c + f that fits all windows of a run best, in D's unit; 0 where none helps.

    Independent errors of the two ends add the same amount to every distance. Each window has its own a and c, f
    is shared; the misfit is relative to D, so that long lags do not rule.
    """
    kept = [(t, d) for t, d in zip(taus, sqdists, strict=True) if np.isfinite(d).all() and (d > 0).all()]
    kept = [(t, d) for t, d in kept if len(t) > 2]
    if not kept:
        return 0.0
    top = float(min(d.min() for _, d in kept)) * (1 - 1e-6)
    stacked = [
        (np.log([t for t, _ in kept if len(t) == n]), np.array([d for t, d in kept if len(t) == n]))
        for n in sorted({len(t) for t, _ in kept})
    ]

    def misfit(floor: float) -> float:
        return sum(_relative_misfit(log_tau, d, floor) for log_tau, d in stacked)

    grid = top * np.linspace(0.0, 1.0, 65)
    best = int(np.argmin([misfit(f) for f in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 64)])
    floor = _golden(misfit, low, high)
    return floor if misfit(floor) < misfit(0.0) else 0.0


def _relative_misfit(log_tau_Sw: Array, d_Sw: Array, floor: float) -> float:
    """Sum over S windows of w points of ((D - fit) / D)^2, each window fitted by a line in logarithms."""
    y, weight = np.log(d_Sw - floor), ((d_Sw - floor) / d_Sw) ** 2
    total = weight.sum(axis=1, keepdims=True)
    x = log_tau_Sw - (log_tau_Sw * weight).sum(axis=1, keepdims=True) / total
    middle = (y * weight).sum(axis=1, keepdims=True) / total
    c = (x * y * weight).sum(axis=1, keepdims=True) / (x * x * weight).sum(axis=1, keepdims=True)
    fit = np.exp(middle + c * x) + floor
    return float((((d_Sw - fit) / d_Sw) ** 2).sum())


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


def summarise(exponents: Sequence[Exponent]) -> list[ExponentSummary]:
    """Median and quartiles over starts, one row per run in order of appearance."""
    runs = dict.fromkeys(e.run for e in exponents)
    return [_summary(run, [e for e in exponents if e.run == run]) for run in runs]


def _summary(run: str, rows: list[Exponent]) -> ExponentSummary:
    def quartiles(values: list[float]) -> tuple[float, float, float]:
        v = np.array([x for x in values if math.isfinite(x)])
        if not v.size:
            return math.nan, math.nan, math.nan
        q = np.quantile(v, [0.5, 0.25, 0.75])
        return float(q[0]), float(q[1]), float(q[2])

    return ExponentSummary(
        run,
        len(rows),
        quartiles([e.c_q for e in rows]),
        quartiles([e.c_w for e in rows]),
        quartiles([e.alpha for e in rows]),
        quartiles([e.r2_q for e in rows])[0],
        quartiles([e.r2_w for e in rows])[0],
    )
