"""What panels of curves against the step show: their quantities, and the content of one. Screens and figures draw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kltui.analysis.curves import Curve
    from kltui.analysis.stability import Stabilisation
    from kltui.view.axis import Scale

NEAR_FACTOR, NEAR_SHARE = 3.0, 0.5  # how far beyond the curves a published line is still shown


class PanelKind(NamedTuple):
    """What a panel shows: its key, its names, long and short, its unit and the scale that its values begin with."""

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
    PanelKind("updates", "Norm of the weight update from the previous checkpoint", "Update", "", "log"),
)


@dataclass(frozen=True)
class Content:
    """What a panel draws: curves, horizontal lines (value, words), (run, step) of spikes, and where a run settled.

    `missing` says what is not there, and the key that mends it.
    """

    curves: tuple[Curve, ...] = ()
    lines: tuple[tuple[float, str], ...] = ()
    spikes: frozenset[tuple[str, int]] = frozenset()
    settled: tuple[int, str] | None = None
    missing: str = ""

    def near_lines(self, low: float, high: float, scale: Scale) -> list[tuple[float, str]]:
        """Those of `lines` that stand within, or not far beyond, curves from `low` to `high`."""
        slack = NEAR_SHARE * (high - low)
        if scale == "log":
            return [one for one in self.lines if low / NEAR_FACTOR <= one[0] <= high * NEAR_FACTOR]
        return [one for one in self.lines if low - slack <= one[0] <= high + slack]


@dataclass(frozen=True)
class Settled:
    """Where every run settled, by level: {level: {run: stabilisation}}."""

    by_level: dict[float, dict[str, Stabilisation]]

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels in bits/byte, the coarsest first."""
        return tuple(self.by_level)

    def has(self, run: str) -> bool:
        """Whether a run has two scored steps or more."""
        return any(run in found for found in self.by_level.values())

    def of(self, run: str, level: float | None) -> Stabilisation | None:
        """Where a run settled at a level; None: at the finest level that it settled at, else the coarsest."""
        found = [self.by_level[k][run] for k in self.levels if run in self.by_level[k]]
        if level is not None:
            return self.by_level.get(level, {}).get(run)
        reached = [s for s in found if s.step is not None]
        return reached[-1] if reached else found[0] if found else None
