"""A registry of very many checkpoints: its beginning is there before the rest, and only what is in view is made."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from full_store import TEXTS
from screen_text import text_of

from kltui.registry import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.rows import Beginning, CheckpointRow
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.tui.data import Snapshot, label_of_row, run_of
from kltui.tui.filter import EVERY, parse_filter
from kltui.tui.widgets.tree_lines import Branch, TreeLine, TreeLines
from kltui.workspace import Workspace, workspace

GRID = ("interpolation", "of=mix")


def fill_odd(store: Store) -> None:
    """Runs of several variants, a grid, gaps: every second checkpoint scored, one by weights that are gone."""
    with store.atomic():
        corpus = store.corpora.add(TEXTS, "texts.json")
        places = [("b", s, "none", ()) for s in (4, 2, None)] + [
            ("a", 2, q, ()) for q in ("gguf:Q4_0", "none")
        ]
        places += [(f"mix_{i}", None, "none", GRID) for i in range(3)]
        for i, (run, step, quantization, tags) in enumerate(places):
            checkpoint = Checkpoint(run, LocalSource(Path(f"/m/{i}")), step, quantization, tags=tags)
            row = store.checkpoints.upsert(checkpoint)
            store.checkpoints.set_weights(row, f"w{i}")
            if i % 2:
                key = {"weights": "gone" if i == 3 else f"w{i}"}
                numbers, counts = np.full(4, -1.0 - i), np.ones(4, np.int32)
                store.vectors.put(row, corpus, None, key, "bos=auto", numbers, counts, None)


@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_the_beginning_is_that_of_the_whole(tmp_path: Path, n: int) -> None:
    with closing(Store.write(tmp_path)) as store:
        fill_odd(store)
        rows, found = store.checkpoints.all(), store.checkpoints.beginning(n)
    assert found.rows == rows[:n]
    every, scored = (
        Counter(run_of(r) for r in rows),
        Counter(run_of(r) for r in rows if r.scored),
    )
    assert found.counts == {run: (every[run], scored[run]) for run in every}


def test_a_small_workspace_has_no_beginning_of_its_own(tmp_path: Path, monkeypatch) -> None:
    with closing(Store.write(tmp_path)) as store:
        fill_odd(store)
    with Workspace.open(tmp_path) as ws:
        assert ws.beginning(2) is None
        monkeypatch.setattr(workspace, "MAX_AT_ONCE", 3)
        found = ws.beginning(2)
        assert found is not None and found.rows == ws.checkpoints()[:2]


def test_what_has_not_changed_is_the_same_object_when_it_is_read_again(tmp_path: Path) -> None:
    with closing(Store.write(tmp_path)) as store:
        fill_odd(store)
        with Workspace.open(tmp_path) as ws:
            before = ws.checkpoints()
            with store.atomic():
                store.checkpoints.set_weights(before[0].id, "another")
            after = ws.checkpoints()
    assert after[0] != before[0]
    assert all(a is b for a, b in zip(after[1:], before[1:], strict=True))


def rows_of(names: list[Checkpoint]) -> list[CheckpointRow]:
    return [CheckpointRow(i, c, i % 3 > 0, 0, -1.0, "scored") for i, c in enumerate(names, start=5)]


@pytest.mark.parametrize("flat", [False, True])
def test_lines_made_by_need_are_those_of_a_list(flat: bool) -> None:
    rows = rows_of(checkpoints((1, 2, 3)))
    runs = Snapshot(rows=tuple(rows)).runs
    folded = {"small"}
    if flat:
        order = random.Random(1).sample(rows, len(rows))
        branches = [Branch(None, order)]
        naive = [TreeLine(run_of(r), r) for r in order]
    else:
        headings = {run: TreeLine(run, None, len(of), sum(r.scored for r in of)) for run, of in runs.items()}
        branches = [Branch(headings[run], () if run in folded else of) for run, of in runs.items()]
        naive = [
            line
            for run, of in runs.items()
            for line in (headings[run], *(TreeLine(run, r) for r in of if run not in folded))
        ]
    lines = TreeLines(branches)
    assert list(lines) == naive and len(lines) == len(naive)
    assert lines[-1] == naive[-1] and lines[2:5] == naive[2:5] and lines[::-3] == naive[::-3]
    assert lines.headings == [i for i, line in enumerate(naive) if line.row is None]
    for row in rows:
        held = [i for i, line in enumerate(naive) if line.row is row]
        assert lines.place_of(row) == (held[0] if held else None)
    with pytest.raises(IndexError):
        lines[len(naive)]
    assert not TreeLines() and TreeLines().place_of(rows[0]) is None


def test_along_a_run_of_one_variant() -> None:
    snapshot = Snapshot(rows=tuple(rows_of(checkpoints((1, 2, 3)))))
    row = snapshot.by_name["tiny@2"]
    assert [snapshot.along_run(row, by, EVERY) for by in (-2, -1, 0, 1, 2)] == [
        "",
        "tiny@1",
        "tiny@2",
        "tiny@3",
        "",
    ]
    variant = next(r for r in snapshot.rows if r.checkpoint.quantization != "none")
    assert snapshot.along_run(variant, 1, EVERY) == snapshot.along_run(variant, -1, EVERY) == ""


def test_along_a_run_are_the_checkpoints_that_pass_the_filter() -> None:
    snapshot = Snapshot(rows=tuple(rows_of(checkpoints((1, 2, 3, 4, 5)))))
    row, odd = snapshot.by_name["tiny@3"], parse_filter("step=1 | step=3 | step=5")
    assert [snapshot.along_run(row, by, odd) for by in (-2, -1, 0, 1, 2)] == [
        "",
        "tiny@1",
        "tiny@3",
        "tiny@5",
        "",
    ]
    hidden = snapshot.by_name["tiny@4"]  # what the filter hides is a place to start from, not to go to
    assert [snapshot.along_run(hidden, by, odd) for by in (-1, 1)] == ["tiny@3", "tiny@5"]


def test_the_nearest_row_that_passes_against_all_distances() -> None:
    snapshot = Snapshot(rows=tuple(rows_of(checkpoints((1, 2, 3, 4, 5)))))
    names = [row.name for row in snapshot.rows]
    for words in ("step=2", "run:small", "seed:2 step>3", "-run:tiny", "step=1 | step=5"):
        keep = parse_filter(words)
        passing = {row.name for row in snapshot.rows if keep(row)}
        assert 0 < len(passing) < len(names)
        for at, name in enumerate(names):
            found = snapshot.nearest_passing(name, keep)
            assert found in passing
            assert abs(names.index(found) - at) == min(abs(names.index(n) - at) for n in passing)
    assert snapshot.nearest_passing(names[0], parse_filter("run:nothing")) == ""


class Large(FakeWorkspace):
    """Says how it begins, and gives the rest when `may_go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def beginning(self, n: int) -> Beginning:
        rows = super().checkpoints()
        every = Counter(r.checkpoint.run for r in rows)
        return Beginning(rows[:5], {run: (count, 1) for run, count in every.items()})

    def checkpoints(self) -> list[CheckpointRow]:
        self.may_go_on.wait(60)
        return super().checkpoints()


async def test_the_tree_begins_before_all_is_read_and_nothing_is_done_to_a_part(
    make_app: Callable[..., KltuiApp], until
) -> None:
    large = Large()
    app = make_app(large)
    async with app.run_test(size=(130, 40)) as pilot:
        await until(pilot, lambda: "reading  5 runs  84 checkpoints  5 scored" in text_of(app))
        assert "@16" not in text_of(app) and "1/21" in text_of(app) and not app.snapshot.loaded
        await pilot.press("space", "s", "D", "/", "]", "e")
        assert not app.is_asking and not app.selection.selected and "still loading" in text_of(app)
        await pilot.press("j", "j")
        assert app.selection.cursor == "tiny@1"
        await pilot.press("G", "k", "3", "1")
        large.may_go_on.set()
        await until(pilot, lambda: app.snapshot.loaded)
        await until(pilot, lambda: "5 runs  84 checkpoints" in text_of(app))
        assert not app.snapshot.counts and "reading" not in text_of(app)
        assert len(app.view.runs.lines) == 84 + 5
        await pilot.press("g", "space")
        assert len(app.selection.selected) == 21


async def test_filters_and_folds_of_a_tree_that_is_made_by_need(
    make_app: Callable[..., KltuiApp], until
) -> None:
    app = make_app()
    async with app.run_test(size=(130, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        tree, text = app.view.runs, "run:tiny step>=100"
        app.set_filter(text)
        passes = parse_filter(text)
        kept = [r for rows in app.snapshot.runs.values() for r in rows if passes(r)]
        assert [line.row for line in tree.lines if line.row] == kept
        await pilot.press("g", "enter")
        assert tree.folded == {"small"} or tree.lines[0].run in tree.folded
        await pilot.press("n")
        assert tree.cursor == tree.lines.headings[1]
        await pilot.press("j", "j", "h")
        assert tree.cursor == tree.lines.headings[1] and tree.line.row is None


async def test_the_legend_of_the_map_is_counted_once_and_not_at_every_key(
    make_app: Callable[..., KltuiApp], until
) -> None:
    app = make_app(basis=Basis(exclude=("tiny@100", "tuned")))
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None and app.view.plot.run_counts[1])
        plot = app.view.plot
        before, on_map = plot.run_counts[2], set(plot.map.names)
        assert before == {
            label: (sum(r.scored for r in rows), sum(r.name in on_map for r in rows))
            for label in app.snapshot.labels
            if (rows := [r for r in app.snapshot.rows if label_of_row(r) == label])
        }
        await pilot.press("]", "l", "+")
        await pilot.pause()
        assert plot.run_counts[2] is before
