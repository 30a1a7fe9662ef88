"""The published pairs of downloaded models: children with one parent, and random pairs drawn with the paper's seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kltui.figures.reproduce.release import Release

Pair = tuple[int, int]
SEED = 0


@dataclass(frozen=True)
class Published:
    """Pairs of indices into the list of models: (child, parent), random within types, random over all."""

    related: list[Pair]
    within: list[Pair]
    over_all: list[Pair]


def published_pairs(release: Release, seed: int = SEED) -> Published:
    """The pairs of arXiv 2505.15353, Figure 3 (calc_kl.py), drawn with Python's `random`, seeded again for each type.

    The draws depend on the order of sibling_info.json and of Python's sets of integers, so that pairs are indices into
    the list of models, not rows of the map.
    """
    place = {name: k for k, name in enumerate(release.order)}
    by_type: dict[str, list[Pair]] = {}
    for child, parents in release.siblings.items():
        kind = release.types.get(child)
        if len(parents) == 1 and child in place and parents[0] in place and kind is not None:
            by_type.setdefault(kind, []).append((place[child], place[parents[0]]))
    related = [pair for pairs in by_type.values() for pair in pairs]
    rng = random.Random(seed)
    within, everyone = [], []
    for pairs in by_type.values():
        held = list({k for pair in pairs for k in pair})
        if len(held) > 1:
            everyone.extend(held)
            rng.seed(seed)
            within += [_two(rng, held) for _ in pairs]
    pool = list(set(everyone))
    return Published(related, within, [_two(rng, pool) for _ in related] if len(pool) > 1 else [])


def _two(rng: random.Random, held: list[int]) -> Pair:
    a, b = rng.sample(held, 2)
    return a, b


def as_rows(release: Release, pairs: list[Pair]) -> list[Pair]:
    """The pairs as rows of the release's map, without those that include a model without a vector."""
    found = []
    for a, b in pairs:
        i, j = release.row(release.order[a]), release.row(release.order[b])
        if i is not None and j is not None:
            found.append((i, j))
    return found
