"""What is out of the ordinary in a run, each rule with its figures: pure functions of a run's consecutive checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from kltui.analysis.stability import stabilisation
from kltui.jobs.jobfile import WatchTable

Rule = Literal["loss", "kl", "settled", "stopped"]
LEAST_BEFORE = 3  # consecutive KLs before one can be called large
STOPPED_AFTER = 3.0  # times the longest interval between two checkpoints so far
STOPPED_LEAST_S = 60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One checkpoint beside the one before it in its run; bits/byte, with standard errors over texts. NaN: not defined.

    `loss_change` is this loss minus the one before, its error that of the paired difference. `kl_median` is the median of
    the consecutive KLs before this one.
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
        """One line for who watches."""
        parts = [f"{self.loss:.4f} ± {self.loss_se:.4f} bits/byte"]
        if math.isfinite(self.loss_change):
            parts.append(f"change {self.loss_change:+.4f} ± {self.loss_change_se:.4f}")
        if math.isfinite(self.kl):
            beside = (
                f" ({self.kl / self.kl_median:.1f} times the median before)" if self.kl_median > 0 else ""
            )
            parts.append(f"KL to the one before {self.kl:.4f} ± {self.kl_se:.4f}{beside}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule that holds at a checkpoint (of "stopped": since it): the value that was seen and the limit it passed."""

    rule: Rule
    run: str
    checkpoint: str
    value: float
    limit: float
    message: str

    @property
    def key(self) -> str:
        """What it is told once under: a run settles once, everything else belongs to a checkpoint."""
        return f"{self.rule} {self.run if self.rule == 'settled' else self.checkpoint}"

    def fields(self) -> dict[str, object]:
        """The same as a JSON object."""
        return asdict(self)


def alerts(run: Sequence[Figures], table: WatchTable) -> list[Alert]:
    """Every alert of a run's checkpoints, given by rising step (SPEC: `[watch]`)."""
    found = []
    for f in run:
        # A rise of the loss that is no noise of the sample of texts: (L_i - L_{i-1}) / se of the paired difference.
        se = f.loss_change / f.loss_change_se if f.loss_change_se > 0 else math.nan
        if se > table.alert_loss_se:
            said = f"the loss rose by {f.loss_change:.4f} ± {f.loss_change_se:.4f} bits/byte at {f.name}, {se:.1f} standard errors"
            found.append(Alert("loss", f.run, f.name, se, table.alert_loss_se, said))
        ratio = f.kl / f.kl_median if f.kl_median > 0 else math.nan
        if ratio > table.alert_kl_ratio:
            said = (
                f"KL to the checkpoint before is {f.kl:.4f} ± {f.kl_se:.4f} bits/byte at {f.name}, {ratio:.1f} times the median "
                f"before it ({f.kl_median:.4f})"
            )
            found.append(Alert("kl", f.run, f.name, ratio, table.alert_kl_ratio, said))
    return found + _settled(run, table.settled_below)


def _settled(run: Sequence[Figures], level: float) -> list[Alert]:
    """That the KL between neighbours stays below the level, also when each is taken 1.96 standard errors higher."""
    if len(run) < LEAST_BEFORE or level <= 0:
        return []
    pairs = run[1:]
    found = stabilisation(
        run[0].run, [f.step for f in run], [f.kl for f in pairs], [f.kl_se for f in pairs], level
    )
    if found.latest is None or found.latest == run[-2].step:  # one pair alone settles nothing
        return []
    last = run[-1]
    said = f"{last.run} has settled at step {found.step}: since then KL between neighbours stays below {level:g} bits/byte"
    return [Alert("settled", last.run, last.name, last.kl, level, said)]


def stopped(run: str, last: str, times_s: Sequence[float], now_s: float) -> Alert | None:
    """That no checkpoint came for longer than STOPPED_AFTER times the longest interval so far; `times_s`: when they did."""
    ordered = sorted(times_s)
    if len(ordered) < LEAST_BEFORE:
        return None
    longest = max(b - a for a, b in pairwise(ordered))
    limit, since = max(STOPPED_AFTER * longest, STOPPED_LEAST_S), now_s - ordered[-1]
    if since <= limit:
        return None
    said = f"no checkpoint of {run} for {since / 60:.1f} min, {since / max(longest, 1e-9):.1f} times the longest interval: has training stopped?"
    return Alert("stopped", run, last, since, limit, said)


def with_medians(run: Sequence[Figures]) -> list[Figures]:
    """The same with the median of the consecutive KLs before each, where there are LEAST_BEFORE of them."""
    found, before = [], list[float]()
    for f in run:
        found.append(replace(f, kl_median=median(before)) if len(before) >= LEAST_BEFORE else f)
        if math.isfinite(f.kl):
            before.append(f.kl)
    return found
