"""Rows of the database as immutable objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kltui.registry.checkpoint import Checkpoint
from kltui.store.damage import decoded

JobStatus = Literal["queued", "running", "paused", "done", "failed", "stopped", "lost"]
ItemStatus = Literal["queued", "running", "done", "failed"]
CheckpointStatus = Literal["new", "queued", "running", "scored", "elsewhere", "empty", "layers", "failed"]


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """A stored corpus: identity, number of texts, mean bytes per text, and its source."""

    id: int
    sha256: str
    n: int
    mean_bytes: float
    source: str
    created: float
    record: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A registered checkpoint. `scored`, `layers` and `mean_loglik` are about the vectors of its present weights.

    Those are its vectors on any corpus, or on one: `status` is then "elsewhere" if it is scored on other corpora only.
    Not `scored` are also "empty", if the final vector has no value for any text, and "layers", if there are only layer vectors.

    `layers` is the number of layer vectors, `mean_loglik` that of the newest final vector in nats per scored text (NaN without
    one), `weights` the identity of the weights ("" before it is known). `error` and `hint` are those of the last failure.
    """

    id: int
    checkpoint: Checkpoint
    scored: bool
    layers: int
    mean_loglik: float
    status: CheckpointStatus
    error: str = ""
    hint: str = ""
    weights: str = ""

    @property
    def name(self) -> str:
        return self.checkpoint.name


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first checkpoints of a registry, and {run: (number of checkpoints, number of scored ones)} of all runs."""

    rows: list[CheckpointRow]
    counts: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class VectorRow:
    """A stored vector without its values. `layer` is None for a final vector; `settings` says how it was scored (`comparable`).

    `mean_loglik` is in nats per scored text (NaN without one), `n_unscored` the number of other texts.
    """

    id: int
    checkpoint_id: int
    corpus_id: int
    layer: int | None
    settings: str
    weights: str
    key: str
    mean_loglik: float
    n_unscored: int
    created: float

    @property
    @decoded
    def key_fields(self) -> dict[str, str]:
        """The vector's full key: everything that changes its value."""
        return dict(json.loads(self.key))

    @property
    def is_imported(self) -> bool:
        """Whether it was imported, not scored here."""
        return self.weights.startswith("import:")


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job and its counts. Times are Unix seconds; "lost" is a running job whose process has ended.

    `process` distinguishes the process that runs it from a later one with the same `pid`, or one in another container.
    """

    id: int
    status: JobStatus
    created: float
    started: float | None
    ended: float | None
    pid: int | None
    host: str
    log: Path
    message: str
    done: int
    failed: int
    total: int
    job_toml: str = field(repr=False, default="")
    process: str = ""
    workspace: Path = Path()


@dataclass(frozen=True, slots=True)
class JobItemRow:
    """One checkpoint of a job: stage, texts and tokens done, rates, and why it failed if it did."""

    name: str
    status: ItemStatus
    stage: str
    texts_done: int
    texts_total: int
    tokens_done: int
    tokens_total: int
    started: float | None
    ended: float | None
    attempts: int
    error: str
    hint: str
    stats: dict[str, float]
    now: float

    @property
    def seconds(self) -> float:
        """Wall seconds from the start of this checkpoint to its end, or to now."""
        if self.started is None:
            return 0.0
        return max(0.0, (self.ended or self.now) - self.started)  # a clock may have been set back

    @property
    def tokens_per_s(self) -> float:
        return self._rate(self.tokens_done)

    @property
    def texts_per_s(self) -> float:
        return self._rate(self.texts_done)

    def _rate(self, count: int) -> float:
        seconds = self.stats.get("seconds_score", 0.0) if self.status == "done" else self.seconds
        return count / seconds if seconds > 0 else 0.0
