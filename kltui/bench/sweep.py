"""A job over one run's checkpoints compared with scoring alone: whether reading and verifying files costs extra time.

Both score the same files. The job is like that of a user: a workspace, a thread that reads and verifies files ahead, a
worker process that loads one checkpoint after the other into the same model. "Alone" is such a worker without the rest.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kltui.bench.shapes import ModelShape, as_words, build_model, random_texts, word_tokenizer
from kltui.errors import KltuiError
from kltui.jobs.batch import BatchRun
from kltui.jobs.executors.local import LocalExecutor
from kltui.jobs.jobfile import load_job
from kltui.jobs.messages import Died, Failed, Setup, Task, TaskScored
from kltui.jobs.plan import Plan, make_plan
from kltui.jobs.progress_report import ProgressReporter
from kltui.jobs.result_writer import ResultWriter
from kltui.registry.reading import Hashed
from kltui.store import Store
from kltui.threads import usable_cores

CHECKPOINTS = 4  # the first one starts the worker and builds the model, and is listed separately
TEXTS = {"cpu": 48, "cuda": 4000}


@dataclass(frozen=True)
class Sweep:
    """Seconds for the `checkpoints` after the first: of the job, and of scoring alone (mean of before and after the job).

    `scoring_seconds` is the time of the scoring within the job, which reading and verifying files at the same time may slow
    down; `load_seconds` that of loading the weights; `first_seconds` that of the first checkpoint and the start of the job;
    `tokens` is the number of tokens of one checkpoint.
    """

    model: str
    dtype: str
    texts: int
    tokens: int
    checkpoints: int
    seconds: float
    alone_seconds: float
    scoring_seconds: float
    load_seconds: float
    first_seconds: float

    @property
    def over_scoring(self) -> float:
        """The job's time divided by that of scoring alone."""
        return self.seconds / self.alone_seconds

    @property
    def over_own_scoring(self) -> float:
        """The job's time divided by that of the scoring within it."""
        return self.seconds / self.scoring_seconds


def bench_sweep(shape: ModelShape, device: torch.device, checkpoints: int = 0) -> Sweep:
    """Measures a job over random float16 checkpoints of the shape, scored in float32 (on a GPU in bfloat16)."""
    checkpoints = checkpoints or CHECKPOINTS
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    with tempfile.TemporaryDirectory(prefix="kltui-bench-") as name:
        folder = Path(name)
        texts = write_texts(folder / "texts.json", TEXTS.get(device.type, TEXTS["cpu"]))
        folders = write_run(folder / "run", shape, checkpoints)
        plan = _plan(folder, dtype, device)
        setup = Setup(plan.corpus.texts, plan.corpus.sha256, plan.settings, folder / "cache", usable_cores())
        with ExitStack() as stack:
            worker = LocalExecutor(setup, 1)
            stack.callback(worker.stop)
            before = _alone(worker, folders)
            for path in folders:
                forget_pages(path)
            started = time.time()
            ended, stats = _job(plan)
            after = _alone(worker, folders[1:])
    return Sweep(
        model=shape.name,
        dtype=dtype,
        texts=len(texts),
        tokens=int(stats[0]["tokens"]),
        checkpoints=checkpoints - 1,
        seconds=ended[-1] - ended[0],
        alone_seconds=(sum(before[1:]) + sum(after)) / 2,
        scoring_seconds=sum(s["seconds_score"] for s in stats[1:]),
        load_seconds=sum(s["seconds_load"] + s["seconds_tokenize"] for s in stats[1:]),
        first_seconds=ended[0] - started,
    )


def write_texts(path: Path, count: int) -> list[str]:
    """Writes texts of words with one token id each, as long as those of `random_texts`; returns them."""
    texts = [as_words(row) for row in random_texts(count)]
    path.write_text(json.dumps(texts))
    return texts


def write_run(folder: Path, shape: ModelShape, checkpoints: int) -> list[Path]:
    """Writes folders `step0`, `step1`, ... of one random model whose weights drift, in float16 like Pythia's; returns them."""
    from transformers.utils import logging

    library: Any = logging
    library.disable_progress_bar()
    model, tokenizer = build_model(shape).half(), word_tokenizer()
    folders = [folder / f"step{step}" for step in range(checkpoints)]
    for path in folders:
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 1e-3)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return folders


def forget_pages(folder: Path) -> None:
    """Asks the system to drop the folder's files from its cache, so that they are read from disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _plan(folder: Path, dtype: str, device: torch.device) -> Plan:
    job = folder / "job.toml"
    job.write_text(
        'workspace = "workspace"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "run"\n'
        f'[scoring]\ndtype = "{dtype}"\ndevice = "{device}"\n'
    )
    return make_plan(load_job(job))


def _job(plan: Plan) -> tuple[list[float], list[dict[str, float]]]:
    """(times at which the job stored its checkpoints, in seconds since the epoch; statistics of each)."""
    reported, words = io.StringIO(), io.StringIO()
    with closing(Store.write(plan.workspace)) as store:
        BatchRun(plan, ResultWriter(plan, store), ProgressReporter(True, reported, words)).run()
    events = [json.loads(line) for line in reported.getvalue().splitlines()]
    ends = [event for event in events if event["event"] == "checkpoint"]
    failed = [event["error"] for event in ends if event["status"] != "done"]
    if failed:
        raise KltuiError(f"the sweep's job failed: {failed[0]}", "kltui --doctor checks this installation")
    return [event["time"] for event in ends], [event["stats"] for event in ends]


def _alone(executor: LocalExecutor, folders: Sequence[Path]) -> list[float]:
    """Seconds of scoring each checkpoint, without loading, in a worker like the job's with no other work at the same time."""
    return [_scored(executor, Task(at, Hashed(path, ""), "none")) for at, path in enumerate(folders)]


def _scored(executor: LocalExecutor, task: Task) -> float:
    executor.submit(task)
    while True:
        for message in executor.wait(1.0):
            if isinstance(message, TaskScored):
                return message.result.stats["seconds_score"]
            if isinstance(message, Failed | Died):
                raise KltuiError(f"a random model was not scored: {message}", "see kltui --doctor")
