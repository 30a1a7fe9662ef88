"""Workspaces that change while a screen is looked at: what random keys found, one test each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fake_workspace import FakeWorkspace
from screen_text import text_of
from textual import events
from textual.geometry import Region

from kltui.analysis.map import Map
from kltui.errors import KltuiError
from kltui.tui.actions import BY_NAME
from kltui.tui.app import KltuiApp
from kltui.tui.dialogs.forms import Field, Form
from kltui.tui.filter import EVERY

MakeApp = Callable[..., KltuiApp]
KEPT = ("tiny", "small")
NOT_PRESSED = (
    "quit",
    "suspend",
    "weights",
    "tokens",
    "exact",
    "pause",
    "stop",
    "retry",
    "refresh",
    "undo",
    "pixels",
)


async def test_a_shorter_job_under_the_cursor_of_a_longer_one(make_app: MakeApp, until) -> None:
    workspace = FakeWorkspace()
    app = make_app(workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2", "tab", "G")
        view: Any = app.view
        await until(pilot, lambda: view.items.cursor > 2)
        workspace.item_rows[2] = workspace.item_rows[2][:1]
        app.snapshot = await app.reader.snapshot()  # as it is before the view hears of it
        await pilot.press("y", "enter")
        assert view.items.item == app.snapshot.items[2][0]


async def test_a_matrix_of_nothing_in_order_of_kl(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6", "o")
        await pilot.press(*"/run:none", "enter")
        await app.workers.wait_for_complete()
        assert "a bug" not in text_of(app)


class Shrinking(FakeWorkspace):
    """Has lost the runs of another seed at its second map."""

    def map(self, *given: Any, **chosen: Any) -> Map:
        made = super().map(*given, **chosen)
        if self.change == 1:
            return made
        return made.select([k for k, p in enumerate(made.points) if p.run in KEPT])


async def test_scale_keeps_its_rows_and_their_map_together(make_app: MakeApp, until, monkeypatch) -> None:
    workspace = Shrinking()
    app = make_app(workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("9")
        view: Any = app.view
        await until(pilot, lambda: view.table.rows)
        ask, failures = app.map_cache.ask, []

        async def while_it_is_asked(*given: Any) -> Any:
            try:
                for row in range(view.table.row_count()):
                    view.table.go(row)
            except KltuiError as error:
                failures.append(error)
            return await ask(*given)

        monkeypatch.setattr(app.map_cache, "ask", while_it_is_asked)
        before = view.map
        workspace.change = 2
        workspace.all = [c for c in workspace.all if c.run in KEPT]
        await app.reload()
        await until(pilot, lambda: view.map is not before)
        await app.workers.wait_for_complete()
        assert len(view.map) < len(before) and not failures


async def test_a_key_waits_for_the_question_that_follows_the_one_it_waited_for(
    make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        later = Form("Later?", [Field("name")])

        async def first() -> None:
            app.push_screen(later)

        app._opening = first()
        await app.on_event(events.Key("x", "x"))
        assert app.screen is later
        assert later.answers() == {"name": "x"}


async def test_a_home_of_nobody_is_a_path_that_is_not_there(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2", "s", "ctrl+u", *"~nobody-here/job.toml", "enter")
        await until(pilot, lambda: "~nobody-here" in text_of(app))
        assert app.screen is not app.main and app.failure == ""


async def test_layers_keep_the_numbers_that_they_were_drawn_with(
    make_app: MakeApp, until, monkeypatch
) -> None:
    app = make_app(FakeWorkspace())
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("8")
        await until(pilot, lambda: "KL to the previous layer" in text_of(app))
        await app.workers.wait_for_complete()
        before = [line for line in text_of(app).splitlines() if "small@1400" in line]
        monkeypatch.setattr(app, "run_number", lambda name: 40 + len(name))  # the runs have others by now
        await pilot.press("C", "C")  # which draws all labels again
        await pilot.pause()
        assert before and [line for line in text_of(app).splitlines() if "small@1400" in line] == before


async def test_a_question_on_a_terminal_that_grows(make_app: MakeApp, until) -> None:
    """The screen below a question hears of a new size only afterwards: until then a part of it is blank."""
    app = make_app(FakeWorkspace())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press(":")
        question: Any = app.screen
        lines = question.render_lines(Region(0, 0, 90, 40))
        assert [line.cell_length for line in lines] == [90] * 40
        assert [line.text.strip() for line in lines[24:]] == [""] * 16
        assert "Registry" in lines[0].text
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert len([line for line in question.render_lines(Region(0, 0, 120, 40)) if line.text.strip()]) > 10


async def test_what_is_said_of_a_point_whose_vector_as_scored_is_gone(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        view: Any = app.view
        await until(pilot, lambda: view.plot.map is not None and view.plot.scene is not None)
        await pilot.press("l")
        await until(pilot, lambda: view.plot.cursor >= 0)
        plot = view.plot
        here = plot.map.names[plot.cursor]
        assert "loss" in "".join(text for text, _ in plot.readout())
        plot.raw = plot.map.select([k for k, name in enumerate(plot.map.names) if name != here])
        said = "".join(text for text, _ in plot.readout())
        assert here in said and "loss" not in said


async def test_compare_sums_up_what_is_left_of_a_map_without_one_of_both(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("a", "j", "j", "b", "7")
        view: Any = app.view
        await until(pilot, lambda: "nats/text" in text_of(app))
        lost = app.selection.b
        view.found = view.found.select([k for k, name in enumerate(view.found.names) if name != lost])
        view.summary.update_data()
        await until(pilot, lambda: "nats/text" not in text_of(app))
        assert "half of it lies in" in text_of(app)


async def test_keys_on_a_screen_just_shown_act_on_what_is_there_now(make_app: MakeApp, until) -> None:
    """It is painted only after the key; a run that it showed when it was left may be there no more."""
    app = make_app(FakeWorkspace())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        whole = app.snapshot
        few = replace(whole, rows=tuple(r for r in whole.rows if r.checkpoint.run == "small"), generation=-2)
        for name in ("start", "select", "edit", "remove", "enter", "left", "next_match"):
            app._take(whole)
            app.show_screen("registry")
            await pilot.press("g")
            assert app.view.runs.line.run == "tiny"
            app.show_screen("jobs")
            app._take(few)
            app.show_screen("registry")
            app.perform(BY_NAME[name])
            assert {line.run for line in app.view.runs.lines} == {"small"}, name
            await pilot.press("escape")
    assert few.rows_of_run("tiny", EVERY) == few.names_of_run("tiny", EVERY) == []
