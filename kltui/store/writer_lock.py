"""One process writes a store: a row that names host, process and last sign of life."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from kltui.errors import StoreError

STALE_AFTER_S = 180.0
WATCH_S = 5.0  # a living writer gives a sign every second


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes (or last wrote) the store."""

    host: str
    pid: int
    boot: str
    started: float
    heartbeat: float

    @property
    def alive(self) -> bool:
        """Whether that process still runs; on another host, whether it gave a recent sign of life."""
        if self.host == socket.gethostname():
            return _process_identity(self.pid) == self.boot
        # A sign of life far in the future is no better than one long past: some clock was set.
        return abs(time.time() - self.heartbeat) < STALE_AFTER_S


def _process_identity(pid: int) -> str:
    """A string that differs when a pid is reused: start time in clock ticks since this boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _identity_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{_boot_id()}:{fields[19]}"


def _identity_without_proc(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return f"pid:{pid}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def current_writer(db: sqlite3.Connection) -> Writer | None:
    """The writer recorded in the store, or None."""
    row = db.execute("SELECT host, pid, boot, started, heartbeat FROM writer WHERE id = 1").fetchone()
    return Writer(*row) if row else None


def acquire(db: sqlite3.Connection, where: str) -> Writer | None:
    """Takes the writer row for this process; returns the dead writer it was taken from, if any.

    Raises StoreError naming pid and host while another living process holds it.
    """
    before = current_writer(db)
    if before is not None and _looks_dead_elsewhere(before):
        # Clocks of hosts differ: only one that stands still for a while is gone.
        time.sleep(WATCH_S)
    now = time.time()
    mine = (socket.gethostname(), os.getpid(), _process_identity(os.getpid()), now, now)
    db.execute("BEGIN IMMEDIATE")
    try:
        held = current_writer(db)
        if held and (held.host, held.pid) != mine[:2] and (held.alive or _moved(before, held)):
            raise StoreError(
                f"{where} is being written by process {held.pid} on {held.host}",
                "Wait for that job to end, stop it in the Jobs screen, or use another workspace.",
            )
        db.execute("INSERT OR REPLACE INTO writer VALUES (1, ?, ?, ?, ?, ?)", mine)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return held if held and (held.host, held.pid) != mine[:2] else None


def _looks_dead_elsewhere(writer: Writer) -> bool:
    return writer.host != socket.gethostname() and not writer.alive


def _moved(before: Writer | None, now: Writer) -> bool:
    """Whether another host's writer came or gave a sign of life since we looked first."""
    return now.host != socket.gethostname() and now != before


def check_held(db: sqlite3.Connection, where: str) -> None:
    """Raises StoreError where this process is not, or no longer, the one that writes."""
    held = current_writer(db)
    if held is None or (held.host, held.pid) != (socket.gethostname(), os.getpid()):
        by = f"process {held.pid} on {held.host} has" if held else "another process has"
        raise StoreError(
            f"{by} taken {where} over, as if this process were gone",
            "It gave no sign of life for long. What it had stored is kept; run one job at a time.",
        )


def release(db: sqlite3.Connection) -> None:
    """Gives the writer row up, if this process holds it."""
    db.execute("DELETE FROM writer WHERE host = ? AND pid = ?", (socket.gethostname(), os.getpid()))


def beat(db: sqlite3.Connection) -> None:
    """Renews this process's sign of life."""
    db.execute(
        "UPDATE writer SET heartbeat = ? WHERE host = ? AND pid = ?",
        (time.time(), socket.gethostname(), os.getpid()),
    )
