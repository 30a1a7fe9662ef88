"""Matrix, Scale and Diffusion: names, axes, errors, one rounding; the smallest KL is the brightest."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from screen_text import text_of

from kltui.analysis.diffusion import PUBLISHED_EXPONENTS
from kltui.analysis.number_text import aligned, figure, with_error
from kltui.analysis.scale import ScaleRow
from kltui.tui.theme import Theme
from kltui.tui.views.scale import ScaleTable, axis_lines, strip
from kltui.tui.widgets.matrix_overview import Overview, blocks
from kltui.tui.widgets.matrix_scale import scale_of
from kltui.tui.widgets.plot import PlotPane
from kltui.view.palette import HEAT, LIGHT


async def shown_matrix(app, pilot, until) -> object:
    await until(pilot, lambda: app.snapshot.loaded)
    await pilot.press("6")
    await until(pilot, lambda: app.view.heat.kl_KK is not None)
    return app.view.heat


async def test_columns_of_a_matrix_are_named_and_the_smallest_kl_is_the_brightest(make_app, until) -> None:
    app = make_app(FakeWorkspace(names=checkpoints((0, 100, 200))[:6]))
    async with app.run_test(size=(120, 40)) as pilot:
        heat = await shown_matrix(app, pilot, until)
        top, below = ("".join(t for t, _ in heat.body_line(y)) for y in (0, 1))
        kl = heat.kl_KK[np.ix_(heat.order, heat.order)]
        off = np.where(np.eye(len(kl), dtype=bool), np.inf, kl)
        i, j = np.unravel_index(int(np.argmin(off)), off.shape)
        i2, j2 = np.unravel_index(int(np.argmax(np.where(np.isinf(off), -1, off))), off.shape)
        minimum, largest = heat.cells(int(i), 0, 8)[int(j)][1], heat.cells(int(i2), 0, 8)[int(j2)][1]
    assert "tiny" in top and "@100" in below and "@200" in below
    assert minimum.bgcolor.number == HEAT[-1] and largest.bgcolor.number == HEAT[0]


async def test_columns_of_a_large_matrix_have_the_numbers_of_their_rows(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        heat = await shown_matrix(app, pilot, until)
        await pilot.press("l")
        lines = ["".join(t for t, _ in heat.body_line(y)) for y in range(heat.heading_lines + 2)]
        assert heat.heading_lines == 2
        numbers = [
            int((lines[0][23 + 2 * k] + lines[1][23 + 2 * k]).strip()) for k in range(heat.view_columns)
        ]
        assert numbers == list(range(1, heat.view_columns + 1))
        assert lines[2].startswith(" 1 tiny@0")
        # The overview is beside the matrix; in a narrow terminal `-` shows it in the pane.
        assert "frame: part in view" in text_of(app)
        await pilot.press("-")
        assert heat.whole
        await pilot.press("l", "j")
        assert (heat.row, heat.column) != (0, 1)
        row = heat.row
        await pilot.press("enter")
        assert not heat.whole and heat.row == row and app.screen_name == "matrix"


def test_blocks_are_the_means_of_ln_kl() -> None:
    rng = np.random.default_rng(1)
    kl = rng.uniform(0.01, 3, (7, 7))
    np.fill_diagonal(kl, 0)
    kl[0, 3] = math.nan
    order = [6, 0, 1, 2, 3, 4, 5]
    found = blocks(kl, order, 3)
    part = kl[np.ix_(order, order)]
    bounds = [0, 2, 4, 7]
    for a in range(3):
        for b in range(3):
            block = part[bounds[a] : bounds[a + 1], bounds[b] : bounds[b + 1]]
            known = [math.log(v) for v in block.ravel() if v > 0]
            assert found[a, b] == pytest.approx(np.mean(known), rel=1e-12)
    equal = blocks(np.zeros((3, 3)), [0, 1, 2])
    assert np.isneginf(equal).sum() == 6 and np.isnan(np.diag(equal)).all()


def test_blocks_of_equal_models_are_not_those_of_an_undefined_kl() -> None:
    kl = np.full((6, 6), np.nan)
    kl[:2, :2] = 0.0
    kl[4:, :2] = 0.0
    kl[2, 4] = 0.5
    found = blocks(kl, list(range(6)), 3)
    assert np.isneginf(found[0, 0]) and np.isneginf(found[2, 0]) and found[1, 2] == math.log(0.5)
    assert np.isnan(found[[0, 1, 2], [1, 1, 2]]).all()


@pytest.mark.parametrize("look", [Theme(), Theme(LIGHT), Theme(color=False), Theme(ascii_only=True)])
@pytest.mark.parametrize("others", [2.0, 0.01])
def test_equal_models_look_like_the_nearest_and_unlike_what_is_undefined(look: Theme, others: float) -> None:
    """In the overview, whose dots are here single pairs."""
    n = 12
    kl = np.full((n, n), others)
    kl[2, 8], kl[4, 8], kl[6, 8] = 0.0, math.nan, 0.01
    np.fill_diagonal(kl, 0.0)
    scale = scale_of(kl)
    assert (scale.ends, scale.zero, scale.undefined, scale.noise) == ((0.01, others), True, True, False)
    made = Overview(blocks(kl, list(range(n))), n, n, n)
    rows = [made.line(y, look, (0.01, 2.0), (0, 0, 1, 1), (0, 0)) for y in range(n // 2)]
    zero, undefined, smallest, largest = (rows[y][8] for y in (1, 2, 3, 5))
    own = rows[4][8]
    if look.color:  # the upper dot of a character is its text, or its ground if both dots are alike
        drawn = [
            style.color if text == "▀" else style.bgcolor
            for text, style in (zero, undefined, smallest, largest, own)
        ]
    else:
        drawn = [text for text, _ in (zero, undefined, smallest, largest, own)]
    assert drawn[0] == drawn[2]
    assert len({str(d) for d in drawn}) == (4 if others > 1 else 3)


async def test_an_undefined_kl_and_one_of_0_are_explained_above_the_matrix(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        heat = await shown_matrix(app, pilot, until)
        assert "undefined" not in text_of(app) and "0, log" not in text_of(app)
        heat.scale = replace(heat.scale, zero=True, undefined=True)
        app.view.overview.has_undefined = True
        heat.refresh()
        app.view.overview.refresh()
        await pilot.pause()
        assert "0, log" in text_of(app) and "·: undefined" in text_of(app)
        assert "grey: undefined" in text_of(app)


def matrix_with(*changed: tuple[int, int, float], n: int = 8) -> np.ndarray:
    """A matrix of KLs between 0.01 and 1 bits/byte, with some changed."""
    kl = np.exp(np.random.default_rng(2).uniform(math.log(0.01), 0.0, (n, n)))
    for i, j, value in changed:
        kl[i, j] = value
    kl = np.triu(kl, 1)
    return kl + kl.T


def test_the_colours_of_a_matrix_start_at_the_smallest_kl_above_the_noise_floor() -> None:
    kl = matrix_with((0, 1, 3e-10), (2, 3, 1e-12), (4, 5, 0.0), (6, 7, 0.002))
    scale = scale_of(kl, 1e-9)
    assert scale.ends == (0.002, kl.max()) and scale.noise and scale.zero
    assert [scale.place(v) for v in (0.0, 1e-12, 3e-10, 0.002)] == [0.0] * 4
    assert scale.place(float(kl.max())) == 1.0
    assert scale.place(math.sqrt(0.002 * kl.max())) == pytest.approx(0.5)
    said = "".join(text for text, _ in scale.legend(Theme(), ""))
    assert said.startswith("0, noise, log 0.0020 ")
    # a copy in 8 bits differs by much more than float32 rounds
    assert scale_of(np.diag([2.2e-5, *np.geomspace(1e-3, 10, 20)], 1), 1e-9).ends == (2.2e-5, 10)


@pytest.mark.parametrize("far", [1e6, 1e30])
def test_one_enormous_kl_does_not_take_the_colours_of_the_others(far: float) -> None:
    """A checkpoint that diverged, far from every other one."""
    n = 12
    kl = matrix_with(*((i, n - 1, far * (1 + i)) for i in range(n - 1)), n=n)
    scale = scale_of(kl, 1e-9)
    others = kl[: n - 1, : n - 1]
    assert scale.ends == (others[others > 0].min(), others.max()) and scale.largest == kl.max()
    assert scale.place(far) == scale.place(float(kl.max())) == 1.0
    said = "".join(text for text, _ in scale.legend(Theme(), ""))
    assert said.endswith(f" {figure(others.max(), 2)} to {figure(kl.max(), 2)}")
    brief = "".join(text for text, _ in scale.legend(Theme(), "", ranges=False))
    assert brief.endswith(f" {figure(others.max(), 2)}")
    # no outlier where its colours are needed: half of all pairs, or a range that the others need too
    assert scale_of(matrix_with((0, 2, far), (1, 2, far), n=3), 1e-9).ends[1] == far
    # the same at the other end: near copies
    near = scale_of(matrix_with((0, 1, 1e-8), (2, 3, 3e-8), n=n), 1e-9)
    assert near.ends[0] >= 0.01 and near.smallest == 1e-8 and near.place(1e-8) == 0.0
    assert "".join(text for text, _ in near.legend(Theme(), "")).startswith("log 1.0e-08 to 0.01")
    wide = np.geomspace(1e-8, 10, 66)
    assert scale_of(np.diag(wide, 1), 1e-9).ends == (1e-8, 10)


def test_one_pair_is_as_bright_as_can_be_and_its_kl_stands_in_words() -> None:
    for kl, words in (
        (0.13, "every KL is 0.13"),
        (0.0, "every KL is 0"),
        (1e-12, "every KL is below the noise floor of 1.0e-09"),
        (math.nan, "every KL is undefined"),
    ):
        scale = scale_of(np.array([[0.0, kl], [kl, 0.0]]), 1e-9)
        assert not scale.has_colours and (math.isnan(kl) or scale.place(kl) == 0.0)
        assert [text for text, _ in scale.legend(Theme(), "")] == [words]
    two = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.5, 0.5, 0.0]])
    assert scale_of(two).legend(Theme(), "")[0][0] == "every KL is 0 or 0.50"


class Rescored(FakeWorkspace):
    """Two checkpoints that differ by the rounding of float32 alone."""

    def map(self, *given, **chosen):
        made = super().map(*given, **chosen)
        values = made.loglik_KN.copy()
        values[1] = values[0] + 3e-6 * np.random.default_rng(0).normal(size=values.shape[1])
        return replace(made, loglik_KN=values, record={**made.record, "dtype": "float32"})


async def test_a_kl_below_the_noise_floor_is_said_to_be_so(make_app, until) -> None:
    app = make_app(Rescored(names=checkpoints((0, 100, 200))[:6]))
    async with app.run_test(size=(120, 40)) as pilot:
        heat = await shown_matrix(app, pilot, until)
        await pilot.press("g", "l")
        await pilot.pause()
        assert "below the noise floor of" in text_of(app) and " noise, log" in text_of(app)
        assert heat.scale.ends[0] > 1e-4
        assert heat.cells(0, 0, 8)[1][1].bgcolor.number == HEAT[-1]
        await pilot.press("l")
        await pilot.pause()
        assert "below the noise floor" not in text_of(app)


async def test_compare_and_scale_say_that_a_kl_is_below_the_noise_floor(make_app, until) -> None:
    made = Rescored(names=checkpoints((0, 100, 200))[:6])
    app = make_app(made)
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = [c.name for c in made.all[:2]]
        await pilot.press("7")
        await until(pilot, lambda: "rounding alone may cause it" in text_of(app))
        await pilot.press("9")
        await until(pilot, lambda: "Below the noise floor" in text_of(app))


def test_noise_does_not_extend_the_scale_and_what_is_smaller_has_an_arrow() -> None:
    table = ScaleTable()
    row = partial(ScaleRow, published=math.nan, note="")
    values = {
        "near": (1e-12, 1e-12, 1e-11, 1e-11, 1e-10),
        "equal": (0.0,) * 5,
        "far": (0.1, 0.2, 0.3, 0.4, 9.0),
    }
    table.rows = [
        row(name, low=v[0], q25=v[1], median=v[2], q75=v[3], high=v[4], n=5) for name, v in values.items()
    ]
    table.floor = 1e-9
    span = table._span()
    assert span == pytest.approx((-1.05, math.log10(9) + 0.05))
    near, equal, far = (strip(r, span, 21) for r in table.rows)
    assert near.strip() == equal.strip() == "◂" and near[0] == equal[0] == "◂"
    assert far[0] != "◂" and "┃" in far and far.rstrip()[-1] == "─"
    # a range that begins at noise and ends within
    wide = replace(table.rows[2], low=1e-12)
    assert strip(wide, span, 21)[0] == "◂" and strip(wide, span, 21, ascii_only=True)[0] == "<"
    table.floor = 0.0
    assert table._span()[0] < -12


def test_the_scale_has_an_axis_whose_labels_stand_below_their_ticks() -> None:
    marks, labels = axis_lines((-2.0, 1.0), 31)
    ticks = [k for k, c in enumerate(marks) if c == "┴"]
    assert ticks == [0, 10, 20, 30]
    assert labels.split() == ["0.01", "0.1", "1", "10"]
    assert labels[20] == "1" and len(marks) == len(labels) == 31
    assert axis_lines((-2.0, 1.0), 30, ascii_only=True)[0].isascii()


def test_numbers_in_a_column_have_their_points_below_each_other() -> None:
    rows = [(0.12345, 0.0021), (12.3, 1.1), (3e-4, 1e-4), (math.nan, 0.1), (0.5, math.nan)]
    said = aligned([with_error(*row) for row in rows])
    assert len({len(s) for s in said}) == 1
    numbers = [s for s in said if "undefined" not in s]
    assert len({s.index(".") for s in numbers}) == 1
    assert len({s.index("±") for s in numbers}) == 1
    assert said[3].strip() == "undefined"


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_a_published_exponent_is_named_on_the_row_of_its_line(make_app, until, size) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: app.view.exponent_plot.scene is not None)
        plot = app.view.exponent_plot
        await until(pilot, lambda: plot.cell(len(plot.scene.xy_n2) - 1) is not None)
        named = {}
        for row in range(plot.plot_height):
            for _, text, _ in plot._make_patches().get(row, []):
                if text.startswith("published "):
                    named |= dict.fromkeys(text.removeprefix("published ").split(", "), row)
        first = len(plot.scene.xy_n2) - 2 * len(PUBLISHED_EXPONENTS)
        rows = {s: plot.cell(first + 2 * k)[1] for k, s in enumerate(PUBLISHED_EXPONENTS)}
        assert named == rows


async def test_diffusion_names_its_axes_and_draws_errors_and_published_medians(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: app.view.exponent_plot.scene is not None)
        plot = app.view.exponent_plot
        n = len(plot.exponents)
        bars = sum(math.isfinite(e.se_q) for e in plot.exponents)
        xy = plot.scene.xy_n2[n : n + 2 * bars]
        wanted = [
            (e.start, e.c_q + s * e.se_q) for e in plot.exponents if math.isfinite(e.se_q) for s in (-1, 1)
        ]
        assert np.allclose(xy, wanted) and bars > 0
        assert plot.scene.xy_n2[-1, 1] == 0.33  # the published median of the largest size
        words = ("exponent c", "start, training step", "lag τ, steps, log", "first value, log")
        for size in ((80, 24), (200, 60)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda: all(word in text_of(app) for word in words))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_name_of_a_step_or_lag_axis_is_never_among_its_tick_labels(make_app, until, size) -> None:
    app = make_app()
    seen = 0
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny@1", "small@100"
        for key in ("3", "4", "L", "5", "L", "8", "v"):
            await pilot.press(key)
            plots = [p for p in app.view.panes if isinstance(p, PlotPane)]
            await until(pilot, lambda plots=plots: any(p.scene is not None for p in plots))
            for plot in plots:
                if not (plot.display and plot.size.height and plot._prepare()):
                    continue
                texts = [text for text, _ in plot._x_axis()]
                line = "".join(texts)
                assert len(line) == plot.body_width
                names = [text for text in (texts[0], texts[2]) if text]
                assert len(names) == 1 and names[0].split(",")[0].removesuffix(" log") in plot.x_name
                assert len(texts[1].split()) > 1, (key, line)
                seen += 1
    assert seen >= 9
