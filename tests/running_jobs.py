"""A workspace's newest job, as the store has it, and waiting until it is as wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import kltui
from kltui.errors import StoreError
from kltui.store import JobRow

LONG = 90.0  # seconds: a job starts two processes, and one of them loads torch


def job_row(folder: Path) -> JobRow | None:
    """The newest job as the store has it; None before there is any."""
    try:
        with kltui.open(folder) as ws:
            return next(iter(ws.jobs()), None)
    except StoreError:
        return None


def wait_for(folder: Path, holds: Callable[[JobRow], bool]) -> JobRow:
    """The newest job once it is as wanted."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        row = job_row(folder)
        if row is not None and holds(row):
            return row
        time.sleep(0.02)
    raise AssertionError(f"waited in vain; last seen: {job_row(folder)}")
