"""The demo's plan as data: which models are trained, from which seeds, for how long, and which steps are saved."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from kltui.demo.texts import TRAINING_BYTES


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a GPT-NeoX; attention heads have 32 dimensions and the feed-forward layer 4 x `hidden`, as in Pythia-14m."""

    name: str
    hidden: int
    layers: int
    heads: int
    learning_rate: float

    def n_parameters(self, vocabulary: int) -> int:
        """The number of parameters: embedding and untied head, layers with biases, final norm."""
        d = self.hidden
        layer = 12 * d * d + 13 * d
        return 2 * vocabulary * d + self.layers * layer + 2 * d


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One training run; the checkpoints at `steps` are saved. A fine-tune names the `parent` run whose end it starts from."""

    name: str
    size: Size
    seed: int
    steps: tuple[int, ...]
    parent: str = ""

    @property
    def last_step(self) -> int:
        """The last step, whose checkpoint is the run's result."""
        return self.steps[-1]


@dataclass(frozen=True, slots=True)
class Suite:
    """Everything that determines the weights: runs, `batch` (B) sequences of `length` (T) tokens, vocabulary, AdamW's settings."""

    runs: tuple[PlannedRun, ...]
    training_bytes: int = TRAINING_BYTES
    vocabulary: int = 2048
    context: int = 512
    batch: int = 8
    length: int = 128
    warmup: int = 20
    last_rate: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    version: int = 1

    def run(self, name: str) -> PlannedRun:
        """The run called `name`."""
        return next(run for run in self.runs if run.name == name)

    def rate(self, run: PlannedRun, step: int) -> float:
        """Learning rate of the update that leads from `step` to `step + 1`: linear warm-up, then a cosine."""
        peak = run.size.learning_rate * (FINETUNE_RATE if run.parent else 1)
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, run.last_step - self.warmup)
        return peak * (self.last_rate + (1 - self.last_rate) * 0.5 * (1 + math.cos(math.pi * done)))

    def digest(self) -> str:
        """Hex SHA-256 of the plan; the same plan on the same texts gives the same weights."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def n_checkpoints(self) -> int:
        """The number of saved checkpoints of all runs."""
        return sum(len(run.steps) for run in self.runs)

    def n_bytes(self) -> int:
        """The approximate size of the checkpoints on disk: float32 weights, and 0.2 MB of tokenizer and settings each."""
        weights = sum(4 * run.size.n_parameters(self.vocabulary) * len(run.steps) for run in self.runs)
        return weights + 200_000 * self.n_checkpoints()


FINETUNE_RATE = 0.1
LLAMA_UPDATES = 64
TRAINING_LOSS = "training_loss.json"  # in every checkpoint: the loss of each update so far


def checkpoint_steps(last: int, interval: int) -> tuple[int, ...]:
    """Steps that are saved: 0, the powers of two below `interval`, then every `interval` up to `last`.

    >>> checkpoint_steps(24, 8)
    (0, 1, 2, 4, 8, 16, 24)
    """
    assert last % interval == 0, "the last step is a multiple of the interval"
    powers = tuple(1 << k for k in range((interval - 1).bit_length()))
    return (0, *powers, *range(interval, last + 1, interval))


def llama_run(suite: Suite) -> PlannedRun:
    """A Llama that is trained briefly and written as a GGUF file, from which transformers cannot read a GPT-NeoX."""
    size = Size("tiny", hidden=64, layers=2, heads=2, learning_rate=5e-3)
    return PlannedRun("llama-tiny", size, 1, (min(LLAMA_UPDATES, suite.runs[0].last_step),))


def checkpoint_folder(workspace: Path, run: PlannedRun, step: int) -> Path:
    """The folder of the checkpoint of `run` at `step`."""
    return workspace / "runs" / run.name / f"step{step}"


def is_finished(workspace: Path, run: PlannedRun) -> bool:
    """Whether every checkpoint of `run` is saved."""
    return all(checkpoint_folder(workspace, run, step).is_dir() for step in run.steps)


def adapter_run(suite: Suite) -> PlannedRun:
    """A LoRA run from the parent of the first fine-tune, as long as that; up to four adapters are saved, at every quarter."""
    tuned = next(run for run in suite.runs if run.parent)
    quarter = max(1, tuned.last_step // 4)
    steps = tuple(quarter * k for k in (1, 2, 3, 4) if quarter * k <= tuned.last_step)
    return PlannedRun(f"{tuned.parent}-lora", tuned.size, tuned.seed, steps, parent=tuned.parent)


def full_suite() -> Suite:
    """The suite of `kltui --demo`: `tiny` from three seeds, `small` from one, and a fine-tune of `small`."""
    tiny = Size("tiny", hidden=64, layers=3, heads=2, learning_rate=1e-2)
    small = Size("small", hidden=96, layers=4, heads=3, learning_rate=5e-3)
    steps = checkpoint_steps(416, 32)
    return Suite(
        (
            PlannedRun("small-seed1", small, 1, steps),
            *(PlannedRun(f"tiny-seed{seed}", tiny, seed, steps) for seed in (1, 2, 3)),
            PlannedRun("small-seed1-finetuned", small, 1, (40,), parent="small-seed1"),
        )
    )
