"""Pairs of checkpoints that are worth comparing, from their lineage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow

    Run = list[CheckpointRow]

MAX_OF_A_KIND = 12


@dataclass(frozen=True, slots=True)
class SuggestedPair:
    """Names of A and B, and their relation in words (`kind`)."""

    kind: str
    a: str
    b: str


def suggested_pairs(rows: Sequence[CheckpointRow]) -> list[SuggestedPair]:
    """Pairs of scored rows, at most MAX_OF_A_KIND of a kind: variant or fine-tune and original, variant and fine-tune,
    two seeds, two sizes, the first and the last checkpoint of a run.
    """
    scored = [row for row in rows if row.scored]
    runs = _runs(scored)
    found = [*_lineage(scored, runs), *_last_of_runs(runs), *_ends(runs)]
    kept: list[SuggestedPair] = []
    for pair in dict.fromkeys(found):
        if sum(k.kind == pair.kind for k in kept) < MAX_OF_A_KIND:
            kept.append(pair)
    return kept


def _by_step(row: CheckpointRow) -> int:
    return -1 if row.checkpoint.step is None else row.checkpoint.step


def _runs(scored: Sequence[CheckpointRow]) -> list[Run]:
    """The unquantised rows of each run by rising step."""
    runs: dict[str, list[CheckpointRow]] = {}
    for row in scored:
        if row.checkpoint.quantization == "none":
            runs.setdefault(row.checkpoint.run, []).append(row)
    return [sorted(run, key=_by_step) for run in runs.values()]


def _lineage(scored: Sequence[CheckpointRow], runs: Sequence[Run]) -> Iterator[SuggestedPair]:
    """Variants with the last checkpoints of fine-tunes of the same original, then each of them with its original."""
    variants = [r for r in scored if r.checkpoint.quantization != "none"]
    tuned = [run[-1] for run in runs if run[-1].checkpoint.parent]
    if not variants and not tuned:
        return
    names = {row.name for row in scored}
    tuned = [row for row in tuned if row.checkpoint.parent in names]
    for variant in variants:
        for child in tuned:
            if child.checkpoint.parent == variant.checkpoint.base_name:
                yield SuggestedPair(
                    f"{variant.checkpoint.quantization} and fine-tune", variant.name, child.name
                )
    for variant in variants:
        if variant.checkpoint.base_name in names:
            kind = f"{variant.checkpoint.quantization} and original"
            yield SuggestedPair(kind, variant.checkpoint.base_name, variant.name)
    for child in tuned:
        yield SuggestedPair("fine-tune and parent", child.checkpoint.parent, child.name)


def _last_of_runs(runs: Sequence[Run]) -> Iterator[SuggestedPair]:
    """The last checkpoints of runs that differ only in their seed, then of those that differ in their size."""
    last = [run[-1] for run in runs if not run[-1].checkpoint.parent]
    for one, two in combinations(last, 2):
        c, d = one.checkpoint, two.checkpoint
        if c.seed != d.seed and (c.size, c.type, c.step) == (d.size, d.type, d.step):
            yield SuggestedPair("two seeds", one.name, two.name)
    for one, two in combinations(last, 2):
        c, d = one.checkpoint, two.checkpoint
        if c.size and d.size and c.size != d.size and (c.seed, c.type) == (d.seed, d.type):
            yield SuggestedPair("two sizes", one.name, two.name)


def _ends(runs: Sequence[Run]) -> Iterator[SuggestedPair]:
    for run in runs:
        if len(run) > 1:
            yield SuggestedPair("first and last", run[0].name, run[-1].name)
