"""The choice among recently opened workspaces, for a session that began without one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kltui.sanitize import safe_text
from kltui.tui.dialogs import prompts
from kltui.tui.recent import recent_in

if TYPE_CHECKING:
    from kltui.tui.session import Session


async def find_recent(app: Session) -> None:
    """Finds them in a thread, since a disk may not respond, and shows them in the welcome."""
    app.recent = await asyncio.to_thread(recent_in, app.memory)
    if app.view is not None and app.reader.path is None:
        app.view.update_data()


def ask_recent(app: Session) -> None:
    """Lists them, and opens the chosen one."""
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
