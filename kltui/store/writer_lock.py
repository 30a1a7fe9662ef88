"""The registered writer of a store: a row that names the process and the time of its last heartbeat.

Together with the lock file (`lock_file`) it makes sure that only one process writes to a store at a time.
"""

from __future__ import annotations

import functools
import os
import socket
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from kltui.errors import StoreError

STALE_AFTER_S = 180.0
WATCH_S = 5.0  # a running writer has a heartbeat every second


@dataclass(frozen=True, slots=True)
class Writer:
    """The process that is, or was last, registered as the writer. Times are Unix seconds; `boot` identifies the process."""

    host: str
    pid: int
    boot: str
    started: float
    heartbeat: float

    @property
    def alive(self) -> bool:
        """Whether the process still runs or, on another host or in another container, whether its heartbeat is recent."""
        if self.is_near:
            # Releases up to schema 2 wrote no pid namespace.
            now = _process_identity(self.pid)
            return bool(self.boot) and f"{now}:".startswith(f"{self.boot}:")
        # A heartbeat far in the future counts as old: a clock was changed.
        return abs(time.time() - self.heartbeat) < STALE_AFTER_S

    @property
    def is_near(self) -> bool:
        """Whether its process id is valid in this container; containers may share a host name but not process ids."""
        if self.host != socket.gethostname():
            return False
        theirs = self.boot.split(":")
        if len(theirs) != 3:
            return True
        ours = _process_identity(os.getpid()).split(":")
        return (theirs[0], theirs[2]) == (ours[0], ours[-1])

    @property
    def is_this_process(self) -> bool:
        """Whether it is this process."""
        return (self.host, self.pid, self.boot) == _this_process()


def _process_identity(pid: int) -> str:
    """Boot id, start time in ticks and pid namespace of a process, which differ if its pid is reused; "" if it has ended."""
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError):
        return _identity_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{_boot_id()}:{fields[19]}:{_pid_namespace()}"


def is_process(pid: int, identity: str) -> bool:
    """Whether `pid` is now, and in this container, the process that had that identity."""
    return bool(identity) and _process_identity(pid) == identity


def _identity_without_proc(pid: int) -> str:
    if Path("/proc/self/stat").exists() or pid <= 1:
        return ""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    return f"pid:{pid}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """The number of this process's pid namespace, "" if the system has none."""
    try:
        return "".join(c for c in str(Path("/proc/self/ns/pid").readlink()) if c.isdigit())
    except OSError:
        return ""


def _this_process() -> tuple[str, int, str]:
    pid = os.getpid()
    return socket.gethostname(), pid, _own_identity(pid)


@functools.cache
def _own_identity(pid: int) -> str:
    return _process_identity(pid)


def current_writer(db: sqlite3.Connection) -> Writer | None:
    """The writer recorded in the store, or None."""
    row = db.execute("SELECT host, pid, boot, started, heartbeat FROM writer WHERE id = 1").fetchone()
    return Writer(*row) if row else None


def acquire(db: sqlite3.Connection, where: str, *, decided: bool) -> Writer | None:
    """Registers this process as the writer; returns the process registered before, if that was another one.

    `decided`: this process has the operating system's lock, which excludes other processes of this host. Raises
    StoreError with pid and host if another writer is alive.
    """
    before = current_writer(db)
    if before is not None and _looks_dead_elsewhere(before) and not _is_settled(before, decided):
        # Clocks of hosts differ, so that only a heartbeat that does not change for a while shows that its process has ended.
        time.sleep(WATCH_S)
    now = time.time()
    mine = _this_process()
    db.execute("BEGIN IMMEDIATE")
    try:
        held = current_writer(db)
        other = held is not None and not held.is_this_process
        if held and other and not _is_settled(held, decided) and (held.alive or _moved(before, held)):
            raise held_by(where, held)
        db.execute("INSERT OR REPLACE INTO writer VALUES (1, ?, ?, ?, ?, ?)", (*mine, now, now))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return held if other else None


def held_by(where: str, writer: Writer | None) -> StoreError:
    """The error for a store that another process writes to."""
    who = f"process {writer.pid} on {writer.host}" if writer else "another process"
    return StoreError(
        f"{where} is being written by {who}",
        "Wait for that job to end, stop it in the Jobs screen, or use another workspace.",
    )


def _is_settled(writer: Writer, decided: bool) -> bool:
    """Whether having the lock (`decided`) proves that `writer` has ended. A lock may not exclude writers on other hosts."""
    return decided and writer.host == socket.gethostname() and not writer.is_near


def _looks_dead_elsewhere(writer: Writer) -> bool:
    return not writer.is_near and not writer.alive


def _moved(before: Writer | None, now: Writer) -> bool:
    """Whether a writer elsewhere was registered, or had a heartbeat, after `before` was read."""
    return not now.is_near and now != before


def check_held(db: sqlite3.Connection, where: str) -> None:
    """Raises StoreError if this process is not, or no longer, the registered writer."""
    held = current_writer(db)
    if held is None or not held.is_this_process:
        by = f"process {held.pid} on {held.host} has" if held else "another process has"
        raise StoreError(
            f"{by} taken over {where}, because this process seemed to have ended",
            "It did not respond for a long time. Its stored results are kept; run one job at a time.",
        )


def release(db: sqlite3.Connection) -> None:
    """Removes the registration of this process as the writer, if it has one."""
    db.execute("DELETE FROM writer WHERE host = ? AND pid = ? AND boot = ?", _this_process())


def beat(db: sqlite3.Connection) -> None:
    """Sets this process's heartbeat to the present time."""
    db.execute(
        "UPDATE writer SET heartbeat = ? WHERE host = ? AND pid = ? AND boot = ?",
        (time.time(), *_this_process()),
    )
