"""Placing a model from the Registry, and a released picture on the Map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from screen_text import text_of

from kltui.tui.app import KltuiApp
from kltui.tui.dialogs import place_form

CURSOR = "/models/tiny/step0"
SAID = "mine among 83 vectors, on 50 draws, 47 different of 200 texts"


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's folder, ./mine: every key typed costs a frame."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("way", ["P", "A"])
async def test_a_model_is_placed_and_shown(
    make_app: Callable[..., KltuiApp], until, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str], width: int) -> tuple[int, str, str]:
        asked.append(command)
        return 0, SAID, ""

    monkeypatch.setattr(place_form, "_run", run)
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "84 checkpoints" in text_of(app))
        await pilot.press(way)
        if way == "A":
            await until(pilot, lambda: "on this map" in text_of(app))
            await pilot.press(*"on this map", "enter")
        await until(pilot, lambda: "Place which model?" in text_of(app))
        if way == "P":  # it suggests what is under the cursor
            assert CURSOR in text_of(app)
            await pilot.press("ctrl+u")
        await pilot.press(*"/nowhere", "enter")
        await until(pilot, lambda: "no model found at /nowhere" in text_of(app))
        await pilot.press("ctrl+u", *"./mine", "enter")
        await until(pilot, lambda: "On how many texts?" in text_of(app))
        await pilot.press(*"50", "enter")
        await until(pilot, lambda: SAID in text_of(app))
    (command,) = asked
    assert list(command[-5:]) == ["--place", "./mine", "--texts", "50", "/workspaces/demo"]


async def test_a_model_that_cannot_be_placed_says_why(make_app, until, monkeypatch) -> None:
    monkeypatch.setattr(
        place_form,
        "_run",
        lambda command, width: (2, "", "kltui: it would share no map\n  Leave --set out.\n"),
    )
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "84 checkpoints" in text_of(app))
        await pilot.press("P")
        await until(pilot, lambda: "Place which model?" in text_of(app))
        await pilot.press("ctrl+u", *"./mine", "enter", "enter")
        await until(pilot, lambda: "it would share no map. Leave --set out." in text_of(app))


async def test_a_released_picture_is_one_of_the_map_s(make_app, until) -> None:
    workspace = FakeWorkspace()
    workspace.with_released = True
    app = make_app(workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "84 checkpoints" in text_of(app))
        await pilot.press("3", "v")
        await until(pilot, lambda: "PCA" in text_of(app))
        await pilot.press("v")
        await until(pilot, lambda: "MDS" in text_of(app))
        await pilot.press("v")
        await until(pilot, lambda: "released tsne_Q  83 checkpoints" in text_of(app))
        await pilot.press("v")
        await until(pilot, lambda: "t-SNE" in text_of(app))
