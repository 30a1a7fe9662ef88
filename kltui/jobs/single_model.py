"""Scores one model on texts in this process, without a workspace: as a job does, but without storing anything."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kltui.corpus.corpus import Corpus
from kltui.environment import check_environment
from kltui.errors import KltuiError, TryAgainError, UsageError
from kltui.jobs.jobfile import JobFile, parse_job
from kltui.jobs.plan import CANNOT_RUN, make_plan
from kltui.jobs.prepare import NotReady, Preparer, Ready, task_of
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.sanitize import safe_text
from kltui.scoring.settings import ScoreResult

WHERE = "kltui.score"


def job_of(entry: Mapping[str, Any], scoring: Mapping[str, Any], scratch: Path) -> JobFile:
    """The job that scores one `[[models]]` entry. Raises UsageError that lists every mistake with its key."""
    for name, why in _OF_JOBS.items():
        if name in scoring:
            raise UsageError(f"{WHERE} does not accept {name}: {why}", "Omit it, or write a job file.")
    data = {
        "workspace": str(scratch),
        "corpus": {"source": "demo"},  # stands in for the texts, which are given
        "models": [dict(entry)],
        "scoring": dict(scoring),
    }
    return parse_job(data, WHERE).resolved(Path.cwd())


_OF_JOBS = {
    "keep_cache": "files fetched from the hub stay in its cache",
    "unconditional": 'it applies only to pairs of prompts and responses (corpus.kind = "pairs")',
}


def score_alone(
    entry: Mapping[str, Any], corpus: Corpus, scoring: Mapping[str, Any]
) -> tuple[str, ScoreResult, JobFile]:
    """(name, vectors, job) of the model that an entry names. Raises KltuiError if there are several, or it cannot be scored."""
    check_environment()
    with tempfile.TemporaryDirectory(prefix="kltui-") as name:
        job = job_of(entry, scoring, Path(name) / "workspace")
        checkpoint = _only_checkpoint(job, corpus)
        ready = _prepared(checkpoint, job.scoring.allow_bin)
        from kltui.jobs.worker import score_task
        from kltui.scoring.scorer import Scorer

        scorer = Scorer(corpus.texts, corpus.sha256, job.settings())
        try:
            result = score_task(scorer, task_of(ready, checkpoint), job.scoring.allow_bin, lambda _: None)
        finally:
            scorer.close()
    return checkpoint.name, result, job


def _only_checkpoint(job: JobFile, corpus: Corpus) -> Checkpoint:
    """The one checkpoint that the job's entry names, ignoring the base that the plan adds for an adapter."""
    entry = job.models[0]
    try:
        planned = make_plan(job, corpus=corpus).checkpoints
    except UsageError as error:  # its message mentions a job file, but there is none
        said = error.message.replace(CANNOT_RUN, WHERE).replace("models[0]: ", "")
        raise UsageError(said, error.hint) from None
    found = [c for c in planned if _is_named(c, entry.path, entry.repo)]
    if len(found) != 1:
        names = ", ".join(safe_text(c.name, 60) for c in found[:4])
        raise UsageError(
            f"{safe_text(entry.path or entry.repo, 120)} contains {len(found)} checkpoints: {names}",
            "Name one of them, or score all with a job (kltui --batch).",
        )
    return found[0]


def _is_named(checkpoint: Checkpoint, path: str, repo: str) -> bool:
    source = checkpoint.source
    if isinstance(source, LocalSource):
        return bool(path) and source.path.is_relative_to(path)
    return isinstance(source, HubSource) and source.repo == repo


def _prepared(checkpoint: Checkpoint, allow_bin: bool) -> Ready:
    """The checkpoint with its files here and hashed. Raises KltuiError if they cannot be found, downloaded or read."""
    preparer = Preparer([(0, checkpoint)], lambda folder, seen: "", allow_bin=allow_bin)
    try:
        ready = None
        while ready is None:
            ready = preparer.take(1.0)
    finally:
        preparer.stop()
    if isinstance(ready, NotReady):
        raise (TryAgainError if ready.retry else KltuiError)(ready.error, ready.hint)
    return ready
