"""What a person would read on the screen of an app under test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from textual.app import App

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from kltui.tui.app import KltuiApp


def lines_of(app: App[int]) -> list[str]:
    """The screen's rows as text."""
    return [strip.text for strip in app.screen._compositor.render_strips()]


def text_of(app: App[int]) -> str:
    """All rows, one a line."""
    return "\n".join(lines_of(app))


async def opened(app: KltuiApp, pilot: Pilot[int], until: Callable[..., Awaitable[None]], *keys: str) -> None:
    """Waits until the workspace is read, then presses `keys`."""
    await until(pilot, lambda: app.snapshot.loaded)
    await pilot.press(*keys)
