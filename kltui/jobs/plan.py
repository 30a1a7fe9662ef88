"""A job file becomes a list of checkpoints to score, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kltui.corpus.corpus import Corpus
from kltui.corpus.load import load_corpus
from kltui.errors import KltuiError, UsageError
from kltui.jobs.jobfile import JobFile, ModelTable
from kltui.registry.checkpoint import Checkpoint
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.scoring.settings import ScoringSettings


@dataclass(frozen=True)
class Plan:
    """What a job will do: the workspace, the corpus, the checkpoints in order."""

    job: JobFile
    workspace: Path
    corpus: Corpus
    checkpoints: tuple[Checkpoint, ...]
    settings: ScoringSettings


def make_plan(job: JobFile) -> Plan:
    """The plan of a job. Raises UsageError listing every entry that cannot be used."""
    mistakes: list[str] = []
    checkpoints: list[Checkpoint] = []
    for number, model in enumerate(job.models):
        try:
            checkpoints += checkpoints_from_entry(_entry(model))
        except KltuiError as error:
            mistakes.append(f"models[{number}]: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        except OSError as error:
            mistakes.append(f"models[{number}]: {(error.filename or '')[:200]}: {error.strerror}")
    mistakes += _collisions(checkpoints)
    try:
        corpus = _corpus(job)
    except KltuiError as error:
        mistakes.append(f"corpus: {error.message}" + (f" ({error.hint})" if error.hint else ""))
    if mistakes:
        raise UsageError("the job cannot run as written\n" + "\n".join(f"  - {m}" for m in mistakes))
    return Plan(job, Path(job.workspace), corpus, tuple(checkpoints), job.scoring.settings())


def settings_key(settings: ScoringSettings) -> str:
    """What two vectors of one corpus must share to stand on one map, as `name=value` words."""
    return f"bos={settings.bos} dtype={settings.dtype} overlong={settings.overlong}"


def _entry(model: ModelTable) -> ModelEntry:
    fields = model.model_dump(exclude={"path"})
    return ModelEntry(path=Path(model.path) if model.path else None, **fields)


def _corpus(job: JobFile) -> Corpus:
    table = job.corpus
    corpus = load_corpus(
        "demo" if table.source == "demo" else Path(table.source),
        chunk=table.chunk,
        max_bytes=table.max_bytes,
        min_bytes=table.min_bytes,
        sample=table.sample,
        seed=table.seed,
    )
    if not len(corpus):
        raise UsageError(f"{table.source} holds no texts", "Check source, chunk and min_bytes.")
    return corpus


def _collisions(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Mistakes for names that two different sources would share."""
    seen: dict[str, Checkpoint] = {}
    mistakes = []
    for checkpoint in checkpoints:
        other = seen.setdefault(checkpoint.name, checkpoint)
        if other is not checkpoint:
            mistakes.append(
                f"two checkpoints would be called {checkpoint.name}: {other.source} and {checkpoint.source} "
                "(give one of them another run)"
            )
    return mistakes
