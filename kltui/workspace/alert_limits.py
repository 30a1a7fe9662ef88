"""The limits of the alert rules for display: those of a workspace's newest job, else the defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence

from kltui.jobs.job_tables import WatchTable
from kltui.store.rows import JobRow


def alert_limits(jobs: Sequence[JobRow]) -> tuple[float, float]:
    """(alert_loss_se, in standard errors of the change in loss; alert_kl_ratio, a ratio of KLs) of `jobs[0]`, the newest job."""
    default = WatchTable()
    try:
        stated = tomllib.loads(jobs[0].job_toml).get("watch", {}) if jobs else {}
    except tomllib.TOMLDecodeError:
        stated = {}
    return (
        float(stated.get("alert_loss_se", default.alert_loss_se)),
        float(stated.get("alert_kl_ratio", default.alert_kl_ratio)),
    )
