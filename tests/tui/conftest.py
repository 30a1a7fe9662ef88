"""An app on a fixed workspace."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic

import pytest
from textual.pilot import Pilot

sys.path.insert(0, str(Path(__file__).parent))  # fake_workspace, terminal

from fake_workspace import FakeWorkspace
from patience import patience_of_a_minute as patience_of_a_minute
from screen_text import text_of
from shared_styles import one_reading_of_styles as one_reading_of_styles

from kltui.tui.app import KltuiApp

Until = Callable[[Pilot[int], Callable[[], object]], Awaitable[None]]


NOWHERE = Path("/workspaces")
WAS_THERE = NOWHERE.exists()


def pytest_runtest_teardown() -> None:
    """Nothing is written into the fixed workspace, whose folder whoever may do everything could make."""
    assert WAS_THERE or not NOWHERE.exists(), f"a test has made {NOWHERE}"


@pytest.fixture
def make_app() -> Callable[..., KltuiApp]:
    """A maker of apps; the first argument replaces the fixed workspace."""

    def make(workspace: object = None, path: Path = Path("/workspaces/demo"), **options: object) -> KltuiApp:
        shown = workspace or FakeWorkspace()
        return KltuiApp(path, opener=lambda _: shown, **options)

    return make


@pytest.fixture
def until() -> Until:
    """Waits until something holds; fails after minutes, which only a mistake takes."""

    async def wait(pilot: Pilot[int], holds: Callable[[], object]) -> None:
        deadline, pause = monotonic() + 200, 0.02
        while True:
            await asyncio.sleep(pause)
            pause = min(0.1, 1.2 * pause)  # to look costs, too: mostly a whole screen is drawn
            if holds():
                await pilot.pause(0.0)  # what is on its way has come
                if holds():
                    return
            assert monotonic() < deadline, f"did not come to hold; shown is\n{text_of(pilot.app)}"

    return wait
