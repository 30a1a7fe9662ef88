"""Rows of the tree that are kept after they were drawn: they never show what is no longer so."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_workspace import FakeWorkspace
from rich.segment import Segment
from screen_text import lines_of
from textual.pilot import Pilot

from kltui.tui.app import KltuiApp
from kltui.tui.widgets.canvas import Pane, spelled, strip_of
from kltui.tui.widgets.run_tree import RunTree

KEYS = [*"jkGghabxC][", "enter", "space", "space", "escape", "pagedown", "pageup", "tab"]
SIZES = [(80, 24), (130, 30), (200, 40)]


def shown_and_true(tree: RunTree) -> list[tuple[list[Segment], list[Segment]]]:
    """(a row as it is shown, the same drawn anew) of every row in view."""
    rows = range(tree.top, min(tree.top + tree.body_height - 1, tree.row_count()))
    lines = []
    for index in rows:
        kept = tree.body_line(1 + index - tree.top)
        new = strip_of(spelled(tree._row(index), tree.look), tree.body_width, tree.look())
        lines.append((list(kept), list(new)))
    return lines


@pytest.mark.parametrize("seed", range(4))
async def test_kept_rows_show_what_new_ones_would(
    make_app: Callable[..., KltuiApp], until, seed: int
) -> None:
    rng = random.Random(seed)
    app = make_app(ascii_only=seed == 3)
    async with app.run_test(size=SIZES[0]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        tree = app.view.runs
        for _ in range(40):
            await pilot.press(rng.choice(KEYS))
            if rng.random() < 0.1:
                app.set_filter(rng.choice(["", "run:tiny", "step>=4 -run:small"]))
            if rng.random() < 0.1:
                await pilot.resize_terminal(*rng.choice(SIZES))
            for kept, new in shown_and_true(tree):
                assert kept == new


async def test_rows_that_have_changed_in_the_store_are_drawn_anew(
    make_app: Callable[..., KltuiApp], until
) -> None:
    app = make_app()
    async with app.run_test(size=(130, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        tree, rows = app.view.runs, app.snapshot.rows
        assert shown_and_true(tree)
        changes = (
            tuple(replace(r, status="failed", error="boom", mean_loglik=float("nan")) for r in rows),
            tuple(replace(r, layers=r.layers + 1) for r in rows),
            tuple(
                r for r in rows if r.checkpoint.run != rows[0].checkpoint.run
            ),  # the others' numbers change
        )
        for changed in changes:
            app.snapshot = replace(app.snapshot, rows=changed)
            app.view.update_data()
            for kept, new in shown_and_true(tree):
                assert kept == new


async def test_a_pane_of_the_same_width_loses_its_bar_with_its_neighbour(
    make_app: Callable[..., KltuiApp], until
) -> None:
    app = make_app()
    async with app.run_test(size=(140, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0", "enter")
        text = app.view.text
        await until(pilot, lambda: text.barred)
        list_width = 140 - text.size.width  # of the Report's sections, beside which the text has what is left
        assert "│" in lines_of(app)[3][list_width]
        await pilot.resize_terminal(140 - list_width, 24)
        await until(pilot, lambda: app.size.width == text.size.width == 140 - list_width and not text.barred)
        await until(pilot, lambda: lines_of(app)[2].startswith("Overview"))
        assert not any(line.startswith("│") for line in lines_of(app))


async def test_a_row_in_view_is_drawn_once(make_app: Callable[..., KltuiApp], until, monkeypatch) -> None:
    app = make_app()
    drawn: list[int] = []
    real = RunTree._row
    monkeypatch.setattr(RunTree, "_row", lambda tree, index: (drawn.append(index), real(tree, index))[1])
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await until(pilot, lambda: drawn)
        await pilot.press("9", "1")
        await until(pilot, lambda: app.main.focused is app.view.focus_pane)
        drawn.clear()
        await pilot.press("9", "1", "j")
        await until(pilot, lambda: app.main.focused is app.view.focus_pane)
        assert len(drawn) <= 6, drawn  # the cursor's rows, with and without the focus


SCREEN_KEYS = {
    "1": "j k g G ] a b o escape enter n z ? escape : escape / s escape tab",
    "3": "l j ] + - = m i p E E E z Z w w d > d a b ? escape tab j tab tab tab tab",
    "4": "] j tab + = L L Y m v w z Z a enter ] escape ? escape f escape",
    "5": "l j + = L m w u tab tab",
    "6": "l j + - + o o o space space a b f escape",
    "7": "j k tab j tab o x n : escape",
    "8": "l j + = L m v v tab",
    "9": "j k G g tab",
    "0": "j k tab j tab w escape",
    "2": "j k tab j tab",
}


async def assert_kept_is_true(app: KltuiApp, pilot: Pilot[int], of: object) -> None:
    await pilot.pause()
    for pane in (p for s in app.screen_stack for p in s.query(Pane) if p.is_on_screen):
        whole = pane.size.region
        kept = pane.render_lines(whole)
        pane._kept_lines.clear()
        new = pane.render_lines(whole)
        stale = [(k.text, n.text) for k, n in zip(kept, new, strict=True) if list(k) != list(n)]
        assert not stale, (of, pane, stale)


@pytest.mark.parametrize("screen", SCREEN_KEYS)
async def test_what_a_pane_keeps_is_what_it_would_draw(
    make_app: Callable[..., KltuiApp], until, screen: str
) -> None:
    app = make_app()
    async with app.run_test(size=SIZES[2]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "small@100", "small@200"
        await pilot.press(screen)
        for key in ["r", *SCREEN_KEYS[screen].split()]:
            await pilot.press(key)
            await assert_kept_is_true(app, pilot, key)


@pytest.mark.parametrize("seed", range(2))
async def test_what_panes_keep_is_true_whatever_was_done_on_other_screens(
    make_app: Callable[..., KltuiApp], until, seed: int
) -> None:
    rng = random.Random(seed)
    app = make_app(ascii_only=seed == 1)
    pressed: list[str] = []
    async with app.run_test(size=SIZES[2]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for _ in range(25):
            screen = rng.choice(list(SCREEN_KEYS))
            pressed += [screen, *rng.sample([k for k in SCREEN_KEYS[screen].split() if k != "escape"], 2)]
            for key in [*pressed[-3:], *["escape"] * (len(app.screen_stack) > 1)]:
                await pilot.press(key)
            if len(app.screen_stack) > 1:
                await pilot.press("escape")
            if rng.random() < 0.1:
                await pilot.resize_terminal(*rng.choice(SIZES))
            await assert_kept_is_true(app, pilot, pressed)


async def test_what_panes_keep_is_true_after_the_workspace_has_changed(
    make_app: Callable[..., KltuiApp], until
) -> None:
    """While each screen is shown, and while it is hidden: jobs go on and checkpoints are scored."""
    workspace = FakeWorkspace(scored=60)
    app = make_app(workspace)
    async with app.run_test(size=SIZES[2]) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "small@100", "small@200"
        for screen in SCREEN_KEYS:  # each has been drawn once
            await pilot.press(screen)
        for number, screen in enumerate(SCREEN_KEYS, 61):
            workspace.count, workspace.change = number, number
            job = workspace.job_rows[0]
            workspace.job_rows = [replace(job, done=job.done + 1), *workspace.job_rows[1:]]
            if number % 2:
                await pilot.press(screen)
            app.reload_soon()
            await until(pilot, lambda now=number: app.snapshot.generation == now)
            app.set_filter(("", "run:tiny", "run:small")[number % 3])
            if number % 4 == 0:
                await pilot.press("C")
            await pilot.press(screen)
            await assert_kept_is_true(app, pilot, (screen, number))
