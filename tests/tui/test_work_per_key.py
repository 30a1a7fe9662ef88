"""What a key costs does not grow with the checkpoints: work is counted here, not timed."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from fake_workspace import FakeWorkspace
from screen_text import text_of
from textual.css.stylesheet import Stylesheet
from textual.dom import DOMNode

from kltui.analysis.diffusion import Exponent
from kltui.analysis.map import Map
from kltui.analysis.point import Point, label_of, trajectory_of
from kltui.figures.groups import Colouring
from kltui.tui import app as app_module
from kltui.tui import data
from kltui.tui import filter as filter_module
from kltui.tui.app import KltuiApp
from kltui.tui.basis import left_out
from kltui.tui.data import Snapshot
from kltui.tui.dialogs import prompts
from kltui.tui.dialogs.forms import FormLines
from kltui.tui.dialogs.prompts import Words
from kltui.tui.export import exports
from kltui.tui.filter import EVERY, Columns, Filter, parse_filter
from kltui.tui.suggested_pairs import suggested_pairs
from kltui.tui.views import diffusion, map_colours, map_plot, matrix
from kltui.tui.views import map as map_view
from kltui.tui.views.diffusion import DrawnExponents, drawn_exponents
from kltui.tui.views.map_colours import colours
from kltui.tui.views.map_scene import layer_threads, lines_of, model_of
from kltui.tui.widgets import canvas, curve_panel, plot, run_tree
from kltui.tui.widgets.canvas import Pane, TextPane
from kltui.tui.widgets.shell import MainScreen
from kltui.view import cell_buffer, plot_data
from kltui.view.axis import Axis
from kltui.view.cell_buffer import dots_of, draw
from kltui.view.plot_data import Scene, fit_window
from kltui.workspace.losses import StoredLoss

MakeApp = Callable[..., KltuiApp]


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return Snapshot(rows=tuple(FakeWorkspace().checkpoints()), loaded=True)


@pytest.fixture(scope="module")
def layered() -> Map:
    return FakeWorkspace(12).map(layers=True)


def test_a_filter_reads_each_field_of_a_row_once(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[int] = Counter()

    def name_of(row: object) -> str:
        asked[row.id] += 1
        return row.name

    monkeypatch.setitem(filter_module.TEXT_FIELDS, "name", name_of)
    columns = Columns(snapshot.rows)
    for text in ("t", "ti", "tiny", "tiny|small -seed2", "-t | *@1"):
        parse_filter(text).passing(columns)
    assert set(asked.values()) == {1} and len(asked) == len(snapshot.rows)


def test_a_filter_is_applied_once_however_many_ask(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, calls = parse_filter("run:tiny step>=100"), []
    whole = Filter.passing

    def counted(self: Filter, columns: Columns) -> list[bool]:
        calls.append(self.text)
        return whole(self, columns)

    rows = [row for row in snapshot.rows if keep(row)]
    monkeypatch.setattr(Filter, "passing", counted)
    fresh = replace(snapshot)
    assert list(fresh.passing_rows(keep)) == rows and fresh.passing_names(keep) == {r.name for r in rows}
    for run, of in fresh.runs.items():
        own = [r for r in of if r in rows]
        assert fresh.rows_of_run(run, keep) == own
        assert fresh.names_of_run(run, keep) == [r.name for r in own]
        assert fresh.rows_of_run(run, EVERY) == of
        assert fresh.names_of_run(run, EVERY) == [r.name for r in of]
    assert calls == [keep.text]
    assert fresh.passing_rows(EVERY) == snapshot.rows


def test_what_rows_tell_is_kept_while_they_are_the_same(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(snapshot).worked_out(Snapshot())
    assert "by_name" not in small.__dict__  # by need: a few thousand rows hold up no key
    monkeypatch.setattr(data, "MANY_ROWS", 10)
    first = replace(snapshot).worked_out(Snapshot())
    again = replace(snapshot, generation=7).worked_out(first)
    assert again.generation == 7 and again.rows is first.rows
    assert again.by_name is first.by_name and again.scored is first.scored
    assert again._place_in_line is first._place_in_line
    failed = (replace(first.rows[0], status="failed"), *first.rows[1:])
    other = replace(snapshot, rows=failed).worked_out(first)
    assert other.by_name is not first.by_name and other.rows is failed
    assert other.scored is first.scored  # the status says nothing of the vectors
    less = (replace(first.rows[0], scored=False), *first.rows[1:])
    assert replace(snapshot, rows=less).worked_out(first).scored == first.scored[1:]


def test_exclusions_are_looked_for_where_there_are_some(snapshot: Snapshot) -> None:
    names = [row.name for row in snapshot.rows]
    assert left_out(["run:small step<2", "tuned"], snapshot.rows, names) == ("small@0", "small@1", "tuned")


def test_pairs_are_suggested_from_one_look_at_the_rows(snapshot: Snapshot) -> None:
    kinds = Counter(pair.kind for pair in suggested_pairs(snapshot.rows))
    assert (
        kinds["bnb-8bit and original"]
        == kinds["fine-tune and parent"]
        == kinds["bnb-8bit and fine-tune"]
        == 1
    )
    assert kinds["two seeds"] == 3 and kinds["first and last"] == 5
    bare = [replace(r, checkpoint=replace(r.checkpoint, parent="")) for r in snapshot.rows]
    kinds = Counter(
        pair.kind for pair in suggested_pairs([r for r in bare if r.checkpoint.quantization == "none"])
    )
    assert set(kinds) == {"two seeds", "two sizes", "first and last"}


async def test_letters_of_a_filter_wait_for_a_pause_where_rows_are_many(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MANY_ROWS", 10)
    monkeypatch.setattr(app_module, "TYPING_SECONDS", 60.0)
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("/", *"run:tuned")
        assert not app.filter.text and "run:tuned" in text_of(app)
        await pilot.press("enter")
        assert app.filter.text == "run:tuned" and "3 of 84 checkpoints by the filter" in text_of(app)
        monkeypatch.setattr(app_module, "TYPING_SECONDS", 0.01)
        await pilot.press("/", "|", "s")
        await until(pilot, lambda: app.filter.text == "run:tuned|s")
        await pilot.press("x", "escape")
        await pilot.pause(0.05)
        assert app.filter.text == "run:tuned"  # what was typed last does not come after the answer


async def test_letters_of_a_filter_of_many_rows_look_for_them_in_another_thread(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MANY_ROWS", 10)
    monkeypatch.setattr(app_module, "TYPING_SECONDS", 0.01)
    whole, threads = Filter.passing, []

    def noted(self: Filter, columns: Columns) -> list[bool]:
        threads.append(threading.current_thread() is threading.main_thread())
        return whole(self, columns)

    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        monkeypatch.setattr(Filter, "passing", noted)
        await pilot.press("/", *"run:tuned")
        await until(pilot, lambda: app.filter.text == "run:tuned")
        await pilot.press("enter")
        assert "3 of 84 checkpoints by the filter" in text_of(app)
    assert threads and not any(threads)


@pytest.mark.parametrize("column", ["step", "source", "layers"])
async def test_many_rows_are_sorted_in_another_thread_and_filtered_in_their_order(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        tree = app.view.runs
        orders = [run_tree.Order(column), run_tree.Order(column, True)]
        filters = ["", "run:tiny step>=100", "tuned"]
        wanted = [[o.sorted(app.snapshot, parse_filter(f)) for f in filters] for o in orders]
        widths = []
        for order in orders:
            tree._put_in(order)
            widths.append(tree.widths())
        tree._put_in(run_tree.Order())
        monkeypatch.setattr(run_tree, "MANY_ROWS", 10)
        threads: list[bool] = []
        whole = run_tree.Order.sorted

        def noted(self: run_tree.Order, *of: object) -> list[object]:
            threads.append(threading.current_thread() is threading.main_thread())
            return whole(self, *of)

        monkeypatch.setattr(run_tree.Order, "sorted", noted)
        for order, rows_of, wide in zip(orders, wanted, widths, strict=True):
            tree._put_in(order)
            assert tree.order != order and "sorting 84 checkpoints" in app.under_way
            await until(pilot, lambda order=order: tree.order == order and not app.under_way)
            for text, rows in zip(filters, rows_of, strict=True):
                app.set_filter(text)
                assert [line.row for line in tree.lines] == rows
                assert text or tree.widths() == wide
            app.set_filter("")
    assert threads == [False, False]


async def test_a_runs_checkpoints_are_counted_once(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        snapshot = app.snapshot
        for run, rows in snapshot.runs.items():
            steps = [r.checkpoint.step for r in rows if r.checkpoint.step is not None]
            assert snapshot.run_facts[run] == (
                len(rows),
                sum(r.scored for r in rows),
                sum(r.status == "failed" for r in rows),
                min(steps, default=None),
                max(steps, default=None),
            )
        before = snapshot.run_facts
        await pilot.press("g", "n", "N", "enter", "enter")
        assert app.snapshot.run_facts is before and "0 to 1400" in text_of(app)
    again = replace(snapshot, generation=9).worked_out(snapshot)
    assert again.run_facts is before


async def test_letters_of_a_choice_rank_the_options_once(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[str] = []
    whole = prompts.matching

    def counted(options: object, needle: str) -> list[int]:
        ranked.append(needle)
        return whole(options, needle)

    monkeypatch.setattr(prompts, "matching", counted)
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press(":", "z", "o", "down", "down")
        await pilot.pause()
        assert ranked == ["", "z", "zo"] and "zoom" in text_of(app)


async def test_what_is_below_a_question_is_the_view_as_it_is_and_no_letter_draws_it(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and len(app.loss_errors) == len(app.snapshot.losses))
        await pilot.pause()
        before = text_of(app).split("\n")
        await pilot.press(":")
        await pilot.pause()
        after = text_of(app).split("\n")
        at = next(y for y, line in enumerate(after) if "Run which action?" in line)
        assert at > 10 and after[:at] == before[:at]
        await pilot.press("z")
        await pilot.pause()
        below: list[object] = []
        render_line = Pane.render_line

        def noted(self: Pane, y: int) -> object:
            if self in app.view.panes:
                below.append(self)
            return render_line(self, y)

        monkeypatch.setattr(Pane, "render_line", noted)
        await pilot.press("o")
        await pilot.pause()
        assert not below and "zoom" in text_of(app)
        app.set_cursor("small@100")
        app.view.update_data()
        await pilot.pause()
        assert "small@100" in text_of(app)  # a change below is shown


async def test_errors_out_of_view_are_read_while_nobody_types(make_app: MakeApp, until) -> None:
    workspace = MarksRead()
    app = make_app(workspace)
    async with app.run_test(size=(120, 20)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and len(app.loss_errors) == len(app.snapshot.losses))
        app.loss_errors.clear()
        workspace.read.clear()
        app.typed_at = math.inf
        app.view._losses = {}
        app.view.update_data()
        in_view = {app.snapshot.losses[i].vector for i in app.view._in_view() if i in app.snapshot.losses}
        await until(pilot, lambda: in_view <= set(workspace.read))
        await pilot.pause(0.1)
        assert len(workspace.read) < len(app.snapshot.losses)


async def test_curves_of_many_points_are_drawn_after_the_answer_by_another_thread(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    whole = curve_panel.CurvePanel._picture

    def noted(self: curve_panel.CurvePanel) -> curve_panel.PanelPicture:
        if self.content.curves:
            made.append(threading.current_thread() is threading.main_thread())
        return whole(self)

    monkeypatch.setattr(curve_panel.CurvePanel, "_picture", noted)
    monkeypatch.setattr(curve_panel, "FEW_POINTS", 0)
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4")
        panels = app.view.panels
        await until(pilot, lambda: panels[-1].content.curves)
        await until(pilot, lambda: not any(p.waits for p in panels) and all(p.drawn for p in panels[:3]))
        for change in (
            app.view.do_axis_scale,
            panels[1].do_value_scale,
            app.view.do_hide_run,
            lambda: app.set_filter("step>=8"),
        ):
            before = len(made)
            change()
            assert len(made) == before and any(p.waits and "drawing" in str(p.header_right()) for p in panels)
            await until(pilot, lambda: not any(p.waits for p in panels))
            assert len(made) > before
            assert all(p._drawn_for == p._draws() for p in panels)
        assert panels[0].scene.x_scale == "linear" and "tiny" not in {d.curve.run for d in panels[0].drawn}
        assert min(s for p in panels for d in p.drawn for s in d.steps) >= 8
        before = len(made)
        await pilot.press("]", "]", "j")
        assert not any(made[:before]) and not any(made)


async def test_starts_are_scaled_by_another_thread_where_they_are_many(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion, "FEW_POINTS", 0)
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: app.view.exponent_plot.scene is not None)
        plot = app.view.exponent_plot
        threads: list[bool] = []
        seen = DrawnExponents.seen

        def noted(self: DrawnExponents, scale: str) -> object:
            if scale not in self._seen:
                threads.append(threading.current_thread() is threading.main_thread())
            return seen(self, scale)

        monkeypatch.setattr(DrawnExponents, "seen", noted)
        await pilot.press("L")
        await until(pilot, lambda: plot.scene.x_scale == "log1p")
        assert threads == [False]
        assert [plot.place_of(name) for name in plot.names] == list(range(len(plot.names)))
        assert plot.place_of("nobody@1") == -1


class MarksRead(FakeWorkspace):
    """Keeps which losses were read, and in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def losses_of(self, vectors: list[int]) -> dict[int, tuple[float, float]]:
        self.read += vectors
        return super().losses_of(vectors)


