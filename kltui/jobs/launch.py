"""Jobs that outlive the process that started them: a detached `kltui --batch`, and its signals."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kltui.errors import KltuiError
from kltui.jobs.jobfile import load_job
from kltui.jobs.process import python_command
from kltui.jobs.writer_signals import NotReachableError, signal_writer
from kltui.sanitize import safe_text
from kltui.store import JobRow
from kltui.store.atomic_write import write_atomic
from kltui.store.connection import explained
from kltui.threads import environment_of_jobs

NICE = 10
COMPLAINTS = ("kltui: ", "error: ", "not here: ")
LONG_LINES = {"COLUMNS": "400"}  # because the output is read by a program

# Ended child processes are reaped at the next start, so that none remains a zombie.
_started: list[int] = []


def start_detached(job_path: Path, extra_args: Sequence[str] = (), *, watch: bool = False) -> int:
    """Starts `kltui --batch job_path` (or `--watch`) in a new session and returns its process id.

    Its output goes to a new file in WORKSPACE/logs. Raises UsageError for a job file with mistakes and StoreError
    for a workspace that is not writable, before anything starts.
    """
    job, command = load_job(job_path), "--watch" if watch else "--batch"
    return _spawned(Path(job.workspace), job_path.stem, command, str(job_path.resolve()), *extra_args).pid


@dataclass(frozen=True, slots=True)
class Detached:
    """A process in its own session, and the file for its output."""

    pid: int
    log: Path

    def runs(self) -> bool:
        """Whether the process is still running."""
        return _still_runs(self.pid)

    def lines(self) -> list[str]:
        """The lines of its output so far that are not empty, safe to show."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [safe_text(line.strip(), 400) for line in text.splitlines() if line.strip()]

    def complaint(self) -> str:
        """The error line of its output, or ""."""
        return next((line for line in self.lines() if line.startswith(COMPLAINTS)), "")


def start_exact(workspace: Path, a: str, b: str, over: str = "", values: str = "") -> Detached:
    """Starts the computation of the exact next-token KL of two checkpoints, which stores it in the workspace.

    `over`: hash of the corpus; `values`: for pairs, which log-likelihoods, as of --values. Raises StoreError for a workspace
    that is not writable.
    """
    chosen = [
        word
        for option, value in (("--over", over), ("--values", values))
        if value
        for word in (option, value)
    ]
    asked = ("--report", "--section", "exact", "--pair", a, b, *chosen)
    return _spawned(workspace, "exact", *asked, str(workspace.resolve()))


def _spawned(workspace: Path, stem: str, *arguments: str) -> Detached:
    """Starts kltui with these arguments in a new session, with its output in a new file in WORKSPACE/logs."""
    logs = workspace / "logs"
    log = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{stem}.log"
    command = python_command("kltui.cli", "main", *arguments)
    with explained(logs):
        logs.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
    with output, Path(os.devnull).open("rb") as nothing:
        # Not subprocess.Popen, which must be waited for: this process is meant to outlive its parent.
        pid = os.posix_spawn(
            command[0],
            command,
            environment_of_jobs() | LONG_LINES | {"KLTUI_LOG": str(log)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
            setsid=True,
        )
    with suppress(OSError):
        # The interface has priority if there are few cores; processes that the job starts inherit the niceness.
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
    _started[:] = [p for p in _started if _still_runs(p)] + [pid]
    return Detached(pid, log)


def _still_runs(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def stop(job: JobRow) -> None:
    """Stops a running job at once; stored results remain. Raises KltuiError if it is not running or cannot be signalled."""
    _signal(job, signal.SIGTERM)


def pause(job: JobRow) -> None:
    """Asks a running job to pause after the current checkpoint. Raises KltuiError as `stop`."""
    _signal(job, signal.SIGUSR1)


def resume(job: JobRow, workspace: Path) -> int:
    """Starts a paused, stopped, failed or lost job again, keeping the stored results; returns its process id. Raises KltuiError if it is running."""
    if job.status == "running":
        raise KltuiError(f"job {job.id} is running", "Pause or stop it first.")
    path = workspace / "jobs" / f"job-{job.id}.toml"
    write_atomic(path, job.job_toml.encode())
    return start_detached(path)


def _signal(job: JobRow, number: signal.Signals) -> None:
    if job.status != "running" or job.pid is None:
        raise KltuiError(f"job {job.id} is not running: it is {job.status}")
    if job.host != socket.gethostname():
        raise KltuiError(
            f"job {job.id} runs on {safe_text(job.host)}",
            f"Log in to that machine and use kill -{number.name} {job.pid}.",
        )
    try:
        signal_writer(job.pid, job.process, job.workspace, number)
    except NotReachableError as error:
        raise KltuiError(f"job {job.id} cannot be reached: {error.message}", error.hint) from None
