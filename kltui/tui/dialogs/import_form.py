"""The import of released vectors: files named in a form, read by a separate process, previewed, then stored."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kltui.errors import KltuiError
from kltui.sanitize import expanded, is_there, safe_text
from kltui.tui.dialogs import prompts
from kltui.tui.dialogs.forms import Answers, Field, Form

if TYPE_CHECKING:
    from kltui.tui.session import WorkspaceSession

Result = TypeVar("Result")
HINTS = (
    "modelmap's releases (a folder, loglik.pkl, per-model JSONL), samples_*.jsonl of lm-evaluation-harness, "
    "weight_distance.pkl. Texts: texts.json or a JSONL corpus, if it is not next to the vectors.",
    "As: steps or layers, if vectors are numbered 0, 1, 2. Over: the start of the hash of a corpus of this workspace. Declare: how they"
    " were scored, so that your own vectors can share their map.",
)
MAX_RUNS = 40


def import_vectors(app: WorkspaceSession) -> None:
    """Asks for the files, shows a preview, and imports them once that is accepted."""
    fields = (
        Field("vectors", "", "a file or a folder", paths=True),
        Field("texts", "", "default: found next to them", paths=True),
        Field("as", "", "steps or layers, if the file does not say"),
        Field("over", "", "default: the texts above, or in the files"),
        Field("declare", "", "how they were scored, such as bos=auto dtype=float16"),
    )

    def check(answers: Answers) -> str:
        if not answers["vectors"].strip():
            return "Vectors: give a file or a folder"
        if answers["as"].strip() not in ("", "steps", "layers"):
            return "As: steps or layers"
        from kltui.jobs.declared_settings import parse_declared

        try:
            parse_declared(answers["declare"].split())
        except KltuiError as error:
            return safe_text(error.message, 200)
        missing = [p for p in paths_of(answers) if not is_there(p)]
        return f"there is nothing at {safe_text(str(missing[0]), 80)}" if missing else ""

    def answered(answers: Answers | None) -> None:
        if answers is not None:
            asked = (answers["as"].strip(), answers["over"].strip(), answers["declare"].strip())
            app.run_worker(_preview(app, paths_of(answers), *asked), group="import", exclusive=True)

    app.push_screen(Form("Import released vectors", fields, check, HINTS), answered)


def paths_of(answers: Answers) -> list[Path]:
    """The named files: several in one line are separated by spaces; a name with spaces is quoted."""
    named: list[Path] = []
    for text in (answers["vectors"], answers["texts"]):
        whole = expanded(text.strip())
        if text.strip() and is_there(whole):
            named.append(whole.resolve())
            continue
        try:
            words = shlex.split(text)
        except ValueError:
            words = [text]
        named += [expanded(word).resolve() for word in words]
    return named


async def _preview(
    app: WorkspaceSession, paths: Sequence[Path], numbered: str, over: str, declared: str
) -> None:
    from kltui.jobs.process import python_command

    command = python_command("kltui.jobs.import_preview", "main", numbered, *map(str, paths))
    _, out, complaint = await timed(app, "reading the vectors", lambda: _run(command))
    try:
        reported = json.loads(out)
    except ValueError:
        reported = {"error": complaint or "the files could not be read", "hint": ""}
    if "error" in reported:
        app.say(f"{reported['error']}. {reported['hint']}", "bad")
        return

    def answered(key: str | None) -> None:
        if key == "y":
            app.run_worker(_import(app, paths, numbered, over, declared), group="import", exclusive=True)

    text = "\n".join(preview_lines(reported, bool(app.snapshot.rows), over))
    question = f"Import {reported['vectors']} vectors over {reported['texts']} texts?"
    app.push_screen(prompts.confirm(question, text, app.look("text")), answered)


def preview_lines(reported: dict[str, Any], filled: bool, over: str = "") -> list[str]:
    """Lines of the preview of an import; `filled` is whether the workspace already has vectors.

    `over` is the user's answer about the corpus of vectors that come without texts.
    """
    lines = [
        f"{run}: {count} checkpoints, steps {low} to {high}" if count > 1 else f"{run}: 1 checkpoint"
        for run, count, low, high in reported["runs"]
    ]
    more = len(lines) - MAX_RUNS
    lines = [*lines[:MAX_RUNS], f"and {more} more runs"] if more > 0 else lines
    lines += [f"{reported['weight_distances']} weight distances"] if reported["weight_distances"] else []
    if reported["scores"]:
        lines += [f"benchmark scores of {reported['scores']} models", f"  {reported['tasks']}"]
    lines += [f"note: {note}" for note in reported["notes"]]
    lines += [f"not imported: {reason}" for reason in reported.get("left", ())]
    if not reported["has_texts"] and not over:
        where = (
            "name them in the form, or give the hash of their corpus" if filled else "name them in the form"
        )
        lines += ["", f"The texts are not in these files: {where}."]
    return lines


async def _import(
    app: WorkspaceSession, paths: Sequence[Path], numbered: str, over: str, declared: str
) -> None:
    from kltui.jobs.process import python_command

    options = [word for path in paths for word in ("--import", str(path))]
    options += ["--as", numbered] if numbered else []
    options += ["--over", over] if over else []
    options += [word for said in declared.split() for word in ("--declare", said)]
    command = python_command("kltui.cli", "main", *options, str(app.reader.path))
    code, _, said = await timed(app, "importing", lambda: _run(command))
    lines = [line.strip().removeprefix("kltui: ") for line in said.splitlines() if line.strip()]
    brought = next(
        (line for line in lines if " vectors over " in line), "" if code else lines[-1] if lines else ""
    )
    if code and not brought:
        app.say(". ".join(lines[-2:]) or "the import ended early", "bad")
        return
    await app.reload()
    left = f"; {lines[-1]}" if code else ""  # some files were imported; the last line says what was not
    app.say(f"imported {brought}{left}", "bad" if code else "good")


async def timed(app: WorkspaceSession, what: str, work: Callable[[], Awaitable[Result]]) -> Result:
    """The result of `work`; meanwhile the status line shows `what` and the seconds since the start."""
    begun = time.monotonic()
    task = asyncio.ensure_future(work())
    try:
        while True:
            app.busy_with(f"{what} … {time.monotonic() - begun:.0f} s")
            done, _ = await asyncio.wait({task}, timeout=1.0)
            if done:
                return task.result()
    finally:
        task.cancel()
        app.busy_with("")


async def _run(command: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that is killed when this task is cancelled; it then stores nothing."""
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    child = subprocess.Popen(command, stdin=nothing, stdout=pipe, stderr=pipe)
    # In a thread, because the event loop's own pipes would outlive the loop if the interface is closed meanwhile.
    try:
        out, complaint = await asyncio.to_thread(child.communicate)
    finally:
        if child.poll() is None:
            child.kill()
    return child.returncode or 0, out.decode(errors="replace"), complaint.decode(errors="replace")
