"""Stepping out keeps marks, every choice can be undone, and all actions of all screens are found by their words."""

from __future__ import annotations

import pytest
from screen_text import text_of

from kltui.tui.actions import ACTIONS
from kltui.tui.dialogs.prompts import matching
from kltui.tui.undo import MAX_STEPS, Undo


async def test_escape_steps_out_and_never_drops_marks(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("j", "a", "j", "b", "space", "/", *"run:tiny", "enter", "tab")
        assert app.view.focus_pane is app.view.detail
        await pilot.press("escape")
        assert app.view.focus_pane is app.view.runs and app.filter.text == "run:tiny"
        await pilot.press("escape")
        assert not app.filter.text and list(app.selection.selected) == ["tiny@2"]
        await pilot.press("escape")
        assert not app.selection.selected and (app.selection.a, app.selection.b) == ("tiny@1", "tiny@2")
        await pilot.press("escape", "escape")
        assert (app.selection.a, app.selection.b) == ("tiny@1", "tiny@2")


async def test_every_choice_is_undone_step_by_step(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("j", "a", "j", "space", "/", *"step>4", "enter", "escape")
        assert (app.filter.text, app.selection.a) == ("", "tiny@1")
        seen = []
        for _ in range(5):
            await pilot.press("U")
            seen.append((app.filter.text, list(app.selection.selected), app.selection.a))
            await until(pilot, lambda: "undo" in text_of(app))
        assert seen == [
            ("step>4", ["tiny@2"], "tiny@1"), ("", ["tiny@2"], "tiny@1"), ("", [], "tiny@1"), ("", [], ""), ("", [], "")
        ]  # fmt: skip
        assert "nothing to undo" in text_of(app)


async def test_a_filter_that_is_left_is_no_step(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("/", *"step>4", "escape", "U")
        await until(pilot, lambda: "nothing to undo" in text_of(app))


async def test_a_word_of_the_filter_that_nothing_passes_is_named(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("/", *"run:tinny|tiny small-run", "enter")
        await until(pilot, lambda: "no checkpoint matches small-run" in text_of(app))


def test_undo_forgets_what_is_long_past() -> None:
    undo, back = Undo(), []
    for n in range(MAX_STEPS + 50):
        undo.keep(str(n), lambda n=n: back.append(n))
    while step := undo.pop():
        step.restore()
    assert back == list(range(MAX_STEPS + 49, 49, -1))


@pytest.mark.parametrize(
    ("typed", "first"),
    [("noise", "noise"), ("weight dist", "weights"), ("order text", "order texts"), ("resume", "pause"),
     ("distances missing", "weights"), ("folow", "follow"), ("zoom", "zoom in")],
)  # fmt: skip
def test_actions_are_found_by_their_words_nearest_names_first(typed: str, first: str) -> None:
    options = [(a.name.replace("_", " "), a.help) for a in ACTIONS]
    assert options[matching(options, typed)[0]][0] == first


async def test_an_action_of_another_screen_goes_there_and_runs(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press(":", *"noise", "enter")
        await until(
            pilot, lambda: app.screen_name == "diffusion" and "noise floor subtracted" in text_of(app)
        )
