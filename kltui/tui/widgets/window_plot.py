"""The plot of one window of the Diffusion screen: distances from a start over the lag, in both spaces."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.style import Style

from kltui.analysis import number_text
from kltui.sanitize import safe_text
from kltui.tui.weights import Weights
from kltui.tui.widgets.canvas import Span, width_of
from kltui.tui.widgets.plot import PlotPane
from kltui.view.palette import SHADES

if TYPE_CHECKING:
    from kltui.analysis.diffusion import Exponent
    from kltui.analysis.map import Map

WEIGHTS = 4001  # the series of distances in weight space, which has a marker of its own


class WindowPlot(PlotPane):
    """D(tau) of both spaces for one start, relative to its first value, on logarithmic axes."""

    title = "Distance from the start by lag τ, relative"
    x_name, y_name = "lag τ, steps", "D over its first value"

    def __init__(self) -> None:
        super().__init__(id="window-plot")
        self.exponent: Exponent | None = None
        self.taus: list[float] = []
        self.values: dict[str, list[float]] = {}

    def header_right(self) -> list[Span]:
        """The run and the start."""
        e = self.exponent
        return [(f"{safe_text(e.run, 30)} from @{e.start}", self.look("text"))] if e else []

    def show_window(self, found: Map, weights: Weights, exponent: Exponent | None) -> None:
        """Draws the distances of one window and their fits; None: nothing."""
        import numpy as np

        from kltui.view.plot_data import Scene

        self.exponent = exponent
        if exponent is None:
            self.show(None, [])
            return
        self.taus, self.values, errors = distances(found, weights, exponent)
        number = self.kl.snapshot.run_number.get(exponent.run, 0)
        points: list[tuple[float, float]] = []
        codes: list[int] = []
        ends: list[tuple[float, float]] = []
        end_codes: list[int] = []
        for series, space, slope in ((number, "q", exponent.c_q), (WEIGHTS, "w", exponent.c_w)):
            own = relative(self.taus, self.values.get(space, []))
            line = fitted_line(own, slope)
            if space == "q":
                line = line + relative_bars(self.taus, self.values["q"], errors)
            code = series * SHADES + SHADES - 1
            points, codes = points + own, codes + [code] * len(own)
            ends, end_codes = ends + line, end_codes + [code - 2] * len(line)
        if not points:
            self.note = "every distance from this start is 0 or undefined"
            self.show(None, [])
            return
        n = len(points)
        segments = [(n + i, n + i + 1) for i in range(0, len(ends), 2)]
        xy = np.array([*points, *ends], dtype=np.float64)
        scene = Scene(
            xy,
            np.array([*codes, *end_codes], dtype=np.int16),
            np.array(segments, dtype=np.int64).reshape(-1, 2),
            "log",
            "log",
            n,
        )
        self.show(scene, [""] * len(xy))

    def ink(self, code: int) -> Style:
        """The run's colour for likelihood space, a neutral one for weight space."""
        series, shade = divmod(code, SHADES)
        return (
            super().ink(code) if series != WEIGHTS else self.look("text" if shade == SHADES - 1 else "faint")
        )

    def point_marker(self, series: int) -> str:
        """The run's marker for likelihood space, "w" for weight space; without colours, letters mark runs, so "q" and "w"."""
        if series == WEIGHTS:
            return "w"
        return super().point_marker(series) if self.look.color else "q"

    def readout(self) -> list[Span]:
        """The slopes, in as long a form as fits."""
        e = self.exponent
        if e is None:
            return []
        names = ("likelihood c =", "weights c =")
        ways = [self._slopes(e, names, with_fit=True), self._slopes(e, names, with_fit=False)]
        return next(
            (said for said in ways if width_of(said) <= self.body_width),
            self._slopes(e, ("c_q", "c_w"), with_fit=False),
        )

    def _slopes(self, e: Exponent, names: tuple[str, str], *, with_fit: bool) -> list[Span]:
        """Both slopes with their errors, and R^2 if `with_fit`."""
        look, number = self.look, self.kl.snapshot.run_number.get(e.run, 0)
        spans: list[Span] = []
        for n, ink, label, c, se, r2 in (
            (number, look.series(number), names[0], e.c_q, e.se_q, e.r2_q),
            (WEIGHTS, "text", names[1], e.c_w, e.se_w, e.r2_w),
        ):
            fit = f"  R² {r2:.2f}" if with_fit else ""
            known = math.isfinite(c)
            label = label if known else label.removesuffix(" c =")
            said = f"{slope_words(c, se)}{fit}" if known else "not known"
            spans += [
                (f" {self.point_marker(n)} ", look(ink)),
                (f"{label} ", look("muted")),
                (said + "  ", look("text")),
            ]
        return spans


def distances(
    found: Map, weights: Weights, e: Exponent
) -> tuple[list[float], dict[str, list[float]], list[float]]:
    """(lags in steps, {"q": KL from the start in bits/byte minus the noise floor, "w": squared weight distance}, standard
    errors of "q").
    """
    trajectory = next((t for t in found.trajectories() if t.label == e.run), None)
    if trajectory is None:
        return [], {}, []
    first, end = bisect_left(trajectory.steps, e.start), bisect_right(trajectory.steps, e.end)
    rows = trajectory.rows[first:end]
    taus = [float(s - e.start) for s in trajectory.steps[first:end] if s > e.start]
    names = [found.names[r] for r in rows]
    kls = [found.pair_rows(rows[0], r) for r in rows[1:]]
    values = {
        "q": [kl.value - e.noise_floor for kl in kls],
        "w": [weights.get((names[0], n), math.nan) for n in names[1:]],
    }
    return taus, values, [kl.se for kl in kls]


def relative_bars(
    taus: Sequence[float], values: Sequence[float], errors: Sequence[float]
) -> list[tuple[float, float]]:
    """The ends of the error bars, relative to the first distance; without bars that reach 0, which logarithms cannot show."""
    base = next((v for v in values if v > 0), math.nan)
    known = ((t, v, se) for t, v, se in zip(taus, values, errors, strict=True) if v > se > 0)
    return [(t, (v + sign * se) / base) for t, v, se in known for sign in (-1, 1)]


def slope_words(c: float, se: float) -> str:
    """A slope with its standard error, or alone if that is unknown (two points)."""
    return number_text.with_error(c, se) if math.isfinite(se) else number_text.figure(c)


def relative(taus: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """(lag, distance / first positive distance) for the positive distances."""
    base = next((v for v in values if v > 0), math.nan)
    return [(t, v / base) for t, v in zip(taus, values, strict=False) if v > 0]


def fitted_line(points: Sequence[tuple[float, float]], slope: float) -> list[tuple[float, float]]:
    """The two ends of the least-squares line of that slope through points in log-log space; [] if undefined."""
    if not math.isfinite(slope) or len(points) < 2:
        return []
    mean_x = sum(math.log(x) for x, _ in points) / len(points)
    mean_y = sum(math.log(y) for _, y in points) / len(points)
    ends = (min(x for x, _ in points), max(x for x, _ in points))
    return [(x, math.exp(mean_y + slope * (math.log(x) - mean_x))) for x in ends]
