"""Ticks of an axis: multiples of 1, 2 or 5, or decades."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of an axis: its position, in the axis' own coordinate, and its label."""

    at: float
    label: str


def linear_ticks(low: float, high: float, maximum: int = 6) -> list[Tick]:
    """At most `maximum` + 1 ticks inside [low, high] at multiples of 1, 2 or 5 times a power of ten.

    >>> [t.label for t in linear_ticks(0, 1, 5)]
    ['0', '0.2', '0.4', '0.6', '0.8', '1.0']
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low or maximum < 1:
        return []
    step, first, last = next(
        (step, first, last)
        for step in _steps((high - low) / maximum)
        for first, last in [(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))]
        if last - first <= maximum
    )
    return [Tick(k * step, tick_label(k * step, step)) for k in range(first, last + 1)]


def _steps(rough: float) -> Iterator[float]:
    """Yields rising round steps, from somewhat below `rough`."""
    power = math.floor(math.log10(rough))
    for decade in itertools.count(power):
        for factor in (1, 2, 5):
            if factor * 10.0**decade >= rough / 2.5:
                yield factor * 10.0**decade


def tick_label(value: float, step: float) -> str:
    """The shortest decimal of `value` that differs from neighbours at a distance `step`; thousands as k, millions as M.

    >>> tick_label(143000, 1000), tick_label(0.25, 0.05)
    ('143k', '0.25')
    """
    if abs(value) < step * 1e-6:
        return "0"
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return _decimal(value / unit, step / unit) + suffix
    if step < 1e-4:
        return f"{value:.{_significant(value, step)}e}"
    return _decimal(value, step)


def _significant(value: float, step: float) -> int:
    return max(0, math.floor(math.log10(abs(value))) - math.floor(math.log10(step)))


def _decimal(value: float, step: float) -> str:
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{places}f}"


def decade_ticks(low_log10: float, high_log10: float, maximum: int = 6) -> list[Tick]:
    """Ticks on a log10 axis, `at` in log10 units: decades, with 2 and 5 between them if there is space.

    A single tick does not show the scale, so there may be more than `maximum`.

    >>> [t.label for t in decade_ticks(0, 3)]
    ['1', '10', '100', '1k']
    >>> [t.label for t in decade_ticks(-1.7, 1.3, 2)], [t.label for t in decade_ticks(-0.6, 0.9, 2)]
    (['0.1', '1', '10'], ['0.5', '1', '2', '5'])
    """
    span = high_log10 - low_log10
    if not math.isfinite(span) or span <= 0 or maximum < 1:
        return []
    if span <= 0.3:
        return _within_decade(low_log10, high_log10, maximum)
    stride = max(1, math.ceil(span / maximum))
    inner = (1, 2, 5) if span * 3 < 1.5 * maximum else (1,)
    ticks = _decades(low_log10, high_log10, stride, inner)
    while len(ticks) < 2 and stride > 1:
        stride -= 1
        ticks = _decades(low_log10, high_log10, stride, inner)
    if len(ticks) < 2:
        ticks = _decades(low_log10, high_log10, 1, (1, 2, 5))
    return ticks if len(ticks) > 1 else _within_decade(low_log10, high_log10, max(maximum, 4))


def _decades(low_log10: float, high_log10: float, stride: int, factors: tuple[int, ...]) -> list[Tick]:
    """Ticks inside the limits at `factors` of every `stride`-th power of ten."""
    decades = range(math.floor(low_log10), math.ceil(high_log10) + 1)
    ticks = [_decade_tick(d, factor) for d in decades if d % stride == 0 for factor in factors]
    return [t for t in ticks if low_log10 - 1e-9 <= t.at <= high_log10 + 1e-9]


def _decade_tick(decade: int, factor: int) -> Tick:
    value = factor * 10.0**decade
    if -4 <= decade <= 9:
        return Tick(math.log10(value), tick_label(value, 10.0**decade))
    return Tick(math.log10(value), f"{factor}e{decade}")


def _within_decade(low_log10: float, high_log10: float, maximum: int) -> list[Tick]:
    ticks = linear_ticks(10**low_log10, 10**high_log10, maximum)
    return [Tick(math.log10(t.at), t.label) for t in ticks if t.at > 0]


def axis_name(name: str, scale: Literal["linear", "log", "log1p"], maximum: int) -> str:
    """The name of an axis in at most `maximum` characters, if necessary without its unit, or cut.

    >>> axis_name("KL, bits/byte", "log", 30), axis_name("KL, bits/byte", "log", 10)
    ('KL, bits/byte, log', 'KL, log')
    """
    if not name:
        return ""
    log = {"linear": "", "log": ", log", "log1p": ", log(1 + x)"}[scale]
    for said in (name + log, name.partition(", ")[0] + log):
        if len(said) <= maximum:
            return said
    return said[: max(0, maximum)]
