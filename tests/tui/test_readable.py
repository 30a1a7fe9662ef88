"""What eighty by twenty-four cells, ASCII, a light ground and no colours leave to be read: nothing is cut without a sign."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from rich.cells import cell_len
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from screen_text import lines_of, opened, text_of

from kltui.analysis import number_text
from kltui.analysis.kl import KL
from kltui.analysis.point import label_of
from kltui.tui.app import KltuiApp
from kltui.tui.data import Snapshot
from kltui.tui.dialogs.forms import Form
from kltui.tui.number_format import among_published, mean_gap, means_said
from kltui.tui.theme import Theme
from kltui.tui.views import map_text
from kltui.tui.views.compare import CompareView, flowed
from kltui.tui.views.jobs import is_kept
from kltui.tui.views.map_colours import colours
from kltui.tui.views.matrix import LABEL, NUMBERED, counted_of
from kltui.tui.views.scale import AROUND, STRIP
from kltui.tui.widgets.canvas import names_in, spelled, width_of
from kltui.tui.widgets.matrix_overview import DARKNESS_AND_SIGNS, Overview
from kltui.tui.widgets.plot import _ticks
from kltui.tui.widgets.run_tree import Order
from kltui.tui.widgets.token_lines import Part, TextTokens, TokenLine
from kltui.tui.widgets.window_plot import WEIGHTS
from kltui.view.axis import Axis
from kltui.view.palette import DARK, LIGHT, MARKERS, MARKERS_ASCII

MakeApp = Callable[..., KltuiApp]


def test_the_frame_of_a_matrix_without_colours_is_no_darkness_of_it() -> None:
    ln = np.log(1 + np.abs(np.subtract.outer(np.arange(20.0), np.arange(20.0))))
    look = Theme(color=False)
    made = Overview(ln, 20, 20, 10)
    lines = ["".join(t for t, _ in made.line(y, look, (1.0, 20.0), (3, 4, 9, 12), (5, 6))) for y in range(10)]
    said = "\n".join(lines)
    assert len(set(DARKNESS_AND_SIGNS)) == len(DARKNESS_AND_SIGNS) == 15
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
        (line,) = (said for said in lines_of(app) if "settled at step" in said)
        assert line.rstrip().endswith(")"), "of the ways to say it, one that is whole"
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
        variant = replace(table.rows[-1], n=2, median=2.63e-5, q25=2.42e-5, q75=2.85e-5)  # of 8 bits
        table.show_rows([*table.rows, variant])
        assert table.widths()[STRIP] >= 20 and "log" in "".join(text for text, _ in table._titles())


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
        assert "to tiny@0" in lines[0][0][0] and app.view.nearest.title.endswith("bits/byte")


async def test_names_of_a_flat_list_are_whole_where_they_can_be(make_app: MakeApp, until) -> None:
    long = [replace(c, run=f"a-run-of-a-longer-name-{c.run}") for c in checkpoints()]
    app = make_app(FakeWorkspace(names=long))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        tree = app.view.runs
        before, columns = tree.widths(), tree.columns
        tree.order = Order("variant")
        tree.update_data()
        name = next(row.name for row in app.snapshot.rows if row.checkpoint.quantization != "none")
        await until(pilot, lambda: f" {name} " in text_of(app))
        titles = lines_of(app)[3].split()
        assert (
            titles[:4] == ["run", "/", "step", "state"] and "bits/byte" in titles and "variant" not in titles
        )
        tree.order = Order()
        tree.update_data()
        assert (tree.widths(), tree.columns) == (before, columns)


async def test_the_filter_stands_whole_on_a_status_line_with_room(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_filter("run:tiny|small step>=4 step<=1000 -quant:8bit")
        await until(pilot, lambda: f"/{app.filter.text}" in lines_of(app)[-2])
        app.set_filter("run:" + "|".join(["tiny"] * 40))
        await until(pilot, lambda: "…" in lines_of(app)[-2] and len(lines_of(app)[-2].rstrip()) > 110)


async def test_a_question_takes_the_lines_it_needs(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "D")
        await until(pilot, lambda: app.is_asking and "y yes" in text_of(app))
        asked = app.screen
        assert asked.sheet.size.height == len(asked.text.all_lines()) + 2 < 8
        assert "1 vector and all other results of it are also removed" in text_of(app)
        await pilot.press("n", "?")
        await until(pilot, lambda: app.is_asking and "jk scroll" in text_of(app))
        assert app.screen.sheet.outer_size.height == 34  # of the forty lines, and the rest by scrolling


async def test_what_a_line_of_a_form_says_while_it_is_empty_fits(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and not app.map_cache.is_empty)
        for keys in (["1", "f"], ["1", "E"], ["0", "w"]):
            await pilot.press(*keys)
            await until(pilot, lambda: isinstance(app.screen, Form) and app.screen.lines.line.size.width)
            lines = app.screen.lines
            for at, field in enumerate(lines.fields):
                lines.go(at)
                assert field.empty in lines.line.placeholder
                assert cell_len(lines.line.placeholder) <= lines.line.content_size.width, field.name
            await pilot.press("escape")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_message_is_not_cut_in_the_name_of_a_processor(make_app: MakeApp, until, size) -> None:
    workspace = FakeWorkspace()
    said = "2 scored, 83 already there in 2 min 09 s on cpu"
    message = f"{said} (Somebody's Processor of Many Words 8488C)"
    done = {"status": "done", "done": 84, "failed": 0}
    workspace.job_rows[1] = replace(workspace.job_rows[1], message=message, **done)
    app = make_app(workspace)
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, until, "2")
        await pilot.press("j")
        await until(pilot, lambda: said in text_of(app))
        (line,) = (line for line in lines_of(app) if line.startswith("Checkpoints"))
        assert "…" not in line
        await pilot.press("tab", "tab")  # the log, which has it whole
        await until(pilot, lambda: "8488C" in text_of(app))


async def test_the_tree_beside_the_map_has_losses(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(200, 60)) as pilot:
        await opened(app, pilot, until, "3")
        view = app.view
        await pilot.press("v")  # PCA
        await until(pilot, lambda: view.plot.map is not None and view._near[1])
        titles = [
            column.title for column, width in zip(view.runs.columns, view.runs.widths(), strict=True) if width
        ]
        assert titles == ["run / step", "state", "bits/byte"]
        assert len(view._near[1]) == min(max(8, view.nearest.body_height - 2), 16)


async def test_every_axis_in_three_dimensions_has_its_name(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3")
        plot = app.view.plot
        await pilot.press("v", "d")
        await until(pilot, lambda: plot.map is not None and plot.dims == 3)
        for _ in range(6):
            await pilot.press(">", ">", "}")
            said = [text for patches in plot._patches.values() for _, text, _ in patches]
            assert [n for n in range(1, 4) if not any(t.startswith(f"axis {n} (") for t in said)] == []


async def test_a_picture_that_is_there_is_not_waited_for(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "1")
        await pilot.press("3")
        view = app.view
        await until(pilot, lambda: view.plot.drawn_method == "pca")  # before the first t-SNE
        view.method, go_on, show, finals = "pca", asyncio.Event(), view._show, []

        def reported(shown, *more) -> None:
            show(shown, *more)
            view._waiting("PCA of 83 100%; t-SNE meanwhile")
            finals.extend([shown.picture.method] if shown.final else [])

        async def late() -> list[str]:
            if finals:
                await go_on.wait()
            return []

        view._show, app.map_cache.released = reported, late
        view._ask()
        await until(pilot, lambda: finals)
        assert finals == ["pca"] and view.plot.drawn_method == "pca" and view._loading is not None
        assert view.plot.waiting == ""
        go_on.set()


async def test_the_progress_of_a_picture_that_is_no_longer_wanted_is_not_shown(
    make_app: MakeApp, until
) -> None:
    """Its process is ended, but what it had reported before may come later."""
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "1")
        await pilot.press("3")
        view, asked = app.view, []
        await until(pilot, lambda: view.plot.drawn_method == "pca")

        def slow(job, said, progress, unwanted) -> None:
            asked.append(progress)
            unwanted.wait(60)

        app.map_cache._helper("embedder")._run = slow
        for number, method in enumerate(("mds", "tsne")):
            view.method, view.dims = method, 3
            view._ask()
            await until(pilot, lambda number=number: len(asked) > number)
        asked[0](0.4, "the stress")
        await pilot.pause()
        assert "the stress" not in view.plot.waiting
        asked[1](0.4, "the gradient")
        await pilot.pause()
        assert view.plot.waiting.startswith("the gradient 40%")


def test_a_text_is_broken_between_its_words() -> None:
    text = 'The "finally" clause of a statement:\n    always executes, ' + "x" * 50 + " at the end  of it"
    for width in (16, 24, 40):
        lines = [
            "".join(part for part, _ in line)
            for line in flowed([(text, None)], width, lambda _: Style(), breaks=False)
        ]
        assert max(map(len, lines)) <= width and "".join(lines) == text.replace("\n", "")
        whole = {word for line in lines for word in line.split()}
        assert {w for w in text.split() if len(w) < width} <= whole
    coloured = flowed([("one tw", 1.0), ("o three", -1.0)], 9, lambda v: Style(bold=v > 0))
    assert ["".join(part for part, _ in line) for line in coloured] == ["one two ", "three"]
    assert [style.bold for _, style in coloured[0]] == [True] * 6 + [False] * 2


async def test_where_a_run_settled_is_said_in_as_many_words_as_fit(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "4")
        await until(pilot, lambda: "settled at step" in lines_of(app)[-3])
        assert "4 of 7 panels (pagedown)" in lines_of(app)[-3] and "…" not in lines_of(app)[-3]
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "bits/byte since" in lines_of(app)[-3])
        assert "6 of 7 panels (pagedown)" in lines_of(app)[-3] and "…" not in lines_of(app)[-3]


def test_variants_have_colours_and_marks_of_their_own_on_screens_too() -> None:
    rows = tuple(FakeWorkspace().checkpoints())
    numbers = Snapshot(rows=rows).run_number
    runs = dict.fromkeys(row.checkpoint.run for row in rows)
    assert numbers == {run: n for n, run in enumerate(runs)} | {"tiny+bnb-8bit": len(runs)}
    found = FakeWorkspace(n_texts=4).map()
    made = colours(found, "run", numbers, {})
    assert [made.series(k) for k in range(len(found))] == [numbers[label_of(p)] for p in found.points]


async def test_distances_of_weights_have_the_mark_of_no_run(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "5")
        view = app.view
        await until(pilot, lambda: "weights c =" in text_of(app))
        assert view.window_plot.point_marker(WEIGHTS) not in (*MARKERS, *MARKERS_ASCII)
        view.noise = True  # and nothing computed of it yet
        said = "\n".join("".join(text for text, _ in line) for line in view._medians(44))
        assert "computing …" in said and "nothing:" not in said


def test_an_axis_has_two_numbers_where_they_fit() -> None:
    assert len(_ticks(Axis("linear", -0.55, 1.95), 2, 8)) > 1


async def test_a_key_on_a_plot_that_is_not_there_yet_does_not_deny_it(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "4")
        await until(pilot, lambda: app.view.panels[0].drawn)
        panel = app.view.panels[0]
        panel.show(None, [])
        for note, said in (("", "the plot is still being computed"), ("no run", "there is no plot here")):
            panel.note = note
            for act in (panel.do_zoom_in, panel.do_zoom_reset, panel.do_pan_up):
                app.say("")
                act()
                assert said in app.message


async def test_a_key_that_changes_nothing_says_why(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for keys, words in (
            ("escape", "nothing to step out of"),
            ("x", "nothing to swap"),
            ("r", "read again"),
            ("U", "nothing to undo"),
            ("4 Z", "all runs shown"),
            ("3 pagedown", "page down: nothing to do in this pane"),
            ("6 +", "single cells are shown"),
        ):
            await pilot.press(*keys.split())
            await until(pilot, lambda words=words: words in app.message)
        await pilot.press("3", "v")
        await until(pilot, lambda: app.view.plot.map is not None)
        await pilot.press("=")
        assert app.message == "everything is in view"


async def test_the_scale_of_layers_is_that_of_their_kl_wherever_it_is(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "8")
        view = app.view
        await until(pilot, lambda: view.plot.map is not None)
        await pilot.press("v", "L")
        assert view.other.method == "adjacent" and view.other.scene.y_scale == "linear"
        await pilot.press("v")
        assert view.plot.method == "adjacent" and view.plot.scene.y_scale == "linear"
        before = view.plot.window
        await pilot.press("shift+right")
        assert view.plot.window.x.low > before.x.low


async def test_both_half_axes_of_an_error_have_two_digits(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3")
        await pilot.press("E")
        plot = app.view.plot
        await until(pilot, lambda: plot.n_ellipses and plot.cursor >= 0)
        monkeypatch.setattr(plot, "_spread", lambda row: np.diag([0.0234**2, 0.02**2]))
        assert "place ± 0.023 by 0.020 √(bits/byte)" in list(plot._more(plot.cursor))


def test_the_gap_between_two_models_has_its_error_text_by_text() -> None:
    found = FakeWorkspace(n_texts=50).map()
    gap_N = found.loglik_KN[9] - found.loglik_KN[3]
    said = number_text.with_error(gap_N.mean(), gap_N.std(ddof=1) / np.sqrt(50))
    assert mean_gap(found, 3, 9) == f"B higher by {said}" and mean_gap(found, 9, 3) == f"A higher by {said}"
    assert mean_gap(found, 3, 3) == ""
    whole = means_said(found, 3, 9, 100)
    assert whole.startswith("mean A -") and whole.endswith(f" nats/text; B higher by {said}")
    assert means_said(found, 3, 9, len(whole)) == whole
    # a number is never cut
    assert means_said(found, 3, 9, len(whole) - 1) == f"mean: B higher by {said} nats/text"
    assert means_said(found, 3, 3, 10).endswith("nats/text")


async def test_what_compare_says_of_a_pair_is_not_cut(make_app: MakeApp, until) -> None:
    family = [replace(c, run=f"a-family-of-models-with-{c.run}") for c in checkpoints() if not c.parent]
    app = make_app(FakeWorkspace(names=family))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "7")
        run = family[0].run
        app.selection.a, app.selection.b = f"{run}@1000", f"{run}@1400"
        app.view.update_data()
        await until(pilot, lambda: "half of it lies in" in text_of(app))
        pane = app.view.summary
        for lines in (pane.body_line(y) for y in range(pane.body_height)):
            assert width_of(lines) <= pane.body_width, "".join(text for text, _ in lines)
        assert "-tiny@1000" in lines_of(app)[3] and "-tiny@1400" in lines_of(app)[3]
        longest = among_published("later pretraining", "early pretraining")
        assert cell_len(longest) <= pane.body_width


@pytest.mark.parametrize("color", [True, False])
async def test_which_model_a_token_favours_is_said_without_colours_too(
    make_app: MakeApp, until, *, color: bool
) -> None:
    app = make_app(color=color, read_only=True)
    text = "one two three"

    def tokens(*logprobs: float) -> TextTokens:
        line = TokenLine(((0, 3), (3, 7), (7, 13)), np.array(logprobs, np.float32))
        return TextTokens((Part("", line, float(sum(logprobs))),))

    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "7")
        view = app.view
        assert isinstance(view, CompareView)
        lines = view._heat_lines(text, tokens(-1, -5, -2), tokens(-4, -1, -2), 58)
        assert all(width_of(line) <= 58 for line in lines)
        said = ["".join(t for t, _ in line) for line in lines]
        assert ("orange" in said[0]) == color == ("brighter" in said[3])
        styles = {style for _, style in lines[1]}
        assert len(styles) == 3, "a token that favours A, one that favours B, and one that favours neither"
        if not color:
            one, two, three = (next(s for t, s in lines[1] if t == c) for c in ("n", "w", "h"))
            assert one.bold and not one.underline and two.underline and not two.bold
            assert not three.bold and not three.underline
            assert "bold" in said[0] and "underlined" in said[0] and "bold" in said[3]
        assert view._key_of_tokens() == ""  # no job can be started


async def test_wide_and_long_names_keep_their_ends_and_leave_values_whole(make_app: MakeApp, until) -> None:
    runs = {"tiny": "模型训练运行的名字很长很长很长", "small": "a-very-long-name-of-a-run-" + 90 * "x"}
    family = [replace(c, run=runs.get(c.run, c.run)) for c in checkpoints() if not c.parent]
    app = make_app(FakeWorkspace(names=family))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "6")
        await until(pilot, lambda: "itself" in text_of(app))
        pane = app.screen.focused
        labels = [pane._row_label(i) for i in range(len(pane.order))]
        assert len(set(labels)) == len(labels) and {cell_len(label) for label in labels} == {LABEL}
        await pilot.press("l")
        assert "bits/byte" in lines_of(app)[-3]
        app.selection.a, app.selection.b = family[0].name, family[-1].name
        await pilot.press("7")
        app.view.update_data()
        await until(pilot, lambda: "half of it lies in" in text_of(app))
        head = lines_of(app)[3]
        assert f"@{family[0].step} " in head and "+bnb-8bit" in head


async def test_a_small_matrix_has_two_digits_of_each_kl(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(names=checkpoints()[:3]))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "6")
        await until(pilot, lambda: "enter compares" in text_of(app))
        pane = app.screen.focused
        assert "".join(pane._cell(0, 1, 0.4, NUMBERED)[0]).strip(" []") == "0.40"
        assert counted_of(1, 1) == "1 checkpoint" and counted_of(3, 3) == "3 checkpoints"


async def test_the_scale_says_that_a_and_b_are_the_same(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "9")
        app.selection.a = app.selection.b = "tiny@100"
        await until(pilot, lambda: app.view.map is not None)
        app.view.place.update_data()
        await until(pilot, lambda: "A and B are the same checkpoint" in text_of(app))
        assert "nothing published" not in text_of(app)


async def test_the_scale_calls_no_checkpoints_equal_that_have_no_common_texts(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "9")
        app.selection.a, app.selection.b = "small@100", "small@200"
        await until(pilot, lambda: app.view.map is not None)
        monkeypatch.setattr(type(app.view.map), "pair", lambda *_: KL(math.nan, math.nan, 1, 23))
        lines = app.view._place(30)
        assert "".join(text for text, _ in lines[0]).startswith("A and B have fewer than two")


def test_names_share_a_line() -> None:
    assert names_in("tiny@1", "a-long-name@1000", 20) == ("tiny@1", "a-long…me@1000")
    for a, b in (
        ("x" * 120, "y" * 120),
        ("模型" * 30 + "@10", "🚀" * 40 + "@20"),
        ("tiny@1", "模" * 40 + "@5"),
    ):
        found = names_in(a, b, 51)
        assert sum(map(cell_len, found)) <= 51
        assert all(name[-2:] == whole[-2:] for name, whole in zip(found, (a, b), strict=True))
