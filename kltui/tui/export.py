"""Exports of the present view: figures, tables as CSV, texts, the screen as SVG, the selection as a job file."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.sanitize import csv_text, safe_text
from kltui.tui.dialogs import jobs_start

if TYPE_CHECKING:
    from kltui.figures.shown import ShownSubject
    from kltui.tui.session import Session
    from kltui.workspace import Workspace

WAITED_S = 20  # for a plot that is still being computed
SURE_S = 1  # so long a reason for an empty plot has to stand: it may be that of the plot before
FORMATS = ("pdf", "svg", "png")
WRITTEN = {"pdf": "vectors, fonts embedded", "svg": "vectors", "png": "300 dots an inch"}
Notify = Callable[[str], None]
INSTALL = "needs matplotlib: pip install '.[figures]'"


@dataclass(frozen=True)
class Export:
    """An available export: its name, what it writes, and the function that writes it to a path without suffix.

    The function gets what to call with anything that is to be said besides.
    """

    name: str
    what: str
    write: Callable[[Session, Path, Notify], Awaitable[Path]]


def exports(app: Session) -> list[Export]:
    """The exports of the present view, the most likely first."""
    found = _figures(app)
    if next(iter(rows_of(app)), None) is not None:
        found.append(Export("csv", "the rows of this view", _write_rows))
    if text_of(app):
        found.append(Export("text", "names, numbers and texts of this view (.txt)", _write_text))
    if json_of(app):
        found.append(Export("json", "the data of this view at full precision", _write_json))
    found.append(Export("screenshot", "an image of the screen (.svg)", _write_screenshot))
    if app.snapshot.rows:
        found.append(Export("job file", "a job that scores the selected checkpoints again", _write_job))
    if app.snapshot.n_scored:
        what = "vectors, KL, consecutive KL, coordinates: as kltui --export"
        found.append(Export("everything", what, _write_everything))
    return found


def _figures(app: Session) -> list[Export]:
    """One export for each format of a figure; [] if the present view has no figure."""
    if app.view is None or not app.view.has_figure or app.map_cache.is_empty:
        return []
    from importlib.util import find_spec

    missing = find_spec("matplotlib") is None
    return [
        Export(
            f"figure ({kind})",
            INSTALL if missing else f"for a paper: {WRITTEN[kind]}; its CSV and script beside it",
            _figure_writer(kind),
        )
        for kind in FORMATS
    ]


def rows_of(app: Session) -> Iterable[list[object]]:
    """The present view's rows for CSV, titles first; empty if it has none."""
    return app.view.csv_rows() if app.view is not None else []


def text_of(app: Session) -> list[str]:
    """The present view as lines of text; [] if it has no such form."""
    return app.view.text_lines() if app.view is not None else []


def json_of(app: Session) -> dict[str, object]:
    """The present view's data for JSON; {} if it has none."""
    return app.view.json_data() if app.view is not None else {}


async def export_view(app: Session, chosen: Export) -> None:
    """Writes an export to the folder `exports` of the workspace, or of the current folder with --read-only."""
    workspace = app.reader.path
    beside = workspace is not None and workspace.is_dir() and not app.read_only
    folder = (workspace if workspace and beside else Path.cwd()) / "exports"
    stem = f"{app.screen_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        said: list[str] = []
        path = await chosen.write(app, folder / stem, said.append)
    except OSError as error:
        app.say(f"cannot write {safe_text(str(folder))}: {error.strerror}", "bad")
        return
    except KltuiError as error:
        app.complain(error)
        return
    besides = "".join(f" ({safe_text(one)})" for one in said)
    app.say(f"written: {path}{besides}", "warning" if said else "good")


def _figure_writer(kind: str) -> Callable[[Session, Path, Notify], Awaitable[Path]]:
    async def write(app: Session, path: Path, notify: Notify) -> Path:
        return await write_figure(app, path.with_name(f"{path.name}.{kind}"), notify)

    return write


