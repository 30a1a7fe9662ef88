"""Removing checkpoints from the workspace, and restoring them by undo until the interface closes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.dialogs import prompts
from kltui.tui.widgets.run_tree import counted

if TYPE_CHECKING:
    from kltui.store.removal import Removed
    from kltui.store.rows import CheckpointRow
    from kltui.tui.session import Session


def ask_to_remove(app: Session, rows: Sequence[CheckpointRow], neighbour: str) -> None:
    """Asks for confirmation and removes `rows` with their vectors; undo restores them while the interface is open.

    If the one under the cursor is among them, the cursor moves to `neighbour` ("": to the first of all).
    """
    names = [row.name for row in rows]
    what = safe_text(names[0], 60) if len(names) == 1 else counted(len(names), "checkpoint")
    question = f"Remove {what} from the workspace?"
    scored = sum(row.scored for row in rows)
    them = "it" if len(rows) == 1 else "them"
    detail = (
        f"{counted(scored, 'vector')} and all other results of {them} are also removed; model weights are not touched.\n"
        f"{app.key('undo')} restores everything until you close this interface. A job that names {them} scores {them} again."
    )

    def answered(key: str | None) -> None:
        if key == "y":
            app.run_worker(_remove(app, names, neighbour), group="remove")

    app.push_screen(prompts.confirm(question, detail, app.look("text")), answered)


async def _remove(app: Session, names: Sequence[str], neighbour: str) -> None:
    from kltui.store.removal import Removed

    path = app.reader.path
    assert path is not None
    app.busy_with(f"removing {counted(len(names), 'checkpoint')}")
    try:
        removed = await asyncio.to_thread(Removed.of, path, names)
    except KltuiError as error:
        app.complain(error)
        return
    finally:
        app.busy_with("")
    app.removed.append(removed)
    here = app.selection.cursor
    app.undo.keep(
        f"removal of {counted(len(names), 'checkpoint')}",
        lambda: app.run_worker(_put_back(app, removed, here), group="remove"),
    )
    if here in names and neighbour:
        app.set_cursor(neighbour)
    await app.reload()
    app.say(f"removed: {counted(len(names), 'checkpoint')}; {app.key('undo')} restores", "good")


async def _put_back(app: Session, removed: Removed, cursor: str) -> None:
    """Restores what was removed, with the cursor that was on it."""
    try:
        await asyncio.to_thread(removed.put_back)
    except KltuiError as error:
        app.complain(error)
        return
    app.removed.remove(removed)
    await app.reload()
    if cursor in removed.names:
        app.set_cursor(cursor)
    app.say(f"restored: {counted(len(removed.names), 'checkpoint')}", "good")
