"""A form to edit the lineage (run, seed, size, parent ...) of checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.dialogs.forms import Answers, Field, Form

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow
    from kltui.tui.session import WorkspaceSession

Entry = dict[str, Any]

EMPTY = {
    "parent": "the checkpoint from which it was fine-tuned",
    "seed": "a whole number",
    "size": "for example 410m",
    "type": "for example gpt_neox",
    "tags": "words, separated by spaces",
}
HINT = "Running a job again overwrites this with its own lineage; steps come from folder names."


def ask_entry(app: WorkspaceSession, entry: Entry, run: str, done: Callable[[Entry], None]) -> None:
    """Asks for the lineage of a new run and passes the [[models]] table `entry`, with the answers added, to `done`."""
    from kltui.jobs.lineage import FIELDS, parse_changes

    names = [f for f in FIELDS if f != "step"]
    fields = [Field(f, run if f == "run" else "", EMPTY.get(f, "")) for f in names]

    def check(answers: Answers) -> str:
        try:
            parse_changes(answers)
        except KltuiError as error:
            return error.in_one_line
        return ""

    def answered(answers: Answers | None) -> None:
        if answers is not None:
            values = {k: list(v) if k == "tags" else v for k, v in parse_changes(answers).items()}
            done(entry | {k: v for k, v in values.items() if v not in ("", None, [])})

    app.push_screen(Form("Lineage of this run", fields, check), answered)


def edit_lineage(app: WorkspaceSession, rows: Sequence[CheckpointRow]) -> None:
    """Asks for the lineage of `rows` and stores the changes."""
    from kltui.jobs.lineage import common

    before = common([row.checkpoint for row in rows])
    fields = [
        Field(
            name,
            text or "",
            EMPTY.get(name, "") if text is not None else "several values: unchanged if empty",
        )
        for name, text in before.items()
        if name != "step" or len(rows) == 1
    ]
    question = f"Lineage of {rows[0].name}" if len(rows) == 1 else f"Lineage of {len(rows)} checkpoints"

    def changes(answers: Answers) -> dict[str, str]:
        return {n: t for n, t in answers.items() if t.strip() != (before[n] or "")}

    def check(answers: Answers) -> str:
        from kltui.jobs.lineage import parse_changes

        try:
            parse_changes(changes(answers), len(rows))
        except KltuiError as error:
            return error.in_one_line
        return ""

    def answered(answers: Answers | None) -> None:
        if answers is not None and changes(answers):
            app.run_worker(_store(app, rows, changes(answers)), group="lineage")

    app.push_screen(Form(safe_text(question, 70), fields, check, (HINT,)), answered)


async def _store(app: WorkspaceSession, rows: Sequence[CheckpointRow], changes: dict[str, str]) -> None:
    from kltui.jobs import lineage

    path = app.reader.path
    assert path is not None
    before = {name: row.id for name, row in app.snapshot.by_name.items()}
    notes: list[str] = []
    try:
        count = await asyncio.to_thread(
            lineage.edit_lineage, path, [r.name for r in rows], changes, notes.append
        )
    except KltuiError as error:
        app.complain(error)
        return
    await app.reload(before)
    said = "; ".join([f"stored: {', '.join(changes)} of {count} checkpoint{'s' * (count > 1)}", *notes])
    app.say(said, "bad" if notes else "good")
