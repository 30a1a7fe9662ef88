"""The alert rules of a watch: pure functions of the figures of a run's consecutive checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from kltui.analysis.spikes import MIN_BEFORE, Figures, spikes
from kltui.analysis.stability import stabilisation
from kltui.jobs.job_tables import WatchTable

Rule = Literal["loss", "kl", "settled", "stopped"]
STOPPED_AFTER = 3.0  # multiple of the longest interval between two checkpoints so far
STOPPED_MIN_S = 60.0  # shortest time without a checkpoint that raises an alert


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert at a checkpoint (for "stopped": the last one): the value that was measured and the limit that it passed.

    The unit is standard errors for "loss", a ratio for "kl", bits/byte for "settled" and seconds for "stopped".
    """

    rule: Rule
    run: str
    checkpoint: str
    value: float
    limit: float
    message: str

    @property
    def key(self) -> str:
        """The key by which an alert is reported only once: "settled" once per run, the others once per checkpoint."""
        return f"{self.rule} {self.run if self.rule == 'settled' else self.checkpoint}"

    def fields(self) -> dict[str, object]:
        """The fields as a JSON object."""
        return asdict(self)


def alerts(run: Sequence[Figures], table: WatchTable) -> list[Alert]:
    """Every alert for the checkpoints of one run, which are given by rising step, with the limits of the `[watch]` table."""
    limits = {"loss": table.alert_loss_se, "kl": table.alert_kl_ratio}
    found = [
        Alert(s.rule, s.at.run, s.at.name, s.value, limits[s.rule], s.words())
        for s in spikes(run, limits["loss"], limits["kl"])
    ]
    return found + _settled(run, table.settled_below)


def _settled(run: Sequence[Figures], level: float) -> list[Alert]:
    """An alert if the KL between neighbouring checkpoints stays below `level`, even if each is 1.96 standard errors higher."""
    if len(run) < MIN_BEFORE or level <= 0:
        return []
    pairs = run[1:]
    found = stabilisation(
        run[0].run, [f.step for f in run], [f.kl for f in pairs], [f.kl_se for f in pairs], level
    )
    if found.latest is None or found.latest == run[-2].step:  # a single pair is not enough
        return []
    last = run[-1]
    said = f"{last.run} has settled at step {found.step}: since then, the KL between neighbouring checkpoints stays below {level:g} bits/byte"
    return [Alert("settled", last.run, last.name, last.kl, level, said)]


def stopped(run: str, last: str, times_s: Sequence[float], now_s: float) -> Alert | None:
    """An alert if the last checkpoint is older than STOPPED_AFTER times the longest interval so far; else None.

    `times_s` are the times of the checkpoints and `now_s` the present time, in Unix seconds.
    """
    ordered = sorted(times_s)
    if len(ordered) < MIN_BEFORE:
        return None
    longest = max(b - a for a, b in pairwise(ordered))
    limit, since = max(STOPPED_AFTER * longest, STOPPED_MIN_S), now_s - ordered[-1]
    if since <= limit:
        return None
    said = f"no checkpoint of {run} for {since / 60:.1f} min, {since / max(longest, 1e-9):.1f} times the longest interval: training may have stopped"
    return Alert("stopped", run, last, since, limit, said)
