"""One axis of a text plot: scale, limits, position of a value in 0 to 1, and ticks at round numbers."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kltui.view.ticks import Tick, decade_ticks, linear_ticks

Floats = NDArray[np.float64]
Scale = Literal["linear", "log", "log1p"]

_MAX_LINEAR = 1e12
_MAX_DECADES = 300.0
_MAX = sys.float_info.max


@dataclass(frozen=True)
class Axis:
    """Limits `low` < `high` on the axis' own scale: data, log10 of data, or log10(1 + data); `whole`: of integers."""

    scale: Scale
    low: float
    high: float
    whole: bool = False

    @staticmethod
    def forward(values: Floats, scale: Scale) -> Floats:
        """A new array of the values on the scale; NaN if they have no logarithm."""
        if scale == "linear":
            return values.copy()
        with np.errstate(divide="ignore", invalid="ignore"):
            out = np.log10(values) if scale == "log" else np.log1p(values) / math.log(10)
        return np.where(np.isfinite(out), out, np.nan)

    @property
    def span(self) -> float:
        """Length of the axis on its scale."""
        return self.high - self.low

    def unit(self, values: Floats) -> Floats:
        """Positions of already scaled values between the limits: 0 at `low`, 1 at `high`."""
        places: Floats = values / 2  # halves avoid overflow
        places -= self.low / 2
        places /= self.high / 2 - self.low / 2
        return places

    def widened(self, span: float) -> Axis:
        """This axis, lengthened about its middle to at least `span`."""
        if not (math.isfinite(span) and span > self.span):
            return self
        middle = self.low / 2 + self.high / 2
        return replace(self, low=middle - span / 2, high=middle + span / 2)

    def ticks(self, maximum: int) -> list[tuple[float, str]]:
        """At most about `maximum` ticks, and at least one, as (position in 0 to 1, label); labels are ASCII."""
        marks = [t for t in self._round_ticks(maximum) if self.low <= t.at <= self.high]
        if not marks:
            marks = [
                Tick(self.low, self._plain_label(self.low)),
                Tick(self.high, self._plain_label(self.high)),
            ]
        places = self.unit(np.array([t.at for t in marks], dtype=np.float64))
        return [(min(max(float(u), 0.0), 1.0), t.label) for u, t in zip(places, marks, strict=True)]

    def _round_ticks(self, maximum: int) -> list[Tick]:
        """Ticks at round numbers on the axis' own scale; [] if the numbers are too large."""
        largest = max(abs(self.low), abs(self.high))
        if largest > (_MAX_LINEAR if self.scale == "linear" else _MAX_DECADES):
            return []
        if self.scale == "linear":
            return linear_ticks(
                self.low, self.high, min(maximum, max(1, int(self.span))) if self.whole else maximum
            )
        if self.scale == "log":
            return decade_ticks(self.low, self.high, maximum)
        if self.low > 0.3:  # log10(1 + 1): from 1 on, like an axis without 0
            ends = math.log10(10**self.low - 1), math.log10(10**self.high - 1)
            return _at_whole([Tick(math.log10(1 + 10**t.at), t.label) for t in decade_ticks(*ends, maximum)])
        zero = [Tick(0.0, "0")] if self.low <= 0 else []
        every = decade_ticks(0.0, math.log10(10 ** max(self.high, 0.31) - 1), maximum - 1)
        decades = [t for t in every if t.at > 0 or maximum > 2] or every
        return _at_whole([*zero, *(Tick(math.log10(1 + 10**t.at), t.label) for t in decades)])

    def _plain_label(self, place: float) -> str:
        if self.scale == "linear":
            return f"{place:.2e}"
        return f"1e{place:.1f}"


def _at_whole(ticks: list[Tick]) -> list[Tick]:
    """The ticks of a log10(1 + step) axis at whole steps; all of them if fewer than two are, which would show no scale."""
    steps = [(round(10**t.at - 1), t) for t in ticks]
    whole = [(step, t) for step, t in steps if math.isclose(math.log10(1 + step), t.at, abs_tol=1e-9)]
    named = [replace(t, label=str(step)) if step < 1000 else t for step, t in whole]
    return named if len(named) > 1 else ticks


def _are_whole(values: Floats) -> bool:
    """Whether every finite value is an integer."""
    finite = values[np.isfinite(values)]
    return bool((finite == np.floor(finite)).all())


def fit_axis(scaled: Floats, scale: Scale, limits: tuple[float, float] | None) -> Axis:
    """The axis for all finite values of `scaled`, or for the given limits in data units; its length is never 0."""
    if limits is not None:
        ends = Axis.forward(np.array(limits, dtype=np.float64), scale)
        if np.isfinite(ends).all():
            scaled = ends
    low, high = float(np.nanmin(scaled)), float(np.nanmax(scaled))
    whole = scale == "linear" and high - low >= 1 and _are_whole(scaled[:1]) and _are_whole(scaled)
    half = high / 2 - low / 2
    if half <= 1e-9 * max(abs(low), abs(high)) or half < 1e-300:
        pad = 0.5 if scale != "linear" else max(abs(low) * 0.05, abs(high) * 0.05)
        pad = pad if pad > 1e-290 else 0.5
        low, high = max(low - pad, -_MAX), min(high + pad, _MAX)
    return Axis(scale, low, high, whole)