async def test_errors_of_losses_are_read_once_those_in_view_first(make_app: MakeApp, until) -> None:
    workspace = MarksRead()
    app = make_app(workspace)
    async with app.run_test(size=(120, 20)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and len(app.loss_errors) == len(app.snapshot.losses))
        assert max(Counter(workspace.read).values()) == 1
        losses: dict[int, StoredLoss] = app.snapshot.losses
        in_view = {losses[i].vector for i in app.view._in_view() if i in losses}
        assert in_view and set(workspace.read[: len(in_view)]) == in_view


@pytest.mark.parametrize(
    ("text", "hidden"), [("", set()), ("step>=8 | small", {"tiny-seed2"}), ("tuned", {"tuned"})]
)
async def test_rows_that_the_map_draws_are_those_of_a_look_at_every_point(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, text: str, hidden: set[str]
) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None)
        plot, keep = app.view.plot, parse_filter(text)
        monkeypatch.setattr(map_plot, "lines_of", pytest.fail)
        app.selection.hidden |= hidden
        app.set_filter(text)
        app.view.update_data()
        wanted = [
            trajectory_of(p.run, p.tags) not in hidden and keep(app.snapshot.by_name[p.name])
            for p in plot.map.points
        ]
        assert (plot.scene.code_n[: len(wanted)] >= 0).tolist() == wanted
        assert plot.n_shown == sum(wanted)
        if any(wanted):
            row = wanted.index(True)
            app.set_cursor(plot.map.names[row])
            own = next(t for t in plot.map.trajectories() if row in t.rows)
            assert plot.label_here() == own.label
            await pilot.press("G")
            assert app.selection.cursor == plot.map.names[own.rows[-1]]


