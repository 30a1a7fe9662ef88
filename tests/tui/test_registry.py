"""The Registry: sorted by any column, checkpoints removed and brought back, losses as everywhere, runs in one colour."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from screen_text import lines_of, opened, text_of

from kltui.analysis.number_text import with_error
from kltui.registry import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.rows import CheckpointRow
from kltui.tui.app import KltuiApp
from kltui.tui.data import Snapshot
from kltui.tui.filter import EVERY
from kltui.tui.theme import Theme
from kltui.tui.widgets.run_tree import SORTS, Order, size_of
from kltui.tui.widgets.table import Table
from kltui.view.report import report
from kltui.workspace import Workspace


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "ws")
    return tmp_path / "ws"


def names(app: KltuiApp) -> list[str]:
    """The checkpoints as listed."""
    return [line.row.name for line in app.view.runs.lines if line.row]


async def test_sorted_by_any_column_and_turned_round(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        tree = names(app)
        for column, key in SORTS.items():
            await pilot.press("o", *column, "enter")
            await until(pilot, lambda column=column: f"by {column}" in text_of(app))
            values = [key(app.snapshot.by_name[n], app.snapshot) for n in names(app)]
            known = [v for v in values if v is not None]
            assert known == sorted(known) and values[len(known) :] == [None] * (len(values) - len(known)), (
                column
            )
            assert sorted(names(app)) == sorted(tree)
            await pilot.press("o", *column, "enter")
            await until(pilot, lambda column=column: f"by {column}, reversed" in text_of(app))
            values = [key(app.snapshot.by_name[n], app.snapshot) for n in names(app)]
            assert values[: len(known)] == sorted(known, reverse=True), column
            await pilot.press("h", "j", "space", "o", *"runs", "enter")
            await until(pilot, lambda: names(app) == tree)


def test_sizes_in_words() -> None:
    assert [size_of(w) for w in ("70m", "1.4B", "6.9 b", "12T", "", "base")] == [
        7e7,
        1.4e9,
        6.9e9,
        1.2e13,
        None,
        None,
    ]


def test_losses_in_the_list_are_those_of_the_report(tmp_path: Path) -> None:
    """Where every text is scored, to rounding; where one is not, the list says that it is not exact."""
    import numpy as np

    from kltui.corpus import Corpus

    with closing(Store.write(tmp_path)) as store, store.atomic():
        corpus = store.corpora.add(Corpus(("one", "zwei", "three é", "x")), "texts.json")
        for step, last in ((0, -1.0), (1, np.nan)):
            cid = store.checkpoints.upsert(Checkpoint("run", LocalSource(Path("/m")), step))
            store.checkpoints.set_weights(cid, f"w{step}")
            numbers, counts = np.array([-1.5, -2.25, -7.0, last]), np.ones(4, np.int32)
            store.vectors.put(cid, corpus, None, {"weights": f"w{step}"}, "bos=auto", numbers, counts, None)
    with Workspace.open(tmp_path) as ws:
        said = {
            loss["name"]: loss["bits_per_byte"]
            for loss in report(ws, ["loss"]).sections[0].data["checkpoints"]
        }
        found = {row.name: ws.losses()[row.id] for row in ws.checkpoints()}
        errors = {loss["name"]: loss["se"] for loss in report(ws, ["loss"]).sections[0].data["checkpoints"]}
        read = ws.losses_of([found["run@1"].vector, found["run@0"].vector])
    for name in ("run@0", "run@1"):
        assert read[found[name].vector] == (said[name], errors[name])  # exact also where a text is unscored
    assert found["run@0"].is_exact and found["run@0"].bits_per_byte == pytest.approx(said["run@0"], rel=1e-12)
    assert not found["run@1"].is_exact


async def test_a_loss_has_its_error_in_two_digits(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "± s.e." in text_of(app) and "0.012" in text_of(app))
        row = next(line.row for line in app.view.runs.lines if line.row)
        read = app.loss_errors[app.snapshot.losses[row.id]]
        value, error = with_error(*read).split(" ± ")
        line = next(said for said in lines_of(app) if said.split()[:1] == [f"@{row.checkpoint.step}"])
        assert line.split()[3:5] == [value, error] and len(error.lstrip("0.")) == 2
        assert f"{value} ± {error}" in text_of(app)  # in the details
        titles, *rows = app.view.csv_rows()
        assert titles[-1] == "bits_per_byte_se" and rows[0][-1] == read[1]


async def test_a_loss_whose_vector_cannot_be_read_has_no_error(make_app, until) -> None:
    class Damaged(FakeWorkspace):
        def losses_of(self, vectors):
            return {}

    app = make_app(Damaged())
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.loss_errors) == app.snapshot.n_scored > 0)
        loss = next(iter(app.snapshot.losses.values()))
        assert f"{loss.bits_per_byte:.3f}" in text_of(app)


async def test_removed_and_brought_back_by_keys(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.snapshot.rows) == 3)
        await pilot.press("j", "j", "D")
        await until(pilot, lambda: "Remove run@" in text_of(app))
        await pilot.press("escape", "D", "y")
        await until(pilot, lambda: len(app.snapshot.rows) == 2)
        await until(pilot, lambda: "U restores" in text_of(app))
        await pilot.press("U")
        await until(pilot, lambda: len(app.snapshot.rows) == 3)
        assert not app.removed
        await pilot.press("D", "y")
        await until(pilot, lambda: len(app.snapshot.rows) == 2)
    with closing(Store.read(folder)) as store:
        assert len(store.checkpoints.all()) == 2


async def test_the_cursor_moves_to_a_neighbour_of_what_is_removed(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.snapshot.rows) == 3)
        first, second, third = names(app)
        for gone, here in ((second, third), (third, second)):
            app.set_cursor(gone)
            await pilot.press("D", "y")
            await until(pilot, lambda gone=gone: gone not in names(app))
            assert app.selection.cursor == here and app.view.runs.line.row.name == here
            await pilot.press("U")
            await until(pilot, lambda: len(app.snapshot.rows) == 3)
            await until(pilot, lambda gone=gone: app.selection.cursor == gone)
        app.set_cursor(second)
        await pilot.press("space", "g", "j", "D", "y")
        await until(pilot, lambda: second not in names(app))
        assert app.selection.cursor == first


def test_a_list_by_source_or_size_is_in_the_order_of_numbers() -> None:
    every = FakeWorkspace().checkpoints()

    def row(i: int, size: str, path: str) -> CheckpointRow:
        return replace(every[i], id=i, checkpoint=Checkpoint(f"r{i}", LocalSource(Path(path)), 1, size=size))

    rows = (row(0, "tiny", "/a/10"), row(1, "1b", "/a/9"), row(2, "", "/a/100b"), row(3, "410m", "/a/100a"))
    snapshot = Snapshot(rows=rows)
    assert [r.id for r in Order("source").sorted(snapshot, EVERY)] == [1, 0, 3, 2]
    assert [r.id for r in Order("size").sorted(snapshot, EVERY)] == [3, 1, 0, 2]
    assert [r.id for r in Order("size", True).sorted(snapshot, EVERY)] == [0, 1, 3, 2]


async def test_read_only_removes_nothing(folder: Path, until) -> None:
    app = KltuiApp(folder, read_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: len(app.snapshot.rows) == 3)
        await pilot.press("j", "D")
        await until(pilot, lambda: "read-only" in text_of(app))


def test_a_run_keeps_its_number_whatever_joins_or_leaves(tmp_path: Path) -> None:
    def add(*runs: str) -> dict[str, int]:
        with closing(Store.write(tmp_path)) as store:
            with store.atomic():
                for run in runs:
                    store.checkpoints.upsert(Checkpoint(run, LocalSource(Path("/m")), 1))
            return store.checkpoints.run_numbers()

    assert add("m", "z") == {"m": 0, "z": 1}
    assert add("a", "m") == {"m": 0, "z": 1, "a": 2}
    with closing(Store.write(tmp_path)) as store:
        id_ = store.checkpoints.id_of("z@1")
        with store.atomic():
            store.checkpoints.relabel(id_, Checkpoint("zed", LocalSource(Path("/m")), 1))
        rows, numbers = tuple(store.checkpoints.all()), store.checkpoints.run_numbers()
    assert numbers["zed"] == 1
    assert Snapshot(rows=rows, known_numbers=numbers).run_number == {"a": 2, "m": 0, "z": 1, "zed": 1}


def test_interpolated_models_are_one_run() -> None:
    from kltui.store.rows import CheckpointRow

    def row(i: int, run: str, *tags: str) -> CheckpointRow:
        return CheckpointRow(i, Checkpoint(run, LocalSource(Path("/m")), tags=tags), True, 0, -1.0, "scored")

    grid = [row(i, f"mix_a{i}", "interpolation", "of=mix") for i in range(3)]
    snapshot = Snapshot(rows=(row(9, "base"), *grid))
    assert list(snapshot.runs) == ["base", "mix"] and len(snapshot.runs["mix"]) == 3
    assert {snapshot.run_number[r.checkpoint.run] for r in grid} == {1}


@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_two_of_64_runs_share_colour_and_mark(ascii_only: bool) -> None:
    look = Theme(ascii_only=ascii_only)
    assert len({(look.series(n), look.marker(n)) for n in range(64)}) == 64


def test_an_order_keeps_to_the_filter(make_app) -> None:
    from fake_workspace import FakeWorkspace

    from kltui.tui.filter import parse_filter

    snapshot = Snapshot(rows=tuple(FakeWorkspace().checkpoints()))
    assert {r.checkpoint.run for r in Order("step", True).sorted(snapshot, parse_filter("run:small"))} == {
        "small"
    }


async def test_the_cursor_row_is_in_view_in_the_first_frame_without_an_event_of_a_new_size(
    make_app, until, monkeypatch
) -> None:
    monkeypatch.setattr(Table, "on_resize", lambda self: None)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4")
        app.set_cursor("small@1400")
        registry = app._views.pop("registry")  # as if the session had begun on another screen
        await registry.remove()
        await pilot.press("1")
        await until(pilot, lambda: app.view.runs.body_height and app.view.runs.line.row is not None)
        tree = app.view.runs
        await until(pilot, lambda: tree.top <= tree.cursor < tree.top + tree.body_height - 1)
        assert any("@1400 " in line for line in lines_of(app))


async def test_keys_never_act_on_a_checkpoint_that_the_filter_hides(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "1")
        app.set_cursor("tiny@4")
        await pilot.press("/", *"run:small", "enter", "a")
        await until(pilot, lambda: app.selection.a)
        assert app.selection.a.startswith("small@")
        assert app.selection.a in text_of(app)
        await pilot.press("escape")  # all are shown again: the cursor is where it was
        assert app.selection.cursor == "tiny@4"


async def test_the_cursor_stays_where_it_was_moved_while_a_filter_was_on(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "1")
        app.set_cursor("tiny@4")
        app.set_filter("run:small step>=100")
        app.set_cursor("small@200")
        app.set_filter("")
        assert app.selection.cursor == "small@200"


async def test_a_filter_that_is_given_up_leaves_the_cursor_alone(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "1")
        app.set_cursor("tiny@4")
        await pilot.press("/", *"run:small step=2", "escape")
        assert not app.filter.text and app.selection.cursor == "tiny@4"
        app.set_filter("run:nothing")  # none to move to
        assert app.selection.cursor == "tiny@4"


async def test_a_run_is_walked_among_what_passes_the_filter(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "1")
        app.set_filter("run:tiny step>=100 -seed:2 -seed:3")
        app.set_cursor("tiny@100")
        await pilot.press("[")
        assert app.selection.cursor == "tiny@100"
        await until(pilot, lambda: "no earlier checkpoint of the run passes the filter" in text_of(app))
        await pilot.press("]")
        assert app.selection.cursor == "tiny@200"
