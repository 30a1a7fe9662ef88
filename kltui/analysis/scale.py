"""The scale of KL: ten settings found in a map, with their published medians (arXiv 2505.15353, Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np

from kltui.analysis import lineage
from kltui.analysis.kl import KL
from kltui.analysis.lineage import Pairs
from kltui.analysis.point import Point
from kltui.analysis.repeats import Repeats


class ScaledVectors(Protocol):
    """The protocol of a map that the scale needs: its points, the KL of two rows, selection of rows, and preprocessing."""

    @property
    def points(self) -> tuple[Point, ...]: ...
    @property
    def repeats(self) -> Repeats: ...
    def __len__(self) -> int: ...
    def pair_rows(self, i: int, j: int) -> KL: ...
    def select(self, rows: Sequence[int]) -> Self: ...
    def preprocessed(self, mode: str, *, exclude: Collection[str] = ()) -> Self: ...


M = TypeVar("M", bound=ScaledVectors)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the published scale: median in bits/byte, and its range where the paper gives one."""

    name: str
    median: float
    low: float = math.nan
    high: float = math.nan


PUBLISHED: tuple[Setting, ...] = (
    Setting("later pretraining", 0.011),
    Setting("early pretraining", 0.067),
    Setting("seed", 0.12),
    Setting("size", 0.48, 0.15, 1.7),
    Setting("8-bit", 0.44),
    Setting("4-bit", 0.49),
    Setting("fine-tuning", 0.40),
    Setting("within type", 0.95),
    Setting("random", 2.2),
    Setting("adjacent layers", 3.0),
)

FINDERS: dict[str, Callable[[Sequence[Point]], Pairs]] = {
    "later pretraining": lambda p: lineage.pretraining_pairs(p, late=True),
    "early pretraining": lambda p: lineage.pretraining_pairs(p, late=False),
    "seed": lineage.seed_pairs,
    "size": lineage.size_pairs,
    "8-bit": lambda p: lineage.quantization_pairs(p, 8),
    "4-bit": lambda p: lineage.quantization_pairs(p, 4),
    "fine-tuning": lineage.parent_pairs,
    "within type": lambda p: lineage.random_pairs(p, within_type=True),
    "random": lambda p: lineage.random_pairs(p, within_type=False),
    "adjacent layers": lineage.layer_pairs,
}


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One setting on this map, in bits/byte: median, quartiles and range over n pairs; NaN where n is 0.

    `published` is NaN for a setting that the paper does not have. `note` is the rule that found the pairs or, if there
    are none, what would be needed. `values` are the KL of `pairs`, NaN where undefined.
    """

    setting: str
    published: float
    median: float
    q25: float
    q75: float
    low: float
    high: float
    n: int
    note: str
    pairs: tuple[tuple[str, str], ...] = ()
    values: tuple[float, ...] = ()

    @property
    def quartiles(self) -> tuple[float, float]:
        """q25 and q75; NaN for a single pair, whose spread is unknown."""
        return (self.q25, self.q75) if self.n > 1 else (math.nan, math.nan)

    def contains(self, kl: float) -> bool:
        """Whether `kl` lies in the setting's range on this map."""
        return self.low <= kl <= self.high


@dataclass(frozen=True, slots=True)
class Location:
    """Where a KL lies: settings of the map whose range contains it, and the published medians around it."""

    kl: float
    settings: tuple[str, ...]
    nearest: str
    above: str
    below: str


_GROUP_OF = {"later pretraining": "main", "early pretraining": "main", "size": "main", "seed": "seed"}


def group_of(setting: str) -> str:
    """The group ("main" or "seed") whose separate preprocessing applies to a setting, or ""."""
    return _GROUP_OF.get(setting, "")


