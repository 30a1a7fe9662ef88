"""An app on a fixed workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kltui.tui.interface import KltuiApp
from tests.tui.fake_workspace import FakeWorkspace


@pytest.fixture
def make_app() -> Callable[..., KltuiApp]:
    """A maker of apps; keyword `workspace` replaces the fixed one."""

    def make(workspace: FakeWorkspace | None = None, **options: object) -> KltuiApp:
        shown = workspace or FakeWorkspace()
        return KltuiApp(Path("/workspaces/demo"), opener=lambda _: shown, **options)

    return make
