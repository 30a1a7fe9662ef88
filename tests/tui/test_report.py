"""The Report screen: what `--report` writes, section by section, computed beside the interface."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from time import monotonic

import pytest
from screen_text import text_of

from kltui.store import Store
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.tui.export import exports, json_of
from kltui.tui.export import text_of as text_of_view
from kltui.tui.report_worker import BrokenOff, ReportAnswers, rows_of_data
from kltui.view.report import print_report, section_names
from kltui.view.section_words import USED_BY, WORDS
from kltui.view.sections.context import ReportChoice
from kltui.workspace import Workspace
from kltui.workspace.subsample import draw_texts, text_draws


@pytest.fixture(scope="module")
def folder(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = shutil.copytree(filled, tmp_path_factory.mktemp("report") / "ws")
    with closing(Store.write(made)) as store, store.atomic():
        store.records.remove("draw", "d")  # which is none
    return made


def written(folder: Path, section: str, width: int, *, ascii_only: bool = False, **choice: object) -> str:
    """What `kltui --report --section SECTION` writes at that width."""
    out = io.StringIO()
    with Workspace.open(folder) as ws:
        print_report(
            ws,
            [section],
            False,
            width,
            out,
            choice=ReportChoice(**choice),
            ascii_only=ascii_only,
            notices=io.StringIO(),
        )
    return out.getvalue()


def shown(app: KltuiApp) -> str:
    """The text pane's lines, all of them."""
    lines = ["".join(text for text, _ in line) for line in app.view.text.all_lines()]
    return "".join(f"{line}\n" for line in lines)


def ready(app: KltuiApp, section: str) -> bool:
    view = app.view
    made = view.sections.get(section)
    return view.shown == section and made is not None and made[1].paper == view.paper() and not view.said


def is_asked(app: KltuiApp) -> bool:
    """Whether the process has something to do."""
    running = app.view.source._running
    return running is not None and not running.done()


def test_the_words_name_every_section_in_order() -> None:
    assert list(WORDS) == section_names() and all(len(words) < 56 for words in WORDS.values())


