"""Pairs of a map's rows that each setting of the KL scale compares, found from the points' lineage."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from kltui.analysis.point import Point
from kltui.analysis.trajectory import Trajectory, even_interval, trajectories

Pair = tuple[int, int]

PAPER_INTERVAL = 1000  # steps between neighbours
PAPER_AFTER = 2000  # end steps beyond this
PAPER_WINDOW = 50  # first and last neighbours of each run
ENOUGH_PAIRS = 1000
NAMED = 8  # runs that a note names
ENOUGH_RELATED = 10  # (child, parent) pairs from which the published rule for random pairs is used

_SEED_IN_NAME = re.compile(r"[-_.]?seed[-_.]?\d+$", re.IGNORECASE)
_EIGHT = re.compile(r"8[-_]?bit|int8|q8", re.IGNORECASE)
_FOUR = re.compile(r"4[-_]?bit|[nf]p?4\b|int4|q4", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
GGUF = "gguf-"  # prefix of the variants that are GGUF files
_MERGE = re.compile(r"[,;|]")


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of rows that a setting compares; `note` is the rule that found them or, if there are none, what would be needed."""

    pairs: tuple[Pair, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run on the map (final layers, not quantised): its trajectory, its lineage, and `last`, the row of each of its steps."""

    name: str
    family: str
    type: str
    size: str
    seed: int | None
    trajectory: Trajectory
    last: dict[int | None, int]

    @property
    def is_trajectory(self) -> bool:
        """Whether it has two steps or more."""
        return len(self.trajectory.rows) > 1

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of its trajectory, or of a model without one."""
        return self.trajectory.rows if self.is_trajectory else tuple(self.last.values())


def pretraining_runs(points: Sequence[Point]) -> list[Run]:
    """Runs without a parent, in order of appearance; `last` maps each step, or None for a model without one, to its row."""
    at: dict[str, dict[int | None, int]] = {}
    for row, p in enumerate(points):
        if _is_plain(p) and not p.parent:
            at.setdefault(p.run, {})[p.step] = row
    lines = {t.run: t for t in trajectories(points) if points[t.rows[0]].quantization == "none"}
    runs = []
    for name, steps in at.items():
        p = points[next(iter(steps.values()))]
        family = p.size or _SEED_IN_NAME.sub("", name)
        line = lines.get(name, Trajectory(name, name, (), ()))
        runs.append(Run(name, family, p.type, p.size, p.seed, line, steps))
    return runs


def main_runs(points: Sequence[Point]) -> list[Run]:
    """One run with a trajectory per size and type: the one without a seed, otherwise the one with the lowest seed.

    Single models do not count as runs, whatever their size.
    """
    return _one_per_size([r for r in pretraining_runs(points) if r.is_trajectory])


def _one_per_size(runs: Sequence[Run]) -> list[Run]:
    """One run of every size and type: preferably one with a trajectory, then the one without a seed or with the lowest."""

    def rank(run: Run) -> tuple[bool, int]:
        return not run.is_trajectory, -1 if run.seed is None else run.seed

    best: dict[tuple[str, str], Run] = {}
    for run in runs:
        key = (run.type, run.family)
        if key not in best or rank(run) < rank(best[key]):
            best[key] = run
    return list(best.values())


def seed_groups(points: Sequence[Point]) -> list[list[Run]]:
    """Groups of runs that differ only in their seed: same type and size, two or more seeds."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in pretraining_runs(points):
        if run.seed is not None:
            groups.setdefault((run.type, run.family), []).append(run)
    return [g for g in groups.values() if len({r.seed for r in g}) > 1]


def pretraining_pairs(points: Sequence[Point], *, late: bool) -> Pairs:
    """Neighbouring checkpoints of the main runs, early or late in training (arXiv 2505.15353, Figure 3)."""
    found: list[Pair] = []
    rules, short, used = [], [], set()
    for run in main_runs(points):
        pairs, rule = _interval_pairs(run.trajectory)
        half = min(PAPER_WINDOW, len(pairs) // 2)
        if half:
            used.add(run.name)
            found += pairs[-half:] if late else pairs[:half]
            window = f"{'last' if late else 'first'} {half}"
            rules.append(f"{rule}, {window} of {len(pairs)} per run")
        else:
            short.append(run.name)
    if not found:
        return Pairs((), "needs a run of three or more evenly saved checkpoints")
    left_out = _left_out_words(points, short, used)
    return Pairs(tuple(found), "; ".join([*dict.fromkeys(rules), *left_out]))


def _left_out_words(points: Sequence[Point], short: Sequence[str], used: Collection[str]) -> list[str]:
    """Phrases that say which runs the pairs of early and later pretraining leave out, and why."""
    others = [
        t.run for t in trajectories(points) if t.run not in used and t.run not in short and len(t.rows) > 1
    ]
    plain = {p.run for p in points if _is_plain(p)}
    tuned = {p.run for p in points if p.parent}
    reasons = (
        (short, "without three evenly saved checkpoints"),
        ([r for r in others if r in tuned], "trained from a parent model"),
        ([r for r in others if r not in tuned and r in plain], "another seed of a run that counts"),
    )
    return [f"left out, {why}: {_few(names)}" for names, why in reasons if names]


def _few(names: Sequence[str]) -> str:
    """The distinct names in one phrase; beyond the first few, their number."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _interval_pairs(t: Trajectory) -> tuple[list[Pair], str]:
    neighbours = list(zip(pairwise(t.steps), pairwise(t.rows), strict=True))
    # arXiv 2505.15353, Figure 3: neighbours 1,000 steps apart that end after step 2,000
    exact = [r for (a, b), r in neighbours if b - a == PAPER_INTERVAL and b > PAPER_AFTER]
    if len(exact) > 1:
        return exact, f"neighbours {PAPER_INTERVAL} steps apart, end step > {PAPER_AFTER}"
    begin, gap = even_interval(t.steps)
    even = [r for (a, b), r in neighbours if a >= begin and b - a == gap]
    return even, f"neighbours {gap} step{'s' * (gap != 1)} apart from step {begin} (no 1000-step neighbours)"


def seed_pairs(points: Sequence[Point]) -> Pairs:
    """All pairs of seeds of one size at their last common step."""
    return _at_last_common_step(
        seed_groups(points), "needs runs of one size with two or more seeds and a step in common"
    )


def size_pairs(points: Sequence[Point]) -> Pairs:
    """All pairs of sizes of one type at their last common step."""
    groups: dict[str, list[Run]] = {}
    for run in _one_per_size(pretraining_runs(points)):
        if run.size:
            groups.setdefault(run.type, []).append(run)
    several = [g for g in groups.values() if len(g) > 1]
    return _at_last_common_step(several, "needs runs of one type in two or more sizes with a step in common")


def _at_last_common_step(groups: Iterable[Sequence[Run]], need: str) -> Pairs:
    found: list[Pair] = []
    at = []
    for group in groups:
        common = set.intersection(*(set(r.last) for r in group))
        if common:
            step = None if None in common else max(s for s in common if s is not None)
            # all pairs, as in arXiv 2505.15353, Figure 3
            found += combinations([r.last[step] for r in group], 2)
            at.append("the final models" if step is None else f"step {step}")
    if not found:
        return Pairs((), need)
    return Pairs(tuple(found), f"all pairs at {', '.join(dict.fromkeys(at))}")


def quantization_pairs(points: Sequence[Point], bits: int) -> Pairs:
    """Each model against its own `bits`-bit variant."""
    pattern = {8: _EIGHT, 4: _FOUR}[bits]
    kinds = {pair: points[pair[1]].quantization for pair in variant_pairs(points)}
    found = [pair for pair, kind in kinds.items() if not kind.startswith(GGUF) and pattern.search(kind)]
    if not found:
        return Pairs((), f"needs a model scored unquantised and in {bits}-bit")
    named = dict.fromkeys(kinds[pair] for pair in found)
    return Pairs(tuple(found), f"each model against itself in {', '.join(named)}")


def variant_pairs(points: Sequence[Point]) -> list[Pair]:
    """Rows (model, its quantised variant) of every variant whose model is among them, in order.

    The model is the one of the variant's own name; of a GGUF file under another name, its parent.
    """
    variants = [(row, p) for row, p in enumerate(points) if p.quantization != "none" and p.layer is None]
    if not variants:  # most maps have none, and 100,000 points take a second to look at
        return []
    plain = {p.base: row for row, p in enumerate(points) if p.quantization == "none" and p.layer is None}
    parents = {**_final_rows(points), **plain}
    found = []
    for row, p in variants:
        model = plain.get(p.base)
        if model is None and p.quantization.startswith(GGUF):
            model = parents.get(p.parent)
        if model is not None:
            found.append((model, row))
    return found


def gguf_pairs(points: Sequence[Point]) -> dict[str, Pairs]:
    """Each model against its GGUF files, by kind ("Q4_K_M"), those of most bits first."""
    found: dict[str, list[Pair]] = {}
    for pair in variant_pairs(points):
        kind = points[pair[1]].quantization
        if kind.startswith(GGUF):
            found.setdefault(kind.removeprefix(GGUF).upper(), []).append(pair)
    note = "each model against itself in this kind of GGUF file"
    return {kind: Pairs(tuple(found[kind]), note) for kind in sorted(found, key=_bits_last)}


def _bits_last(kind: str) -> tuple[float, str]:
    """Sorts F32 before F16, Q8_0 before Q4_K_M, and IQ2_XS last: by the first number in a kind's name, downwards."""
    number = _NUMBER.search(kind)
    return -float(number[0]) if number else 0.0, kind


def parent_pairs(points: Sequence[Point]) -> Pairs:
    """(parent, child) for every fine-tuned model, the last checkpoint of each; merges are left out."""
    children = [(row, p) for row, p in enumerate(points) if p.parent and _is_plain(p)]
    final = _final_rows(points) if children else {}
    plain = {p.base: row for row, p in enumerate(points) if _is_plain(p)} if children else {}
    by_name = {**final, **plain}
    found, merges = [], 0
    for row, p in children:
        if final[p.run] != row:
            continue
        if p.parent in by_name:
            found.append((by_name[p.parent], row))
        elif _MERGE.search(p.parent):
            merges += 1
    if not found:
        return Pairs((), "needs a fine-tuned model and its parent, named in the job file")
    return Pairs(tuple(found), "(parent, child)" + (f"; {merges} merges left out" if merges else ""))


def random_pairs(points: Sequence[Point], *, within_type: bool, seed: int = 0) -> Pairs:
    """Random pairs of models, within each type or over all, drawn with a fixed seed.

    As published, there are as many as (child, parent) pairs, among the models of these. With fewer than ten such pairs,
    they are all pairs of the runs' last checkpoints, or 1,000 of them.
    """
    rng = random.Random(seed)
    related = parent_pairs(points).pairs
    if len(related) >= ENOUGH_RELATED:
        found, note = _as_published(points, related, within_type, rng)
    else:
        found, note = _every_pair(points, within_type, rng)
    if not found:
        return Pairs(
            (), f"needs {'two models of one type' if within_type else 'models of two or more types'}"
        )
    return Pairs(tuple(found), note)


def _as_published(
    points: Sequence[Point], related: Sequence[Pair], within_type: bool, rng: random.Random
) -> tuple[list[Pair], str]:
    groups: dict[str, list[Pair]] = {}
    for pair in related:
        groups.setdefault(points[pair[1]].type, []).append(pair)
    if not within_type:
        everyone = sorted({k for pair in related for k in pair})
        found = [_two(rng, everyone) for _ in related] if len(groups) > 1 else []
        return found, "random pairs over all types, as many as (child, parent) pairs"
    models = {kind: sorted({k for pair in pairs for k in pair}) for kind, pairs in groups.items()}
    # arXiv 2505.15353, Figure 3: as many random pairs of each type as it has (child, parent) pairs
    found = [_two(rng, models[kind]) for kind, pairs in groups.items() if kind for _ in pairs]
    return found, "random pairs within each type, as many as (child, parent) pairs"


def _every_pair(points: Sequence[Point], within_type: bool, rng: random.Random) -> tuple[list[Pair], str]:
    final = sorted(_final_rows(points).values())
    every = list(combinations(final, 2))
    if within_type:
        every = [(a, b) for a, b in every if points[a].type == points[b].type != ""]
    elif len({points[k].type for k in final}) < 2:
        every = []
    chosen = every if len(every) <= ENOUGH_PAIRS else rng.sample(every, ENOUGH_PAIRS)
    return chosen, "pairs of the runs' last checkpoints (too few fine-tuned models to draw from)"


def _final_rows(points: Sequence[Point]) -> dict[str, int]:
    """Row of each run's last checkpoint, final layer, not quantised."""
    final: dict[str, int] = {}
    plain = [(-1 if p.step is None else p.step, k) for k, p in enumerate(points) if _is_plain(p)]
    for _, row in sorted(plain):
        final[points[row].run] = row
    return final


def _is_plain(p: Point) -> bool:
    """Whether `p` is a trained model: not a layer vector, a quantised variant, a random walk or an interpolated model."""
    return p.layer is None and p.quantization == "none" and not {"null", "interpolation"} & set(p.tags)


def _two(rng: random.Random, rows: Sequence[int]) -> Pair:
    a, b = rng.sample(rows, 2)
    return a, b


def layer_pairs(points: Sequence[Point]) -> Pairs:
    """Adjacent layers k, k+1 of each run's last checkpoint that has layer vectors."""
    models: dict[str, dict[int, dict[int, int]]] = {}
    for row, p in enumerate(points):
        if p.layer is not None and p.quantization == "none":
            steps = models.setdefault(p.run, {})
            steps.setdefault(-1 if p.step is None else p.step, {})[p.layer] = row
    found = []
    for steps in models.values():
        layers = steps[max(steps)]
        # arXiv 2505.15353, Figure 3: hidden states k and k + 1
        found += [(layers[k], layers[k + 1]) for k in sorted(layers) if k + 1 in layers]
    if not found:
        return Pairs((), 'needs layer vectors: score with layers = "all"')
    return Pairs(tuple(found), "hidden states k and k+1 of each run's last checkpoint")
