"""The Report screen: what `--report` writes, section by section, computed beside the interface."""

from __future__ import annotations

import io
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from full_store import fill
from screen_text import text_of

from kltui.store import Store
from kltui.tui.interface import KltuiApp
from kltui.tui.views.report import rows_of_data
from kltui.view.report import print_report, section_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report")
    fill(made)
    with closing(Store.write(made)) as store, store.atomic():
        store.records.remove("draw", "d")  # which is none
    return made


def written(folder: Path, section: str, width: int, *, ascii_only: bool = False, **choice: object) -> str:
    """What `kltui --report --section SECTION` writes at that width."""
    from kltui.view.sections.context import Choice
    from kltui.workspace import Workspace

    out = io.StringIO()
    with Workspace.open(folder) as ws:
        print_report(
            ws,
            [section],
            False,
            width,
            out,
            choice=Choice(**choice),
            ascii_only=ascii_only,
            narration=io.StringIO(),
        )
    return out.getvalue()


def shown(app: KltuiApp) -> str:
    """The text pane's lines, all of them."""
    lines = ["".join(text for text, _ in line) for line in app.view.text.all_lines()]
    return "".join(f"{line}\n" for line in lines)


def ready(app: KltuiApp, section: str) -> bool:
    view = app.view
    return view.shown == section and section in view.sections and not view.said


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
        await until(pilot, lambda: "where: x is no number" in text_of(app))
        await pilot.press("backspace", *"0.5", "enter")
        await until(pilot, lambda: ready(app, "where") and app.view.where == 0.5)
        width = app.view.text.body_width
        assert shown(app) == written(folder, "where", width, pair=("run@0", "run@2"), where=0.5)
        await pilot.press("x")
        await until(pilot, lambda: "made of older vectors or other choices" in text_of(app))
        await pilot.press("r")
        await until(pilot, lambda: ready(app, "where") and "made of older" not in text_of(app))
        assert shown(app) == written(folder, "where", width, pair=("run@2", "run@0"), where=0.5)


async def test_a_process_that_is_ended_is_told_and_r_computes_again(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        child = app.view.source._child
        os.kill(child.pid, signal.SIGSTOP)
        await pilot.press("j")
        await until(pilot, lambda: app.view.shown == "loss" and app.view.said)
        os.kill(child.pid, signal.SIGKILL)
        await until(pilot, lambda: "was ended by signal 9" in text_of(app))
        await pilot.press("r")
        await until(pilot, lambda: ready(app, "loss") and "was ended" not in text_of(app))


async def test_another_section_does_not_wait_for_the_one_before(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        child = app.view.source._child
        os.kill(child.pid, signal.SIGSTOP)  # as one that computes for minutes
        await pilot.press("j")
        await until(pilot, lambda: app.view.said)
        await pilot.press("j")
        await until(pilot, lambda: ready(app, "kl"))
        assert child.returncode == -signal.SIGKILL and "loss" not in app.view.sections


async def test_a_choice_that_fits_nothing_is_refused_in_words(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("0")
        await until(pilot, lambda: ready(app, "overview"))
        app.selection.a, app.selection.b = "run@0", "nothing"
        await pilot.press("r")
        await until(pilot, lambda: "nothing" in shown(app) and app.view.state_of("overview") == "failed")


def test_rows_of_data() -> None:
    records = [{"a": 1, "b": None, "c": [1]}, {"a": 2, "b": "x", "c": [2]}]
    assert rows_of_data({"short": [{"z": 1}], "long": records}) == [["a", "b"], [1, None], [2, "x"]]
    assert rows_of_data({"unit": "nats", "n": 3, "list": [1, 2]}) == [
        ["name", "value"],
        ["unit", "nats"],
        ["n", 3],
    ]
    assert rows_of_data({}) == []
