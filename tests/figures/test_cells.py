"""Cells of a matrix: a KL of 0, of equal models, is neither an undefined one nor nothing."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from small_workspace import Builder

from kltui.figures.catalogue import picture
from kltui.figures.draw import FigureStyle, drawing_settings, drawn
from kltui.figures.files import write
from kltui.figures.picture import PaperFigure
from kltui.figures.share.traces import panel_json
from kltui.view.sections.context import Context

ZERO, UNDEFINED = "KL = 0: equal on every text", "undefined: too few texts in common"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> PaperFigure:
    """The matrix of two equal models, a third, and two that have no text in common."""
    made = Builder(tmp_path_factory.mktemp("odd") / "work")
    half = np.arange(made.n_texts) < made.n_texts // 2
    walk = made.base_N + 5 * made.rng.standard_normal(made.n_texts)
    made.add(made.checkpoint("one"), made.base_N)
    made.add(made.checkpoint("same"), made.base_N)
    made.add(made.checkpoint("other"), walk)
    made.add(made.checkpoint("first"), np.where(half, walk + made.rng.standard_normal(made.n_texts), np.nan))
    made.add(made.checkpoint("second"), np.where(half, np.nan, walk - made.rng.standard_normal(made.n_texts)))
    with made.open() as ws:
        return picture(Context(ws), "matrix")


def test_equal_and_undefined_pairs_are_marked_and_named(odd: PaperFigure) -> None:
    (panel,) = odd.panels
    marked = {layer.label: set(layer.names) for layer in panel.layers[1:]}
    assert marked[ZERO] == {"one | same", "same | one"}
    assert marked[UNDEFINED] == {"first | second", "second | first"}
    cells = panel.layers[0]
    assert cells.value is not None
    assert {n for n, v in zip(cells.names, cells.value, strict=True) if v == 0} == marked[ZERO]


def colours(figure: object, axes: object, odd: PaperFigure) -> dict[str, tuple[int, ...]]:
    """The colour of each cell near one of its corners, where no mark is."""
    figure.set_dpi(100)  # type: ignore[attr-defined]
    canvas = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    cells = odd.panels[0].layers[0]
    places = axes.transData.transform(np.stack([cells.x + 0.35, cells.y + 0.35], axis=1))  # type: ignore[attr-defined]
    found = [pixels[len(pixels) - 1 - int(y), int(x)] for x, y in places]
    return {name: tuple(map(int, rgb[:3])) for name, rgb in zip(cells.names, found, strict=True)}


def test_a_kl_of_0_has_the_colour_of_the_smallest_in_the_figure_and_its_script(
    odd: PaperFigure, tmp_path: Path
) -> None:
    with drawing_settings(FigureStyle()):
        figure = drawn(odd, FigureStyle())
        shown = colours(figure, figure.axes[0], odd)
    white = (255, 255, 255)
    assert shown["one | same"] == shown["same | one"] != white
    assert shown["first | second"] == shown["one | one"] == white
    cells = odd.panels[0].layers[0]
    assert cells.value is not None
    smallest = cells.names[int(np.nanargmin(np.where(cells.value > 0, cells.value, np.nan)))]
    assert shown["one | same"] == shown[smallest]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [ZERO, UNDEFINED]
    _, _, script = write(odd, tmp_path / "fig.pdf", FigureStyle())
    with rc_context():
        made = runpy.run_path(str(script))
        again = colours(made["figure"], made["axes"]["KL between last checkpoints"], odd)
    assert again == shown
    assert [text.get_text() for text in made["figure"].legends[0].get_texts()] == [ZERO, UNDEFINED]


def test_the_page_shows_equal_models_as_the_nearest_and_says_undefined(odd: PaperFigure) -> None:
    heat = next(trace for trace in panel_json(odd.panels[0])["traces"] if trace["type"] == "heatmap")  # type: ignore[attr-defined, union-attr]
    said = {word.split("<br>")[0]: word for row in heat["hovertext"] for word in row}
    z = {
        word.split("<br>")[0]: v
        for row, words in zip(heat["z"], heat["hovertext"], strict=True)
        for v, word in zip(row, words, strict=True)
    }
    known = [v for v in z.values() if v is not None]
    assert z["one | same"] == min(known) and "undefined" not in said["one | same"]
    assert z["first | second"] is None and said["first | second"].endswith("undefined")
    assert said["one | one"] == "one | one"


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_matrix_without_any_positive_kl_is_drawn(value: float, tmp_path: Path) -> None:
    made = Builder(tmp_path / "work")
    walk = made.base_N if value == 0 else np.full(made.n_texts, np.nan)
    walk[:1] = made.base_N[:1]
    for name in ("a", "b", "c"):
        made.add(made.checkpoint(name), walk)
    with made.open() as ws:
        picture_of = picture(Context(ws), "matrix")
    _, _, script = write(picture_of, tmp_path / "fig.pdf", FigureStyle())
    with rc_context():
        runpy.run_path(str(script))
    (label,) = {layer.label for layer in picture_of.panels[0].layers if layer.label}
    assert label == (ZERO if value == 0 else UNDEFINED)
