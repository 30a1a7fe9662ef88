"""Exports of the present view: tables as CSV, the screen as SVG, the selection as a job file."""

from __future__ import annotations

import asyncio
import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.safe import csv_text
from kltui.tui import jobs_start

if TYPE_CHECKING:
    from kltui.tui.interface import KltuiApp


def export_choices(app: KltuiApp) -> list[tuple[str, str]]:
    """(name, what it writes) of the exports that the present view offers."""
    choices = [("svg", "a picture of the screen as it is")]
    if rows_of(app):
        choices.append(("csv", "the rows of this view"))
    if app.snapshot.rows:
        choices.append(("job file", "what scores the selected checkpoints again"))
    if app.snapshot.n_scored:
        choices.append(("everything", "vectors, KL, consecutive KL, coordinates: as kltui --export"))
    return choices


def rows_of(app: KltuiApp) -> list[list[object]]:
    """The present view's rows for CSV, titles first; [] where it has none."""
    rows = getattr(app.view, "csv_rows", None)
    return list(rows()) if rows is not None else []


async def export_view(app: KltuiApp, kind: str) -> None:
    """Writes one export beside the workspace's own files, below the present folder with --read-only, and says where."""
    workspace = app.reader.path
    beside = workspace is not None and workspace.is_dir() and not app.read_only
    folder = (workspace if workspace and beside else Path.cwd()) / "exports"
    try:
        path = await _export(app, kind, folder)
    except (OSError, KltuiError) as error:
        app.say(str(error), "bad")
        return
    app.say(f"written: {path}", "good")


async def _export(app: KltuiApp, kind: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{app.screen_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if kind == "svg":
        path = folder / f"{stem}.svg"
        path.write_text(with_versions(app.export_screenshot(title="kltui")), encoding="utf-8")
    elif kind == "csv":
        path = folder / f"{stem}.csv"
        write_csv(path, rows_of(app))
    elif kind == "job file":
        path = folder / f"{stem}.toml"
        path.write_text(job_text(app), encoding="utf-8")
    else:
        path = folder / stem
        await asyncio.to_thread(_everything, path, app.reader.path or Path())
    return path


def with_versions(svg: str) -> str:
    """An SVG that says, in its description, which libraries its numbers were computed with."""
    from kltui.view.provenance import version_words

    head, end, rest = svg.partition(">")
    return f"{head}{end}\n    <desc>{version_words()}</desc>{rest}"


def write_csv(path: Path, rows: list[list[object]]) -> None:
    """Writes rows as CSV; text that a spreadsheet would compute has an apostrophe before it."""
    cells = ([csv_text(value) if isinstance(value, str) else value for value in row] for row in rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(cells)


def job_text(app: KltuiApp) -> str:
    """TOML of a job that scores the selected checkpoints, or all, as the last job did."""
    names = list(app.selection.selected) or [r.name for r in app.snapshot.rows if app.filter(r)]
    rows = [app.snapshot.by_name[n] for n in names if n in app.snapshot.by_name]
    corpus, scoring = jobs_start.usual_tables(app.snapshot.jobs)
    workspace = app.reader.path or Path()
    job = jobs_start.job_of(workspace, jobs_start.entries_of(rows), corpus or {"source": "demo"}, scoring)
    return job.to_toml()


def _everything(folder: Path, workspace: Path) -> None:
    from kltui.view.export import export
    from kltui.workspace import Workspace

    with Workspace.open(workspace) as ws:
        export(ws, folder)
