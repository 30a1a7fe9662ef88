"""Labels of points stand beside the data, not over it, and never over each other."""

from __future__ import annotations

import numpy as np
import pytest

from kltui.tui.widgets.label_room import FAR, WAYS, LabelRoom
from kltui.tui.widgets.plot import PlotPane


def room(rows: list[str]) -> LabelRoom:
    """A plot with data where there is an x."""
    drawn = [bytes(c == "x" for c in row) for row in rows]
    return LabelRoom(len(rows[0]), len(rows), set(), drawn)


def test_a_label_is_beside_its_point_where_that_is_clear() -> None:
    assert room([" " * 12] * 5).clearest((3, 2), "name") == ((5, 2), "name")
    assert room([" " * 7] * 5).clearest((6, 2), "name") == ((1, 2), "name")


def test_a_label_goes_a_row_away_from_data_that_it_would_cover() -> None:
    rows = [" " * 12, " " * 12, "xxxxxxxxxxxx", " " * 12]
    assert room(rows).clearest((6, 2), "name") == ((8, 3), "name")
    rows[2] = "      xxx   "  # one cell of data is a smaller fault than a name far from its point
    assert room(rows).clearest((6, 2), "names") == ((0, 2), "names")
    assert room(["      xxx   "]).clearest((6, 0), "name") == ((1, 0), "name")


def test_a_label_beside_the_mark_of_its_point_does_not_begin_with_another() -> None:
    clear = [" " * 12] * 5
    assert room(clear).clearest((3, 2), "* name", "*") == ((5, 2), "name")
    assert room(clear).clearest((9, 2), "* name", "*") == ((4, 2), "name")
    assert room(clear).clearest((3, 2), "* name", "A") == ((5, 2), "* name")
    covered = room([" " * 12, "x" * 12, " " * 12])
    assert covered.clearest((3, 1), "* name", "*") == ((5, 2), "* name"), "farther away it has its mark"


def around(point: tuple[int, int], at: tuple[int, int], wide: int) -> set[tuple[int, int]]:
    """A label's cells and a blank on either side, but that of its point."""
    return {(x, at[1]) for x in range(at[0] - 1, at[0] + wide + 1)} - {point}


@pytest.mark.parametrize("seed", range(20))
def test_no_free_place_costs_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plot = room(["".join(rng.choice(list("x "), 30)) for _ in range(9)])
    taken: set[tuple[int, int]] = set()
    found = []
    for _ in range(12):
        point, wide = (int(rng.integers(30)), int(rng.integers(9))), int(rng.integers(2, 9))
        costs = {}
        for right, down in WAYS:
            x, y = (point[0] + 2 if right else point[0] - wide - 1), point[1] + down
            is_inside = x >= 0 and x + wide <= 30 and 0 <= y < 9
            if is_inside and not around(point, (x, y), wide) & taken:
                costs[x, y] = sum(plot.drawn[y][x + i] for i in range(wide)) + FAR * abs(down)
        at, said = plot.clearest(point, "n" * wide) or (None, "n" * wide)
        assert said == "n" * wide
        found.append(at)
        if at is None:
            assert not costs
        else:
            assert costs[at] == min(costs.values())
            taken |= around(point, at, wide)
    assert any(found)


async def test_names_of_runs_leave_more_of_the_curves_to_be_seen_than_the_nearest_places(
    make_app, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4")
        panel = app.view._panel("consecutive")
        await until(pilot, lambda: panel.scene is not None and panel._planes is not None)

        def covered() -> int:
            drawn = panel._planes.codes >= 0
            patches = panel._make_patches().items()
            return sum(int(drawn[y, x : x + len(text)].sum()) for y, row in patches for x, text, _ in row)

        clear = covered()
        monkeypatch.setattr(
            LabelRoom,
            "clearest",
            lambda self, at, text, mark: (found := self.first(at, text, WAYS)) and (found, text),
        )
        assert clear < covered()


@pytest.mark.parametrize("key", ["3", "4", "5", "8"])
async def test_labels_are_not_placed_on_a_drawing_of_another_size(make_app, until, monkeypatch, key) -> None:
    """Between a new size and the next repaint, data or a mark may change."""
    app = make_app()
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press(key)
        plots = [p for p in app.view.panes if isinstance(p, PlotPane) and p.display]
        await until(pilot, lambda: any(p.scene is not None and p._planes is not None for p in plots))
        for by in (9, -9):
            monkeypatch.setattr(PlotPane, "body_height", property(lambda pane, by=by: pane.size.height + by))
            for plot in plots:
                for point in range(0, len(plot.names), 7):
                    plot.cursor = point
                    plot.lay_over()
