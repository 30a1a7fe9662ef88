"""The pictures of the map and of layers: units, turns, errors, colours, lines of descent, and what is said of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from screen_text import lines_of, text_of
from textual.pilot import Pilot

from kltui.analysis.point import label_of
from kltui.errors import KltuiError
from kltui.tui.app import KltuiApp
from kltui.tui.embedding import AGAIN
from kltui.tui.ui_state import Memory
from kltui.tui.views.arrange import arranged, stacked
from kltui.tui.views.map import MapView
from kltui.tui.views.map_colours import RAMP, UNSCORED, colours, labels_of, ramp_ink
from kltui.tui.views.map_scene import model_of
from kltui.tui.widgets.plot import Y_AXIS, PlotPane
from kltui.view.cell_buffer import DOTS
from kltui.view.palette import DARK, LIGHT, SHADES, contrast
from kltui.view.ticks import axis_name

MakeApp = Callable[..., KltuiApp]
SIZES = [(80, 24), (120, 40), (200, 60)]


class Scored(FakeWorkspace):
    """The same with benchmark scores of some checkpoints."""

    def benchmark_scores(self) -> dict[str, dict[str, float]]:
        return {f"tiny@{s}": {"arc": 20.0 + s / 50} for s in (0, 100, 500, 1400)} | {"small": {"arc": 61.5}}


@pytest.fixture
def pca_app(make_app: MakeApp, tmp_path: Path) -> MakeApp:
    """A maker of apps that begin with the PCA picture: no other process computes anything."""

    def made(workspace: object = None, **options: object) -> KltuiApp:
        memory = Memory(tmp_path / "state.json")
        memory.save(Path("/workspaces/demo"), {"map.method": "pca"})
        return make_app(workspace, memory=memory, **options)

    return made


async def settled(pilot: Pilot[int], *keys: str) -> None:
    """Presses keys one by one, each until nothing is computed any more."""
    app = pilot.app
    for key in keys or ("",):
        if key:
            await pilot.press(key)
        for _ in range(3):
            await pilot.pause()
            await app.workers.wait_for_complete()
        await pilot.pause()


def spots(plot: PlotPane) -> np.ndarray | None:
    """Positions of all points in cells, n x 2; None before anything is drawn."""
    return None if plot._dots is None else plot._cells_of(plot._dots)


def unit_lengths(plot: PlotPane) -> tuple[float, float]:
    """What a unit measures to the eye, across and down: a cell is twice as high as wide."""
    assert plot.scene is not None
    places, cells = plot.scene.xy_n2, spots(plot)
    finite = np.isfinite(places).all(axis=1)
    across = np.ptp(cells[finite, 0]) / np.ptp(places[finite, 0])
    return across, 2 * np.ptp(cells[finite, 1]) / np.ptp(places[finite, 1])


async def test_maps_and_threads_have_equal_units_zoomed_panned_and_resized(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=SIZES[0]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        plot = app.view.plot
        await until(pilot, lambda: plot.drawn_method == "pca" and spots(plot) is not None)
        for width, height in SIZES:
            for size in ((width, height), (width - 13, height + 5)):
                await pilot.resize_terminal(*size)
                await settled(pilot)
                across, down = unit_lengths(plot)
                assert across == pytest.approx(down, rel=1e-6), size
            for keys in ("++", "HJ-", "=m", "m", "m"):
                await settled(pilot, *keys)
                across, down = unit_lengths(plot)
                assert across == pytest.approx(down, rel=1e-6), keys
        await settled(pilot, "8", "v")
        threads = app.view.plot
        assert threads.method == "threads" and "axis 1 (" in text_of(app)
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await settled(pilot)
            assert unit_lengths(threads)[0] == pytest.approx(unit_lengths(threads)[1], rel=1e-6)


async def test_all_of_the_map_is_in_sight_and_the_rest_of_the_screen_is_used(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=SIZES[0]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        plot = app.view.plot
        await until(pilot, lambda: plot.drawn_method == "pca" and spots(plot) is not None)
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await settled(pilot)
            assert all(plot.cell(k) is not None for k in range(len(plot.map)))
            assert (
                min(plot.cell(k)[1] for k in range(len(plot.map))) > 0
            )  # the first row is the y axis' name's
            right, down = np.ptp(spots(plot), axis=0)
            assert right > 0.6 * plot.plot_width or down > 0.6 * plot.plot_height
            text = text_of(app)
            assert "Runs" in text and "Nearest, bits/byte" in text and "to tiny@" in text
            assert "axis 1 (" in text and "axis 2 (" in text and "√(bits/byte)" in text


def test_the_shape_of_a_picture_decides_where_other_panes_go() -> None:
    flat, tall = (12.0, 1.0), (1.0, 2.0)
    assert arranged(120, 37, flat, must=True).place == "below"
    assert arranged(120, 37, tall, must=True).place == "right"
    assert arranged(80, 21, (2.0, 1.0), must=False).place == "alone"
    assert arranged(80, 21, (1.0, 1.0), must=False).place == "right"
    assert arranged(80, 21, None, must=False).place == "alone"
    assert arranged(50, 12, flat, must=True).place == "alone"
    for width, height in ((60, 15), (80, 21), (120, 37), (150, 57), (400, 100)):
        for shape in (flat, tall, (1.0, 1.0), (3.0, 2.0), (1e-9, 1.0)):
            how = arranged(width, height, shape, must=True)
            assert 0 <= how.plot <= (height if how.place == "below" else width)


def test_a_stack_never_overflows_and_shows_the_pane_in_focus() -> None:
    for height in range(4, 60):
        for first in range(3):
            lines = stacked([8, 10, 0], height, first)
            assert sum(lines) == height and lines[first] >= 4 and all(n == 0 or n >= 4 for n in lines)


async def test_three_dimensions_turn_by_keys_and_lengths_stay(
    pca_app: MakeApp, make_app: MakeApp, until, tmp_path
) -> None:
    app = pca_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3", "d")
        plot = app.view.plot
        await until(pilot, lambda: plot.dims == 3)
        assert "PCA 3-D" in lines_of(app)[2] and "axis 3" in text_of(app)
        xyz = plot.picture.xyz_Kd
        wanted = np.linalg.norm(xyz[0] - xyz[40])
        for key in (">", ">", "}", "<", "{", "{", "{"):
            await settled(pilot, key)
            scene = plot.scene
            seen = np.column_stack([scene.xy_n2, scene.depth_n])
            assert np.linalg.norm(seen[0] - seen[40]) == pytest.approx(wanted)
            assert unit_lengths(plot)[0] == pytest.approx(unit_lengths(plot)[1])
            assert all(plot.cell(k) is not None for k in range(len(plot.map)))
        # Brightness is depth: the nearest point has the last shade, the farthest the first.
        own = slice(0, len(plot.map))
        depth, shade = scene.depth_n[own], scene.code_n[own] % SHADES
        assert shade[depth.argmax()] == SHADES - 1 and shade[depth.argmin()] == 0
        assert (np.diff(shade[np.argsort(depth)]) >= 0).all()
        turn = plot.turn
        assert (turn.azimuth, turn.elevation) == (40.0, 5.0)
        before = app.selection.cursor
        await settled(pilot, "l")
        assert app.selection.cursor != before and "loss" in text_of(app)
        here, there = spots(plot)[plot.names.index(before)], spots(plot)[plot.cursor]
        assert there[0] > here[0]
        await pilot.press("q")
    again = make_app(memory=Memory(tmp_path / "state.json"))
    async with again.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: again.snapshot.loaded)
        await until(pilot, lambda: again.view.screen_name == "map" and again.view.plot.dims == 3)
        assert again.view.plot.turn == turn and again.view.method == "pca"


@pytest.mark.parametrize("key", ["V", "w"])
async def test_ellipses_belong_to_the_axes_that_layers_or_a_random_walk_have_turned(
    pca_app: MakeApp, until, key: str
) -> None:
    app = pca_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3", "E")
        plot = app.view.plot
        await until(pilot, lambda: plot.n_ellipses)
        alone, n = plot.covariances, len(plot.picture.xyz_Kd)
        await settled(pilot, key)
        await until(pilot, lambda: len(plot.picture.xyz_Kd) > n and plot.n_ellipses)
        shown, walk = plot.map, app.map_cache._walked
        drawn = await walk(shown, plot.null_run) if plot.null_run else shown
        want = drawn.place_covariances(2)[: len(shown)]
        np.testing.assert_allclose(plot.covariances, want, rtol=1e-9)
        assert not np.allclose(plot.covariances[: len(alone)], alone, rtol=0.01)
        await settled(pilot, key)
        await until(pilot, lambda: len(plot.picture.xyz_Kd) == n and plot.n_ellipses)
        np.testing.assert_allclose(plot.covariances, alone, rtol=1e-9)


async def test_errors_of_too_few_texts_are_refused_in_words(pca_app: MakeApp, until) -> None:
    app = pca_app(FakeWorkspace(n_texts=2))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3", "E")
        await until(pilot, lambda: "too few for an error" in text_of(app))
        await settled(pilot, "j")


async def test_what_paler_colours_mean_is_said(pca_app: MakeApp, until) -> None:
    for color in (True, False):
        app = pca_app(Scored(), color=color)
        async with app.run_test(size=(160, 50)) as pilot:
            await until(pilot, lambda app=app: app.snapshot.loaded)
            await settled(pilot, "3")
            assert ("paler: earlier step" in text_of(app)) == color
            await settled(pilot, "d")
            await until(pilot, lambda app=app: app.view.plot.dims == 3)
            assert ("paler: farther away" in text_of(app)) == color and "earlier step" not in text_of(app)
            app.view.plot.scores = {app.view.plot.colours.by: {}}
            app.view.facts.update_data()
            await pilot.pause()
            assert "paler" not in text_of(app)


async def test_no_mark_is_read_as_a_digit_of_an_axis_name(
    pca_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As "axis 2 (4o9%)" would be."""
    app = pca_app(color=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        plot = app.view.plot
        everywhere = [(k, "o", app.look("text")) for k in range(len(plot.names))]
        monkeypatch.setattr(plot, "marks", lambda: everywhere)
        inside = 0
        for down in range(12):
            plot._look_through(plot.seen.panned(-0.02, -0.05 * (down % 3) - 0.02))
            plot.cursor = -1
            assert plot._prepare()
            name = plot._y_name()[1]
            cells = [cell for k in range(len(plot.names)) if (cell := plot.cell(k))]
            inside += any(y == 0 and x < len(name) for x, y in cells)
            assert lines_of_patches(plot)[: len(name)] == name
        assert inside


def lines_of_patches(plot: PlotPane) -> str:
    """The uppermost line of a plot with nothing but its patches."""
    line = [" "] * plot.plot_width
    for x, text, _ in plot._make_patches().get(0, []):
        line[x : x + len(text)] = text
    return "".join(line)


async def test_errors_are_drawn_as_the_covariances_say(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        plot = app.view.plot
        n = len(plot.scene.xy_n2)
        await settled(pilot, "E")
        await until(pilot, lambda: plot.n_ellipses)
        assert plot.n_ellipses == len(plot._ends) and f"± 1 s.e. of {plot.n_ellipses}" in lines_of(app)[2]
        row = plot._ends[0][0]
        corners = plot.scene.xy_n2[n:][: 25 * plot.n_ellipses].reshape(plot.n_ellipses, 25, 2)
        rows = sorted(r for r, _ in plot._ends)
        off = corners[rows.index(row)] - plot.scene.xy_n2[row]
        C = (await app.map_cache.covariances(2))[1][row]
        spreads = (await app.map_cache.covariances(2))[1][rows]
        major = math.sqrt(max(np.linalg.eigvalsh(c)[-1] for c in spreads))  # of the largest ellipse
        assert f"largest half axis {major:.2g}" in text_of(app)
        own = [math.sqrt(v) for v in np.linalg.eigvalsh(spreads[rows.index(row)])[::-1]]
        assert "place ± {:.2g} by {:.2g}".format(*own) in next(plot._more(row))
        np.testing.assert_allclose(np.einsum("ki,ij,kj->k", off, np.linalg.inv(C), off), 1.0, rtol=1e-6)
        await settled(pilot, "E")
        wide = plot.scene.xy_n2[n:][: 25 * plot.n_ellipses].reshape(plot.n_ellipses, 25, 2)
        scale = np.linalg.norm(wide[rows.index(row)] - plot.scene.xy_n2[row], axis=1) / np.linalg.norm(
            off, axis=1
        )
        np.testing.assert_allclose(scale, math.sqrt(-2 * math.log(0.05)))
        assert "± 95%" in lines_of(app)[2]
        wider = math.sqrt(-2 * math.log(0.05))
        assert f"largest half axis {wider * major:.2g}" in text_of(app)
        assert "place (95%) ± {:.2g} by {:.2g}".format(*(wider * v for v in own)) in next(plot._more(row))
        flat = plot.picture
        await settled(pilot, "d")
        await until(pilot, lambda: plot.dims == 3 and plot.n_ellipses)
        assert plot.covariances.shape[1] == 3
        plot.show_map(plot.map, flat)  # before its covariances are there
        assert plot.covariances is None and not plot.n_ellipses
        app.view.facts.update_data()
        await settled(pilot, "d", "E")
        await until(pilot, lambda: not plot.n_ellipses and plot.dims == 2)
        assert len(plot.scene.xy_n2) == n


async def test_colours_follow_a_property_and_the_legend_follows_them(pca_app: MakeApp, until) -> None:
    app = pca_app(Scored())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3", "i")
        assert "Colour: type" in text_of(app) and "gpt_neox" in text_of(app) and "by type" in lines_of(app)[2]
        await settled(pilot, "i")
        plot = app.view.plot
        sizes = {p.size: int(plot.scene.code_n[k]) // SHADES for k, p in enumerate(plot.map.points)}
        assert len(set(sizes.values())) == 2 and "Colour: size" in text_of(app)
        await settled(pilot, "i")
        text = text_of(app)
        assert "Colour: arc" in text and "20.0 " in text and "61.5" in text and "without a score" in text
        series = {n: int(plot.scene.code_n[k]) // SHADES for k, n in enumerate(plot.names)}
        # Marks of scores are all equal, and in the ink of names they would look like a score.
        assert [said for _, said, _ in plot.labels()] == [label for _, label in plot._ends]
        assert re.search(r"● \d+ without a score", text)
        assert app.view.wanted_lines(app.view.legend) == 2 + len(app.view.legend.all_lines())
        assert series["tiny@0"] == RAMP and series["small@1400"] == RAMP + 7 and series["tiny@1"] == UNSCORED
        app.set_cursor("tiny@0")
        await until(pilot, lambda: "arc 20" in text_of(app))
        await settled(pilot, "i")
        assert "Runs" in text_of(app) and plot.colours.by == "run"


async def test_marks_beside_the_nearest_are_those_of_the_picture(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_cursor("tiny@1400")
        await settled(pilot, "3")
        view = app.view
        await until(pilot, lambda: view._near[0] == "tiny@1400" and "nearest to tiny@1400 " in text_of(app))
        drawn = []
        for _ in range(3):  # by run, by type, by size
            marks = [line[0][0].strip() for line in view.nearest.all_lines()[1:]]
            assert marks == [view.plot.mark_of(view.plot.names.index(name))[0] for name, _ in view._near[1]]
            drawn.append(marks)
            await settled(pilot, "i")
        assert drawn[0] != drawn[1]


@pytest.mark.parametrize("size", SIZES[1:])
async def test_panes_below_the_map_are_apart_and_names_beside_the_nearest_are_whole(
    pca_app: MakeApp, until, monkeypatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(MapView, "shape", lambda self: (4.0, 1.0))  # of a picture that leaves room below
    app = pca_app()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_cursor("tiny-seed2@1400")
        await settled(pilot, "3")
        view = app.view
        await until(pilot, lambda: view._near[0] == "tiny-seed2@1400" and view.nearest.size)
        await settled(pilot)
        panes = [view.legend, view.nearest, view.facts]
        assert len({p.region.y for p in panes}) == 1  # in a row, below the plot
        for pane in panes:
            x, y, _, height = pane.region
            edge = {line[x] for line in lines_of(app)[y : y + height]}
            assert edge == ({"│"} if x else {"R", " ", "▌"}), pane.title
        for name, kl in view._near[1][: view.nearest.body_height - 1]:
            shown = (f"{line} "[view.nearest.region.x :] for line in lines_of(app)[view.nearest.region.y :])
            said = next(line for line in shown if f" {name} " in line)
            assert "±" in said and kl.value > 0


def test_ramps_are_apart_from_the_ground_and_rise_in_contrast() -> None:
    for palette in (DARK, LIGHT):
        found = [contrast(ramp_ink(level, dark=palette is DARK), palette.ground) for level in range(8)]
        assert found == sorted(found) and len(set(found)) == 8 and found[0] >= 3.0


def test_only_what_some_point_states_can_colour() -> None:
    found = FakeWorkspace(names=checkpoints((0, 10))).map()
    labels = labels_of(found.points)
    assert labels.properties({}) == ["run", "type", "size"]
    assert labels.properties({"arc": {}})[-1] == "arc"
    assert colours(found, "arc", {"tiny": 3}, {}).by == "run"
    flat = colours(found, "arc", {}, {"arc": dict.fromkeys(found.names, 50.0)})
    assert set(flat.series_n.tolist()) == {RAMP + 7} and flat.low == flat.high == 50.0


async def test_lines_of_descent_lie_where_parents_and_originals_are(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        plot = app.view.plot
        at = {n: plot.scene.xy_n2[k] for k, n in enumerate(plot.names)}
        ends = plot.scene.xy_n2[len(plot.map) :]
        for name in ("tuned@20", "tiny@1400", "tiny@1400+bnb-8bit"):
            assert (np.abs(ends - at[name]).sum(axis=1) < 1e-12).any(), name
        assert "parent to child" in text_of(app) and "original to quantised" in text_of(app)
        await settled(pilot, "p")
        assert len(plot.scene.xy_n2) == len(plot.map) and "parent to child" not in text_of(app)


async def test_layers_join_the_models_in_one_picture(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3", "V")
        plot = app.view.plot
        await until(pilot, lambda: "83 checkpoints and 4 layers" in text_of(app))
        layer = plot.names.index("small@1400#2")
        pairs = plot.scene.segments_m2.tolist()
        assert [layer, plot.names.index("small@1400#3")] in pairs
        assert [plot.names.index("small@1400#3"), plot.names.index("small@1400")] in pairs
        plot.go(layer)
        plot.cursor_moved()
        assert app.selection.cursor == "small@1400" and plot.names[plot.cursor] == "small@1400#2"
        await settled(pilot)
        assert "small@1400#2" in text_of(app)
        await settled(pilot, "V")
        await until(pilot, lambda: len(plot.map) == 83)


async def test_few_points_begin_with_pca_and_a_lower_perplexity_is_said(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(scored=12))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        await until(pilot, lambda: "PCA  12 checkpoints" in lines_of(app)[2])
        await settled(pilot, "v", "v")
        await until(pilot, lambda: "t-SNE" in lines_of(app)[2] and "perplexity" in lines_of(app)[2])
        assert " of 30" in lines_of(app)[2]


async def test_a_single_point_keeps_nothing_and_is_one_checkpoint(pca_app: MakeApp, until) -> None:
    app = pca_app(FakeWorkspace(names=checkpoints((10,))[:1]))
    async with app.run_test(size=SIZES[1]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        await until(pilot, lambda: "PCA  1 checkpoint " in text_of(app))
        assert "axes keep" not in text_of(app)


async def test_ticks_are_beside_the_cells_in_which_their_values_are_drawn(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=SIZES[0]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for key in "34":
            await settled(pilot, key)
            await until(pilot, lambda: any(isinstance(p, PlotPane) and p._y_labels for p in app.view.panes))
            plots = [p for p in app.view.panes if isinstance(p, PlotPane) and p._y_labels]
            for plot, _ in product(plots, range(4)):
                await settled(pilot, "m")
                kind = plot.kind
                across, down = DOTS[kind]
                seen, size = plot.seen, (plot.plot_width * across, plot.plot_height * down)
                place_of = {label: p for n in range(1, 20) for p, label in seen.y.ticks(n)}
                for row, label in plot._y_labels.items():
                    value = seen.y.low + place_of[label.strip()] * seen.y.span
                    dots = seen.dots(np.array([[seen.x.low, value]]), *size)
                    assert int(dots[0, 1] / down) == row, (plot.title, kind, label)


async def test_a_run_too_short_to_turn_has_no_random_walk(pca_app: MakeApp, until) -> None:
    app = pca_app(FakeWorkspace(names=checkpoints((10, 20))))
    async with app.run_test(size=SIZES[1]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_cursor("small@20")
        await settled(pilot, "3", "w")
        assert "small is too short for a random walk: it needs 3 checkpoints" in text_of(app)
        assert not app.view.null_run


async def test_the_title_counts_what_is_drawn(pca_app: MakeApp, until) -> None:
    app = pca_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        app.set_filter("run:small")
        await settled(pilot)
        assert "20 of 83 checkpoints" in lines_of(app)[2]
        app.set_filter("")
        app.set_cursor("small@1400")
        await settled(pilot, "z")
        assert "63 of 83 checkpoints" in lines_of(app)[2]


async def test_a_helper_that_dies_is_noticed_and_started_again_by_a_key(
    pca_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = pca_app()
    pictures = app.map_cache.pictures

    async def dying(method: str, dims: int = 2, **more: object):  # type: ignore[no-untyped-def]
        async for shown in pictures("pca", dims, **more):
            if method == "pca":
                yield shown
        if method != "pca":
            raise KltuiError("the process that computes the picture was ended by SIGKILL", AGAIN)

    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        monkeypatch.setattr(app.map_cache, "pictures", dying)
        await settled(pilot, "v")
        await until(pilot, lambda: "ended by SIGKILL" in text_of(app))
        assert "stopped: press r to start it again" in lines_of(app)[2]
        monkeypatch.setattr(app.map_cache, "pictures", pictures)
        await settled(pilot, "r")
        await until(pilot, lambda: "MDS" in lines_of(app)[2] and "stopped" not in lines_of(app)[2])


async def test_every_label_carries_its_mark_and_no_colour_is_no_loss(pca_app: MakeApp, until) -> None:
    app = pca_app(color=False)
    async with app.run_test(size=SIZES[0]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        plot = app.view.plot
        number = app.snapshot.run_number
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await settled(pilot)
            for row, text, _ in plot.labels():
                label = label_of(plot.map.points[row])
                assert text.startswith(app.look.marker(number[label]) + " ")
            over = {text[0] for patches in plot._patches.values() for _, text, _ in patches}
            shown = over.union(*plot._planes.lines())  # a run's end may lie on another run's points
            assert {app.look.marker(number[run]) for run in app.snapshot.runs} <= shown


@pytest.mark.parametrize("options", [{"color": False}, {"ascii_only": True}], ids=["no colour", "ascii"])
async def test_names_are_apart_from_lines_drawn_with_letters(
    pca_app: MakeApp, until, options: dict[str, bool]
) -> None:
    app = pca_app(**options)
    async with app.run_test(size=SIZES[0]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3")
        plot, found = app.view.plot, 0
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await settled(pilot)
            rows = ["".join(s.text for s in plot.body_line(y))[Y_AXIS:] for y in range(plot.plot_height)]
            names = {text for _, said, _ in plot.labels() for text in (said, said[2:])}
            for y, placed in plot._patches.items():
                for text, end in ((text, x + len(text)) for x, text, _ in placed if text.strip() in names):
                    assert rows[y][:end].endswith(text), rows[y]
                    assert text[0] == " " or end == len(text), rows[y]
                    assert text[-1] == " " or end == plot.plot_width, rows[y]
                    found += 1
        assert found > 3


async def test_ascii_shows_only_ascii_on_the_map(pca_app: MakeApp, until) -> None:
    app = pca_app(ascii_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await settled(pilot, "3", "E", "d", ">")
        assert text_of(app).isascii() and "sqrt(bits/byte)" in text_of(app)


def test_axes_say_their_scale_and_give_up_their_unit_first() -> None:
    assert axis_name("step", "log1p", 40) == "step, log(1 + x)"
    assert axis_name("", "log", 40) == ""
    assert axis_name("KL, bits/byte", "linear", 3) == "KL"
    assert model_of("a#b#3") == "a#b"
