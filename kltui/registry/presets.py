"""Public training runs and their revisions, which a user would otherwise have to copy from model cards."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from kltui.errors import UsageError
from kltui.registry.entry import ModelEntry
from kltui.sanitize import safe_text


@dataclass(frozen=True, slots=True)
class Preset:
    """One run on the hub; `revisions` are patterns (`expand_revisions`), `note` describes them."""

    name: str
    repo: str
    revisions: tuple[str, ...]
    type: str
    size: str
    seed: int | None = None
    note: str = ""

    def entry(self) -> ModelEntry:
        """The same as a `[[models]]` entry."""
        return ModelEntry(
            repo=self.repo, revisions=self.revisions, run=self.name, seed=self.seed, size=self.size, type=self.type
        )  # fmt: skip


def preset(name: str) -> Preset:
    """The preset `name`. Raises UsageError with similar names if there is none."""
    found = PRESETS.get(name.lower())
    if found is None:
        near = ", ".join(difflib.get_close_matches(name.lower(), PRESETS, n=4)) or ", ".join(
            sorted(PRESETS)[:4]
        )
        raise UsageError(f"Unknown preset {safe_text(name, 60)}", f"Similar names: {near}.")
    return found


PYTHIA_SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
PYTHIA_DEDUPED_SIZES = PYTHIA_SIZES[2:]
PYTHIA_SEED_SIZES = PYTHIA_SIZES[:5]
PYTHIA_SEEDS = range(1, 10)
PYTHIA_ORIGINAL_SEED = 1234
PYTHIA_REVISIONS = ("step{0,1,2,4,8,16,32,64,128,256,512}", "step{1000..143000..1000}")  # 154


def _pythia() -> list[Preset]:
    runs = [(size, "", PYTHIA_ORIGINAL_SEED) for size in PYTHIA_SIZES]
    runs += [(size, "-deduped", PYTHIA_ORIGINAL_SEED) for size in PYTHIA_DEDUPED_SIZES]
    runs += [(size, f"-seed{seed}", seed) for size in PYTHIA_SEED_SIZES for seed in PYTHIA_SEEDS]
    return [
        Preset(
            f"pythia-{size}{tail}",
            f"EleutherAI/pythia-{size}{tail}",
            PYTHIA_REVISIONS,
            "gpt_neox",
            size,
            seed,
        )
        for size, tail, seed in runs
    ]


def _olmo2(repo: str, size: str, tokens_per_step: int, steps: list[int], note: str) -> Preset:
    """OLMo-2 names a stage-1 revision by its step and by the tokens seen, rounded up to billions."""
    revisions = [f"stage1-step{step}-tokens{math.ceil(step * tokens_per_step / 1e9)}B" for step in steps]
    return Preset(f"olmo-2-{size}", repo, tuple(revisions), "olmo2", size, note=note)


OLMO2_1B_STEPS = [*range(0, 1_907_359, 10_000), 1_907_359]
OLMO2_7B_ABSENT = {100_000, 174_000, 317_000, 536_000, 605_000, 632_000, 672_000}
OLMO2_7B_STEPS = [step for step in range(1000, 928_646, 1000) if step not in OLMO2_7B_ABSENT] + [928_646]

_ALL = [
    *_pythia(),
    _olmo2("allenai/OLMo-2-0425-1B", "1b", 512 * 4096, OLMO2_1B_STEPS, "stage 1, every 10,000 steps and the last"),
    _olmo2("allenai/OLMo-2-1124-7B", "7b", 1024 * 4096, OLMO2_7B_STEPS, "stage 1; seven multiples of 1,000 absent"),
    Preset(
        "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints", ("step-{240000..1920000..240000}",),
        "llama", "135m", note="the last step is inferred from 2 T tokens",
    ),
    Preset(
        "smollm2-360m", "HuggingFaceTB/SmolLM2-360M-intermediate-checkpoints", ("step-{160000..2560000..160000}",),
        "llama", "360m", note="one checkpoint in about 250 B tokens; the last step is inferred from 4 T tokens",
    ),
    Preset(
        "smollm3-3b", "HuggingFaceTB/SmolLM3-3B-checkpoints",
        ("stage1-step-{40000..3440000..40000}", "stage2-step-{3480000..4200000..40000}",
         "stage3-step-{4240000..4720000..40000}"),
        "smollm3", "3b", note="86 + 19 + 13 checkpoints of 2,359,296 tokens a step",
    ),
    Preset(
        "amber", "LLM360/Amber", ("ckpt_{000..358}",), "llama", "7b",
        note="the number counts checkpoints, 1.26 T tokens in 360 parts; the last one, 359, is main",
    ),
]  # fmt: skip

PRESETS = {entry.name: entry for entry in _ALL}
