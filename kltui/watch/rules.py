"""What is out of the ordinary in a run, each rule with its figures: pure functions of a run's consecutive checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from kltui.analysis.spikes import MIN_BEFORE, Figures, spikes
from kltui.analysis.stability import stabilisation
from kltui.jobs.job_tables import WatchTable

Rule = Literal["loss", "kl", "settled", "stopped"]
STOPPED_AFTER = 3.0  # times the longest interval between two checkpoints so far
STOPPED_MIN_S = 60.0


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
        """The key under which it is reported once: a run settles once, everything else belongs to a checkpoint."""
        return f"{self.rule} {self.run if self.rule == 'settled' else self.checkpoint}"

    def fields(self) -> dict[str, object]:
        """The same as a JSON object."""
        return asdict(self)


def alerts(run: Sequence[Figures], table: WatchTable) -> list[Alert]:
    """Every alert of a run's checkpoints, given by rising step (SPEC: `[watch]`)."""
    limits = {"loss": table.alert_loss_se, "kl": table.alert_kl_ratio}
    found = [
        Alert(s.rule, s.at.run, s.at.name, s.value, limits[s.rule], s.words())
        for s in spikes(run, limits["loss"], limits["kl"])
    ]
    return found + _settled(run, table.settled_below)


def _settled(run: Sequence[Figures], level: float) -> list[Alert]:
    """That the KL between neighbours stays below the level, also when each is taken 1.96 standard errors higher."""
    if len(run) < MIN_BEFORE or level <= 0:
        return []
    pairs = run[1:]
    found = stabilisation(
        run[0].run, [f.step for f in run], [f.kl for f in pairs], [f.kl_se for f in pairs], level
    )
    if found.latest is None or found.latest == run[-2].step:  # one pair alone settles nothing
        return []
    last = run[-1]
    said = f"{last.run} has settled at step {found.step}: since then, the KL between neighbouring checkpoints stays below {level:g} bits/byte"
    return [Alert("settled", last.run, last.name, last.kl, level, said)]


def stopped(run: str, last: str, times_s: Sequence[float], now_s: float) -> Alert | None:
    """That no checkpoint came for longer than STOPPED_AFTER times the longest interval so far; `times_s`: when they did."""
    ordered = sorted(times_s)
    if len(ordered) < MIN_BEFORE:
        return None
    longest = max(b - a for a, b in pairwise(ordered))
    limit, since = max(STOPPED_AFTER * longest, STOPPED_MIN_S), now_s - ordered[-1]
    if since <= limit:
        return None
    said = f"no checkpoint of {run} for {since / 60:.1f} min, {since / max(longest, 1e-9):.1f} times the longest interval: training may have stopped"
    return Alert("stopped", run, last, since, limit, said)
