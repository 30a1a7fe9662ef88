"""Unusual changes between two checkpoints of a run: a loss that rises, or a KL that is large compared with earlier ones."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kltui.analysis.loss import bits_per_byte
from kltui.analysis.number_text import figure, with_error

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.analysis.trajectory import Trajectory

MIN_BEFORE = 3  # consecutive KLs before one can be called large


@dataclass(frozen=True, slots=True)
class Figures:
    """One checkpoint compared with the previous one of its run; bits/byte, with standard errors over texts. NaN: undefined.

    `loss_change` is this loss minus the one before, its error that of the paired difference. `kl_median` is the median of
    the consecutive KLs before this one, raised if this one spans more steps than those.
    """

    name: str
    run: str
    step: int
    loss: float
    loss_se: float
    loss_change: float = math.nan
    loss_change_se: float = math.nan
    kl: float = math.nan
    kl_se: float = math.nan
    kl_median: float = math.nan

    def words(self) -> str:
        """One line for the output of --watch."""
        parts = [f"{with_error(self.loss, self.loss_se)} bits/byte"]
        if math.isfinite(self.loss_change):
            parts.append(
                f"change {'+' * (self.loss_change > 0)}{with_error(self.loss_change, self.loss_change_se)}"
            )
        if math.isfinite(self.kl):
            beside = (
                f" ({self.kl / self.kl_median:.1f} times the median of earlier ones)"
                if self.kl_median > 0
                else ""
            )
            parts.append(f"KL to the previous checkpoint {with_error(self.kl, self.kl_se)}{beside}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Spike:
    """A checkpoint where a loss rose by `value` of its standard errors, or a KL is `value` times the median before it."""

    rule: Literal["loss", "kl"]
    at: Figures
    value: float

    def words(self) -> str:
        """The spike in one line of text."""
        f = self.at
        if self.rule == "loss":
            return (
                f"the loss rose by {with_error(f.loss_change, f.loss_change_se)} bits/byte at {f.name}, "
                f"{self.value:.1f} standard errors"
            )
        return (
            f"KL to the previous checkpoint is {with_error(f.kl, f.kl_se)} bits/byte at {f.name}, {self.value:.1f} "
            f"times the median before it ({figure(f.kl_median)})"
        )


def spikes(run: Sequence[Figures], loss_se: float, kl_ratio: float) -> list[Spike]:
    """The spikes of a run, given by rising step: losses that rise by over `loss_se` standard errors, KLs over `kl_ratio` times the median."""
    found = []
    for f in run:
        # (L_i - L_{i-1}) / se of the paired difference, so that the sampling of texts alone is no spike
        rise = f.loss_change / f.loss_change_se if f.loss_change_se > 0 else math.nan
        if rise > loss_se:
            found.append(Spike("loss", f, rise))
        ratio = f.kl / f.kl_median if f.kl_median > 0 else math.nan
        if ratio > kl_ratio:
            found.append(Spike("kl", f, ratio))
    return found


def run_figures(shown: Map) -> dict[str, list[Figures]]:
    """{run: its checkpoints by rising step} of a map."""
    return {
        t.label: with_medians([_of(shown, t, k) for k in range(len(t.rows))]) for t in shown.trajectories()
    }


def _of(shown: Map, t: Trajectory, place: int) -> Figures:
    row = t.rows[place]
    loss, se = bits_per_byte(shown.loglik_KN[row], shown.text_bytes_N, shown.text_ids_N)
    point = shown.points[row]
    if place == 0:
        return Figures(point.name, t.label, point.step or 0, loss, se)
    before = t.rows[place - 1]
    # of the paired difference, in which the difficulty of a text cancels
    change, change_se = bits_per_byte(
        shown.loglik_KN[row] - shown.loglik_KN[before], shown.text_bytes_N, shown.text_ids_N
    )
    kl = shown.pair_rows(before, row)
    return Figures(point.name, t.label, point.step or 0, loss, se, change, change_se, kl.value, kl.se)


def with_medians(run: Sequence[Figures]) -> list[Figures]:
    """The same figures with the median of the earlier consecutive KLs, NaN if there are fewer than MIN_BEFORE.

    KL between checkpoints grows with the steps between them, as their power c (arXiv 2505.15353: 0.15 to 0.33 in Pythia): where
    this interval is longer than the median one, the median is raised by the square root of their ratio, more than any such
    c implies. Otherwise doubling save intervals would be reported as spikes.
    """
    found, intervals, kls = [], list[int](), list[float]()  # kept sorted, because runs may be very long
    for last, f in zip([None, *run], run, strict=False):
        interval = f.step - last.step if last else 0
        found.append(replace(f, kl_median=_expected(interval, intervals, kls)))
        if math.isfinite(f.kl):
            insort(intervals, interval)
            insort(kls, f.kl)
    return found


def _expected(interval: int, intervals: Sequence[int], kls: Sequence[float]) -> float:
    """The KL to expect over `interval` steps, from earlier KLs and their intervals, both sorted; NaN if there are too few."""
    if len(kls) < MIN_BEFORE:
        return math.nan
    typical = max(_middle(intervals), 1)
    # KL ~ interval^c with c below 1/2 (arXiv 2505.15353, Figure 5), so a root is more than any such c implies
    return _middle(kls) * math.sqrt(max(1.0, interval / typical))


def _middle(rising: Sequence[float]) -> float:
    """The median of sorted numbers.

    >>> _middle([1, 4, 9]), _middle([1, 4])
    (4, 2.5)
    """
    half = len(rising) // 2
    return rising[half] if len(rising) % 2 else (rising[half - 1] + rising[half]) / 2
