"""Workspaces that were open lately, for whoever starts kltui without one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.sanitize import safe_text
from kltui.tui.dialogs import prompts

if TYPE_CHECKING:
    from kltui.tui.app import KltuiApp
    from kltui.tui.ui_state import Memory

SHOWN = 8


@dataclass(frozen=True, slots=True)
class Recent:
    """A workspace that was open, and whether it is still there."""

    path: Path
    is_there: bool

    @property
    def words(self) -> str:
        """Its place, and that it is gone."""
        return safe_text(str(self.path), 200) + ("" if self.is_there else "   (missing)")


def recent_in(memory: Memory) -> list[Recent]:
    """The workspaces that were open here, the latest first. It asks the disk for each of them."""
    from kltui.store.store import FILE_NAME

    return [Recent(path, _is_file(path / FILE_NAME)) for path in memory.workspaces()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


async def find_recent(app: KltuiApp) -> None:
    """Shows them in the welcome; a disk that does not answer holds up nothing."""
    app.recent = await asyncio.to_thread(recent_in, app.memory)
    if app.view is not None and app.reader.path is None:
        app.view.update_data()


def recent_lines(found: Sequence[Recent]) -> list[tuple[str, str]]:
    """(ink, text) lines of the welcome."""
    if not found:
        return []
    lines = [("text", "enter   open a recent workspace:")]
    lines += [("text" if one.is_there else "faint", f"    {one.words}") for one in found[:SHOWN]]
    more = len(found) - SHOWN
    return [*lines, *([("muted", f"    and {more} more")] if more > 0 else []), ("text", "")]


def ask_recent(app: KltuiApp) -> None:
    """Offers them, and opens the one chosen."""
    found = app.recent
    options = [(safe_text(one.path.name, 30), one.words) for one in found]

    def chosen(index: int | None) -> None:
        if index is None:
            return
        if found[index].is_there:
            app.open_workspace(found[index].path)
        else:
            app.say(f"{found[index].path} is gone: its folder was moved or deleted", "warning")

    app.push_screen(prompts.ChoiceDialog("Open which workspace?", options), chosen)