def test_lines_of_a_map_are_those_of_a_look_at_every_point(layered: Map) -> None:
    lines = lines_of(layered)
    before = {b: a for t in layered.trajectories() for a, b in zip(t.rows, t.rows[1:], strict=False)}
    assert lines.before_n.tolist() == [before.get(k, -1) for k in range(len(layered))]
    assert lines.n_layers == sum(p.layer is not None for p in layered.points) > 0
    for k, p in enumerate(layered.points):
        assert lines.groups[lines.group_n[k]] == trajectory_of(p.run, p.tags)
        own = [t.label for t in layered.trajectories() if k in t.rows]
        assert lines.label_of(k) == (own[0] if own else "")
    assert lines.label_of(-1) == lines.label_of(len(layered)) == ""
    rng = random.Random(3)
    keep_n = np.array([rng.random() < 0.7 for _ in layered.points])
    wanted: dict[str, list[int]] = {}
    for k, p in enumerate(layered.points):
        if p.layer is not None and keep_n[k]:
            wanted.setdefault(model_of(p.name), []).append(k)
    found = [rows.tolist() for rows in layer_threads(lines, keep_n)]
    assert len(found) == len(wanted)
    for (model, rows), got in zip(wanted.items(), found, strict=True):
        rows.sort(key=lambda k: layered.points[k].layer)
        own = [k for k, p in enumerate(layered.points) if p.name == model and keep_n[k]]
        assert got == [*rows, *own]


