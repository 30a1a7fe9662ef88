"""The choice among workspaces that were open lately, where none was named."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kltui.sanitize import safe_text
from kltui.tui.dialogs import prompts
from kltui.tui.recent import recent_in

if TYPE_CHECKING:
    from kltui.tui.session import Session


async def find_recent(app: Session) -> None:
    """Shows them in the welcome; a disk that does not answer holds up nothing."""
    app.recent = await asyncio.to_thread(recent_in, app.memory)
    if app.view is not None and app.reader.path is None:
        app.view.update_data()


def ask_recent(app: Session) -> None:
    """Offers them, and opens the one chosen."""
    found = app.recent
    options = [(safe_text(one.path.name, 30), one.words) for one in found]

    def chosen(index: int | None) -> None:
        if index is None:
            return
        if found[index].is_there:
            app.open_workspace(found[index].path)
        else:
            app.say(f"{found[index].path} no longer exists: its folder was moved or deleted", "warning")

    app.push_screen(prompts.ChoiceDialog("Open which workspace?", options), chosen)
