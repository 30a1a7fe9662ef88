"""Words of figures: nothing cut off by the page, broken within a name, in front of other words, or too small to read."""

from __future__ import annotations

import csv
import itertools
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import rc_context
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from kltui.figures import fonts
from kltui.figures.catalogue import picture
from kltui.figures.curves import _dashed_apart, _line
from kltui.figures.draw import FigureStyle, drawing_settings, drawn, parse_width, prepared, symlog_places
from kltui.figures.files import write
from kltui.figures.page_layout import PAGE
from kltui.figures.picture import (
    FigureAxis,
    Layer,
    Panel,
    PaperFigure,
    _layer_rows,
    legend_labels,
    slot_colour,
)
from kltui.figures.share.traces import DASHES
from kltui.figures.words import literal
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
    with drawing_settings(look):
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
        with drawing_settings(look):
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
    with drawing_settings(look):
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


ODD = r"a$b$c_d%{e}\frac{1}{2}~^&#<i>"


def test_names_are_drawn_as_they_are_whatever_they_contain(tmp_path: Path) -> None:
    at = np.arange(2.0)
    layer = Layer(ODD, at, at)
    panel = Panel(f"{ODD}\nb", FigureAxis(ticks=((0.0, ODD), (1.0, "d"))), FigureAxis(ODD), (layer,))
    _, _, script = write(PaperFigure("p", "p", (panel,)), tmp_path / "fig.pdf", FigureStyle(7.0))
    with rc_context():
        figure = runpy.run_path(str(script))["figure"]
        figure.draw_without_rendering()
        (axes,) = figure.axes
        for text in (
            axes.xaxis.label,
            axes.yaxis.label,
            axes.get_xticklabels()[0],
            *figure.legends[0].get_texts(),
        ):
            if text.get_text():
                assert text._preprocess_math(text.get_text()) == (ODD, False)
        assert axes.title._preprocess_math(axes.title.get_text()) == (f"{ODD}\u23ceb", False)


def test_latex_gets_names_without_commands_of_its_own() -> None:
    with rc_context({"text.usetex": True}):
        assert literal("50%_{$x}#&") == r"50\%\_\{\$x\}\#\&"
        assert literal(r"a\b") == r"a\textbackslash{}b"


def styled(folder: Path, *lines: str) -> FigureStyle:
    """A style file of these lines."""
    path = folder / "a.mplstyle"
    path.write_text("\n".join(lines) + "\n")
    return FigureStyle(parse_width("170mm"), path)


DARK = ["figure.facecolor: black", "axes.facecolor: black", "text.color: white", "axes.labelcolor: white"]


@pytest.mark.parametrize("name", list(pictures()))
def test_a_style_of_larger_letters_changes_all_words_and_cuts_none_off(name: str, tmp_path: Path) -> None:
    look = styled(tmp_path, "font.family: serif", "font.size: 12", *DARK)
    with drawing_settings(look):
        figure = drawn(pictures()[name], look)
        check(figure, smallest=6.0)
        axes = figure.axes[0]
        assert axes.title.get_fontsize() == axes.xaxis.label.get_fontsize() == 12
        assert all(text.get_fontsize() == 10.5 for legend in figure.legends for text in legend.get_texts())


def test_a_size_that_a_style_sets_is_kept(tmp_path: Path) -> None:
    look = styled(tmp_path, "font.size: 16", "axes.titlesize: 9")
    with drawing_settings(look):
        axes = drawn(pictures()["short title"], look).axes[0]
    assert axes.title.get_fontsize() == 9 and axes.xaxis.label.get_fontsize() == 16


def font_of(path: Path, family: str, letters: str) -> None:
    """Writes a TrueType font in which every letter is a triangle."""
    names = [".notdef", *(f"g{ord(c):04X}" for c in letters)]
    pen = TTGlyphPen(None)
    for step, point in ((pen.moveTo, (100, 0)), (pen.lineTo, (500, 800)), (pen.lineTo, (900, 0))):
        step(point)
    pen.closePath()
    triangle = pen.glyph()
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(c): name for c, name in zip(letters, names[1:], strict=True)})
    made.setupGlyf(dict.fromkeys(names, triangle))
    made.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    made.setupHorizontalHeader(ascent=900, descent=-200)
    made.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family.replace(" ", "")})
    made.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=200)
    made.setupPost()
    made.save(path)


def with_odd_letters() -> PaperFigure:
    """A figure with letters that matplotlib's own font lacks."""
    at = np.arange(3.0)
    panel = Panel("\u2d80\u2d81", FigureAxis("x"), FigureAxis("y"), (Layer("\u2d81\u2d82", at, at),))
    return PaperFigure("p", "p", (panel, panel_named("b")))