@pytest.mark.parametrize("by", ["run", "type", "size", "tag", "arc", "nothing"])
def test_colours_with_known_lines_are_those_of_a_look_at_every_point(layered: Map, by: str) -> None:
    lines, labels = lines_of(layered), [label_of(p) for p in layered.points]
    numbers = {label: 3 * k for k, label in enumerate(sorted(set(labels)))}
    scores = {"arc": {layered.names[1]: 20.0, layered.names[4]: 60.0}}
    made, wanted = (colours(layered, by, numbers, scores, *known) for known in ([lines.labels], []))
    np.testing.assert_array_equal(made.series_n, wanted.series_n)
    assert (made.by, made.groups) == (wanted.by, wanted.groups)
    if by in ("run", "nothing"):
        assert made.series_n.tolist() == [numbers[label] for label in labels]
    own = Counter(label for label, p in zip(labels, layered.points, strict=True) if p.layer is None)
    assert lines.n_of_label == {label: own[label] for label in labels}
    assert lines.n_layers and sum(own.values()) == len(layered) - lines.n_layers


async def test_points_of_a_large_map_are_coloured_off_the_interface(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_view, "MANY_ROWS", 10)
    by_threads: set[str] = set()
    label, found = Colouring.label, map_colours.label_of

    def noted_label(point: Point) -> str:
        by_threads.add(threading.current_thread().name)
        return found(point)

    def noted(self: Colouring, point: Point) -> str:
        by_threads.add(threading.current_thread().name)
        return label(self, point)

    monkeypatch.setattr(Colouring, "label", noted)
    monkeypatch.setattr(map_colours, "label_of", noted_label)
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None and not app.view.plot.waiting)
        for by in ("type", "size"):
            await pilot.press("i")
            await until(pilot, lambda by=by: app.view.plot.colours.by == by)
            assert f"Colour: {by}" in text_of(app)
        assert by_threads and all(name.startswith("kltui-analyst") for name in by_threads)