async def write_figure(app: Session, path: Path, notify: Notify = lambda said: None) -> Path:
    """Writes the figure of the present view with its CSV and its script, in a thread; returns its path.

    `notify` gets what is to be said of the finished figure, such as letters without a glyph.
    """
    from kltui.figures.draw import FigureStyle, check_matplotlib

    check_matplotlib()
    shown, basis = await figure_of(app), app.reader.basis
    loop = asyncio.get_running_loop()

    def progress(text: str) -> None:
        loop.call_soon_threadsafe(app.busy_with, f"figure: {text}")

    def draw(ws: Workspace) -> Path:
        from kltui.figures.files import write
        from kltui.figures.shown import picture_of
        from kltui.view.sections.context import Context

        ctx = Context(ws, shown.choice(basis.choice(ws, stored=True)), progress)
        return write(picture_of(ctx, shown), path, FigureStyle(), notify)[0]

    app.busy_with(f"figure: drawing {shown.figure} …")
    try:
        return await app.reader.draw(draw)
    finally:
        app.busy_with("")


async def figure_of(app: Session) -> ShownSubject:
    """The figure of the present view; waits for the plot.

    Raises KltuiError if the view has said for SURE_S seconds why there is nothing to draw, or after WAITED_S seconds.
    """
    view, why = app.view, ""
    for waited in range(WAITED_S * 10):
        shown = view.shown_figure() if view is not None else None
        if shown is not None:
            app.busy_with("")
            return shown
        why = view.no_figure() if view is not None else ""
        if why and waited >= SURE_S * 10:
            break
        app.busy_with("figure: waiting for the plot on screen …")
        await asyncio.sleep(0.1)
    app.busy_with("")
    raise KltuiError(
        f"this screen has nothing to draw{': ' * bool(why)}{safe_text(why)}".rstrip("."),
        "" if why else "The screen says what is missing; other screens also have figures.",
    )


async def _write_rows(app: Session, path: Path, notify: Notify) -> Path:
    target = path.with_name(f"{path.name}.csv")
    await asyncio.to_thread(write_csv, target, rows_of(app))
    return target


async def _write_text(app: Session, path: Path, notify: Notify) -> Path:
    target = path.with_name(f"{path.name}.txt")
    target.write_text("\n".join(text_of(app)) + "\n", encoding="utf-8", errors="surrogatepass")
    return target


async def _write_json(app: Session, path: Path, notify: Notify) -> Path:
    target = path.with_name(f"{path.name}.json")
    target.write_text(json.dumps(json_of(app), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return target


async def _write_screenshot(app: Session, path: Path, notify: Notify) -> Path:
    from kltui.tui.screenshot import placed, with_versions

    target = path.with_name(f"{path.name}.svg")
    target.write_text(with_versions(placed(app.export_screenshot(title="kltui"))), encoding="utf-8")
    return target


async def _write_job(app: Session, path: Path, notify: Notify) -> Path:
    target = path.with_name(f"{path.name}.toml")
    target.write_text(await asyncio.to_thread(job_text, app), encoding="utf-8")
    return target


async def _write_everything(app: Session, path: Path, notify: Notify) -> Path:
    def write(ws: Workspace) -> Path:
        from kltui.view.export import export

        export(ws, path, choice=basis.choice(ws))
        return path

    basis = app.reader.basis

    app.busy_with("exporting everything …")
    try:
        return await app.reader.draw(write)
    finally:
        app.busy_with("")


def write_csv(path: Path, rows: Iterable[list[object]]) -> None:
    """Writes rows as CSV; an apostrophe is put before text that a spreadsheet would take for a formula."""
    cells = ([csv_text(value) if isinstance(value, str) else value for value in row] for row in rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(cells)


def job_text(app: Session) -> str:
    """A job file that scores the selected checkpoints, else those that pass the filter, with the tables of `usual_tables`."""
    names = list(app.selection.selected) or [r.name for r in app.snapshot.passing_rows(app.filter)]
    rows = [app.snapshot.by_name[n] for n in names if n in app.snapshot.by_name]
    corpus, scoring = jobs_start.usual_tables(app.snapshot.jobs)
    workspace = app.reader.path or Path()
    job = jobs_start.job_of(workspace, jobs_start.entries_of(rows), corpus or {"source": "demo"}, scoring)
    return job.to_toml()
