"""Jobs that outlive whoever started them: a detached `kltui --batch`, and the signals it understands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kltui.errors import KltuiError
from kltui.jobs.jobfile import load_job
from kltui.jobs.process import python_command
from kltui.safe import safe_text
from kltui.store import JobRow

# Kept so that a child that ends while its starter lives is reaped and leaves no zombie.
_started: list[subprocess.Popen[bytes]] = []


def start_detached(job_path: Path, extra_args: Sequence[str] = ()) -> int:
    """Starts `kltui --batch job_path` in a session of its own and returns its process id.

    Its output goes to a new file in WORKSPACE/logs. Raises UsageError for a job file with mistakes, before
    anything starts.
    """
    job = load_job(job_path)
    logs = Path(job.workspace) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{job_path.stem}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            python_command("kltui.cli", "main", "--batch", str(job_path.resolve()), *extra_args),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=Path(job.workspace),
            env=os.environ | {"KLTUI_LOG": str(log)},
        )
    _started[:] = [p for p in _started if p.poll() is None] + [process]
    return process.pid


def stop(job: JobRow) -> None:
    """Stops a running job at once; everything stored stays. Raises KltuiError when it cannot be reached."""
    _signal(job, signal.SIGTERM)


def pause(job: JobRow) -> None:
    """Asks a running job to finish the checkpoint under way and then rest. Raises KltuiError."""
    _signal(job, signal.SIGUSR1)


def resume(job: JobRow, workspace: Path) -> int:
    """Starts a paused, stopped, failed or lost job again, from what is stored; returns its process id."""
    if job.status == "running":
        raise KltuiError(f"job {job.id} is running", "Pause or stop it first.")
    folder = workspace / "jobs"
    folder.mkdir(exist_ok=True)
    path = folder / f"job-{job.id}.toml"
    aside = path.with_suffix(".part")
    aside.write_text(job.job_toml, encoding="utf-8")
    aside.replace(path)
    return start_detached(path)


def _signal(job: JobRow, number: signal.Signals) -> None:
    if job.status != "running" or job.pid is None:
        raise KltuiError(f"job {job.id} is not running: it is {job.status}")
    if job.host != socket.gethostname():
        raise KltuiError(
            f"job {job.id} runs on {safe_text(job.host)}",
            f"Log in there and use kill -{number.name} {job.pid}.",
        )
    try:
        os.kill(job.pid, number)
    except ProcessLookupError:
        raise KltuiError(f"job {job.id} has just ended") from None
    except PermissionError:
        raise KltuiError(f"job {job.id} belongs to another user", f"Its process is {job.pid}.") from None
