"""Words of figures: nothing cut off by the page, broken within a name, in front of other words, or too small to read."""

from __future__ import annotations

import csv
import itertools
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from kltui.figures.catalogue import picture
from kltui.figures.draw import FigureStyle, _settings, drawn, parse_width, symlog_places
from kltui.figures.files import write
from kltui.figures.picture import FigureAxis, Layer, Panel, PaperFigure, slot_colour
from kltui.sanitize import short_names
from kltui.view import palette
from kltui.view.palette import LIGHT, linear, rgb
from kltui.view.sections.context import Context
from kltui.workspace import Workspace

LONG = [f"organisation/EXPERIMENT_2026_decoder-only-410m-seed{k}-cosine-warmup2000@143000" for k in range(8)]
NAMES = [*(f"{name}{kind}" for name in LONG for kind in ("+bnb-8bit", "+bnb-fp4")), "a$b$c", "m" * 70]


def ticks(names: list[str]) -> tuple[tuple[float, str], ...]:
    return tuple((float(k), name) for k, name in enumerate(names))


def pictures() -> dict[str, PaperFigure]:
    """A figure of each kind of place for names: rows and columns, rows alone, columns alone, legend, title."""
    n = len(NAMES)
    x, y = (v.ravel().astype(float) for v in np.meshgrid(range(n), range(n)))
    cells = Layer("", x, y, "cells", value=1.0 + x + y)
    names = FigureAxis(ticks=ticks(NAMES))
    at = np.arange(float(n))
    value, kl = FigureAxis("branches from the top, KL in bits/byte"), FigureAxis("KL, bits/byte", "log")
    step = FigureAxis("training step")
    leaves = Layer("", at, at, "points", value=at)
    tree = [Panel(title, value, names, (leaves,), value_label="support") for title in ("Joined", "Linked")]
    below = [Panel(title, names, kl, (Layer("", at, at + 1, "points"),)) for title in ("Scale", "Variants")]
    runs = tuple(Layer(name, at, at + k + 1) for k, name in enumerate(NAMES))
    curves = [Panel(title, step, kl, runs) for title in ("One", "Two", "Three")]
    pair = [Panel(f"{LONG[0]} against {LONG[1]}, by {by}", step, kl, runs[:1]) for by in ("domain", "text")]
    short = [Panel(f"llama-tiny@64 against small-seed1-finetuned@40, by {by}", step, kl, ()) for by in "ab"]
    return {
        "matrix": PaperFigure("m", "m", (Panel("KL", names, names, (cells,), value_label="KL"),), columns=1),
        "tree": PaperFigure("t", "t", tuple(tree)),
        "below": PaperFigure("b", "b", tuple(below)),
        "legend": PaperFigure("l", "l", tuple(curves), columns=3),
        "title": PaperFigure("d", "d", tuple(pair)),
        "short title": PaperFigure("s", "s", tuple(short)),
    }


def words_of(figure: Figure) -> Iterator[Text]:
    """Every word that is drawn."""
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label)
        for which in "xy":
            low, high = sorted(getattr(axes, f"get_{which}lim")())
            labels = zip(
                getattr(axes, f"get_{which}ticks")(), getattr(axes, f"get_{which}ticklabels")(), strict=True
            )
            yield from (label for at, label in labels if low <= at <= high)
    for legend in figure.legends:
        yield from legend.get_texts()


