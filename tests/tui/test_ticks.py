"""Ticks at 1, 2, 5 and at decades."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.view.axis import Axis, Scale, fit_axis
from kltui.view.ticks import decade_ticks, linear_ticks, tick_label


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-3.2, 7.9, ["-2", "0", "2", "4", "6"]),
        (0, 143000, ["0", "50k", "100k"]),
        (0.0101, 0.0109, ["0.0102", "0.0104", "0.0106", "0.0108"]),
        (1e-7, 3e-7, ["1.0e-07", "1.5e-07", "2.0e-07", "2.5e-07", "3.0e-07"]),
        (5, 5, []),
        (math.nan, 1, []),
        (0, math.inf, []),
    ],
)
def test_linear_ticks(low: float, high: float, labels: list[str]) -> None:
    assert [t.label for t in linear_ticks(low, high, 5)] == labels


@settings(deadline=None)  # a busy machine may be slow
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 12))
def test_linear_ticks_lie_inside_at_equal_steps(low: float, span: float, maximum: int) -> None:
    ticks = linear_ticks(low, low + span, maximum)
    assert len(ticks) <= maximum + 1
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= t.at <= low + span + slack for t in ticks)
    steps = [b.at - a.at for a, b in pairwise(ticks)]
    assert not steps or max(steps) - min(steps) <= slack


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 3, ["1", "10", "100", "1k"]),
        (-2, 0, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
        (0.0, 12.0, ["1", "100", "10k", "1M", "100M", "1e10", "1e12"]),
        (-12, -10, ["1e-12", "2e-12", "5e-12", "1e-11", "2e-11", "5e-11", "1e-10"]),
        (1, 1, []),
    ],
)
def test_decade_ticks(low: float, high: float, labels: list[str]) -> None:
    assert [t.label for t in decade_ticks(low, high)] == labels


def test_a_part_of_a_decade_has_linear_ticks() -> None:
    ticks = decade_ticks(math.log10(3.0), math.log10(4.0))
    assert [t.label for t in ticks] == ["3.0", "3.2", "3.4", "3.6", "3.8", "4.0"]
    assert ticks[0].at == pytest.approx(math.log10(3.0))


def test_labels_tell_neighbours_apart() -> None:
    assert [tick_label(v, 500) for v in (0, 500, 1000, 1500)] == ["0", "500", "1.0k", "1.5k"]


@pytest.mark.parametrize("scale", ["log", "log1p"])
@pytest.mark.parametrize("maximum", [2, 3, 5])
def test_every_logarithmic_axis_has_two_ticks_or_more(scale: Scale, maximum: int) -> None:
    for low in (1.0, 6.0, 32.0, 77.0, 1e-3 if scale == "log" else 0.0):
        for factor in (1.3, 2.4, 8.0, 30.0, 700.0):
            axis = fit_axis(Axis.forward(np.array([low, (low or 1.0) * factor]), scale), scale, None)
            ticks = axis.ticks(maximum)
            assert 2 <= len(ticks) <= 9, (low, factor, ticks)
            assert all(0 <= place <= 1 for place, _ in ticks)
