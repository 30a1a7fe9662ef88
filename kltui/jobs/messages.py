"""Messages between the batch process and its workers, over a pipe or through Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.corpus.corpus import Prompt
from kltui.registry.adapters import Adapted
from kltui.registry.checkpoint import HubSource, ServedSource
from kltui.registry.reading import Hashed
from kltui.scoring.device import DeviceInUse
from kltui.scoring.settings import DtypeCost, ExactKL, Progress, ScoreResult, ScoringSettings

if TYPE_CHECKING:
    from kltui.jobs.interpolation import Mix

DEVICE_LOST = 70  # exit status of a worker whose GPU reports errors until the process ends


@dataclass(frozen=True, slots=True)
class FirstModel:
    """The folders of the first model to score and of its tokenizer, if they are known before any file is read."""

    folder: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """Sent once to a new worker: the corpus, the settings, the folder for cached tokens, the number of threads.

    `compares_dtypes`: whether it measures the cost of float32 on its GPU; one worker of a job is enough. `prompts` are those of
    pairs, whose responses are the texts. If the `first` model is known, workers prepare for it before there is a task.
    `niceness` is the least that a forked worker has.
    """

    texts: tuple[str, ...]
    corpus_sha256: str
    settings: ScoringSettings
    cache_dir: Path
    threads: int
    compares_dtypes: bool = True
    prompts: tuple[Prompt, ...] = ()
    first: FirstModel | None = None
    niceness: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One checkpoint to score: its files with their hashes, and its variant.

    With `mix`, the interpolated model is first created in the folder. `hub` is the source of its files for a machine without
    access to the folder, `tokenizer_hub` that of its tokenizer. A `served` model has no files: `hashed` has the
    folder of its tokenizer, and identifies its server's description. With `adapted`, an adapter is applied to its base;
    `hashed` then has the combined weights. `notes` are added to those of the result.
    """

    index: int
    hashed: Hashed
    quantization: str
    mix: Mix | None = None
    hub: HubSource | None = None
    tokenizer_hub: HubSource | None = None
    notes: tuple[str, ...] = ()
    served: ServedSource | None = None
    adapted: Adapted | None = None


@dataclass(frozen=True, slots=True)
class Expect:
    """The task that a worker will probably receive next, announced while it scores so that it can read ahead."""

    task: Task


@dataclass(frozen=True, slots=True)
class PairTask:
    """Two checkpoints whose exact next-token KL is to be computed."""

    index: int
    a: Task
    b: Task


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """A worker's progress on a task."""

    index: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class TaskScored:
    """A finished task."""

    index: int
    result: ScoreResult


@dataclass(frozen=True, slots=True)
class PairCompared:
    """A finished task of two checkpoints."""

    index: int
    result: ExactKL


@dataclass(frozen=True, slots=True)
class Failed:
    """A task that ended in an error: what happened and what to do; `retry` if a later attempt may succeed."""

    index: int
    error: str
    hint: str = ""
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Died:
    """A worker that ended unexpectedly; `status` is its exit status, negative for a signal.

    `how` describes it if there is no exit status.
    """

    index: int | None
    status: int
    how: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """Text for the job's log, from a worker whose standard error is not the log, or about workers."""

    text: str


@dataclass(frozen=True, slots=True)
class Computes:
    """The device that a worker on `host` computes on, reported before its first task."""

    device: DeviceInUse
    threads: int
    host: str


Message = TaskProgress | TaskScored | PairCompared | Failed | Died | Said | Computes | DtypeCost
