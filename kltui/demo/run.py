"""`kltui --demo`: pretrains a small suite on this machine, scores every checkpoint, and prints a report."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kltui.demo.jobs import write_jobs, written_jobs
from kltui.demo.prepared import FOLDER, Prepared, load, prepare
from kltui.demo.suite import TRAINING_LOSS, Suite, checkpoint_folder, full_suite, is_finished
from kltui.demo.training_progress import TrainingReporter
from kltui.demo.worker_pool import WorkerPool
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.jobs.batch import run_batch
from kltui.jobs.progress_report import Reporter
from kltui.sanitize import safe_text
from kltui.threads import usable_cores

MAX_WORKERS = 4
LOCK = ".demo.lock"
LAST_UPDATES = 20


def run_demo(folder: Path, *, as_json: bool = False, suite: Suite | None = None) -> int:
    """Makes the demo's workspace in `folder`, or completes it after an earlier start; returns the exit code.

    Progress is printed to stderr; the report, or with `as_json` one event per line, to stdout. Raises UsageError if the
    folder has other content, KltuiError if the disk is too small, and StoreError if another demo runs in it.
    """
    suite, reporter = suite or full_suite(), Reporter(as_json)
    started = time.monotonic()
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        n_workers = min(MAX_WORKERS, usable_cores())
        jobs = _pretrained(folder, suite, reporter, n_workers)
        seconds = time.monotonic() - started
        reporter.say(f"{suite.n_checkpoints()} checkpoints after {seconds:.0f} s; now scoring them")
        code = _scored(jobs, as_json)
    if code in (0, 1):
        _report(folder, as_json)
        reporter.event("demo", status="done", workspace=str(folder), seconds=time.monotonic() - started)
        reporter.say(
            f"all in {time.monotonic() - started:.0f} s. Open it:  kltui {safe_text(str(folder))}", "bold"
        )
    return code


def training_loss(folder: Path) -> list[float]:
    """The loss of every update up to a checkpoint of the demo, in nats per token."""
    record = json.loads((folder / TRAINING_LOSS).read_text(encoding="utf-8"))
    return [float(loss) for loss in record["nats_per_token"]]


def _pretrained(folder: Path, suite: Suite, reporter: Reporter, n_workers: int) -> list[Path]:
    """Trains the runs that are not complete, and returns the job files that score all runs."""
    todo = [run for run in suite.runs if not is_finished(folder, run)]
    if not todo and (jobs := written_jobs(folder)):
        load(folder / FOLDER, suite)
        return jobs
    _check_disk(folder, suite)
    reporter.say(
        f"{len(suite.runs)} GPT-NeoX runs, {suite.n_checkpoints()} checkpoints, about "
        f"{suite.n_bytes() / 1e6:.0f} MB in {safe_text(str(folder))}"
    )
    with WorkerPool(folder, suite, max(1, min(n_workers, len(todo)))) as pool:
        prepared = _prepared(folder, suite, reporter)
        with TrainingReporter(reporter, todo) as training:
            for moved in pool.train(todo):
                training.moved(moved)
        _report_losses(folder, suite, prepared, reporter)
        eight_bit = pool.scores_eight_bit(suite.runs[0])
        gguf = pool.writes_gguf()
        adapters = pool.writes_adapters()
    if not eight_bit:
        reporter.say(
            "no 8-bit variants: bitsandbytes is not installed here (pip install '.[quant]') or does not work"
        )
    if not gguf:
        reporter.say("no GGUF variant: gguf is not installed here (pip install '.[gguf]')")
    if not adapters:
        reporter.say("no LoRA run: peft is not installed here (pip install '.[adapters]')")
    return write_jobs(folder, suite, eight_bit=eight_bit, gguf=gguf, adapters=adapters, workers=n_workers)


def _prepared(folder: Path, suite: Suite, reporter: Reporter) -> Prepared:
    """The texts; also removes temporary files of a start that was killed."""
    for leftover in [*folder.glob(f".{FOLDER}.*"), *(folder / FOLDER).glob(".*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    reporter.say("reading the Python standard library, training a tokenizer")
    prepared = prepare(folder, suite)
    n = prepared.pretraining.size
    reporter.say(
        f"{n / 1e6:.1f} M tokens, unigram entropy {prepared.unigram_nats:.2f} nats per token (training losses too are per token)"
    )
    reporter.event("texts", tokens=int(n), unigram_nats_per_token=prepared.unigram_nats)
    return prepared


def _report_losses(folder: Path, suite: Suite, prepared: Prepared, reporter: Reporter) -> None:
    """Prints one line for every run: its first and last loss, and the unigram entropy for comparison."""
    for run in suite.runs:
        losses = training_loss(checkpoint_folder(folder, run, run.last_step))
        last = losses[-LAST_UPDATES:]
        on = f" on {prepared.finetuning_domain} text" if run.parent else ""
        reporter.say(
            f"{run.name}: training loss {losses[0]:.2f} -> {sum(last) / len(last):.2f} nats per token{on} "
            f"(unigram entropy {prepared.unigram_nats:.2f})"
        )


def _scored(jobs: list[Path], as_json: bool) -> int:
    """Runs the jobs one after the other, until a signal ends one; returns the highest exit code."""
    codes = [0]
    for job in jobs:
        code, _ = run_batch(job, as_json=as_json)
        codes.append(code)
        if code > 128:
            break
    return max(codes)


def _report(folder: Path, as_json: bool) -> None:
    if as_json:
        return
    from kltui.view.summary import print_summary
    from kltui.workspace import Workspace

    with Workspace.open(folder) as workspace:
        print_summary(workspace)


def _check_folder(folder: Path) -> None:
    """Raises UsageError unless `folder` is new, empty, or that of an earlier demo."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{safe_text(str(folder))} is a file", "Name a new folder: kltui --demo DIR.")
    if not folder.is_dir() or (folder / FOLDER).is_dir():
        return
    others = [p.name for p in folder.iterdir() if p.name != LOCK and not p.name.startswith(f".{FOLDER}.")]
    if others:
        raise UsageError(
            f"{safe_text(str(folder))} contains other files ({safe_text(others[0])})",
            "The demo needs a new folder: kltui --demo DIR.",
        )


def _check_disk(folder: Path, suite: Suite) -> None:
    free = shutil.disk_usage(folder).free
    if free < suite.n_bytes():
        raise KltuiError(
            f"{safe_text(str(folder))} has {free / 1e6:.0f} MB free; the demo needs {suite.n_bytes() / 1e6:.0f} MB",
            "Name a folder on another disk: kltui --demo DIR.",
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks the folder against a second demo; the system releases the lock however this process ends."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"Another kltui --demo is running in {safe_text(str(folder))}",
                "Wait for it, or name a new folder.",
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
