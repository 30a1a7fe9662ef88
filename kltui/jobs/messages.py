"""What passes between the batch process and its workers, over a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kltui.jobs.mix import Mix
from kltui.scoring.settings import Progress, ScoreResult, ScoringSettings

DEVICE_LOST = 70  # exit status of a worker whose GPU reports errors until the process ends


@dataclass(frozen=True, slots=True)
class Setup:
    """Sent once to a new worker: the corpus, the settings, where tokens are cached, how many threads."""

    texts: tuple[str, ...]
    corpus_sha256: str
    settings: ScoringSettings
    cache_dir: Path
    threads: int


@dataclass(frozen=True, slots=True)
class Task:
    """One checkpoint to score: its folder, variant and the fingerprint of its weights.

    With `mix`, the model is made in `folder` first.
    """

    index: int
    folder: Path
    quantization: str
    weights: str
    mix: Mix | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A worker's progress on a task."""

    index: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class Scored:
    """A finished task."""

    index: int
    result: ScoreResult


@dataclass(frozen=True, slots=True)
class Failed:
    """A task that ended in an error: what happened and what to do; `retry` where time may mend it."""

    index: int
    error: str
    hint: str = ""
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Died:
    """A worker that ended without a word; `status` is its exit status, negative for a signal."""

    index: int | None
    status: int


Message = Moved | Scored | Failed | Died
