"""The text on every screen of an empty workspace, which lists the next steps."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kltui.sanitize import safe_text
from kltui.tui.recent import recent_lines
from kltui.tui.widgets.canvas import Pane, Span, wrapped

if TYPE_CHECKING:
    from kltui.tui.session import Session

WANTS = {
    "registry": "checkpoints appear here as a tree of runs",
    "jobs": "jobs appear here, with their progress and failures",
    "map": "runs appear here as trajectories, one point a checkpoint",
    "curves": "every run appears here against its steps: loss, KL, exponents, updates",
    "diffusion": "needs a run with eleven or more scored checkpoints",
    "matrix": "needs two or more scored checkpoints",
    "compare": "needs two checkpoints marked A and B",
    "layers": 'needs a job with layers = "all" under [scoring]',
    "report": "every section of kltui --report appears here",
    "scale": "needs runs, seeds, sizes or variants to compare with the medians",
}

UNUSABLE = {"empty": "with a vector in which no text has a value", "layers": "with layer vectors only"}
UNFINISHED = {"lost": "did not finish, because its process ended", "stopped": "was stopped"}


def welcome(app: Session) -> list[tuple[str, str]]:
    """(ink, text) lines for the present screen if it has nothing to show yet, or cannot be read; otherwise []."""
    snapshot, name, key = app.snapshot, app.screen_name, app.key
    if not snapshot.loaded:
        return [("muted", "reading the workspace …")]
    if snapshot.problem:
        return [("bad", f"This workspace cannot be read: {snapshot.problem}"), ("text", snapshot.hint)]
    if app.awaits_job and not snapshot.jobs:
        return [("accent", "The job is starting."), ("muted", "It appears here in a few seconds.")]
    if snapshot.rows and (snapshot.n_scored or name in ("registry", "jobs")):
        return []
    if snapshot.rows:
        lines = [
            ("accent", f"{len(snapshot.rows)} checkpoint{'s' * (len(snapshot.rows) != 1)}, none scored yet."),
            ("muted", f"{name.capitalize()}: {WANTS[name]}."),
            ("text", ""),
        ]
        lines += [
            ("warning", f"{key('screen_registry')}   {n} {words}: see why")
            for status, words in UNUSABLE.items()
            if (n := snapshot.of_status[status])
        ]
        if snapshot.active_jobs:
            return [*lines, ("text", f"{key('screen_jobs')}   a job is running: watch it")]
        if snapshot.jobs and (failed := snapshot.jobs[0].failed):
            job = f"{failed} failed in job {snapshot.jobs[0].id}"
            again = "" if app.read_only else f"; {key('retry')} there runs them again"
            return [*lines, ("bad", f"{key('screen_jobs')}   {job}: see why{again}")]
        if snapshot.jobs and (words := UNFINISHED.get(snapshot.jobs[0].status)):
            job = f"job {snapshot.jobs[0].id} {words}"
            rest = "see how far it came" if app.read_only else f"{key('retry')} there runs the rest"
            return [*lines, ("warning", f"{key('screen_jobs')}   {job}: {rest}")]
        start = [
            (
                "text",
                f"{key('screen_registry')} {key('start')}   select checkpoints in the Registry and start a job",
            )
        ]
        return lines if app.read_only else lines + start
    return _empty(app, name)


def empty_line(pane: Pane, y: int, *otherwise: tuple[str, str]) -> list[Span]:
    """Line `y` of an empty pane: of the welcome text, or else of `otherwise`, (ink, text) lines; wrapped."""
    lines = _wrapped(tuple(welcome(pane.kl) or otherwise), max(10, pane.body_width - 4))
    ink, text = lines[y] if 0 <= y < len(lines) else ("text", "")
    return [("  " + text, pane.look(ink))]


@lru_cache(maxsize=16)
def _wrapped(said: tuple[tuple[str, str], ...], width: int) -> list[tuple[str, str]]:
    """The (ink, text) lines wrapped to `width` cells; cached, because every line of a pane calls it."""
    return [(ink, part) for ink, text in said for part in wrapped(text, width) or [""]]


def _empty(app: Session, name: str) -> list[tuple[str, str]]:
    path = app.reader.path
    lines = [("accent", "This workspace is empty." if path else "No workspace yet.")]
    lines += [("muted", safe_text(str(path)))] if path else []
    lines += [("muted", f"{name.capitalize()}: {WANTS[name]}."), ("text", "")]
    if not path:
        lines += recent_lines(app.recent, app.key("enter"))
    if path and not app.read_only:
        lines += [
            ("text", f"{app.key('add')}   add checkpoints: folder, hub repository, preset, released vectors")
        ]
    if not app.read_only:
        job_file = safe_text(app.snapshot.job_file, 60)
        lines += [
            (
                "text",
                f"{app.key('start')}   start {f'the job file {job_file}' if job_file else 'an existing job file'}",
            )
        ]
    lines += [
        ("text", f"{app.key('help')}   all keys"),
        ("text", ""),
        ("muted", "Or from a shell:"),
        ("text", "    kltui --demo            train and score small models, 3 minutes"),
        ("text", "    kltui --batch job.toml  score the models of a job file"),
        ("text", "    kltui WORKSPACE         open results, or begin a new workspace"),
    ]
    return lines
