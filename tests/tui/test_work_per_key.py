"""What a key costs does not grow with the checkpoints: work is counted here, not timed."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fake_workspace import FakeWorkspace
from screen_text import opened, text_of
from textual.css.stylesheet import Stylesheet
from textual.dom import DOMNode

from kltui.tui import app as app_module
from kltui.tui import data
from kltui.tui import filter as filter_module
from kltui.tui.app import KltuiApp
from kltui.tui.basis import left_out
from kltui.tui.data import Snapshot
from kltui.tui.dialogs import prompts
from kltui.tui.dialogs.forms import FormLines
from kltui.tui.dialogs.prompts import Words
from kltui.tui.export import exports
from kltui.tui.filter import EVERY, Columns, Filter, parse_filter
from kltui.tui.suggested_pairs import suggested_pairs
from kltui.tui.widgets import canvas, run_tree
from kltui.tui.widgets.canvas import Pane
from kltui.tui.widgets.shell import MainScreen
from kltui.workspace.losses import StoredLoss

MakeApp = Callable[..., KltuiApp]


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return Snapshot(rows=tuple(FakeWorkspace().checkpoints()), loaded=True)


def test_a_filter_reads_each_field_of_a_row_once(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[int] = Counter()

    def name_of(row: object) -> str:
        asked[row.id] += 1
        return row.name

    monkeypatch.setitem(filter_module.TEXT_FIELDS, "name", name_of)
    columns = Columns(snapshot.rows)
    for text in ("t", "ti", "tiny", "tiny|small -seed2", "-t | *@1"):
        parse_filter(text).passing(columns)
    assert set(asked.values()) == {1} and len(asked) == len(snapshot.rows)


def test_a_filter_is_applied_once_however_many_ask(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, calls = parse_filter("run:tiny step>=100"), []
    whole = Filter.passing

    def counted(self: Filter, columns: Columns) -> list[bool]:
        calls.append(self.text)
        return whole(self, columns)

    rows = [row for row in snapshot.rows if keep(row)]
    monkeypatch.setattr(Filter, "passing", counted)
    fresh = replace(snapshot)
    assert list(fresh.passing_rows(keep)) == rows and fresh.passing_names(keep) == {r.name for r in rows}
    for run, of in fresh.runs.items():
        own = [r for r in of if r in rows]
        assert fresh.rows_of_run(run, keep) == own
        assert fresh.names_of_run(run, keep) == [r.name for r in own]
        assert fresh.rows_of_run(run, EVERY) == of
        assert fresh.names_of_run(run, EVERY) == [r.name for r in of]
    assert calls == [keep.text]
    assert fresh.passing_rows(EVERY) == snapshot.rows


def test_what_rows_tell_is_kept_while_they_are_the_same(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(snapshot).worked_out(Snapshot())
    assert "by_name" not in small.__dict__  # by need: a few thousand rows hold up no key
    monkeypatch.setattr(data, "MANY_ROWS", 10)
    first = replace(snapshot).worked_out(Snapshot())
    again = replace(snapshot, generation=7).worked_out(first)
    assert again.generation == 7 and again.rows is first.rows
    assert again.by_name is first.by_name and again.scored is first.scored
    assert again._place_in_line is first._place_in_line
    failed = (replace(first.rows[0], status="failed"), *first.rows[1:])
    other = replace(snapshot, rows=failed).worked_out(first)
    assert other.by_name is not first.by_name and other.rows is failed
    assert other.scored is first.scored  # the status says nothing of the vectors
    less = (replace(first.rows[0], scored=False), *first.rows[1:])
    assert replace(snapshot, rows=less).worked_out(first).scored == first.scored[1:]


def test_exclusions_are_looked_for_where_there_are_some(snapshot: Snapshot) -> None:
    names = [row.name for row in snapshot.rows]
    assert left_out(["run:small step<2", "tuned"], snapshot.rows, names) == ("small@0", "small@1", "tuned")


def test_pairs_are_suggested_from_one_look_at_the_rows(snapshot: Snapshot) -> None:
    kinds = Counter(pair.kind for pair in suggested_pairs(snapshot.rows))
    assert (
        kinds["bnb-8bit and original"]
        == kinds["fine-tune and parent"]
        == kinds["bnb-8bit and fine-tune"]
        == 1
    )
    assert kinds["two seeds"] == 3 and kinds["first and last"] == 5
    bare = [replace(r, checkpoint=replace(r.checkpoint, parent="")) for r in snapshot.rows]
    kinds = Counter(
        pair.kind for pair in suggested_pairs([r for r in bare if r.checkpoint.quantization == "none"])
    )
    assert set(kinds) == {"two seeds", "two sizes", "first and last"}


async def test_letters_of_a_filter_wait_for_a_pause_where_rows_are_many(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MANY_ROWS", 10)
    monkeypatch.setattr(app_module, "TYPING_SECONDS", 60.0)
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await opened(app, pilot, until, "/", *"run:tuned")
        assert not app.filter.text and "run:tuned" in text_of(app)
        await pilot.press("enter")
        assert app.filter.text == "run:tuned" and "3 of 84 checkpoints by the filter" in text_of(app)
        monkeypatch.setattr(app_module, "TYPING_SECONDS", 0.01)
        await pilot.press("/", "|", "s")
        await until(pilot, lambda: app.filter.text == "run:tuned|s")
        await pilot.press("x", "escape")
        await pilot.pause(0.05)
        assert app.filter.text == "run:tuned"  # what was typed last does not come after the answer


async def test_letters_of_a_filter_of_many_rows_look_for_them_in_another_thread(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MANY_ROWS", 10)
    monkeypatch.setattr(app_module, "TYPING_SECONDS", 0.01)
    whole, threads = Filter.passing, []

    def noted(self: Filter, columns: Columns) -> list[bool]:
        threads.append(threading.current_thread() is threading.main_thread())
        return whole(self, columns)

    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        monkeypatch.setattr(Filter, "passing", noted)
        await pilot.press("/", *"run:tuned")
        await until(pilot, lambda: app.filter.text == "run:tuned")
        await pilot.press("enter")
        assert "3 of 84 checkpoints by the filter" in text_of(app)
    assert threads and not any(threads)


@pytest.mark.parametrize("column", ["step", "source", "layers"])
async def test_many_rows_are_sorted_in_another_thread_and_filtered_in_their_order(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        tree = app.view.runs
        orders = [run_tree.Order(column), run_tree.Order(column, True)]
        filters = ["", "run:tiny step>=100", "tuned"]
        wanted = [[o.sorted(app.snapshot, parse_filter(f)) for f in filters] for o in orders]
        widths = []
        for order in orders:
            tree._put_in(order)
            widths.append(tree.widths())
        tree._put_in(run_tree.Order())
        monkeypatch.setattr(run_tree, "MANY_ROWS", 10)
        threads: list[bool] = []
        whole = run_tree.Order.sorted

        def noted(self: run_tree.Order, *of: object) -> list[object]:
            threads.append(threading.current_thread() is threading.main_thread())
            return whole(self, *of)

        monkeypatch.setattr(run_tree.Order, "sorted", noted)
        for order, rows_of, wide in zip(orders, wanted, widths, strict=True):
            tree._put_in(order)
            assert tree.order != order and "sorting 84 checkpoints" in app.under_way
            await until(pilot, lambda order=order: tree.order == order and not app.under_way)
            for text, rows in zip(filters, rows_of, strict=True):
                app.set_filter(text)
                assert [line.row for line in tree.lines] == rows
                assert text or tree.widths() == wide
            app.set_filter("")
    assert threads == [False, False]


async def test_a_runs_checkpoints_are_counted_once(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        snapshot = app.snapshot
        for run, rows in snapshot.runs.items():
            steps = [r.checkpoint.step for r in rows if r.checkpoint.step is not None]
            assert snapshot.run_facts[run] == (
                len(rows),
                sum(r.scored for r in rows),
                sum(r.status == "failed" for r in rows),
                min(steps, default=None),
                max(steps, default=None),
            )
        before = snapshot.run_facts
        await pilot.press("g", "n", "N", "enter", "enter")
        assert app.snapshot.run_facts is before and "0 to 1400" in text_of(app)
    again = replace(snapshot, generation=9).worked_out(snapshot)
    assert again.run_facts is before


async def test_letters_of_a_choice_rank_the_options_once(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[str] = []
    whole = prompts.matching

    def counted(options: object, needle: str) -> list[int]:
        ranked.append(needle)
        return whole(options, needle)

    monkeypatch.setattr(prompts, "matching", counted)
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, ":", "z", "o", "down", "down")
        await pilot.pause()
        assert ranked == ["", "z", "zo"] and "zoom" in text_of(app)


async def test_what_is_below_a_question_is_the_view_as_it_is_and_no_letter_draws_it(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and len(app.loss_errors) == len(app.snapshot.losses))
        await pilot.pause()
        before = text_of(app).split("\n")
        await pilot.press(":")
        await pilot.pause()
        after = text_of(app).split("\n")
        at = next(y for y, line in enumerate(after) if "Run which action?" in line)
        assert at > 10 and after[:at] == before[:at]
        await pilot.press("z")
        await pilot.pause()
        below: list[object] = []
        render_line = Pane.render_line

        def noted(self: Pane, y: int) -> object:
            if self in app.view.panes:
                below.append(self)
            return render_line(self, y)

        monkeypatch.setattr(Pane, "render_line", noted)
        await pilot.press("o")
        await pilot.pause()
        assert not below and "zoom" in text_of(app)
        app.set_cursor("small@100")
        app.view.update_data()
        await pilot.pause()
        assert "small@100" in text_of(app)  # a change below is shown


async def test_errors_out_of_view_are_read_while_nobody_types(make_app: MakeApp, until) -> None:
    workspace = MarksRead()
    app = make_app(workspace)
    async with app.run_test(size=(120, 20)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and len(app.loss_errors) == len(app.snapshot.losses))
        app.loss_errors.clear()
        workspace.read.clear()
        app.typed_at = math.inf
        app.view._losses = {}
        app.view.update_data()
        in_view = {app.snapshot.losses[i].vector for i in app.view._in_view() if i in app.snapshot.losses}
        await until(pilot, lambda: in_view <= set(workspace.read))
        await pilot.pause(0.1)
        assert len(workspace.read) < len(app.snapshot.losses)


class MarksRead(FakeWorkspace):
    """Keeps which losses were read, and in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def losses_of(self, vectors: list[int]) -> dict[int, tuple[float, float]]:
        self.read += vectors
        return super().losses_of(vectors)