def test_letters_without_a_glyph_are_said_once_in_the_figure_and_in_the_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    said: list[str] = []
    look = styled(tmp_path, "font.family: No Such Font")
    _, _, script = write(with_odd_letters(), tmp_path / "fig.pdf", look, said.append)
    assert len(said) == 2 and "font No Such Font is not installed: another one is used" in said
    (message,) = (line for line in said if "glyph" in line)
    assert message.startswith("3 letters drawn as boxes") and "\u2d80\u2d81\u2d82" in message
    assert b"U+2D80 U+2D81 U+2D82" in (tmp_path / "fig.pdf").read_bytes(), "the notes of the file have it too"
    assert "findfont" not in capsys.readouterr().err and not [w for w in recwarn if "Glyph" in str(w.message)]
    with rc_context():
        again = runpy.run_path(str(script))["figure"]
    assert "U+2D80 U+2D81 U+2D82" in again.get_suptitle()
    said.clear()
    write(PaperFigure("p", "p", (panel_named("a"),)), tmp_path / "fig.pdf", FigureStyle(), said.append)
    assert not said


def test_letters_that_the_fonts_lack_are_drawn_in_an_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    font_of(tmp_path / "odd.ttf", "Odd Letters", "\u2d80\u2d81")
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    fontManager.addfont(tmp_path / "odd.ttf")
    fonts._installed.cache_clear()
    said: list[str] = []
    path, _, script = write(with_odd_letters(), tmp_path / "fig.pdf", FigureStyle(), said.append)
    fonts._installed.cache_clear()
    assert [line[:8] for line in said] == ["1 letter"] and "U+2D82" in said[0]
    assert b"OddLetters" in path.read_bytes() and "'Odd Letters'" in script.read_text()


def test_a_line_above_the_panels_takes_no_room_from_them() -> None:
    look = FigureStyle(parse_width("85mm"))
    with fonts.missing_fonts(lambda said: None), drawing_settings(look):
        plain = drawn(with_odd_letters(), look)
        figure = drawn(*prepared(with_odd_letters(), look))
        check(figure)
        heights = [f.axes[0].get_window_extent().height for f in (plain, figure)]
    assert figure.get_suptitle() and heights[1] == pytest.approx(heights[0], rel=0.05)


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


def many_panels(n: int, **look: object) -> PaperFigure:
    """A figure of n panels with forty long names in its legend."""
    at = np.arange(4.0)
    layers = tuple(Layer(f"organisation/run-number-{k}", at, at + k) for k in range(40))
    panels = tuple(
        Panel(
            f"Quantity number {k} over the steps", FigureAxis("step"), FigureAxis("KL", "log"), layers, **look
        )  # type: ignore[arg-type]
        for k in range(n)
    )
    return PaperFigure("m", "m", panels, columns=3)


@pytest.mark.parametrize(("n", "width"), [(6, "85mm"), (9, "85mm"), (9, "180mm")])
def test_a_figure_fits_on_a_page(n: int, width: str) -> None:
    look = FigureStyle(parse_width(width))
    with drawing_settings(look):
        figure = drawn(many_panels(n, equal=n == 6), look)
    assert figure.get_figheight() <= PAGE + 0.04
    check(figure)
    assert all(axes.get_window_extent().height > 10 * figure.dpi / 25.4 for axes in figure.axes)


def test_trees_of_many_models_and_maps_of_three_axes_fit_on_a_page() -> None:
    at, names = np.arange(90.0), ticks([f"run-{k}@1000" for k in range(90)])
    leaves = Layer("", at, at, "points")
    tree = [
        Panel(title, FigureAxis("KL, bits/byte"), FigureAxis(ticks=names), (leaves,))
        for title in ("One", "Two")
    ]
    run = Layer("run", at, at, z=at)
    solid = [
        Panel(t, FigureAxis("1"), FigureAxis("2"), (run,), FigureAxis("3"), equal=True)
        for t in ("A", "B", "C")
    ]
    look = FigureStyle(parse_width("85mm"))
    with drawing_settings(look):
        assert drawn(PaperFigure("s", "s", tuple(solid)), look).get_figheight() <= PAGE + 0.04
        figure = drawn(PaperFigure("t", "t", tuple(tree)), look)
        assert figure.get_figheight() <= PAGE + 0.04
        check(figure)


def test_a_figure_that_cannot_fit_on_a_page_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    path = styled(tmp_path, "font.size: 24").style
    write(many_panels(9), tmp_path / "fig.png", FigureStyle(parse_width("85mm"), path), said.append)
    assert len(said) == 1 and "mm tall, more than the 240 mm of a page" in said[0]


