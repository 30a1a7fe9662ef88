"""Curves against the training step, one per run, for reports, figures and screens alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.lineage import seed_groups
from kltui.analysis.loss import losses

if TYPE_CHECKING:
    from kltui.analysis.diffusion import Exponent
    from kltui.analysis.map import Map
    from kltui.analysis.trajectory import Trajectory

Floats = NDArray[np.float64]
Value = tuple[str, int, float, float]  # checkpoint, step, value, its standard error


@dataclass(frozen=True)
class Curve:
    """T points of one run ordered by step, each with its standard error (NaN: unknown).

    `names` are the run's checkpoints; `against` is the run, or the checkpoint, that it is compared with, "" for none.
    """

    run: str
    names: tuple[str, ...]
    steps: tuple[int, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]
    against: str = ""

    @classmethod
    def of(cls, run: str, found: Iterable[Value], against: str = "") -> Curve:
        """The curve of (checkpoint, step, value, error), in any order."""
        ordered = sorted(found, key=lambda one: one[1])
        names, steps, values, errors = zip(*ordered, strict=True) if ordered else ((), (), (), ())
        return cls(run, names, steps, values, errors, against)

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def arrays(self) -> tuple[Floats, Floats, Floats]:
        """Steps, values and errors, each (T,)."""
        steps, values, errors = (
            np.array(part, dtype=np.float64) for part in (self.steps, self.values, self.errors)
        )
        return steps, values, errors

    def only(self, kept: Sequence[bool]) -> Curve:
        """The curve with only the points for which `kept` is true."""
        names, steps = tuple(compress(self.names, kept)), tuple(compress(self.steps, kept))
        values, errors = tuple(compress(self.values, kept)), tuple(compress(self.errors, kept))
        return Curve(self.run, names, steps, values, errors, self.against)


def loss_curves(shown: Map) -> list[Curve]:
    """Loss in bits/byte of every run with steps."""
    runs: dict[str, list[Value]] = {}
    for one in losses(shown):
        if one.step is not None:
            runs.setdefault(one.run, []).append((one.name, one.step, one.bits_per_byte, one.se))
    return [Curve.of(run, found) for run, found in runs.items()]


def consecutive_curves(shown: Map) -> list[Curve]:
    """KL in bits/byte to the previous checkpoint, at the later step, of every run with two or more checkpoints."""
    names = {t.label: dict(zip(t.steps, _names(shown, t), strict=True)) for t in shown.trajectories()}
    runs: dict[str, list[Value]] = {}
    for one in shown.consecutive():
        name = names[one.run][one.step_to]
        runs.setdefault(one.run, []).append((name, one.step_to, one.kl, one.se))
    return [Curve.of(run, found) for run, found in runs.items()]


def curves_to_last(shown: Map) -> list[Curve]:
    """KL in bits/byte of each run's checkpoints to its last one, excluding that one."""
    return [
        _towards(shown, t, t.rows[-1], shown.points[t.rows[-1]].name)
        for t in shown.trajectories()
        if len(t.rows) > 1
    ]


def curves_to(shown: Map, name: str) -> list[Curve]:
    """KL in bits/byte of every run's checkpoints to the vector called `name`, which is left out. Raises KltuiError if there is none."""
    row = shown.row(name)
    found = (_towards(shown, t, row, name) for t in shown.trajectories())
    return [curve for curve in found if len(curve)]


def _towards(shown: Map, t: Trajectory, row: int, against: str) -> Curve:
    pairs = ((k, s, shown.pair_rows(k, row)) for k, s in zip(t.rows, t.steps, strict=True) if k != row)
    return Curve.of(t.label, ((shown.points[k].name, s, kl.value, kl.se) for k, s, kl in pairs), against)


def divergence(shown: Map, run: str, against: str) -> Curve:
    """KL in bits/byte between two runs of the map, by label, at the steps that both have; the names are of `run`."""
    one, other = (
        next((t for t in shown.trajectories() if t.label == label), None) for label in (run, against)
    )
    if one is None or other is None:
        return Curve.of(run, (), against)
    theirs = dict(zip(other.steps, other.rows, strict=True))
    pairs = (
        (k, s, shown.pair_rows(k, theirs[s])) for k, s in zip(one.rows, one.steps, strict=True) if s in theirs
    )
    return Curve.of(run, ((shown.points[k].name, s, kl.value, kl.se) for k, s, kl in pairs), against)


def seed_family(shown: Map, run: str = "") -> list[str]:
    """Labels of the runs that differ from `run` only in their seed, including `run`, all with a step.

    If there are none, of the first such family, preferably one with several steps. Runs with several steps come first.
    """
    groups = [[r for r in group if r.trajectory.rows] for group in seed_groups(shown.points)]
    families = [g for g in groups if len(g) > 1]
    families.sort(key=lambda g: sum(r.is_trajectory for r in g) < 2)
    names = [[r.name for r in sorted(g, key=lambda r: not r.is_trajectory)] for g in families]
    return next((g for g in names if run in g), names[0] if names else [])


def seed_divergence(shown: Map, family: Sequence[str]) -> list[Curve]:
    """KL in bits/byte at equal steps between the first run of a family and each other one."""
    return [divergence(shown, other, family[0]) for other in family[1:]]


def exponent_curves(exponents: Sequence[Exponent]) -> list[Curve]:
    """Diffusion exponents c_q of every window, at its start, with their least-squares errors."""
    runs: dict[str, list[Value]] = {}
    for e in exponents:
        runs.setdefault(e.run, []).append((f"{e.run}@{e.start}", e.start, e.c_q, e.se_q))
    return [Curve.of(run, found) for run, found in runs.items()]


def update_curves(shown: Map, weight_sqdist: Mapping[tuple[str, str], float]) -> list[Curve]:
    """Norm |theta_t - theta_s| of the update between neighbouring checkpoints of each run, where that distance is known.

    `weight_sqdist` gives |theta_b - theta_a|^2 by names.
    """
    found = []
    for t in shown.trajectories():
        names = _names(shown, t)
        known = [
            (b, step, math.sqrt(weight_sqdist[a, b]), math.nan)  # |theta_t - theta_s|
            for (a, b), step in zip(pairwise(names), t.steps[1:], strict=True)
            if (a, b) in weight_sqdist
        ]
        if known:
            found.append(Curve.of(t.label, known))
    return found


def _names(shown: Map, t: Trajectory) -> list[str]:
    return [shown.points[row].name for row in t.rows]