async def test_errors_of_losses_are_read_once_those_in_view_first(make_app: MakeApp, until) -> None:
    workspace = MarksRead()
    app = make_app(workspace)
    async with app.run_test(size=(120, 20)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded and len(app.loss_errors) == len(app.snapshot.losses))
        assert max(Counter(workspace.read).values()) == 1
        losses: dict[int, StoredLoss] = app.snapshot.losses
        in_view = {losses[i].vector for i in app.view._in_view() if i in losses}
        assert in_view and set(workspace.read[: len(in_view)]) == in_view


async def test_the_pairs_of_a_setting_are_computed_off_the_interface(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await opened(app, pilot, until, "9")
        await until(pilot, lambda: app.view.table.rows)
        view = app.view
        for _ in range(3):
            await pilot.press("j")
            row = view.table.rows[view.table.cursor]
            await until(pilot, lambda row=row: len(view.pair_table.pairs) == len(row.pairs))
            values = [kl.value for kl, _, _ in view.pair_table.pairs]
            assert values == sorted(values)
            assert {(a, b) for _, a, b in view.pair_table.pairs} == set(row.pairs)


@pytest.mark.parametrize("screen", ["1", "3", "4", "5", "6"])
async def test_what_can_be_exported_is_offered_without_making_every_row(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, screen: str
) -> None:
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await opened(app, pilot, until, screen)
        await pilot.pause()
        made: list[object] = []
        rows = app.view.csv_rows

        def counted() -> Iterator[list[object]]:
            for row in rows():
                made.append(row)
                yield row

        monkeypatch.setattr(app.view, "csv_rows", counted)
        assert "csv" in [export.name for export in exports(app)] or not list(rows())
        assert len(made) <= 1


async def test_a_dialog_draws_the_pane_below_no_second_time(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await opened(app, pilot, until, "7", "c", "enter")
        await until(pilot, lambda: app.view.texts.order and not app.is_asking)
        await pilot.pause()
        drawn: list[Pane] = []
        render_line = Pane.render_line

        def noted(self: Pane, y: int) -> object:
            if self in app.view.panes and y:
                drawn.append(self)
            return render_line(self, y)

        monkeypatch.setattr(Pane, "render_line", noted)
        before = text_of(app)
        for key in ("?", "escape", ":", "escape", "f"):
            await pilot.press(key)
            await until(pilot, lambda key=key: app.is_asking == (key != "escape"))
        await until(pilot, lambda: "Map settings" in text_of(app))
        await pilot.press("escape")
        await pilot.pause()
        assert text_of(app) == before
        # the cursor's row and the header show the focus; an empty screen has no others
        assert len(drawn) < 40, drawn


async def test_a_dialog_s_styles_are_found_once(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        found: Counter[object] = Counter()
        apply = Stylesheet.apply

        def noted(self: Stylesheet, node: DOMNode, **how: object) -> None:
            if isinstance(node, FormLines | Words):
                found[node] += 1
            apply(self, node, **how)

        monkeypatch.setattr(Stylesheet, "apply", noted)
        await pilot.press("f")
        await until(pilot, lambda: "Map settings" in text_of(app))
        await pilot.pause()
        assert found and set(found.values()) == {1}


def test_a_long_text_is_cut_without_a_look_at_each_of_its_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    whole = canvas.cell_len

    def noted(text: str) -> int:
        looks.append(text)
        return whole(text)

    monkeypatch.setattr(canvas, "cell_len", noted)
    for text in ("aé模" * 100, "é" * 300, "模" * 200, "a" * 300):
        looks.clear()
        made = canvas.fitted(text, 60)
        assert len(looks) < 15 and whole(made) == 60 and made.rstrip().endswith("…")
        assert whole(made.rstrip()) >= 59 and text.startswith(made.rstrip()[:-1])


async def test_nothing_is_read_before_the_first_frame(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    beginning, display = data.SnapshotReader.beginning, MainScreen._compositor_refresh

    async def read(self: data.SnapshotReader) -> object:
        done.append("read")
        return await beginning(self)

    def drawn(self: MainScreen) -> None:
        done.append("drawn")
        display(self)

    monkeypatch.setattr(data.SnapshotReader, "beginning", read)
    monkeypatch.setattr(MainScreen, "_compositor_refresh", drawn)
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
    assert done[0] == "drawn" and done.count("read") == 1
