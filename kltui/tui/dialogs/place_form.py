"""Places one of the user's models on the map: a dialog, scoring in a separate process, and the result."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.dialogs import prompts
from kltui.tui.dialogs.corpus_choice import NO_MAP
from kltui.tui.dialogs.import_form import timed

if TYPE_CHECKING:
    from kltui.registry.checkpoint import Checkpoint
    from kltui.tui.session import WorkspaceSession

HINTS = ("A model's or adapter's folder, a GGUF file, OWNER/NAME[@REVISION], or a server's address.",)
TEXT_HINTS = (
    "Empty: all texts of the map. A number: a sample of this size, which is faster; the error of its KLs is then shown"
    " next to that of the whole corpus.",
)


def place_model(app: WorkspaceSession, checkpoint: Checkpoint | None = None) -> None:
    """Asks which model (suggesting `checkpoint`) and on how many texts, and places it on the workspace's map."""
    if app.reader.path is None or app.map_cache.is_empty:
        app.say(NO_MAP, "warning")
        return
    suggested = named(checkpoint) if checkpoint else ""

    def answered(model: str | None) -> None:
        if model:
            prompt = prompts.Prompt("On how many texts?", "", _texts_complaint, hints=TEXT_HINTS)
            app.push_screen(prompt, lambda texts: _begin(app, model, texts))

    app.push_screen(
        prompts.Prompt("Place which model?", suggested, _complaint, hints=HINTS, paths=True), answered
    )


def named(checkpoint: Checkpoint) -> str:
    """A checkpoint's source as `--place` takes it: repository@revision, a server's address, or a path."""
    from kltui.registry.checkpoint import HubSource, ServedSource

    source = checkpoint.source
    if isinstance(source, HubSource):
        return f"{source.repo}@{source.revision}"
    return source.endpoint if isinstance(source, ServedSource) else str(source)


def _complaint(text: str) -> str:
    from kltui.jobs.place import entry_of

    try:
        entry_of(text.strip())
    except KltuiError as error:
        return error.in_one_line
    return ""


def _texts_complaint(text: str) -> str:
    given = text.strip()
    return (
        "" if not given or (given.isdecimal() and int(given) > 0) else "enter a number of texts, or nothing"
    )


def _begin(app: WorkspaceSession, model: str, texts: str | None) -> None:
    if texts is not None:
        app.run_worker(_place(app, model.strip(), texts.strip()), group="place", exclusive=True)


async def _place(app: WorkspaceSession, model: str, texts: str) -> None:
    from kltui.jobs.process import python_command

    options = ["--place", model, *(["--texts", texts] if texts else [])]
    command = python_command("kltui.cli", "main", *options, str(app.reader.path))
    width = max(40, min(104, app.size.width * 9 // 10 - 4))
    code, out, said = await timed(
        app, f"placing {safe_text(model, 60)}", lambda: asyncio.to_thread(_run, command, width)
    )
    if code:
        lines = [line.strip().removeprefix("kltui: ") for line in said.splitlines() if line.strip()]
        app.say(". ".join(lines[-2:]) or "it could not be placed", "bad")
        return
    await app.reload()
    app.push_screen(prompts.TextDialog("On this map", prompts.reading(out.rstrip(), app.look("text"))))


def _run(command: Sequence[str], width: int) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process in a session of its own, which goes on if the interface is closed."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        env=os.environ | {"COLUMNS": str(width), "NO_COLOR": "1"}, start_new_session=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
