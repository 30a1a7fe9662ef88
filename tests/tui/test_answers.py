"""Every key is answered at once: what is shown while more is computed, and how little is computed again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from screen_text import lines_of, text_of
from textual.screen import Screen
from textual.widgets.input import Selection

from kltui.analysis import lineage
from kltui.analysis.point import Point
from kltui.tui.app import KltuiApp
from kltui.tui.dialogs.forms import Field, Form
from kltui.tui.dialogs.prompts import LineInput
from kltui.tui.terminal.textual_private import OverlaidScreen
from kltui.tui.views import curves, map_scene

MakeApp = Callable[..., KltuiApp]


async def test_a_turn_before_there_are_three_dimensions_is_answered_and_kept(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None and not app.view.plot.waiting)
        view, asked = app.view, []
        monkeypatch.setattr(view, "_ask", lambda: asked.append("asked"))
        await pilot.press("d")
        assert asked and view.dims == 3 and view.plot.dims == 2
        said = set()
        for key in "<<{":
            await pilot.press(key)
            assert "once there is a picture in three dimensions" in app.message
            said.add(app.message)
        assert len(said) == 3
        turn = view.plot.turn
        monkeypatch.undo()
        view._ask()
        await until(pilot, lambda: view.plot.dims == 3)
        assert view.plot.turn == turn and f"turned {turn.azimuth:.0f}°" in text_of(app)


def test_the_lines_of_a_map_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, looks = FakeWorkspace(12).map(), []
    make = map_scene._made_lines
    monkeypatch.setattr(map_scene, "_made_lines", lambda found: looks.append(found) or make(found))
    assert map_scene.lines_of(found) is map_scene.lines_of(found)
    assert len(looks) == 1


@pytest.mark.parametrize(
    "related", [lineage.variant_pairs, lambda points: lineage.parent_pairs(points).pairs]
)
def test_relatives_are_sought_among_all_points_only_where_one_has_some(
    related: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [Point(f"a@{step}", "a", step) for step in range(50)]
    looks = []
    base = Point.base.fget
    monkeypatch.setattr(Point, "base", property(lambda p: looks.append(p) or base(p)))
    assert not related(points) and not looks
    more = [Point("a@49+4bit", "a", 49, quantization="4bit"), Point("b", "b", parent="a@49")]
    assert len(list(related([*points, *more]))) == 1


async def test_a_form_has_few_widgets_and_lays_out_nothing_below(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.pause()
        laid_out, layout = [], Screen._refresh_layout
        monkeypatch.setattr(
            Screen,
            "_refresh_layout",
            lambda self, *how, **more: laid_out.append(self) or layout(self, *how, **more),
        )
        for key, said in (
            ("f", "Map settings"),
            ("/", "Filter"),
            ("?", "keys"),
            (":", "palette"),
            ("E", "Lineage"),
        ):
            laid_out.clear()
            await pilot.press(key)
            await until(pilot, lambda: app.is_asking)
            await pilot.pause()
            assert app.main not in laid_out, said
            assert len(laid_out) <= 2 and len(list(app.screen.walk_children())) <= 6, said
            assert len(app.screen.query(LineInput)) == (key != "?")
            await pilot.press("escape")
            await until(pilot, lambda: not app.is_asking)


async def test_the_first_frame_of_a_dialog_draws_only_its_own_lines(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.pause()
        before, fetched, fetch = text_of(app), [], OverlaidScreen.fetch
        monkeypatch.setattr(
            OverlaidScreen,
            "fetch",
            lambda self, below, lines: fetched.append(list(lines)) or fetch(self, below, lines),
        )
        await pilot.press("f")
        await until(pilot, lambda: app.is_asking)
        sheet = app.screen.query_one(".sheet").region
        assert fetched and set(fetched[0]) <= set(sheet.line_range)
        await pilot.pause()
        assert text_of(app).splitlines()[: sheet.y] == before.splitlines()[: sheet.y]
        await pilot.resize_terminal(150, 40)
        await until(pilot, lambda: app.screen.size == app.main.size == (150, 40))
        await pilot.press("escape")
        await until(pilot, lambda: not app.is_asking and "Map settings" not in text_of(app))


async def test_lines_of_a_form_keep_their_values_and_cursors(make_app: MakeApp, until) -> None:
    app, found = make_app(), []
    fields = [Field("name", "abc"), Field("folder", "", "a folder", paths=True), Field("note", "long " * 60)]
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        form = Form("A form", fields)
        app.push_screen(form, found.append)
        await until(pilot, lambda: "A form" in text_of(app))
        await pilot.press("left", "x", "down", "y", "up")
        assert form.lines.line.value == "abxc" and form.lines.line.selection == Selection.cursor(3)
        assert "y" in text_of(app).splitlines()[form.lines.region.y + 1]
        await pilot.press("z", "up", "backspace")
        assert form.lines.at == 2 and form.lines.line.region.y == form.lines.region.y + 2
        await pilot.press("tab", "shift+tab", "tab")
        await pilot.click("FormLines", offset=(3, 1))
        assert form.lines.at == 1 and form.lines.line.suggester is not None
        await pilot.press("backspace")
        assert "a folder" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: found)
    assert found == [{"name": "abxzc", "folder": "", "note": ("long " * 60)[:-1]}]


async def test_a_click_on_a_line_of_a_form_edits_that_line(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.push_screen(form := Form("A form", [Field(name, name) for name in ("one", "two", "three")]))
        await until(pilot, lambda: "A form" in text_of(app))
        line = form.lines.line
        for at, value in enumerate(("one", "two", "three")):
            for column in (
                form.lines.NAMES + 2,
                form.lines.NAMES + 3,
            ):  # the second on the line that is edited
                await pilot.click("FormLines", offset=(column, at))
                assert (form.lines.at, line.value) == (at, value)
            assert line.selection == Selection.cursor(2)
        await pilot.mouse_down("FormLines", offset=(form.lines.NAMES + 1, 2))
        await pilot.hover("FormLines", offset=(form.lines.NAMES + 3, 2))
        await pilot.mouse_up("FormLines", offset=(form.lines.NAMES + 3, 2))
        assert form.lines.at == 2 and line.selected_text == "th"


async def test_far_along_a_run_the_tree_keeps_the_last_digits_in_their_rows(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(5, names=checkpoints(tuple(range(0, 6000, 10)))))

    def steps() -> list[str]:
        return [words[0] for line in lines_of(app) if (words := line.split()) and words[0][:1] == "@"]

    async with app.run_test(size=(120, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        shown = []
        for name in ("tiny@2530", "tiny@4550"):
            app.set_cursor(name)
            await until(pilot, lambda name=name: name[4:] in steps())
            await pilot.pause()
            shown.append(steps())
        before, after = shown
        assert len(before) == len(after) > 40 and not set(before) & set(after)
        same = [a[-2:] == b[-2:] for a, b in zip(before, after, strict=True)]
        assert sum(same) > 0.9 * len(same)


class Noted(np.ndarray):
    """An array that notes how often one of its numbers is asked for."""

    asked = 0

    def __getitem__(self, at: object) -> object:
        Noted.asked += isinstance(at, int | np.integer)
        return super().__getitem__(at)


async def test_texts_are_put_in_order_without_a_look_at_each(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(700))
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "tiny@1", "small@1400"
        await pilot.press("7")
        await until(pilot, lambda: app.view.texts.order)
        table = app.view.texts
        by = table.drivers.difference.copy()
        object.__setattr__(table.drivers, "difference", by.view(Noted))
        for name, sign in (("a", -1.0), ("b", 1.0), ("most", 0.0)):
            Noted.asked = 0
            await pilot.press("o")
            assert table.order_name == name
            assert Noted.asked < 200  # the rows in view
            wanted = sorted(map(int, table.drivers.order), key=lambda s, sign=sign: sign * by[s])
            assert table.order == wanted


async def test_a_move_to_another_run_looks_at_no_point_of_the_map(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(200, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4")
        await until(pilot, lambda: app.view.found is not None and app.view.panels[0].scene is not None)
        await until(pilot, lambda: "bars: one standard error" in text_of(app))
        monkeypatch.setattr(curves, "_n_loose", pytest.fail)
        label = app.view.label()
        app.set_cursor("small@100")
        await until(pilot, lambda: app.view.label() == app.view._label != label)
        assert app.view.n_loose == sum(p.step is None for p in app.view.found.points)