async def test_points_are_placed_once_for_all_moves_and_only_a_few_for_marks(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None and not app.view.plot.waiting)
        plot, placed, fitted = app.view.plot, list[int](), list[Scene]()
        cells, fit = cell_buffer.cells_of, plot_data.fit_window
        monkeypatch.setattr(
            cell_buffer, "cells_of", lambda dots, *how: placed.append(len(dots)) or cells(dots, *how)
        )
        monkeypatch.setattr(plot_data, "fit_window", lambda scene: fitted.append(scene) or fit(scene))
        await pilot.press("[", "]", "[")
        assert placed and max(placed) == 1
        for zooms in (1, 2):
            await pilot.press("+")
            cursors = set()
            for key in "lhkjl":
                await pilot.press(key)
                cursors.add(plot.cursor)
            assert len(cursors) > 1 and placed.count(len(plot.scene.xy_n2)) == zooms
        await pilot.press("1", "3", "1", "3")
        assert placed.count(len(plot.scene.xy_n2)) == 2 and not fitted


async def test_points_of_one_cell_are_ticked_once(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None)
        plot = app.view.plot
        app.selection.toggle([*plot.map.names, "of no map"])
        app.selection_changed()
        cells = [plot.cell(k) for k in range(len(plot.map))]
        ticked = [point for point, glyph, _ in plot.marks() if glyph == "◇"]
        assert len(ticked) < len(plot.map)
        assert [plot.cell(k) for k in ticked] == list(dict.fromkeys(c for c in cells if c is not None))
        assert plot.one_a_cell(np.array([], dtype=np.intp)) == []


async def test_a_large_matrix_is_that_of_a_draw_and_never_of_all(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "MAX_ROWS", 12)
    made: list[int] = []
    whole = Map.kl

    def counted(self: Map) -> np.ndarray:
        made.append(len(self))
        return whole(self)

    monkeypatch.setattr(Map, "kl", counted)
    app = make_app()
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6")
        await until(pilot, lambda: app.view.heat.kl_KK is not None)
        heat = app.view.heat
        assert 5 < len(heat.order) <= 12
        assert "drawn of 83 checkpoints" in text_of(app)
        everything = await app.map_cache.map()
        names = [heat.map.names[k] for k in heat.order]
        for run in ("tiny", "small"):
            own = [n for n in names if n.split("@")[0] == run]
            assert {f"{run}@0", f"{run}@1400"} <= set(own)
        i, j = heat.order[1], heat.order[3]
        assert heat.kl_KK[i, j] == pytest.approx(everything.pair(names[1], names[3]).value, rel=1e-9)
        app.set_filter("run:tuned")
        tuned = [name for name in everything.names if name.startswith("tuned@")]
        await until(pilot, lambda: [heat.map.names[k] for k in heat.order] == tuned)
        assert f"{len(tuned)} checkpoints" in text_of(app)
        app.set_filter("")
        app.selection.toggle(["tiny@1", "small@2", "gone"])
        app.selection_changed()
        await until(pilot, lambda: [heat.map.names[k] for k in heat.order] == ["tiny@1", "small@2"])
        assert max(made) <= 12