async def test_a_narrow_pane_is_moved_sideways(folder: Path, until) -> None:
    app = KltuiApp(folder, color=False)
    async with app.run_test(size=(64, 20)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0", "enter")
        await until(pilot, lambda: ready(app, "overview"))
        assert shown(app) == written(folder, "overview", 80)
        whole = [line for line in shown(app).split("\n") if len(line) > 64]
        pane = app.view.text
        await pilot.press(*"lll")
        assert pane.left == 16 and pane.left + pane.body_width == max(map(len, whole))
        row = shown(app).split("\n").index(whole[0])
        assert "".join(t for t, _ in pane.body_line(row)).rstrip() == whole[0][16:]
        await pilot.press(*"hhh")
        assert pane.left == 0


async def test_the_list_says_what_sections_say(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        assert WORDS["loss"][:30] in text_of(app) and str(folder)[:20] in text_of(app)
        await pilot.press("G")
        await until(pilot, lambda: ready(app, "leakage"))
        view = app.view
        state, words = view.said_of("leakage")
        assert state == "missing" and words.startswith("missing: ") and words[:20] in text_of(app)
        assert view.said_of("kl") == ("", WORDS["kl"])


async def test_a_list_that_does_not_fit_says_where_it_is(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0", "j")
        await until(pilot, lambda: f"2/{len(WORDS)}" in text_of(app))
        await pilot.resize_terminal(160, 40)
        await until(pilot, lambda: f"2/{len(WORDS)}" not in text_of(app))


async def test_a_section_is_written_as_text_and_data(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0", "j")
        await until(pilot, lambda: ready(app, "loss"))
        assert {"text", "json", "csv"} <= {one.name for one in exports(app)}
        assert text_of_view(app) == written(folder, "loss", app.view.paper().width).split("\n")[:-1]
        out = io.StringIO()
        with Workspace.open(folder) as ws:
            print_report(ws, ["loss"], True, None, out, notices=io.StringIO())
        assert json_of(app) == json.loads(out.getvalue())["sections"]


async def test_what_was_computed_outlives_a_section_that_is_broken_off(
    folder: Path, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.tui.report_source.LISTENS_S", 60.0)  # however busy the machine is
    app = KltuiApp(folder)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        child = app.view.source._child
        for _ in range(6):
            await pilot.press("j")
            await pilot.pause(0.15)  # each is begun, and the next one comes
        section = list(WORDS)[6]
        await until(pilot, lambda: ready(app, section))
        assert app.view.source._child is child and child.poll() is None


def test_a_section_is_broken_off_only_while_it_is_made() -> None:
    answers = ReportAnswers(io.BytesIO())
    answers.break_off()
    answers.busy = True
    with pytest.raises(BrokenOff):
        answers.break_off()
    assert not answers.busy


def test_an_import_is_completed_before_a_section_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", "value = sum(range(10_000))\n"
    (tmp_path / "broken_off_within.py").write_text(first + second)
    monkeypatch.syspath_prepend(str(tmp_path))
    answers = ReportAnswers(io.BytesIO(), busy=True)
    numbers = (signal.SIGINT, signal.SIGALRM)
    before = [signal.signal(number, answers.break_off) for number in numbers]
    try:
        with pytest.raises(BrokenOff):
            found = import_module("broken_off_within")
            assert found.value == sum(range(10_000))
            deadline = monotonic() + 60
            while monotonic() < deadline:
                pass
        assert sys.modules["broken_off_within"].value == sum(range(10_000)) and not answers.busy
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        sys.modules.pop("broken_off_within", None)


@pytest.mark.parametrize(("size", "ascii_only"), [((80, 24), False), ((140, 40), True)])
async def test_every_section_is_what_the_command_writes(
    folder: Path, until, size: tuple[int, int], ascii_only: bool
) -> None:
    app = KltuiApp(folder, ascii_only=ascii_only, color=False)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        for number, section in enumerate(section_names()):
            await pilot.press(*(["escape", "j"] if number else []))
            if ascii_only and number % 4:
                continue  # the characters are others, the sections the same
            await pilot.press("enter")  # so that the text has its width at 80 columns
            await until(pilot, lambda section=section: ready(app, section))
            assert shown(app) == written(folder, section, app.view.text.body_width, ascii_only=ascii_only)


async def test_marks_and_form_are_the_readers_choice(folder: Path, until) -> None:
    app = KltuiApp(folder, color=False)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "run@0", "run@2"
        await pilot.press("0", *"jjjjjj")
        await until(pilot, lambda: ready(app, "where"))
        await pilot.press("w", *"x", "enter")
        await until(pilot, lambda: "where: x is not a number" in text_of(app))
        await pilot.press("backspace", *"0.5", "enter")
        await until(pilot, lambda: ready(app, "where") and app.view.where == 0.5)
        width = app.view.text.body_width
        assert shown(app) == written(folder, "where", width, pair=("run@0", "run@2"), where=0.5)
        await pilot.press("x")
        assert app.view.state_of("where") == "shown"  # a KL is named, and the pair does not matter
        await pilot.press("w", "backspace", "backspace", "backspace", "enter")
        await until(pilot, lambda: ready(app, "where") and app.view.where is None)
        assert shown(app) == written(folder, "where", width, pair=("run@2", "run@0"))
        await pilot.press("x")
        await until(pilot, lambda: "outdated (older vectors or other options)" in text_of(app))
        await pilot.press("r")
        await until(pilot, lambda: ready(app, "where") and "outdated (older" not in text_of(app))
        assert shown(app) == written(folder, "where", width, pair=("run@0", "run@2"))


async def test_texts_are_drawn_as_the_command_draws_them(folder: Path, until, tmp_path: Path) -> None:
    one = shutil.copytree(folder, tmp_path / "one")
    app = KltuiApp(one)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0", "w", "up", *"0x", "enter")
        await until(pilot, lambda: "draw: 0x is not a number of texts" in text_of(app))
        await pilot.press("backspace", "backspace", "7", "enter")
        await until(pilot, lambda: "7 draws" in app.message)
        with Workspace.open(one) as ws:
            (path, made), found = draw_texts(ws, ws.map(), 7), text_draws(ws)
        assert [d.name for d in found] == [made.name] and str(path) in app.message


@pytest.fixture
def no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's process is one of its own: see tests/warm."""
    monkeypatch.delenv("KLTUI_TEST_WARM", raising=False)


@pytest.mark.usefixtures("no_fork")
async def test_a_process_that_is_ended_is_told_and_r_computes_again(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        child = app.view.source._child
        os.kill(child.pid, signal.SIGSTOP)
        await pilot.press("j")
        await until(pilot, lambda: app.view.shown == "loss" and is_asked(app))
        os.kill(child.pid, signal.SIGKILL)
        await until(pilot, lambda: "was ended by signal 9" in text_of(app))
        await pilot.press("r")
        await until(pilot, lambda: ready(app, "loss") and "was ended" not in text_of(app))


@pytest.mark.usefixtures("no_fork")
async def test_sections_passed_while_the_process_starts_leave_it_whole(
    folder: Path, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.tui.report_source.LISTENS_S", 60.0)  # however busy the machine is
    monkeypatch.setattr("kltui.tui.views.report.SETTLE_S", 0.0)
    app = KltuiApp(folder, color=False)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        for _ in range(4):
            await pilot.press("j")
            await pilot.pause(0.25)  # while numpy and others are imported
        await until(pilot, lambda: ready(app, list(WORDS)[4]))
        assert not app.view.complaints and app.view.state_of("stabilisation") == "shown"
        assert shown(app) == written(folder, "stabilisation", app.view.text.body_width)


@pytest.mark.usefixtures("no_fork")
async def test_another_section_does_not_wait_for_the_one_before(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        child = app.view.source._child
        os.kill(child.pid, signal.SIGSTOP)  # as one that computes for minutes
        await pilot.press("j")
        await until(pilot, lambda: is_asked(app))
        await pilot.press("j")
        await until(pilot, lambda: ready(app, "kl"))
        assert child.returncode == -signal.SIGKILL and "loss" not in app.view.sections


async def test_a_pair_that_is_not_on_the_map_matters_only_to_sections_that_use_it(
    folder: Path, until
) -> None:
    app = KltuiApp(folder, basis=Basis(exclude=("run@2",)), color=False)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b = "run@0", "run@2"
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        assert app.view.state_of("overview") == "shown"
        refusing = []
        for section in section_names()[1:]:
            await pilot.press("j")
            await until(pilot, lambda section=section: ready(app, section))
            said = "--pair: run@2 is excluded from this map" in shown(app)
            refusing += [section] if said else []
        assert {"where", "drivers", "exact"} <= set(refusing) <= USED_BY["pair"]
        app.selection.b = "run@1"
        app.selection_changed()
        await pilot.press("g", *"j" * section_names().index("drivers"))
        await until(pilot, lambda: ready(app, "drivers") and "run@0 against run@1" in shown(app))
        assert app.view.state_of("overview") == "shown"


def test_rows_of_data() -> None:
    records = [{"a": 1, "b": None, "c": [1]}, {"a": 2, "b": "x", "c": [2]}]
    assert rows_of_data({"short": [{"z": 1}], "long": records}) == [["a", "b"], [1, None], [2, "x"]]
    assert rows_of_data({"unit": "nats", "n": 3, "list": [1, 2]}) == [
        ["name", "value"],
        ["unit", "nats"],
        ["n", 3],
    ]
    assert rows_of_data({}) == []


async def test_kl_is_spelled_as_everywhere(folder: Path, until) -> None:
    app = KltuiApp(folder, color=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0", "j", "j")
        await until(pilot, lambda: app.view.shown == "kl")
        assert app.view.text.title == "KL"


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_an_empty_workspace_says_so_in_the_wider_pane(
    tmp_path: Path, until, size: tuple[int, int]
) -> None:
    Store.write(tmp_path).close()
    app = KltuiApp(tmp_path)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: "Report: every section of kltui --report appears here." in text_of(app))
        assert text_of(app).count("This workspace is empty.") == 1
