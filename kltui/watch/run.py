"""`kltui --watch JOB`: scores existing checkpoints, then each new one once it is complete, and raises alerts."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from kltui.analysis.spikes import Figures
from kltui.environment import check_scoring
from kltui.errors import KltuiError
from kltui.jobs.batch import BatchRun
from kltui.jobs.jobfile import JobFile, load_job
from kltui.jobs.plan import Plan, make_plan, read_corpus, settings_key
from kltui.jobs.progress_report import ProgressReporter
from kltui.jobs.result_writer import ResultWriter
from kltui.jobs.signals import Signals
from kltui.registry.checkpoint import LocalSource
from kltui.registry.gguf_file import is_gguf
from kltui.sanitize import safe_text
from kltui.store import Store
from kltui.watch.completeness import SETTLED_S, CheckpointObserver, Signature, candidates
from kltui.watch.figures import run_figures
from kltui.watch.rules import Alert, alerts, stopped

ALERTS = "alert"  # kind of the records with the alerts that were reported, by `Alert.key`
POLL_S = 1.0
WITH_PARENT = "KLTUI_WITH_PARENT"  # environment variable: if it is set, a watch ends when the process that started it ends
COMMAND_LIMIT_S = 60.0


def run_watch(
    job_path: Path,
    overrides: Sequence[str] = (),
    *,
    until_step: int | None = None,
    as_json: bool = False,
    settled_s: float = SETTLED_S,
) -> int:
    """Watches the job's runs until a signal, or until a checkpoint of step `until_step` or later is scored or has failed.

    Returns the exit code: 0 if `until_step` was reached (1 if checkpoints failed), 128 + n if signal n ended the watch.
    Raises KltuiError if the job cannot be run. A folder counts as complete if it is unchanged for `settled_s` seconds.
    """
    reporter = _WatchReporter(as_json)
    job = load_job(job_path, overrides)
    check_scoring()
    with ExitStack() as stack:
        store = Store.write(Path(job.workspace))
        stack.callback(store.close)
        return _Watch(job, store, reporter, until_step, settled_s).run()


class _WatchReporter(ProgressReporter):
    """Reports only once that a checkpoint is stored already, because every round finds it again.

    `scored` are the names of all checkpoints that are stored.
    """

    def __init__(self, as_json: bool) -> None:
        super().__init__(as_json)
        self.scored: set[str] = set()
        self._kept: set[str] = set()

    def ended(self, name: str, status: str, error: str = "", hint: str = "", **fields: object) -> None:
        if status in ("done", "kept"):
            self.scored.add(name)
        if status == "kept" and name in self._kept:
            return
        self._kept.add(name)
        super().ended(name, status, error, hint, **fields)


class _Watch:
    """One watch: repeatedly finds complete checkpoints, scores those that are not stored, and checks the alert rules."""

    def __init__(
        self, job: JobFile, store: Store, reporter: _WatchReporter, until_step: int | None, settled_s: float
    ) -> None:
        self._job, self._store, self._reporter, self._until = job, store, reporter, until_step
        self._corpus = read_corpus(job, reporter.say)
        self._observer = CheckpointObserver(settled_s)
        self._scored: dict[Path, Signature] | None = None  # the checkpoints of the last round
        self._reported_figures: set[str] = set()
        self._known = set(store.records.all(ALERTS))
        self._writer: ResultWriter | None = None
        self._places = [Path(model.path) for model in job.models if model.path]
        self._parent = os.getppid() if os.environ.get(WITH_PARENT) else None
        self._at_first: frozenset[Path] | None = None
        self._failed: dict[Path, Signature] = {}  # folders whose checkpoint failed, and their files then
        self._failed_step: dict[Path, int] = {}
        self._step = -1

    def run(self) -> int:
        """Watches until the end; returns the exit code of `run_watch`."""
        places = self._places
        self._reporter.event(
            "watch", status="started", places=[str(p) for p in places], until_step=self._until
        )
        self._reporter.say(
            f"watching {', '.join(safe_text(str(p), 200) for p in places) or 'no folder of this machine'}"
        )
        with Signals() as signals:
            while True:
                complete = self._observer.look(places, allow_bin=self._job.scoring.allow_bin)
                self._at_first = (
                    frozenset(complete) if self._at_first is None and complete else self._at_first
                )
                if self._reached(complete):
                    return self._end("failed" if self._failed else "done", int(bool(self._failed)))
                if complete != self._scored:
                    ended = self._round(complete)
                    if ended is not None:
                        return self._end(*ended)
                    if self._reached(
                        {}
                    ):  # a failed checkpoint counts if the next look finds its files unchanged
                        return self._end("failed" if self._failed else "done", int(bool(self._failed)))
                self._check_stopped(complete)
                if signals.finish_current or signals.stop_now:
                    paused = signals.received == signal.SIGUSR1
                    return self._end("paused" if paused else "stopped", 128 + signals.received)
                if self._parent not in (None, os.getppid()):
                    return self._end("stopped", 128 + signal.SIGHUP)
                if self._writer is not None:
                    self._writer.note({})  # the heartbeat
                time.sleep(POLL_S)

    def _end(self, status: str, code: int) -> int:
        if self._writer is not None:
            self._writer.finish(status, "the watch has ended")
        self._reporter.event("watch", status="ended", code=code)
        self._reporter.say("the watch has ended")
        return code

    def _round(self, complete: Mapping[Path, Signature]) -> tuple[str, int] | None:
        """Scores the complete checkpoints that are not stored; returns (status, exit code) if a signal ended the watch, else None."""
        self._scored = dict(complete)
        plan = self._plan(complete)
        if plan is None:
            return None
        self._writer = ResultWriter(plan, self._store)
        code, status = BatchRun(plan, self._writer, self._reporter).run()
        if status in ("stopped", "paused"):
            return status, code
        self._note_failed(plan, complete)
        self._note_step(plan)
        figures = run_figures(plan.workspace, self._corpus.sha256, settings_key(plan.settings))
        for run in figures.values():
            self._report_figures(run)
            for alert in alerts(run, self._job.watch):
                self._alert(alert)
        self._writer.wait("watching for the next checkpoint")
        return None

    def _plan(self, complete: Mapping[Path, Signature]) -> Plan | None:
        """The plan for the complete checkpoints and for models outside the watched folders; None if there are none yet.

        Raises KltuiError for a job that cannot be planned, unless an incomplete checkpoint may be the reason.
        """
        here = [m for m in self._job.models if not m.path or _is_complete(Path(m.path), complete)]
        if not here:
            return None
        try:
            plan = make_plan(self._job.model_copy(update={"models": tuple(here)}), corpus=self._corpus)
        except KltuiError as error:
            if complete.keys() >= set(candidates(self._places)) - set(self._places):
                raise
            # An incomplete checkpoint, such as one of several GGUF files, may be the reason: try again later.
            self._reporter.say(f"not yet: {error.message}", "yellow")
            return None
        kept = [
            c for c in plan.checkpoints
            if not isinstance(c.source, LocalSource) or c.name in plan.mixes or self._is_due(c.source.path, complete)
        ]  # fmt: skip
        return replace(plan, job=self._job, checkpoints=tuple(kept)) if kept else None

    def _is_due(self, path: Path, complete: Mapping[Path, Signature]) -> bool:
        """Whether a checkpoint is complete and has not failed with its present files.

        True for what is not in a watched folder, such as an adapter's base.
        """
        if path in complete:
            return self._failed.get(path) != complete[path]
        return not {path, path.parent} & set(self._places)

    def _note_failed(self, plan: Plan, complete: Mapping[Path, Signature]) -> None:
        """Records which checkpoints failed; they are tried again when their files change."""
        failed = {row.name for row in self._store.checkpoints.all() if row.status == "failed"}
        for c in plan.checkpoints:
            if isinstance(c.source, LocalSource) and c.source.path in complete:
                if c.name in failed:
                    self._failed[c.source.path] = complete[c.source.path]
                    self._failed_step[c.source.path] = -1 if c.step is None else c.step
                else:
                    self._failed.pop(c.source.path, None)

    def _note_step(self, plan: Plan) -> None:
        """Updates the highest scored step of the watched runs; bases and checkpoints of other folders do not count."""
        steps = [
            c.step for c in plan.checkpoints
            if c.step is not None and isinstance(c.source, LocalSource) and {c.source.path, c.source.path.parent} & set(self._places)
            and c.name in self._reporter.scored
        ]  # fmt: skip
        self._step = max([self._step, *steps])

    def _reached(self, complete: Mapping[Path, Signature]) -> bool:
        """Whether a checkpoint of the step to stop at, or of a later one, is scored, or has failed with the files in `complete`."""
        failed = [
            self._failed_step[path] for path, files in self._failed.items() if complete.get(path) == files
        ]
        return self._until is not None and max([self._step, *failed]) >= self._until

    def _report_figures(self, run: Sequence[Figures]) -> None:
        for figures in run:
            if figures.name not in self._reported_figures:
                self._reported_figures.add(figures.name)
                self._reporter.event("figures", **_numbers(figures))
                self._reporter.say(f"{safe_text(figures.name, 80)}: {figures.words()}")

    def _check_stopped(self, complete: Mapping[Path, Signature]) -> None:
        """Raises the alert "stopped" for runs that had new checkpoints during the watch and have had none for long."""
        if self._at_first is None or self._at_first >= complete.keys():
            return
        by_run: dict[Path, list[Path]] = {}
        for folder in (p for p in complete if not is_gguf(p)):
            by_run.setdefault(folder.parent, []).append(folder)
        for run, folders in by_run.items():
            times = {folder: max(mtime for _, _, mtime, _ in complete[folder]) / 1e9 for folder in folders}
            last = max(folders, key=lambda folder: times[folder])
            found = stopped(run.name, f"{run.name}/{last.name}", list(times.values()), time.time())
            if found is not None:
                self._alert(found)

    def _alert(self, alert: Alert) -> None:
        """Reports an alert once: as an event, on stderr, as a record that the interface shows, and to the job's command."""
        if alert.key in self._known:
            return
        self._known.add(alert.key)
        with self._store.atomic():
            self._store.records.put(ALERTS, alert.key, {**alert.fields(), "at": time.time()})
        self._reporter.event("alert", **alert.fields())
        self._reporter.say(f"ALERT ({alert.rule}): {safe_text(alert.message, 400)}", "bold red")
        if self._job.watch.command:
            self._run_command(alert)

    def _run_command(self, alert: Alert) -> None:
        """Runs the job's command, without a shell, with the alert's fields in environment variables."""
        reported = {**alert.fields(), "workspace": self._job.workspace}
        environment = os.environ | {f"KLTUI_{name.upper()}": str(value) for name, value in reported.items()}
        command = list(self._job.watch.command)
        # Not a pipe: a process that the command leaves running would keep it open, and reading would wait for it.
        with tempfile.TemporaryFile() as words:
            try:
                done = subprocess.run(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words,
                    timeout=COMMAND_LIMIT_S, check=False,
                )  # fmt: skip
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                self._reporter.say(f"watch.command failed: {safe_text(str(error), 300)}", "yellow")
                return
            words.seek(0)
            said = safe_text(words.read(2000).decode(errors="replace").strip(), 300)
        if done.returncode:
            self._reporter.say(f"watch.command ended with {done.returncode}: {said}", "yellow")


def _numbers(figures: Figures) -> dict[str, object]:
    """The figures as the fields of a JSON event, None for NaN."""
    found = {
        "name": figures.name, "run": figures.run, "step": figures.step, "bits_per_byte": figures.loss,
        "bits_per_byte_se": figures.loss_se, "loss_change": figures.loss_change, "loss_change_se": figures.loss_change_se,
        "kl_consecutive": figures.kl, "kl_consecutive_se": figures.kl_se, "kl_median_before": figures.kl_median,
    }  # fmt: skip
    return {k: None if isinstance(v, float) and v != v else v for k, v in found.items()}


def _is_complete(place: Path, complete: Mapping[Path, Signature]) -> bool:
    return place in complete or any(folder.parent == place for folder in complete)