def exponents(runs: dict[str, list[int]]) -> list[Exponent]:
    rng = random.Random(5)
    return [
        Exponent(run, s, 10, rng.random(), 0.9, math.nan if s % 3 == 0 else rng.random(), 9, end=s + 90)
        for run, starts in runs.items()
        for s in starts
    ]


def test_exponents_are_prepared_as_a_look_at_every_one_says() -> None:
    found, number = exponents({"a": [0, 10, 20, 31], "b": [5]}), {"a": 2, "b": 1}
    names = {(e.run, e.start): f"{e.run}@{e.start}" for e in found}
    drawn = drawn_exponents(found, number, names)
    assert drawn.names == ["a@0", "a@10", "a@20", "a@31", "b@5"]
    bars = [(e.start, e.c_q + sign * e.se_q) for e in found if math.isfinite(e.se_q) for sign in (-1, 1)]
    assert drawn.bars_m2.tolist() == [list(bar) for bar in bars] and len(drawn.bar_codes) == len(bars)
    assert drawn.ends == [("a", 2, 3), ("b", 1, 4)]
    for run in ("a", "b"):
        own = [e for e in found if e.run == run]
        for step in range(-3, 40):
            assert drawn.nearest(run, step) is min(own, key=lambda e: abs(e.start - step))
    assert drawn.nearest("c", 3) is None
    none = drawn_exponents([], {}, {})
    assert not none.names and not len(none.xy_n2) and not none.ends and not none.summaries


async def test_no_key_on_diffusion_looks_at_every_exponent(make_app: MakeApp, until, monkeypatch) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: app.view.exponent_plot.scene is not None)
        made: list[str] = []
        update = TextPane.update_data
        monkeypatch.setattr(TextPane, "update_data", lambda self: (made.append(self.title), update(self)))
        before = app.selection.cursor
        await pilot.press("]", "]")
        assert app.selection.cursor != before and app.view.window_plot.exponent is not None and not made