def test_lines_of_a_legend_differ_without_colour(suite_context: Context) -> None:
    """In their dash or mark, because a paper may be printed in grey; there are seven marks for series."""
    for name in ("trajectories", "curves", "diffusion", "layers"):
        layers = [
            layer for panel in picture(suite_context, name).panels for layer in panel.layers if layer.label
        ]
        assert all(layer.mark for layer in layers if not layer.reference), name
        looks = {layer.label: (layer.dash, layer.mark, layer.width) for layer in layers if layer.reference}
        assert len(set(looks.values())) == len(looks), name


def test_every_published_line_has_its_own_dash_and_every_long_run_its_marks() -> None:
    at = [(s, 1.0 + s, 0.1) for s in range(200)]
    layers = [_line(f"run{k}", at, {f"run{k}": k}) for k in range(7)]
    assert len({layer.mark for layer in layers}) == 7
    assert all(sum(bool(row[12]) for row in _layer_rows("p", 1, layer)) <= 60 for layer in layers)
    published = [
        Layer(f"published: {k}", np.arange(2.0), np.ones(2), dash="longdash", reference=True)
        for k in range(8)
    ]
    panel = Panel("p", FigureAxis("x"), FigureAxis("y"), (*layers, *published))
    (apart,) = _dashed_apart([panel])
    looks = {layer.label: (layer.dash, layer.width) for layer in apart.layers if layer.reference}
    assert len(set(looks.values())) == 8 and not {"dashed", "dotted"} & {dash for dash, _ in looks.values()}
    for layer in apart.layers:  # the page has the same dashes
        assert DASHES.get(layer.dash), layer.dash


def test_references_come_last_in_a_legend_and_what_has_no_room_is_counted() -> None:
    at = np.arange(2.0)
    published = Layer("published", at, at, reference=True)
    panel = Panel("p", FigureAxis("x"), FigureAxis("y"), (published, *many_panels(1).panels[0].layers))
    made = PaperFigure("p", "p", (panel,), columns=1)
    assert legend_labels(made)[-1] == "published" and len(legend_labels(made)) == 41
    look = FigureStyle(parse_width("85mm"))
    with drawing_settings(look):
        figure = drawn(made, look)
        check(figure)
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words[-1] == f"and {41 - len(words) + 1} more"
    assert legend.get_window_extent().height < 0.4 * PAGE * figure.dpi


def test_the_script_writes_the_line_above_a_matrix_where_the_figure_has_it(tmp_path: Path) -> None:
    x, y = (v.ravel().astype(float) for v in np.meshgrid(range(3), range(3)))
    names = FigureAxis(ticks=ticks(["\u2d80", "b", "c"]))
    cells = Panel("KL", names, names, (Layer("", x, y, "cells", value=1.0 + x),), value_label="KL")
    places = []
    with fonts.missing_fonts(lambda said: None):
        look = FigureStyle(parse_width("85mm"))
        _, _, script = write(PaperFigure("m", "m", (cells,), columns=1), tmp_path / "m.pdf", look)
        picture, look = prepared(PaperFigure("m", "m", (cells,), columns=1), look)
        with drawing_settings(look):
            figure = drawn(picture, look)
        with rc_context():
            again = runpy.run_path(str(script))["figure"]
        for each in (figure, again):
            each.draw_without_rendering()
            box = each._suptitle.get_window_extent().transformed(each.transFigure.inverted())
            places.append(box.extents)
    assert places[0] == pytest.approx(places[1], abs=0.01)


@pytest.mark.parametrize("width", ["75mm", "85mm"])
def test_a_script_has_the_ticks_that_the_file_shows(width: str, tmp_path: Path) -> None:
    x, y = np.linspace(34, 78, 24), np.linspace(-327.72, -324.7, 24)
    label = "mean log-likelihood, nats per text"
    panel = Panel(
        "Likelihood", FigureAxis("score"), FigureAxis(label), (Layer("a", x, y), Layer("b", x, y + 0.1))
    )
    look = FigureStyle(parse_width(width), styled(tmp_path, "svg.fonttype: none").style)
    path, _, script = write(PaperFigure("p", "p", (panel,), columns=1), tmp_path / "fig.svg", look)
    with rc_context():
        (axes,) = runpy.run_path(str(script))["axes"].values()
    shown = re.findall(r">(\u2212[\d.]+)</text>", path.read_text(encoding="utf-8"))
    assert shown == [label.get_text() for label in axes.get_yticklabels()]