def scale(
    m: ScaledVectors,
    *,
    pretraining: bool = False,
    exclude: Collection[str] = (),
    apart: Mapping[str, ScaledVectors] | None = None,
) -> list[ScaleRow]:
    """The ten settings on map `m`, in the published order, followed by each kind of GGUF file.

    `pretraining` preprocesses the main runs and the seed runs as in the paper, each group separately and without the
    checkpoints of `exclude`; the other settings always use map `m` itself. `apart` gives groups that are already preprocessed.
    """
    groups: Mapping[str, ScaledVectors] = apart or (
        prepared_apart(m, "pretraining", exclude) if pretraining else {}
    )
    rows = [_row(groups.get(group_of(s.name), m), s, FINDERS[s.name]) for s in PUBLISHED]
    points = [m.points[k] for k in _used(m)]
    for kind, pairs in lineage.gguf_pairs(points).items():
        rows.append(_row(m, Setting(f"GGUF {kind}", math.nan), lambda _, pairs=pairs: pairs))  # type: ignore[misc]
    return rows


def prepared_apart(m: M, mode: str = "pretraining", exclude: Collection[str] = ()) -> dict[str, M]:
    """{"main": main runs, "seed": seed runs} of map `m`, each preprocessed separately; missing groups are absent."""
    main = [k for r in lineage.main_runs(m.points) for k in r.rows]
    seeds = [k for g in lineage.seed_groups(m.points) for r in g for k in r.rows]
    return {
        group: m.select(rows).preprocessed(mode, exclude=exclude)
        for group, rows in (("main", main), ("seed", seeds))
        if rows
    }


def _used(m: ScaledVectors) -> list[int]:
    return [k for k in range(len(m)) if k not in m.repeats.left_out]


def _row(m: ScaledVectors, setting: Setting, find: Callable[[Sequence[Point]], Pairs]) -> ScaleRow:
    used = _used(m)
    found = find([m.points[k] for k in used])
    every = [(used[i], used[j]) for i, j in found.pairs]
    pairs = [(i, j) for i, j in every if j not in m.repeats.group_of(i)]
    note = found.note
    if len(pairs) < len(every):
        note += f"; {len(every) - len(pairs)} of {len(every)} pairs left out: both have the same weights"
    return row_of(m, setting, pairs, note)


def row_of(m: ScaledVectors, setting: Setting, pairs: Sequence[lineage.Pair], note: str) -> ScaleRow:
    """The ScaleRow of a setting from pairs of rows of map `m`; `note` describes the rule that found them."""
    kl = np.array([m.pair_rows(i, j).value for i, j in pairs])
    defined = kl[np.isfinite(kl)]
    if len(defined) < len(kl):
        note += f"; {len(kl) - len(defined)} undefined"
    if not len(defined):
        nan = math.nan
        return ScaleRow(setting.name, setting.median, nan, nan, nan, nan, nan, 0, note)
    # arXiv 2505.15353, Figure 3
    q25, median, q75 = (float(v) for v in np.quantile(defined, [0.25, 0.5, 0.75]))
    low, high = float(defined.min()), float(defined.max())
    names = tuple((m.points[i].name, m.points[j].name) for i, j in pairs)
    quantiles = (median, q25, q75, low, high)
    return ScaleRow(
        setting.name, setting.median, *quantiles, len(defined), note, names, tuple(float(v) for v in kl)
    )


def locate(kl: float, rows: Sequence[ScaleRow] = ()) -> Location:
    """The settings of `rows` whose range contains `kl` (bits/byte), and the published medians next to it.

    Without rows, the published ranges are used; only model size has one.

    >>> locate(0.05).above, locate(0.05).below
    ('early pretraining', 'later pretraining')
    """
    if rows:
        containing = tuple(r.setting for r in rows if r.contains(kl))
    else:
        containing = tuple(s.name for s in PUBLISHED if s.low <= kl <= s.high)
    if not kl > 0:
        return Location(kl, containing, "", "", "")
    ordered = sorted(PUBLISHED, key=lambda s: s.median)
    nearest = min(ordered, key=lambda s: abs(math.log(s.median / kl)))  # nearest in ratio
    above = next((s.name for s in ordered if s.median >= kl), "")
    below = next((s.name for s in reversed(ordered) if s.median <= kl), "")
    return Location(kl, containing, nearest.name, above, below)