async def test_the_pairs_of_a_setting_are_computed_off_the_interface(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("9")
        await until(pilot, lambda: app.view.table.rows)
        view = app.view
        for _ in range(3):
            await pilot.press("j")
            row = view.table.rows[view.table.cursor]
            await until(pilot, lambda row=row: len(view.pair_table.pairs) == len(row.pairs))
            values = [kl.value for kl, _, _ in view.pair_table.pairs]
            assert values == sorted(values)
            assert {(a, b) for _, a, b in view.pair_table.pairs} == set(row.pairs)


@pytest.mark.parametrize("screen", ["1", "3", "4", "5", "6"])
async def test_what_can_be_exported_is_offered_without_making_every_row(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, screen: str
) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press(screen)
        await pilot.pause()
        made: list[object] = []
        rows = app.view.csv_rows

        def counted() -> Iterator[list[object]]:
            for row in rows():
                made.append(row)
                yield row

        monkeypatch.setattr(app.view, "csv_rows", counted)
        assert "csv" in [export.name for export in exports(app)] or not list(rows())
        assert len(made) <= 1


def test_logarithms_of_a_scene_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    xy = np.array([[0.0, 1.0], [9.0, 100.0], [99.0, 0.0]])
    scene = Scene(xy, np.zeros(3, np.int16), np.zeros((0, 2), np.int64), "log1p", "log")
    taken: list[str] = []
    forward = Axis.forward
    monkeypatch.setattr(Axis, "forward", lambda values, scale: taken.append(scale) or forward(values, scale))
    window = fit_window(scene)
    before = scene.scaled().copy()
    draw(scene, window, 20, 10, "braille")
    dots_of(scene, window, 20, 10, "braille")
    assert taken == ["log1p", "log"]
    np.testing.assert_array_equal(scene.scaled(), before)
    np.testing.assert_allclose(before, [[0.0, 0.0], [1.0, 2.0], [2.0, np.nan]])


async def test_a_dialog_draws_the_pane_below_no_second_time(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("7", "c", "enter")
        await until(pilot, lambda: app.view.texts.order and not app.is_asking)
        await pilot.pause()
        drawn: list[Pane] = []
        render_line = Pane.render_line

        def noted(self: Pane, y: int) -> object:
            if self in app.view.panes and y:
                drawn.append(self)
            return render_line(self, y)

        monkeypatch.setattr(Pane, "render_line", noted)
        before = text_of(app)
        for key in ("?", "escape", ":", "escape", "f"):
            await pilot.press(key)
            await until(pilot, lambda key=key: app.is_asking == (key != "escape"))
        await until(pilot, lambda: "Map settings" in text_of(app))
        await pilot.press("escape")
        await pilot.pause()
        assert text_of(app) == before
        # the cursor's row and the header show the focus; an empty screen has no others
        assert len(drawn) < 40, drawn


async def test_a_dialog_s_styles_are_found_once(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        found: Counter[object] = Counter()
        apply = Stylesheet.apply

        def noted(self: Stylesheet, node: DOMNode, **how: object) -> None:
            if isinstance(node, FormLines | Words):
                found[node] += 1
            apply(self, node, **how)

        monkeypatch.setattr(Stylesheet, "apply", noted)
        await pilot.press("f")
        await until(pilot, lambda: "Map settings" in text_of(app))
        await pilot.pause()
        assert found and set(found.values()) == {1}


def test_a_long_text_is_cut_without_a_look_at_each_of_its_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    whole = canvas.cell_len

    def noted(text: str) -> int:
        looks.append(text)
        return whole(text)

    monkeypatch.setattr(canvas, "cell_len", noted)
    for text in ("aé模" * 100, "é" * 300, "模" * 200, "a" * 300):
        looks.clear()
        made = canvas.fitted(text, 60)
        assert len(looks) < 15 and whole(made) == 60 and made.rstrip().endswith("…")
        assert whole(made.rstrip()) >= 59 and text.startswith(made.rstrip()[:-1])


async def test_a_move_in_the_matrix_finds_no_colour_a_second_time(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6")
        heat = app.view.heat
        await until(pilot, lambda: heat.kl_KK is not None)
        found: list[float] = []
        colour = matrix.heat
        monkeypatch.setattr(matrix, "heat", lambda near: found.append(near) or colour(near))
        assert heat.cell_width == matrix.NARROW
        for key in ("l", "j", "k", "h", "o", "G", "k", "C", "j"):
            await pilot.press(key)
            await until(pilot, lambda: not app.under_way)
            await pilot.pause()
            for at in range(len(heat.order)):
                kept = heat.cells(at, 0, matrix.NARROW)
                heat._plain_cells = {}
                assert kept == heat.cells(at, 0, matrix.NARROW)
        await pilot.press("g")
        await pilot.pause()
        found.clear()
        await pilot.press("l", "h", "j")
        await pilot.pause()
        assert len(found) <= 4 * heat.view_columns  # the cursor's row each time, and the one that it left


async def test_nothing_is_read_before_the_first_frame(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    beginning, display = data.SnapshotReader.beginning, MainScreen._compositor_refresh

    async def read(self: data.SnapshotReader) -> object:
        done.append("read")
        return await beginning(self)

    def drawn(self: MainScreen) -> None:
        done.append("drawn")
        display(self)

    monkeypatch.setattr(data.SnapshotReader, "beginning", read)
    monkeypatch.setattr(MainScreen, "_compositor_refresh", drawn)
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
    assert done[0] == "drawn" and done.count("read") == 1


@pytest.mark.parametrize("many", [True, False])
async def test_markers_of_many_points_are_drawn_after_the_answer_and_in_every_plot(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4")
        panels = [panel for panel in app.view.panels if panel.display]
        await until(pilot, lambda: all(panel.scene is not None for panel in panels[:3]))
        monkeypatch.setattr(plot, "MANY_POINTS", 0 if many else 10**9)
        drawn: list[object] = []
        redraw = plot.PlotPane.redraw_plot

        def noted(self: plot.PlotPane) -> None:
            drawn.append(self)
            redraw(self)

        monkeypatch.setattr(plot.PlotPane, "redraw_plot", noted)
        panels[0].do_marker()
        assert app.message == "marker: dots" and drawn == ([] if many else [panels[0]])
        await until(pilot, lambda: set(panels) <= set(drawn))
        await pilot.pause()
        assert {panel._drawn_kind for panel in panels if panel.scene is not None} == {"dots"}
