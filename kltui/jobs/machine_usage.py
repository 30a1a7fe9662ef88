"""Memory in use and available GPUs."""

from __future__ import annotations

import os
from pathlib import Path

from kltui.gpus import system_gpus
from kltui.jobs.device_probe import DeviceProbe


def memory_bytes() -> int:
    """Resident memory of this process and its workers, in bytes; 0 without /proc.

    A fork server is not counted, because its workers share its memory.
    """
    return _resident("self") + sum(_of_tree(pid) for pid in _children(str(os.getpid())))


def _of_tree(pid: str) -> int:
    children = _children(pid)
    return sum(map(_of_tree, children)) if children else _resident(pid)


def _children(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _resident(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def gpu_names() -> tuple[str, ...]:
    """Device names ("cuda:0", ...) of the GPUs that torch can use; torch is imported, in another process, only if the system has any."""
    if not system_gpus():
        return ()
    return tuple(f"cuda:{i}" for i in DeviceProbe("auto").answer().gpus)
