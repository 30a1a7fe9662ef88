"""Diffusion exponents: how squared distances in likelihood and weight space grow with training time.

Source: arXiv 2505.15353, Figure 5. D(tau) ~ tau^c: c = 1 is Brownian, below 1 subdiffusive, 2 ballistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.noise import NO_FLOOR, NoiseFloor
from kltui.analysis.number_text import figure, with_error
from kltui.analysis.trajectory import even_interval
from kltui.html_table import html_table

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
    """Exponents of one window: likelihood space (`_q`), weight space (`_w`), alpha = c_q / c_w, dimensions 2 / c.

    `window` counts saved steps from `start` to `end`, including those of checkpoints that are left out.
    """

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
    floor: NoiseFloor = NO_FLOOR
    end: int = 0

    @property
    def noise_floor(self) -> float:
        """Measurement noise in bits/byte that was subtracted from the distances in likelihood space."""
        return self.floor.value

    @property
    def alpha(self) -> float:
        """Hoelder exponent alpha = c_q / c_w (arXiv 2505.15353, Figure 5); NaN if either is undefined or c_w is 0."""
        return self.c_q / self.c_w if self.c_w else math.nan

    @property
    def dimension_q(self) -> float:
        """Fractal dimension 2 / c of the trajectory in likelihood space."""
        return 2.0 / self.c_q if self.c_q else math.nan

    @property
    def dimension_w(self) -> float:
        """Fractal dimension 2 / c of the trajectory in weight space."""
        return 2.0 / self.c_w if self.c_w else math.nan

    def _repr_html_(self) -> str:
        rows = (
            ("c in likelihood space", with_error(self.c_q, self.se_q), figure(self.r2_q), str(self.n_q)),
            ("c in weight space", with_error(self.c_w, self.se_w), figure(self.r2_w), str(self.n_w)),
            ("alpha = c_q / c_w", figure(self.alpha), "", ""),
        )
        caption = f"diffusion of {self.run}, steps {self.start} to {self.end}"
        return html_table(caption, ("", "exponent", "R²", "points"), rows)


@dataclass(frozen=True, slots=True)
class ExponentSummary:
    """Median and quartiles over the starts of one run; the paper does not say how it averaged them."""

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
    c = float(x @ y) / sxx  # ordinary least squares: c = S_xy / S_xx
    residual = float(((y - c * x) ** 2).sum())
    r2 = 1.0 - residual / syy if syy > 0 else math.nan  # R^2 = 1 - residual / S_yy
    se = math.sqrt(residual / (n - 2) / sxx) if n > 2 else math.nan  # se^2 = residual / (n - 2) / S_xx
    return Fit(c, r2, se, n)


def fit_exponents(tau_MW: Array, sqdist_MW: Array) -> list[Fit]:
    """The result of `fit_exponent`, bit for bit, for each of M windows of W points."""
    used = np.isfinite(tau_MW) & np.isfinite(sqdist_MW) & (tau_MW > 0) & (sqdist_MW > 0)
    whole = np.asarray(used.all(axis=1), dtype=np.bool_)
    n = tau_MW.shape[1]
    if n < 2 or not whole.all():
        of_whole = iter(fit_exponents(tau_MW[whole], sqdist_MW[whole]) if n > 1 and whole.any() else [])
        rows = zip(tau_MW, sqdist_MW, whole, strict=True)
        return [next(of_whole) if n > 1 and all_there else fit_exponent(t, d) for t, d, all_there in rows]
    x, y = np.log(tau_MW), np.log(sqdist_MW)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    sxx, syy, sxy = _dots(x, x), _dots(y, y), _dots(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        c = sxy / sxx
        residual = ((y - c[:, None] * x) ** 2).sum(axis=1)
        r2 = np.where(syy > 0, 1.0 - residual / syy, np.nan)
        se = np.sqrt(residual / (n - 2) / sxx) if n > 2 else np.full(len(c), np.nan)
    columns = zip(sxx.tolist(), c.tolist(), r2.tolist(), se.tolist(), strict=True)
    return [Fit(c_, r2_, se_, n) if spread else Fit(n=n) for spread, c_, r2_, se_ in columns]


def _dots(a_MW: Array, b_MW: Array) -> Array:
    """The dot products of M pairs of rows, (M,), bit for bit those of `@`."""
    made: Array = np.matmul(a_MW[:, None, :], b_MW[:, :, None])[:, 0, 0]
    return made


def windows(
    steps: Sequence[int], window: int = WINDOW, from_step: int = FROM_STEP, schedule: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """(start, its next `window` saved steps) for every full window from `from_step` on.

    `schedule` lists every saved step, including those of checkpoints that are left out. A window then spans the same
    steps as if these were present, lacks their points, and never starts at one of them.
    """
    have = set(steps)
    saved = sorted(have | set(schedule))
    full = [tuple(saved[i : i + window + 1]) for i in range(len(saved) - window) if saved[i] >= from_step]
    return [(w[0], *(s for s in w[1:] if s in have)) for w in full if w[0] in have]


def auto_from_step(steps: Sequence[int], window: int = WINDOW) -> int:
    """1000 if a full window begins there, otherwise the step from which the run is saved evenly."""
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
    floor: NoiseFloor = NO_FLOOR,
) -> list[Exponent]:
    """One Exponent per start with a full window; `kl(t0, t)` and `sqdist(t0, t)` give D_q and D_w of two steps.

    `floor` is subtracted from D_q before the fit (`kltui.analysis.noise`).
    """
    full = windows(steps, window, from_step, schedule)
    # D_q(tau) = KL(t0, t0 + tau) and D_w(tau) = |theta_t0+tau - theta_t0|^2 (arXiv 2505.15353, Figure 5)
    in_q = _fits(full, kl, floor.value)
    in_w = _fits(full, sqdist) if sqdist is not None else [Fit()] * len(full)
    return [
        Exponent(run, w[0], window, q.c, q.r2, q.se, q.n, f.c, f.r2, f.se, f.n, floor, w[-1])
        for w, q, f in zip(full, in_q, in_w, strict=True)
    ]


def _fits(full: Sequence[tuple[int, ...]], distance: Distance, floor: float = 0.0) -> list[Fit]:
    """The fit of each window. Windows of one length are fitted together, because a long run has very many."""
    found = [Fit()] * len(full)
    of_length: dict[int, list[int]] = {}
    for place, w in enumerate(full):
        of_length.setdefault(len(w), []).append(place)
    for length, places in of_length.items():
        steps = np.array([full[i] for i in places], dtype=np.float64)
        sqdist = np.array([[distance(full[i][0], t) for t in full[i][1:]] for i in places], dtype=np.float64)
        fits = fit_exponents(steps[:, 1:] - steps[:, :1], sqdist.reshape(len(places), length - 1) - floor)
        for place, fit in zip(places, fits, strict=True):
            found[place] = fit
    return found


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
        if v.size == 1:
            return float(q[0]), math.nan, math.nan  # a single start has no quartiles
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
