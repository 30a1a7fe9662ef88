"""From when a watch alerts: what the newest job of a workspace says, else what watches usually take."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence

from kltui.jobs.job_tables import WatchTable
from kltui.store.rows import JobRow


def alert_limits(jobs: Sequence[JobRow]) -> tuple[float, float]:
    """(standard errors of a loss, ratio of a KL to the median before) of the newest of `jobs`, which comes first."""
    usual = WatchTable()
    try:
        said = tomllib.loads(jobs[0].job_toml).get("watch", {}) if jobs else {}
    except tomllib.TOMLDecodeError:
        said = {}
    return (
        float(said.get("alert_loss_se", usual.alert_loss_se)),
        float(said.get("alert_kl_ratio", usual.alert_kl_ratio)),
    )
