"""Progress of the demo's pretraining: bars on a terminal, otherwise a line every few seconds; events with --json."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from kltui.demo.suite import PlannedRun
from kltui.demo.worker_pool import RunProgress
from kltui.jobs.progress_report import Reporter

LINE_EVERY_S = 5.0
EVENT_EVERY_S = 1.0


class TrainingReporter:
    """Shows a bar for every run on a terminal, otherwise prints one line on all that are running."""

    def __init__(self, reporter: Reporter, runs: Sequence[PlannedRun]) -> None:
        self._reporter = reporter
        self._steps = {run.name: run.last_step for run in runs}
        self._latest: dict[str, RunProgress] = {}
        self._reported = self._sent = time.monotonic()
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"), TimeElapsedColumn(), console=reporter.console,
        )  # fmt: skip
        if reporter.live:
            self._bars = {
                name: self._progress.add_task(name, total=n, start=False, loss="")
                for name, n in self._steps.items()
            }

    def __enter__(self) -> TrainingReporter:
        if self._bars:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._progress.stop()

    def moved(self, moved: RunProgress | None) -> None:
        """Reports the progress of one run; None: only time has passed."""
        if moved:
            self._latest[moved.run] = moved
            if self._bars:
                self._move_bar(moved)
            elif moved.done:
                self._reporter.say(f"pretrained  {self._words(moved)}")
            if moved.done:
                self._send(moved)
        now = time.monotonic()
        if now - self._sent >= EVENT_EVERY_S:
            self._sent = now
            for under_way in self._under_way():
                self._send(under_way)
        if not self._bars and now - self._reported >= LINE_EVERY_S:
            self._reported = now
            self._reporter.say("pretraining " + (",  ".join(map(self._words, self._under_way())) or "starts"))

    def _move_bar(self, moved: RunProgress) -> None:
        bar = self._bars[moved.run]
        self._progress.start_task(bar)
        self._progress.update(bar, completed=moved.step, loss=f"loss {moved.loss:.2f}")

    def _under_way(self) -> list[RunProgress]:
        return [moved for moved in self._latest.values() if not moved.done]

    def _words(self, moved: RunProgress) -> str:
        return f"{moved.run} {moved.step}/{self._steps[moved.run]} loss {moved.loss:.2f}"

    def _send(self, moved: RunProgress) -> None:
        self._reporter.event(
            "pretrain", run=moved.run, step=moved.step, steps=self._steps[moved.run],
            loss_nats_per_token=moved.loss if moved.loss == moved.loss else None,
            status="done" if moved.done else "running",
        )  # fmt: skip
