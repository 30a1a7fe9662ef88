"""Progress of a running batch: events as JSON lines on stdout, or words and a bar on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from kltui.json_schema import JSON_SCHEMA
from kltui.sanitize import safe_text
from kltui.scoring.settings import Progress

LINE_EVERY_S = 30.0
EVENT_EVERY_S = 1.0


@dataclass
class Tally:
    """Counts of a job's checkpoints: all, already stored (`kept`), scored (`done`) and failed; `started` on the steady clock."""

    total: int = 0
    kept: int = 0
    done: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        return self.total - self.kept - self.done - self.failed

    def eta_seconds(self, fraction_of_current: float) -> float | None:
        """Seconds to the end at the speed so far; None before 5 % of a checkpoint are done."""
        finished = self.done + fraction_of_current  # failures are not counted, because most take no time
        if finished < 0.05:
            return None
        return (time.monotonic() - self.started) / finished * (self.left - fraction_of_current)


@dataclass
class Pace:
    """The speed of scoring one checkpoint, from the times of the start of its scoring and of the last message."""

    began: float | None = None
    heard: float = 0.0

    def hear(self, progress: Progress, now: float) -> None:
        """Takes account of a worker's message at time `now`, in seconds of a steady clock."""
        if progress.stage != "score":
            self.began = None
        elif self.began is None:
            self.began = now
        self.heard = now

    def per_second(self, count: int) -> float:
        """`count` per second since scoring began; 0 before it has."""
        seconds = 0.0 if self.began is None else self.heard - self.began
        return count / seconds if seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """The reported state of a checkpoint in progress."""

    name: str
    stage: str
    texts_done: int = 0
    texts_total: int = 0
    tokens_done: int = 0
    tokens_total: int = 0
    tokens_per_s: float = 0.0
    texts_per_s: float = 0.0
    memory_bytes: int = 0
    message: str = ""

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1, by tokens rather than texts, because the longest texts come first."""
        if self.tokens_total:
            return self.tokens_done / self.tokens_total
        return self.texts_done / self.texts_total if self.texts_total else 0.0


class Reporter:
    """Prints text for people on `err` (stderr) and, with `as_json`, events for programs on `out` (stdout), one JSON object per line.

    The job continues if the reader of the output has ended.
    """

    def __init__(self, as_json: bool, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self._json, self._out = as_json, out or sys.stdout
        self.console = SteadyConsole(file=err or sys.stderr, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal and not as_json  # whether a progress bar is shown

    def event(self, event: str, **fields: object) -> None:
        """Writes one JSON object, if events are enabled."""
        if not self._json:
            return
        made = {"event": event, "schema": JSON_SCHEMA, "time": time.time(), **fields}
        try:
            print(json.dumps(made), file=self._out, flush=True)
        except OSError as error:
            self._json = False
            _to_nowhere(self._out)
            self.say(f"events can no longer be written ({error.strerror}); the job continues", "yellow")

    def say(self, text: str, style: str = "") -> None:
        """Prints one line of text."""
        with contextlib.suppress(OSError):  # a log on a full disk, a terminal that was closed
            self.console.print(Text(text, style=style))


class ProgressReporter(Reporter):
    """Progress of a batch, its checkpoints and their failures."""

    def __init__(self, as_json: bool, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        super().__init__(as_json, out, err)
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._notes: dict[str, int] = {}
        self._last_line = self._last_event = time.monotonic()

    def begin(self, tally: Tally) -> None:
        """Starts the bar on a terminal."""
        if self.live and tally.left:
            self._bar = Bar(
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=tally.total, completed=tally.kept)
            self._bar.start()

    def moved(self, moments: list[Moment], tally: Tally) -> None:
        """Reports the progress of the current checkpoints: events every second, lines every half minute."""
        now = time.monotonic()
        fraction = sum(m.fraction for m in moments)
        eta = tally.eta_seconds(fraction)
        if self._json and now - self._last_event >= EVENT_EVERY_S:
            self._last_event = now
            for m in moments:
                self.event(
                    "progress", name=m.name, stage=m.stage, texts_done=m.texts_done, texts_total=m.texts_total,
                    tokens_done=m.tokens_done, tokens_total=m.tokens_total, message=m.message or None,
                    tokens_per_s=round(m.tokens_per_s, 1), texts_per_s=round(m.texts_per_s, 2),
                    memory_bytes=m.memory_bytes, done=tally.kept + tally.done, failed=tally.failed,
                    total=tally.total, eta_seconds=None if eta is None else round(eta, 1),
                )  # fmt: skip
        words = _words(moments, eta)
        if self._bar:
            completed = tally.kept + tally.done + tally.failed + fraction
            self._bar.update(self._task, completed=completed, description=words)
        elif not self.live and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.say(f"{tally.kept + tally.done}/{tally.total}  {words}")

    def ended(self, name: str, status: str, error: str = "", hint: str = "", **fields: object) -> None:
        """Reports the end of one checkpoint."""
        self.event("checkpoint", name=name, status=status, error=error or None, hint=hint or None, **fields)
        if status == "failed":
            self.say(f"failed  {safe_text(name)}: {safe_text(error, 400)}", "red")
            if hint:
                self.say(f"        {safe_text(hint, 400)}")

    def note(self, name: str, note: str) -> None:
        """Prints a note on a checkpoint the first time it occurs; repetitions are only counted."""
        self._notes[note] = self._notes.get(note, 0) + 1
        if self._notes[note] == 1:
            self.say(f"note    {safe_text(name)}: {safe_text(note, 400)}")

    def repeated_notes(self) -> dict[str, int]:
        """Prints how often each repeated note occurred; returns {note: number of checkpoints} of all notes."""
        for note, count in self._notes.items():
            if count > 1:
                self.say(f"note    for {count} checkpoints: {safe_text(note, 400)}")
        return dict(self._notes)

    def end(self) -> None:
        """Removes the progress bar."""
        if self._bar:
            with contextlib.suppress(OSError):
                self._bar.stop()
            self._bar = None


class SteadyConsole(Console):
    """A console that ignores a closed output, on which rich's own would end the process.

    It never hides the cursor, because a killed process could not show it again.
    """

    def show_cursor(self, show: bool = True) -> bool:
        return False

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _to_nowhere(self.file)


def _to_nowhere(stream: IO[str]) -> None:
    """Redirects a standard stream whose reader has ended to /dev/null, so that closing it does not fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _words(moments: list[Moment], eta: float | None) -> str:
    if not moments:
        return "waiting for files"
    m = moments[0]
    parts = [safe_text(m.name, 40), m.stage]
    if m.message:
        parts.append(safe_text(m.message, 100))
    if m.stage == "score":
        parts[1:] = [
            f"{m.texts_done}/{m.texts_total} texts",
            f"{m.texts_per_s:,.1f} texts/s",
            f"{m.tokens_per_s:,.0f} tokens/s",
        ]
    if m.memory_bytes:
        parts.append(f"{m.memory_bytes / 1e9:.1f} GB")
    if len(moments) > 1:
        parts.append(f"+{len(moments) - 1} more")
    if eta is not None:
        parts.append(f"{duration(eta)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A duration in words, with at most two units.

    >>> duration(3725)
    '1 h 02 min'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
