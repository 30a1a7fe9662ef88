"""What a key on a plot costs does not grow with the points: work is counted here, not timed."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from fake_workspace import FakeWorkspace
from screen_text import opened, text_of

from kltui.analysis.diffusion import Exponent
from kltui.analysis.map import Map
from kltui.analysis.point import Point, label_of, trajectory_of
from kltui.figures.groups import Colouring
from kltui.tui.app import KltuiApp
from kltui.tui.filter import parse_filter
from kltui.tui.views import diffusion, map_colours, map_plot, matrix
from kltui.tui.views import map as map_view
from kltui.tui.views.diffusion import DrawnExponents, drawn_exponents
from kltui.tui.views.map_colours import colours
from kltui.tui.views.map_scene import layer_threads, lines_of, model_of
from kltui.tui.widgets import curve_panel, plot
from kltui.tui.widgets.canvas import TextPane
from kltui.view import cell_buffer, plot_data
from kltui.view.axis import Axis
from kltui.view.cell_buffer import dots_of, draw
from kltui.view.plot_data import Scene, fit_window

MakeApp = Callable[..., KltuiApp]


@pytest.fixture(scope="module")
def layered() -> Map:
    return FakeWorkspace(12).map(layers=True)


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
        await opened(app, pilot, until, "4")
        panels = app.view.panels
        await until(pilot, lambda: next(p for p in panels if p.panel.key == "updates").content.curves)
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
        await opened(app, pilot, until, "5")
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


@pytest.mark.parametrize(
    ("text", "hidden"), [("", set()), ("step>=8 | small", {"tiny-seed2"}), ("tuned", {"tuned"})]
)
async def test_rows_that_the_map_draws_are_those_of_a_look_at_every_point(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, text: str, hidden: set[str]
) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await opened(app, pilot, until, "3")
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
        await opened(app, pilot, until, "3")
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
        await opened(app, pilot, until, "3")
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
        await opened(app, pilot, until, "3")
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
        await opened(app, pilot, until, "6")
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
        await opened(app, pilot, until, "5")
        await until(pilot, lambda: app.view.exponent_plot.scene is not None)
        made: list[str] = []
        update = TextPane.update_data
        monkeypatch.setattr(TextPane, "update_data", lambda self: (made.append(self.title), update(self)))
        before = app.selection.cursor
        await pilot.press("]", "]")
        assert app.selection.cursor != before and app.view.window_plot.exponent is not None and not made


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


async def test_a_move_in_the_matrix_finds_no_colour_a_second_time(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await opened(app, pilot, until, "6")
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


@pytest.mark.parametrize("many", [True, False])
async def test_markers_of_many_points_are_drawn_after_the_answer_and_in_every_plot(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await opened(app, pilot, until, "4")
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
