"""What this machine has and uses: cores, memory, GPUs."""

from __future__ import annotations

import os
from pathlib import Path

from kltui.gpus import system_gpus
from kltui.jobs.device_probe import DeviceProbe


def memory_bytes() -> int:
    """Resident memory of this process and its children, in bytes; 0 where /proc is missing."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:
        children = []
    return sum(_resident(pid) for pid in ["self", *children])


def _resident(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def gpu_names() -> tuple[str, ...]:
    """Device names ("cuda:0", ...) of the GPUs that torch can use; torch is asked where the system shows any."""
    if not system_gpus():
        return ()
    return tuple(f"cuda:{i}" for i in DeviceProbe("auto").answer().gpus)