def check(figure: Figure, smallest: float = 6.0) -> None:
    """Asserts that all words are on the page, none is smaller than `smallest` points or in front of level ones."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    shown = [(word.get_window_extent(), word) for word in words_of(figure) if word.get_text()]
    for box, word in shown:
        assert word.get_fontsize() >= smallest, word.get_text()
        assert box.x0 >= -1 and box.y0 >= -1, word.get_text()
        assert box.x1 <= width + 1 and box.y1 <= height + 1, word.get_text()
    level = [(box, word) for box, word in shown if word.get_rotation() % 90 == 0]
    for (a, word), (b, other) in itertools.combinations(level, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, (word.get_text(), other.get_text())


@pytest.mark.parametrize("width", ["85mm", "120mm", "170mm"])
@pytest.mark.parametrize("name", list(pictures()))
def test_words_are_on_the_page_and_large_enough(name: str, width: str) -> None:
    look = FigureStyle(parse_width(width))
    with _settings(look):
        figure = drawn(pictures()[name], look)
        check(figure)
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            assert axes.get_window_extent().width > 0.25 * 72 / 25.4 * 35, "names leave the data room"


@pytest.mark.parametrize("width", ["85mm", "120mm", "170mm"])
def test_a_title_breaks_between_words_only(width: str) -> None:
    look = FigureStyle(parse_width(width))
    for name in ("title", "short title"):
        picture = pictures()[name]
        with _settings(look):
            figure = drawn(picture, look)
        for axes, panel in zip(figure.axes, picture.panels, strict=True):
            said, given = axes.get_title().split(), panel.title.split()
            assert len(said) == len(given)
            for short, word in zip(said, given, strict=True):
                head, _, tail = short.partition("…")
                assert short == word or (word.startswith(head) and word.endswith(tail))
            assert name == "title" or said == given


@pytest.mark.parametrize("width", ["85mm", "170mm"])
def test_names_that_differ_still_do_when_they_are_cut(width: str) -> None:
    look = FigureStyle(parse_width(width))
    with _settings(look):
        made = {name: drawn(picture, look) for name, picture in pictures().items()}
        for figure in made.values():
            figure.draw_without_rendering()
    for name, which in (("matrix", "y"), ("tree", "y"), ("below", "x")):
        for axes in made[name].axes:
            shown = [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]
            assert len(set(shown)) == len(shown)
    shown = [text.get_text() for text in made["legend"].legends[0].get_texts()]
    assert len(set(shown)) == len(NAMES)


def test_short_names_are_apart_and_no_longer_than_asked() -> None:
    rng = np.random.default_rng(0)
    for limit in (12, 20, 40):
        for _ in range(50):
            base = "".join(rng.choice(list("abc-@"), 60))
            names = [base]
            for _ in range(9):
                at = int(rng.integers(60))
                names.append(base[:at] + str(rng.integers(9)) + base[at + 1 :])
            found = short_names(names, limit)
            assert len(set(found)) == len(set(names)) and max(map(len, found)) <= limit


def test_dollar_signs_of_a_name_are_drawn_as_they_are(tmp_path: Path) -> None:
    at = np.arange(2.0)
    layer = Layer("a$b$c", at, at)
    panel = Panel("a$b$c", FigureAxis(ticks=((0.0, "a$b$c"), (1.0, "d"))), FigureAxis("KL"), (layer,))
    _, _, script = write(PaperFigure("p", "p", (panel,)), tmp_path / "fig.pdf", FigureStyle())
    with rc_context():
        figure = runpy.run_path(str(script))["figure"]
        figure.draw_without_rendering()
        (axes,) = figure.axes
        for text in (axes.title, axes.get_xticklabels()[0], figure.legends[0].get_texts()[0]):
            assert text._preprocess_math(text.get_text()) == ("a$b$c", False)


def styled(folder: Path, *lines: str) -> FigureStyle:
    """A style file of these lines."""
    path = folder / "a.mplstyle"
    path.write_text("\n".join(lines) + "\n")
    return FigureStyle(parse_width("170mm"), path)


DARK = ["figure.facecolor: black", "axes.facecolor: black", "text.color: white", "axes.labelcolor: white"]


@pytest.mark.parametrize("name", list(pictures()))
def test_a_style_of_larger_letters_changes_all_words_and_cuts_none_off(name: str, tmp_path: Path) -> None:
    look = styled(tmp_path, "font.family: serif", "font.size: 12", *DARK)
    with _settings(look):
        figure = drawn(pictures()[name], look)
        check(figure, smallest=6.0)
        axes = figure.axes[0]
        assert axes.title.get_fontsize() == axes.xaxis.label.get_fontsize() == 12
        assert all(text.get_fontsize() == 10.5 for legend in figure.legends for text in legend.get_texts())


def test_a_size_that_a_style_sets_is_kept(tmp_path: Path) -> None:
    look = styled(tmp_path, "font.size: 16", "axes.titlesize: 9")
    with _settings(look):
        axes = drawn(pictures()["short title"], look).axes[0]
    assert axes.title.get_fontsize() == 9 and axes.xaxis.label.get_fontsize() == 16


def test_missing_fonts_and_letters_are_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    at = np.arange(3.0)
    panel = Panel("日本", FigureAxis("x"), FigureAxis("y"), (Layer("本語", at, at),))
    said: list[str] = []
    look = styled(tmp_path, "font.family: No Such Font")
    write(PaperFigure("p", "p", (panel, panel_named("b"))), tmp_path / "fig.pdf", look, said.append)
    assert [line.split(":")[0] for line in said] == [
        "font No Such Font is not installed",
        "DejaVu Sans lacks 3 letters, drawn as boxes",
    ]
    assert all(letter in said[1] for letter in "日本語")
    assert "findfont" not in capsys.readouterr().err and not [w for w in recwarn if "Glyph" in str(w.message)]
    said.clear()
    write(PaperFigure("p", "p", (panel_named("a"),)), tmp_path / "fig.pdf", FigureStyle(), said.append)
    assert not said


def panel_named(title: str) -> Panel:
    """A panel of one line."""
    at = np.arange(3.0)
    return Panel(title, FigureAxis("x"), FigureAxis("y"), (Layer("", at, at),))


@pytest.mark.parametrize("ends", [(140.0, 410.0), (150.0, 190.0), (1000.0, 1500.0), (0.0, 143000.0)])
def test_a_step_axis_has_two_ticks_or_more(ends: tuple[float, float]) -> None:
    places = symlog_places(*ends)
    assert 2 <= len(places) <= 8 and all(ends[0] <= at <= ends[1] for at, _ in places)
    assert len({words for _, words in places}) == len(places)


def test_what_bars_are_is_noted(suite_context: Context) -> None:
    for name in ("curves", "diffusion", "layers", "quantisation", "matrix"):
        made = picture(suite_context, name)
        assert any(layer.low is not None for panel in made.panels for layer in panel.layers)
        assert any("standard error" in note for note in made.notes), name


@pytest.fixture(scope="module")
def suite_context(folder: Path) -> Iterator[Context]:
    """The context of the small suite."""
    with Workspace.open(folder) as ws:
        yield Context(ws)


def contrast(one: str, two: str) -> float:
    """Contrast 1 to 21 of two colours #rrggbb (WCAG 2.1)."""
    low, high = sorted(
        float(np.dot((0.2126, 0.7152, 0.0722), [linear(round(255 * c)) for c in to_rgb(colour)]))
        for colour in (one, two)
    )
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["black", "#1c1c1c", "#ffffff"])
def test_lines_are_visible_on_the_ground_of_a_style(ground: str, tmp_path: Path) -> None:
    """In the colours of the interface's theme of that ground, in the CSV and by the script too."""
    at = np.arange(4.0)
    runs = [Layer(f"run {k}", at, at + k, colour=slot_colour(k), shaded=k % 2 == 0) for k in range(8)]
    panel = Panel("P", FigureAxis("x"), FigureAxis("y"), (*runs, Layer("branch", at, at)))
    look = styled(tmp_path, f"axes.facecolor: {ground.strip('#')}")
    _, table, script = write(PaperFigure("p", "p", (panel,)), tmp_path / "fig.svg", look)
    with table.open() as file:
        last = {row["series"]: row["colour"] for row in csv.DictReader(file)}
    assert all(contrast(colour, to_hex(ground)) >= 3.0 for colour in last.values())
    theme = LIGHT if ground == "#ffffff" else palette.DARK
    want = ["#{:02x}{:02x}{:02x}".format(*rgb(index)) for index in theme.series]
    assert [last[f"run {k}"] for k in range(8)] == want
    with rc_context():
        (axes,) = runpy.run_path(str(script))["axes"].values()
    assert {to_hex(line.get_color()) for line in axes.lines} >= set(last.values())
    assert to_hex(axes.get_facecolor()) == to_hex(ground)
