"""Panels of curves against the step: the quantities that they show, and the content of a panel, for screens and figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kltui.analysis.curves import Curve
    from kltui.analysis.stability import Stabilisation
    from kltui.view.axis import Scale

NEAR_FACTOR, NEAR_SHARE = (
    3.0,
    0.5,
)  # limits beyond the curves within which a published line is shown: on a log scale, on a linear one
TOO_FEW_TEXTS = "undefined at every step: a KL needs two or more texts that both checkpoints are scored on"
WINDOWS = (
    10,
    20,
    5,
)  # checkpoints of a window of diffusion exponents, in the order in which a key shows them


class PanelKind(NamedTuple):
    """The quantity of a panel: its key, its long and short name, its unit and the initial scale of its axis."""

    key: str
    title: str
    short: str
    unit: str
    scale: Scale


KINDS = (
    PanelKind("consecutive", "KL to the previous checkpoint", "KL to previous", "bits/byte", "log"),
    PanelKind("loss", "Loss", "Loss", "bits/byte", "linear"),
    PanelKind("last", "KL to the last checkpoint", "KL to last", "bits/byte", "log"),
    PanelKind("between", "KL between runs at equal steps", "KL between", "bits/byte", "log"),
    PanelKind("marked", "KL to checkpoint A", "KL to A", "bits/byte", "log"),
    PanelKind("exponents", "Diffusion exponent c_q by start", "Exponent c_q", "", "linear"),
    PanelKind("updates", "Norm of the weight update from the previous checkpoint", "Update norm", "", "log"),
)


@dataclass(frozen=True)
class Content:
    """The content of a panel: curves, horizontal lines (value, label), (run, step) of spikes, and where a run settled.

    `missing` says why there are no curves, and what to press.
    """

    curves: tuple[Curve, ...] = ()
    lines: tuple[tuple[float, str], ...] = ()
    spikes: frozenset[tuple[str, int]] = frozenset()
    settled: tuple[int, str] | None = None
    missing: str = ""

    def near_lines(self, low: float, high: float, scale: Scale) -> list[tuple[float, str]]:
        """Those of `lines` within or not far beyond curves that range from `low` to `high`."""
        slack = NEAR_SHARE * (high - low)
        if scale == "log":
            return [one for one in self.lines if low / NEAR_FACTOR <= one[0] <= high * NEAR_FACTOR]
        return [one for one in self.lines if low - slack <= one[0] <= high + slack]


def is_near(step: float, first: float, last: float, scale: Scale) -> bool:
    """Whether a line at a step is within or not far beyond curves from `first` to `last`, so that it does not squeeze them.

    >>> is_near(60, 1000, 2000, "log1p"), is_near(800, 1000, 2000, "log1p"), is_near(384, 1, 416, "linear")
    (False, True, True)
    """
    at, low, high = (math.log1p(s) if scale == "log1p" else s for s in (step, first, last))
    slack = NEAR_SHARE * (high - low)
    return low - slack <= at <= high + slack


@dataclass(frozen=True)
class Settled:
    """The step at which every run settled, by level: {level: {run: stabilisation}}."""

    by_level: dict[float, dict[str, Stabilisation]]

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels in bits/byte, in the order of `by_level`, the largest first."""
        return tuple(self.by_level)

    def has(self, run: str) -> bool:
        """Whether a run has two or more scored steps."""
        return any(run in found for found in self.by_level.values())

    def of(self, run: str, level: float | None) -> Stabilisation | None:
        """Where a run settled at a level; for None, at the smallest level that it reached, or the largest if it reached none."""
        found = [self.by_level[k][run] for k in self.levels if run in self.by_level[k]]
        if level is not None:
            return self.by_level.get(level, {}).get(run)
        reached = [s for s in found if s.step is not None]
        return reached[-1] if reached else found[0] if found else None
