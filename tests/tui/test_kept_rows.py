"""Rows of the tree that are kept after they were drawn: they never show what is no longer so."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.segment import Segment
from screen_text import lines_of

from kltui.tui.app import KltuiApp
from kltui.tui.widgets.canvas import spelled, strip_of
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
