"""Which KLs the colours of a matrix stand for: the same in the interface, the figure, its script and the page."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from small_workspace import Builder

from kltui.figures.catalogue import picture as picture_of
from kltui.figures.draw import FigureStyle, colour_bars_of, drawing_settings, drawn, panels_of
from kltui.figures.files import write
from kltui.figures.kl import matrix_panel
from kltui.figures.picture import Array, FigureAxis, Layer, Panel, PaperFigure, extends, values
from kltui.figures.share.page import unwritten
from kltui.figures.share.traces import panel_json
from kltui.tui.widgets.matrix_scale import scale_of
from kltui.view.sections.context import LEAVES, Context
from kltui.view.sections.tree import tree as tree_section

FLOOR = 1e-9
BITS = "KL, bits/byte"
LOOK = FigureStyle(3.3464)


class Made:
    """As much of a map as a matrix needs, with a matrix made by hand."""

    def __init__(self, kl_KK: Array) -> None:
        self.kl_KK = kl_KK
        self.names = [f"run{k}@8" for k in range(len(kl_KK))]

    def __len__(self) -> int:
        return len(self.kl_KK)

    def kl(self) -> Array:
        return self.kl_KK

    def kl_se(self) -> Array:
        return 0.1 * self.kl_KK


def matrix_with(*changed: tuple[int, int, float], n: int = 12) -> Array:
    """A matrix of KLs between 0.01 and 1 bits/byte, with some changed."""
    kl = np.exp(np.random.default_rng(3).uniform(math.log(0.01), 0.0, (n, n)))
    for i, j, value in changed:
        kl[i, j] = value
    kl = np.triu(kl, 1)
    return kl + kl.T


def panel_of(kl_KK: Array) -> Panel:
    shown: Any = Made(kl_KK)
    return matrix_panel(shown, kept_order=True, floor=FLOOR)


FAR = [(i, 11, 1e6 * (1 + i)) for i in range(11)]
CASES = {
    "plain": (matrix_with(), "neither", ""),
    "noise": (matrix_with((0, 1, 3e-10), (2, 3, 0.0)), "min", "beyond the ends: noise below 1.0e-09"),
    "diverged": (matrix_with(*FAR), "max", "beyond the ends: KLs to 1.1e+07"),
    "copies": (matrix_with((0, 1, 1e-8), (2, 3, 3e-8)), "min", "beyond the ends: KLs from 1.0e-08"),
    "both": (
        matrix_with((0, 1, 3e-10), *FAR),
        "both",
        "beyond the ends: noise below 1.0e-09, KLs to 1.1e+07",
    ),
    "rescored": (
        np.array([[0, 1e-12, 2e-12], [1e-12, 0, 3e-12], [2e-12, 3e-12, 0]]),
        "min",
        "every KL is below the noise floor of 1.0e-09",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_colours_end_where_those_of_the_interface_do(case: str, tmp_path: Path) -> None:
    kl, ends, beyond = CASES[case]
    panel, on_screen = panel_of(kl), scale_of(kl, FLOOR).ends
    low, high = on_screen or (FLOOR, 10 * FLOOR)
    assert panel.value_limits == (low, high) and panel.value_beyond == beyond and extends(panel) == ends
    picture = PaperFigure("matrix", "m", (panel,), columns=1)
    with drawing_settings(LOOK):
        figure = drawn(picture, LOOK)
        (bar,) = colour_bars_of(panels_of(figure)[0])
        assert (bar.norm.vmin, bar.norm.vmax, bar.extend) == (low, high, ends)
        words = bar.ax.get_ylabel()
        assert words.split() == f"{BITS} {beyond}".split()
        figure.draw_without_rendering()
        box = bar.ax.get_position().bounds
        inside = bar.ax.yaxis.label.get_window_extent()
        assert inside.y0 >= 0 and inside.y1 <= figure.bbox.height and inside.x1 <= figure.bbox.width + 1
    _, _, script = write(picture, tmp_path / "fig.pdf", LOOK)
    with rc_context():
        made = runpy.run_path(str(script))
    (again,) = colour_bars_of(made["axes"][panel.title])
    assert (again.norm.vmin, again.norm.vmax) == pytest.approx((low, high), rel=1e-5)
    assert (again.extend, again.ax.get_ylabel()) == (ends, words)
    made["figure"].draw_without_rendering()
    assert again.ax.get_position().bounds == pytest.approx(box, abs=5e-3)
    heat: Any = panel_json(panel)["traces"][0]  # type: ignore[index]
    assert (10 ** heat["zmin"], 10 ** heat["zmax"]) == pytest.approx((low, high))
    assert heat["colorbar"]["title"]["text"] == (f"{BITS}<br>{beyond}" if beyond else BITS)
    assert all(low <= 10**at <= high for at in heat["colorbar"]["tickvals"])
    shown = np.array([[math.nan if z is None else z for z in row] for row in heat["z"]])
    positive = kl > 0
    np.testing.assert_allclose(10 ** shown[positive], kl[positive], rtol=1e-5)


def test_one_kl_alone_has_a_scale_whose_ends_differ() -> None:
    panel = panel_of(np.array([[0.0, 0.5], [0.5, 0.0]]))
    assert panel.value_limits == (0.5, 5.0) and extends(panel) == "neither"
    assert panel_of(np.zeros((3, 3))).value_limits is None


def test_colours_over_almost_two_decades_have_more_than_one_number() -> None:
    picture = PaperFigure("matrix", "m", (panel_of(matrix_with((0, 1, 0.0101), (0, 2, 0.98))),), columns=1)
    with drawing_settings(LOOK):
        figure = drawn(picture, LOOK)
        figure.draw_without_rendering()
        (bar,) = colour_bars_of(panels_of(figure)[0])
        low, high = bar.norm.vmin, bar.norm.vmax
        said = [
            t.get_text()
            for at, t in zip(bar.ax.get_yticks(), bar.ax.get_yticklabels(), strict=True)
            if low <= at <= high
        ]
    assert 80 < high / low < 100 and low > 0.01 and high < 1
    assert said == ["0.02", "0.05", "0.1", "0.2", "0.5"]


@pytest.mark.parametrize(("n", "width"), [(9, 6.7), (60, 6.7), (70, 3.3)])
def test_names_that_are_not_written_are_said(n: int, width: float, tmp_path: Path) -> None:
    matrix = panel_of(matrix_with(n=n))
    ticks = tuple((float(k), f"run{k}@8") for k in range(2 * n))
    line = Layer("", values([0, 1]), values([0, 2 * n - 1]))
    tree = Panel("Neighbour joining", FigureAxis("branches"), FigureAxis(ticks=ticks), (line,))
    for picture, every in (
        (PaperFigure("matrix", "m", (matrix,), columns=1), n),
        (PaperFigure("tree", "t", (tree,), columns=1), 2 * n),
    ):
        said: list[str] = []
        write(picture, tmp_path / "fig.pdf", FigureStyle(width), said.append)
        with drawing_settings(FigureStyle(width)):
            axes = panels_of(drawn(picture, FigureStyle(width)))[0]
        written = len(axes.get_yticks())
        if picture.name == "matrix":
            written = min(written, len(axes.get_xticks()))
        expected = f"{picture.panels[0].title}: {written} of {every} names written"
        assert [s.startswith(expected) for s in said] == [True] * (written < every)
        if every > 60:
            assert written < every
        on_page = len(panel_json(picture.panels[0])["layout"]["yaxis"]["ticktext"])  # type: ignore[index, call-overload]
        assert [f"{on_page} of {every} " in s for s in unwritten(picture)] == [True] * (on_page < every)


def test_trees_say_which_models_they_leave_out(tmp_path: Path) -> None:
    made = Builder(tmp_path / "work")
    for k in range(LEAVES + 3):
        made.add(made.checkpoint(f"m{k}"), made.base_N + 5 * made.rng.standard_normal(made.n_texts))
    said = f"trees of {LEAVES} of {LEAVES + 3} models, which is the most that they can have"
    with made.open() as ws:
        ctx = Context(ws)
        assert said in picture_of(ctx, "tree").notes
        assert said in tree_section(ctx).notes
