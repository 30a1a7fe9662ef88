"""Figures on paper: sizes, names and ticks that do not run into each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.errors import UsageError
from kltui.figures.draw import FigureStyle, drawing_settings, drawn, parse_width
from kltui.figures.kl import _from_floor
from kltui.figures.picture import (
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
)


def test_widths_are_lengths() -> None:
    assert parse_width("3.3in") == 3.3 and parse_width("8.5cm") == pytest.approx(parse_width("85mm"))
    for wrong in ("85", "mm", "-3in", "nanmm", "1e9mm"):
        with pytest.raises(UsageError):
            parse_width(wrong)


def test_what_rounding_makes_does_not_stretch_a_scale_of_kl() -> None:
    kl = np.array([np.nan, 1e-14, 0.0, 0.02, 0.5])
    assert _from_floor(kl, 1e-9) == (0.02, 0.5)
    assert _from_floor(kl[3:], 1e-9) is None and _from_floor(kl[:3], 1e-9) is None


def matrix_of_names(n: int) -> PaperFigure:
    """A matrix of n models with names as checkpoints have them."""
    x, y = (v.ravel().astype(float) for v in np.meshgrid(range(n), range(n)))
    ticks = tuple((float(k), f"small-seed1-finetuned@{k}") for k in range(n))
    cells = Layer("", x, y, "cells", value=1.0 + x + y)
    panel = Panel("KL", FigureAxis(ticks=ticks), FigureAxis(ticks=ticks), (cells,), value_label="KL")
    return PaperFigure("matrix", "KL", (panel,), columns=1)


@pytest.mark.parametrize(("n", "width"), [(8, "85mm"), (85, "85mm"), (40, "170mm")])
def test_names_of_a_matrix_do_not_run_into_each_other(n: int, width: str) -> None:
    look = FigureStyle(parse_width(width))
    with drawing_settings(look):
        figure = drawn(matrix_of_names(n), look)
        figure.draw_without_rendering()
    axes = figure.axes[0]
    dots = figure.dpi / 72
    for which, side in (("x", 0), ("y", 1)):
        names = getattr(axes, f"get_{which}ticklabels")()
        places = axes.transData.transform([[at, at] for at in getattr(axes, f"get_{which}ticks")()])[:, side]
        turned = math.radians(names[0].get_rotation()) if which == "x" else math.pi / 2
        between = np.abs(np.diff(places)).min() * math.sin(turned)
        assert between >= 1.1 * names[0].get_fontsize() * dots, (which, len(names))
        assert names[0].get_fontsize() >= 6 and len(names) >= min(n, 8)
        assert names[0].get_text().endswith("@0")
    low, high = axes.get_window_extent().y0, axes.get_window_extent().y1
    assert high - low > 0.4 * figure.bbox.height, "the cells take most of the page"


def test_a_flat_map_takes_no_more_paper_than_it_needs() -> None:
    x = np.linspace(0, 10, 20)
    heights = []
    for y in (0.1 * np.sin(x), 5 * np.sin(x)):
        panel = Panel("map", FigureAxis("axis 1"), FigureAxis("axis 2"), (Layer("run", x, y),), equal=True)
        heights.append(drawn(PaperFigure("m", "m", (panel,)), FigureStyle(4.0)).get_figheight())
    assert heights[0] < 0.6 * heights[1]


def test_long_names_below_a_narrow_figure_leave_its_points_room() -> None:
    ticks = tuple((float(k), f"early pretraining ({k})") for k in range(12))
    layer = Layer("pairs", np.arange(12.0), 10.0 ** np.arange(-9, 3), "points")
    panel = Panel("scale", FigureAxis("setting", ticks=ticks), FigureAxis("KL", "log"), (layer,))
    look = FigureStyle(parse_width("85mm"))
    with drawing_settings(look):
        figure = drawn(PaperFigure("scale", "scale", (panel,), columns=1), look)
        figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_window_extent().height > 0.4 * axes.get_window_extent().width


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((1e-6, 10.0), {"$10^{-6}$", "$10^{-2}$", "$10^{0}$"}),
        ((2e-6, 5e-6), {r"$2\times10^{-6}$"}),
        ((0.01, 10.0), {"0.01", "10"}),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_written_in_one_way(
    ends: tuple[float, float], words: set[str]
) -> None:
    panel = Panel("p", FigureAxis("x"), FigureAxis("y", "log"), (Layer("a", np.arange(2.0), np.array(ends)),))
    look = FigureStyle(4.0)
    with drawing_settings(look):
        figure = drawn(PaperFigure("p", "p", (panel,)), look)
        figure.draw_without_rendering()
    found = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert words <= set(found) and len({text.startswith("$") for text in found}) == 1
