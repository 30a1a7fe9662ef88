"""Runs a job from the first fetch to the last vector: resumable, and the only writer of the store."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from kltui.environment import check_scoring
from kltui.errors import KltuiError, StoreError
from kltui.jobs.executors.forks import ForkServer
from kltui.jobs.executors.local import Executor, LocalExecutor, begin_early
from kltui.jobs.jobfile import JobFile, load_job
from kltui.jobs.machine_usage import gpu_names, memory_bytes
from kltui.jobs.messages import (
    DEVICE_LOST,
    Computes,
    Died,
    Failed,
    FirstModel,
    Message,
    Said,
    Setup,
    Task,
    TaskProgress,
    TaskScored,
)
from kltui.jobs.plan import Plan, make_plan
from kltui.jobs.prepare import NotReady, Preparer, Ready, remembered, task_of
from kltui.jobs.progress_report import Moment, Pace, ProgressReporter, Tally, duration
from kltui.jobs.result_writer import Keeps, ResultWriter
from kltui.jobs.shard import InboxWriter, select_shard
from kltui.jobs.signals import Signals
from kltui.registry.adapters import is_adapter
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource, ServedSource
from kltui.registry.tokenizer import tokenizer_folder
from kltui.sanitize import safe_text
from kltui.scoring.device import DeviceInUse, computed_dtype, start_tokens
from kltui.scoring.settings import DtypeCost, Progress, ScoreResult
from kltui.store import Store
from kltui.store.same_weights import sentences
from kltui.store.store import FILE_NAME as STORE
from kltui.store.tokenizer_changes import change_words
from kltui.threads import usable_cores

POLL_S = 0.2
NOTE_EVERY_S = 1.0
MAX_DEATHS = 2  # after so many workers have died while scoring a checkpoint, it has failed


def run_batch(
    job_path: Path,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    as_json: bool = False,
    shard: tuple[int, int] | None = None,
) -> tuple[int, Path | None]:
    """Scores the checkpoints of a job file that are not stored yet; returns (exit code, workspace if the job was completed).

    With `shard` (i, n): scores every n-th checkpoint, starting at the i-th, into the workspace's inbox; see `kltui.jobs.shard`.

    Exit code: 0 success, 1 some checkpoints failed, 75 all failures may be temporary, 128 + n ended by signal n, also where it paused.
    """
    reporter = ProgressReporter(as_json)
    job = load_job(job_path, overrides)
    if not dry_run:
        check_scoring()
    with ExitStack() as stack:
        begun = None if dry_run or shard is not None else _begun_early(job)
        if begun is not None:
            stack.callback(begun.stop)
        plan = make_plan(job, reporter.say)
        if shard is not None:
            plan = select_shard(plan, *shard)
        if dry_run:
            from kltui.jobs.dry_run import show_plan

            return show_plan(plan, is_part=shard is not None, as_json=as_json), None
        if job.engine.kind == "ray":
            from kltui.jobs.executors.ray import check_ray

            check_ray()
        if shard is not None:
            return BatchRun(plan, InboxWriter(plan), reporter, begun).run()[0], None
        store = Store.write(plan.workspace)
        stack.callback(store.close)
        code, status = BatchRun(plan, ResultWriter(plan, store), reporter, begun).run()
    return code, plan.workspace if status in ("done", "failed") else None


def _begun_early(job: JobFile) -> ForkServer | None:
    """A fork server that imports torch while the job is planned; None unless the workspace is new, in which case it is certainly needed."""
    try:
        is_new = not (Path(job.workspace) / STORE).exists()
    except OSError:  # not a possible file name: the plan reports it
        return None
    if job.engine.kind != "local" or not is_new or all(model.endpoint for model in job.models):
        return None
    return begin_early(job.scoring.device, job.engine.workers)


class BatchRun:
    """A running job: it takes prepared checkpoints from a thread, sends them to worker processes, and writes results to the store."""

    def __init__(
        self, plan: Plan, writer: Keeps, reporter: ProgressReporter, begun: ForkServer | None = None
    ) -> None:
        self._plan, self._writer, self._reporter, self._begun = plan, writer, reporter, begun
        self._tally = Tally(total=len(plan.checkpoints))
        self._progress: dict[int, Progress] = {}
        self._started: dict[int, float] = {}
        self._paces: dict[int, Pace] = {}
        self._ready: dict[int, Ready] = {}
        self._deaths: dict[int, int] = {}
        self._retry: list[Task] = []
        self._expected: list[Task] = []  # admitted while all workers are busy; one of them may be reading it
        self._left = set(range(len(plan.checkpoints)))
        self._devices: dict[str, DeviceInUse] = {}
        # {(run, variant): (last checkpoint of it that was scored, digest of its tokenizer)}
        self._tokenizers: dict[tuple[str, str], tuple[str, str]] = {}
        self._retryable = 0
        self._noted = 0.0
        # bytes, measured at each note only, because measuring costs more than the rest of a Moment
        self._memory = 0
        # {index: weights} of checkpoints that were completely stored at the start
        self._held: Mapping[int, str] = {}

    def run(self) -> tuple[int, str]:
        """Works through the job; returns (exit code as of `run_batch`, the job's final status)."""
        if self._writer.previous_owner:
            gone = self._writer.previous_owner.pid
            self._reporter.say(f"taking over from process {gone}, which has ended", "yellow")
        # Opened before the job is marked as running and closed after it is not: a signal in between would leave it "lost".
        with Signals() as signals:
            self._register()
            status = self._worked(signals)
            self._count_kept()
            self._writer.finish(status, self._summary())
        self._reporter.event(
            "job",
            status=status,
            done=self._tally.done,
            kept=self._tally.kept,
            failed=self._tally.failed,
            total=self._tally.total,
            devices=list(self._devices),
            notes=self._reporter.repeated_notes(),
        )
        self._reporter.say(self._summary(), "red" if self._tally.failed else "green")
        self._name_repeats()
        return self._exit_code(status, signals), status

    def _name_repeats(self) -> None:
        """Reports which checkpoints of the workspace have the same weights, such as one file of the hub under many steps."""
        try:
            groups = self._writer.same_weights()
        except KltuiError as error:
            self._reporter.say(
                f"checkpoints could not be compared: {safe_text(error.message, 400)}", "yellow"
            )
            return
        for group in groups:
            self._reporter.event("same_weights", names=[p.name for p in group])
        for sentence in sentences(groups):
            self._reporter.say(f"note    {safe_text(sentence, 400)}", "yellow")

    def _register(self) -> None:
        log = Path(os.environ["KLTUI_LOG"]) if "KLTUI_LOG" in os.environ else None
        note = self._writer.register(log)
        n, texts, workspace = self._tally.total, len(self._plan.corpus), str(self._plan.workspace)
        asked, plural = self._plan.settings.device, "s" * (n != 1)
        self._reporter.event(
            "job", status="started", total=n, texts=texts, workspace=workspace, device_asked=asked,
            dtype_asked=self._plan.settings.dtype, workers=self._plan.job.engine.workers,
        )  # fmt: skip
        self._reporter.say(
            f"{n} checkpoint{plural}, {texts} texts, workspace {safe_text(workspace)}, device {asked}"
        )
        for said in filter(None, (note, *self._plan.notes)):
            self._reporter.say(f"note    {safe_text(said, 400)}")

    def _count_kept(self) -> None:
        """Counts the remaining checkpoints that an earlier run of this job, or another job, has stored."""
        kept = self._writer.count_kept(sorted(self._left)) if self._left else set()
        self._tally.kept += len(kept)
        self._left -= kept

    def _exit_code(self, status: str, signals: Signals) -> int:
        if status in ("stopped", "paused"):
            return 128 + signals.received
        if not self._tally.failed:
            return 0
        return 75 if self._retryable == self._tally.failed else 1

    def _worked(self, signals: Signals) -> str:
        """`_work`, with its errors, except those of the store, also written to the store."""
        try:
            return self._work(signals)
        except StoreError:
            raise
        except KltuiError as error:
            self._writer.finish("failed", error.message)
            self._reporter.event("job", status="failed", error=error.message, hint=error.hint or None)
            raise

    def _work(self, signals: Signals) -> str:
        if early := self._early_end(signals):
            return early
        self._held = self._writer.held()
        with ExitStack() as stack:
            preparer = self._preparer()
            stack.callback(preparer.stop)
            executor = self._executor()
            stack.callback(executor.stop)
            self._reporter.begin(self._tally)
            stack.callback(self._reporter.end)
            while self._tally.left:
                if early := self._early_end(signals):
                    return early
                if not signals.finish_current:
                    self._feed(preparer, executor)
                elif signals.news:
                    self._reporter.say(
                        "finishing the current checkpoint; press again to stop at once", "yellow"
                    )
                for message in executor.wait(POLL_S if self._started else 0.0):
                    if isinstance(message, TaskScored) and not signals.finish_current:
                        self._feed(preparer, executor)  # its worker continues while the result is stored
                    self._receive(message)
                self._note()
        return "failed" if self._tally.failed else "done"

    def _early_end(self, signals: Signals) -> str:
        """The status to end with now, if signals require it; "" to continue."""
        if signals.stop_now:
            return "stopped"
        if signals.finish_current and not self._started:
            return "paused" if signals.received == signal.SIGUSR1 else "stopped"
        return ""

    def _preparer(self) -> Preparer:
        queue = [(i, c) for i, c in enumerate(self._plan.checkpoints)]
        known = remembered(self._writer.fingerprints())
        return Preparer(
            queue,
            known,
            allow_bin=self._plan.settings.allow_bin,
            on_fetch=self._fetching,
            mixes=self._plan.mixes,
            held=self._held,
        )

    def _fetching(self, index: int, message: str) -> None:
        # called from the preparing thread, so it may change only a dict entry
        if index not in self._started:
            self._progress[index] = Progress("fetch", message=message)

    def _executor(self) -> Executor:
        plan = self._plan
        setup = Setup(
            plan.corpus.texts, plan.corpus.sha256, plan.settings, plan.workspace / "cache", usable_cores(),
            prompts=plan.corpus.prompts, first=self._first_model(), niceness=plan.job.engine.niceness,
        )  # fmt: skip
        workers = min(plan.job.engine.workers, len(plan.checkpoints))
        if plan.job.engine.kind == "ray":
            from kltui.jobs.executors.ray import RayExecutor

            return RayExecutor(setup, workers, plan.job.engine)
        devices = gpu_names() if workers > 1 and plan.settings.device in ("auto", "cuda") else ()
        return LocalExecutor(setup, workers, devices, self._begun)

    def _first_model(self) -> FirstModel | None:
        """The first model, not a served one, that is not completely stored; None if there is none."""
        new = (c for i, c in enumerate(self._plan.checkpoints) if i not in self._held)
        first = next((c for c in new if not isinstance(c.source, ServedSource)), None)
        return None if first is None else _first_model(first)

    def _feed(self, preparer: Preparer, executor: Executor) -> None:
        """Sends prepared checkpoints to idle workers, and announces the next ones to busy workers that can read ahead."""
        while executor.idle and self._tally.left:
            task = self._next_task(preparer, executor)
            if task is None:
                return
            self._started[task.index] = time.monotonic()
            self._progress[task.index] = Progress("load")
            executor.submit(task)  # before the write below, which waits for the disk
            self._writer.item_started(task.index)
        while executor.can_expect:
            task = self._admitted(preparer, 0.0)
            if task is None:
                return
            self._expected.append(task)
            executor.expect(task)

    def _next_task(self, preparer: Preparer, executor: Executor) -> Task | None:
        """The next task for an idle worker, None if none is ready yet."""
        if self._retry:
            return self._retry.pop()
        if self._expected:
            known = executor.expected
            task = known if known is not None and known in self._expected else self._expected[0]
            self._expected.remove(task)
            return task
        return self._admitted(preparer, 0.0 if self._started else POLL_S)

    def _admitted(self, preparer: Preparer, timeout_s: float) -> Task | None:
        """The next prepared checkpoint that is to be scored, if there is one within the time; those stored are counted."""
        while (prepared := preparer.take(timeout_s)) is not None:
            task = self._admit(prepared)
            if task is not None:
                return task
        return None

    def _admit(self, prepared: Ready | NotReady) -> Task | None:
        if isinstance(prepared, NotReady):
            self._fail(Failed(prepared.index, prepared.error, prepared.hint, prepared.retry))
            return None
        self._ready[prepared.index] = prepared
        checkpoint = self._checkpoint(prepared.index)
        if self._writer.keeps(prepared):
            self._tally.kept += 1
            self._leave(prepared.index)
            self._reporter.ended(checkpoint.name, "kept", kept=True)
            return None
        return self._task(prepared)

    def _task(self, ready: Ready) -> Task:
        return task_of(ready, self._checkpoint(ready.index))

    def _receive(self, message: Message) -> None:
        if isinstance(message, TaskProgress):
            self._progress[message.index] = message.progress
            self._paces.setdefault(message.index, Pace()).hear(message.progress, time.monotonic())
        elif isinstance(message, TaskScored):
            self._writer.store(self._ready[message.index], message.result)
            self._leave(message.index)
            self._tally.done += 1
            self._report_scored(self._checkpoint(message.index), message.result)
        elif isinstance(message, Failed):
            self._fail(message)
        elif isinstance(message, Computes):
            self._report_device(message)
        elif isinstance(message, DtypeCost):
            self._reporter.event("dtype_cost", dtype=self._plan.settings.dtype, **asdict(message))
            self._reporter.say(f"note    {safe_text(str(message), 400)}", "yellow")
        elif isinstance(message, Said):
            for line in message.text.splitlines():
                self._reporter.say(safe_text(line, 400))
        elif isinstance(message, Died):
            self._handle_death(message)

    def _report_scored(self, checkpoint: Checkpoint, result: ScoreResult) -> None:
        name, notes = checkpoint.name, [*result.notes, *self._other_tokenizer(checkpoint, result)]
        self._reporter.ended(name, "done", stats=result.stats, notes=notes, dtype=result.key.get("dtype"))
        for note in notes:
            self._reporter.note(name, note)

    def _other_tokenizer(self, checkpoint: Checkpoint, result: ScoreResult) -> list[str]:
        """A note if the tokenizer is not that of the checkpoint of the same run that the job scored before."""
        run, tokenizer = (checkpoint.run, checkpoint.quantization), result.key.get("tokenizer", "")
        before, last = self._tokenizers.get(run, ("", tokenizer))
        if checkpoint.step is not None:
            self._tokenizers[run] = checkpoint.name, tokenizer
        return [change_words(before)] if before and last != tokenizer else []

    def _report_device(self, message: Computes) -> None:
        """Reports a worker's device, once for all workers with the same one."""
        device, settings = message.device, self._plan.settings
        on_ray = self._plan.job.engine.kind == "ray"
        where = f"{device} on {message.host}" if on_ray else str(device)
        if where in self._devices:
            return
        self._devices[where] = device
        dtype = computed_dtype(settings.dtype, device.device)
        budget = settings.batch_tokens or start_tokens(device.device)
        self._reporter.event(
            "device", **asdict(device), dtype=dtype, batch_tokens=budget, threads=message.threads,
            workers=self._plan.job.engine.workers, host=message.host,
        )  # fmt: skip
        self._reporter.say(f"device  {safe_text(where)}; {dtype}, initial batches of {budget} tokens")
        if device.warning:
            self._reporter.say(f"warning {safe_text(device.warning, 400)}", "yellow")
            self._reporter.say(f"        {safe_text(device.hint, 400)}")
        self._writer.note_devices(self._device_names())

    def _device_names(self) -> str:
        return ", ".join(dict.fromkeys(f"{d.device} ({d.name})" for d in self._devices.values()))

    def _handle_death(self, died: Died) -> None:
        if died.index is None:
            return
        deaths = self._deaths[died.index] = self._deaths.get(died.index, 0) + 1
        how = died.how or (
            signal.Signals(-died.status).name if died.status < 0 else f"exit status {died.status}"
        )
        if deaths < MAX_DEATHS:
            checkpoint = self._checkpoint(died.index)
            self._reporter.say(
                f"the worker for {safe_text(checkpoint.name)} ended ({how}); trying once more", "yellow"
            )
            self._started.pop(died.index, None)
            self._retry.append(self._task(self._ready[died.index]))
            return
        hint = {
            -signal.SIGKILL: "Probably out of memory: lower scoring.batch_tokens.",
            -signal.SIGBUS: "A weight file was truncated while it was read, or its disk failed: copy it again.",
            DEVICE_LOST: "The GPU reported a persistent error: the traceback is in the log.",
        }.get(died.status, "")
        self._fail(Failed(died.index, f"the scoring process ended twice ({how})", hint))

    def _fail(self, failed: Failed) -> None:
        self._leave(failed.index)
        self._tally.failed += 1
        self._retryable += failed.retry
        self._writer.item_failed(failed.index, failed.error, failed.hint)
        self._reporter.ended(self._checkpoint(failed.index).name, "failed", failed.error, failed.hint)

    def _leave(self, index: int) -> None:
        self._started.pop(index, None)
        self._progress.pop(index, None)
        self._paces.pop(index, None)
        self._left.discard(index)
        if not self._plan.job.scoring.keep_cache:
            self._free_unneeded(index)

    def _free_unneeded(self, index: int) -> None:
        """Deletes a checkpoint's files from the hub's cache, unless a checkpoint that is left needs the same commit."""
        from kltui.registry.hub import cached_commit

        needed = {(s.repo, cached_commit(s)) for i in self._left for s in self._hub_sources(i)}
        for source in self._hub_sources(index):
            # the cache records the commit of a revision; that of a prepared checkpoint is known anyway
            own = index in self._ready and source == self._checkpoint(index).source
            commit = (self._ready[index].commit if own else "") or cached_commit(source)
            if (source.repo, commit) not in needed:
                self._free(replace(source, commit=commit))

    def _hub_sources(self, index: int) -> list[HubSource]:
        return [source for source in self._plan.sources(index) if isinstance(source, HubSource)]

    def _free(self, source: HubSource) -> None:
        from kltui.registry.hub import free

        try:
            free(source)
        except (KltuiError, OSError, ValueError) as error:
            # remaining files only take space; the next download reports if there is too little
            self._reporter.say(
                f"not deleted: {safe_text(str(source))}: {safe_text(str(error), 200)}", "yellow"
            )

    def _checkpoint(self, index: int) -> Checkpoint:
        return self._plan.checkpoints[index]

    def _note(self) -> None:
        """Passes the progress to the reporter, and every `NOTE_EVERY_S` to the store."""
        progress = dict(self._progress)
        now = time.monotonic()
        is_due = now - self._noted >= NOTE_EVERY_S
        if is_due:
            self._noted, self._memory = now, memory_bytes()
        self._reporter.moved([self._moment(i, p) for i, p in progress.items()], self._tally)
        if is_due:
            self._writer.note({i: replace(p) for i, p in progress.items()})

    def _moment(self, index: int, p: Progress) -> Moment:
        pace = self._paces.get(index, Pace())
        return Moment(
            self._checkpoint(index).name, p.stage, p.texts_done, p.texts_total, p.tokens_done, p.tokens_total,
            pace.per_second(p.tokens_done), pace.per_second(p.texts_done), self._memory, p.message,
        )  # fmt: skip

    def _summary(self) -> str:
        t = self._tally
        parts = [f"{t.done} scored"]
        if t.kept:
            parts.append(f"{t.kept} already stored")
        if t.failed:
            parts.append(f"{t.failed} failed")
        if t.left:
            parts.append(f"{t.left} left: run the job again to continue")
        on = f" on {self._device_names()}" if self._devices else ""
        taken = f"{duration(time.monotonic() - t.started)}{on}"
        # After "run the job again to continue", "in 2 min" would be read as a time to wait.
        return ", ".join(parts) + (f"; this took {taken}" if t.left else f" in {taken}")


def _first_model(checkpoint: Checkpoint) -> FirstModel:
    """The folders of a checkpoint that is a plain local model; empty for others, whose files may not be here yet."""
    source = checkpoint.source
    if not isinstance(source, LocalSource) or is_adapter(checkpoint):
        return FirstModel()
    return FirstModel(source.path, tokenizer_folder(source.path, checkpoint.tokenizer))
