"""What eighty by twenty-four cells, ASCII, a light ground and no colours leave to be read: nothing is cut without a sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fake_workspace import FakeWorkspace
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from screen_text import lines_of, text_of

from kltui.tui.app import KltuiApp
from kltui.tui.theme import Theme
from kltui.tui.views import map_text
from kltui.tui.views.jobs import is_kept
from kltui.tui.views.scale import AROUND, STRIP
from kltui.tui.widgets.canvas import spelled, width_of
from kltui.tui.widgets.matrix_overview import DARKNESS_AND_SIGNS, Overview
from kltui.view.palette import DARK, LIGHT

MakeApp = Callable[..., KltuiApp]


async def opened(app: KltuiApp, pilot, until, key: str) -> None:
    await until(pilot, lambda: app.snapshot.loaded)
    await pilot.press(key)


def test_the_frame_of_a_matrix_without_colours_is_no_darkness_of_it() -> None:
    ln = np.log(1 + np.abs(np.subtract.outer(np.arange(20.0), np.arange(20.0))))
    look = Theme(color=False)
    made = Overview(ln, 20, 20, 10)
    lines = ["".join(t for t, _ in made.line(y, look, (1.0, 20.0), (3, 4, 9, 12), (5, 6))) for y in range(10)]
    said = "\n".join(lines)
    assert len(set(DARKNESS_AND_SIGNS)) == 13
    assert lines[1].count("_") == lines[4].count("_") == 8  # the edges, also where only a lower dot has them
    assert lines[2].count("|") == 2 and said.count("X") == 1


def test_the_whole_matrix_has_the_colours_of_its_key_in_ascii_too() -> None:
    ln = np.log(1 + np.abs(np.subtract.outer(np.arange(20.0), np.arange(20.0))))
    look = Theme(ascii_only=True)
    spans = Overview(ln, 20, 20, 10).line(8, look, (1.0, 20.0), (0, 0, 3, 3), (1, 1))
    assert all(text == " " for text, _ in spans) and len({style.bgcolor for _, style in spans}) > 3


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_axes_have_two_numbers_and_slopes_are_shown_whole(make_app: MakeApp, until, size) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, until, "5")
        plots = app.view.exponent_plot, app.view.window_plot
        await until(pilot, lambda: all(plot._y_labels for plot in plots))
        assert all(len(plot._y_labels) > 1 for plot in plots)
        assert width_of(plots[1].readout()) <= plots[1].body_width
        assert " ± " in "".join(text for text, _ in plots[1].readout())


async def test_every_run_has_its_name_on_a_large_panel(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "4")
        await until(pilot, lambda: app.view.panels[0].drawn)
        await pilot.press("enter")
        panel = app.view.panels[0]
        names = {d.curve.run for d in panel.drawn}
        await until(pilot, lambda: panel._patches)
        said = {text.split()[-1] for patches in panel._patches.values() for _, text, _ in patches}
        assert names <= said


async def test_what_ascii_makes_longer_is_cut_with_a_sign(make_app: MakeApp, until) -> None:
    app = make_app(ascii_only=True)
    async with app.run_test(size=(60, 24)) as pilot:
        await opened(app, pilot, until, "4")
        await until(pilot, lambda: "settled at step" in text_of(app))
        (line,) = (said for said in lines_of(app) if "settled at step" in said and "KL" in said)
        assert line.rstrip().endswith("~")
        pane = app.view.panels[0]
        room = pane.body_width
        longer = "≤" + "x" * (room - 2) + "±"
        assert "".join(s.text for s in pane._strip_of([(longer, app.look())])).rstrip().endswith("~")
        padded = "≤" + "x" * (room - 3) + "  "
        assert "~" not in "".join(s.text for s in pane._strip_of([(padded, app.look())]))


async def test_the_scale_s_axis_has_its_numbers_however_many_settings_there_are(
    make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "9")
        await until(pilot, lambda: app.view.table.rows)
        table = app.view.table
        table.show_rows([*table.rows, replace(table.rows[-1], setting="GGUF Q4_0")])
        app.view.update_data()
        await until(pilot, lambda: table.size.height == len(table.rows) + AROUND)
        ticks, labels = lines_of(app)[table.region.bottom - 2 : table.region.bottom]
        assert "┴" in ticks and labels.split()
        assert "bits/byte, log" in text_of(app)
        table._give_room(29)  # of the quartiles of an 8-bit variant, 2.63e-05 [2.42e-05, 2.85e-05]
        assert table.widths()[STRIP] and "log" in "".join(text for text, _ in table._titles())


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_job_s_message_can_be_read(make_app: MakeApp, until, size) -> None:
    workspace = FakeWorkspace()
    said = "83 scored in 12 s on cpu"
    workspace.job_rows[1] = replace(workspace.job_rows[1], message=said)
    app = make_app(workspace)
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, until, "2")
        await pilot.press("j")
        await until(pilot, lambda: said in text_of(app))


def test_what_was_stored_already_is_kept() -> None:
    done = FakeWorkspace().job_items(2)[0]
    assert not is_kept(done) and is_kept(replace(done, stats={}))


async def test_the_nearest_have_the_marks_of_the_picture(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3")
        plot = app.view.plot
        await pilot.press("v")  # PCA, which is there at once
        await until(pilot, lambda: plot.map is not None and app.view._near[1])
        while plot.colours.by != "size":
            await pilot.press("i")
        lines = map_text.nearest(plot, 40, *app.view._near)[1:]
        for (name, _), line in zip(app.view._near[1], lines, strict=True):
            assert line[0][0].strip() == plot.mark_of(plot.names.index(name))[0]
        app.ascii_only = app.look.ascii_only = True
        for line in map_text.nearest(plot, 40, *app.view._near)[1:]:
            said = spelled(line, app.look)
            assert "+-" in said[1][0] and width_of(said) <= 40
        for (name, _), line in zip(
            app.view._near[1], map_text.nearest(plot, 30, *app.view._near)[1:], strict=True
        ):
            assert name in line[2][0] and width_of(line) <= 30  # rather than its error


async def test_errors_stay_that_were_asked_for_while_another_picture_was_made(
    make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "3")
        view = app.view
        await until(pilot, lambda: view.plot.drawn_method)
        view.plot.picture = replace(view.plot.picture, method="pca")  # shown until t-SNE is there
        await pilot.press("E")
        assert (view.method, view.plot.errors) == ("pca", 1)
        await until(pilot, lambda: view.plot.n_ellipses)
        await pilot.press("E")
        assert (view.method, view.plot.errors) == ("pca", 2)


async def test_layers_have_their_run_s_colour_and_a_title_that_fits(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "8")
        plot = app.view.plot
        await until(pilot, lambda: plot.map is not None)
        assert plot.series == [app.run_number(name) for name in plot.models] != [0]
        for shown in (plot, app.view.other):
            assert width_of(shown.header_left()) <= shown.body_width
        assert "another checkpoint" not in "".join(text for text, _ in app.view.other.readout())


async def test_a_report_s_curves_have_the_colours_of_the_ground(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "0")
        line = [Segment("x", Style(color=Color.from_ansi(c))) for c in DARK.series]
        assert [style.color.number for _, style in app.view._spans(line)] == list(DARK.series)
        await pilot.press("C")
        assert [style.color.number for _, style in app.view._spans(line)] == list(LIGHT.series)
        assert not any("…" in said[:22] for said in lines_of(app)), "a list of names alone has nothing cut"


async def test_what_the_nearest_are_nearest_to_is_said_whole_where_it_is_narrow(
    make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3")
        plot = app.view.plot
        await pilot.press("v")  # PCA, which is there at once
        await until(pilot, lambda: plot.map is not None and app.view._near[1])
        lines = map_text.nearest(plot, 26, *app.view._near)
        assert all(width_of(line) <= 26 for line in lines)
        assert "bits/byte" in "".join(text for line in lines[:2] for text, _ in line)
