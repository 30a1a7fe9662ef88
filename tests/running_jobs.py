"""A workspace's newest job, as the store has it, and waiting until it is as wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import kltui
from kltui.errors import StoreError
from kltui.store import JobRow

LONG = 200.0  # seconds, which only a mistake or a machine with much else to do takes: a job loads torch


def job_row(folder: Path) -> JobRow | None:
    """The newest job as the store has it; None before there is any."""
    try:
        with kltui.open(folder) as ws:
            return next(iter(ws.jobs()), None)
    except StoreError:
        return None


def wait_for(folder: Path, holds: Callable[[JobRow], bool]) -> JobRow:
    """The newest job once it is as wanted; read when something was stored, and now and then for a process that has gone."""
    deadline = time.monotonic() + LONG
    while not _is_there(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    with kltui.open(folder) as ws:
        while time.monotonic() < deadline:
            stored, until = ws.generation(), min(deadline, time.monotonic() + 0.5)
            row = next(iter(ws.jobs()), None)
            if row is not None and holds(row):
                return row
            while ws.generation() == stored and time.monotonic() < until:
                time.sleep(0.02)
    raise AssertionError(f"waited in vain; last seen: {job_row(folder)}")


def _is_there(folder: Path) -> bool:
    """Whether there is a workspace in a folder."""
    try:
        kltui.open(folder).close()
    except StoreError:
        return False
    return True
