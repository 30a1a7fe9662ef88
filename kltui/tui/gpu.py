"""Load and memory of this machine's GPUs, from nvidia-smi."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from shutil import which

QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One GPU: load in percent (-1: not reported), used and total memory in MiB."""

    percent: int
    used: int
    total: int


async def read_gpus() -> tuple[GpuUse, ...]:
    """The present state of this machine's GPUs; () without a working nvidia-smi."""
    program = which("nvidia-smi")
    if program is None:
        return ()
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    try:
        child = subprocess.Popen([program, *QUERY], stdin=nothing, stdout=pipe, stderr=nothing)
    except OSError:
        return ()
    # In a thread, because the event loop's own pipes would outlive the loop if the interface is closed meanwhile.
    try:
        out, _ = await asyncio.wait_for(asyncio.to_thread(child.communicate), PATIENCE_S)
    except TimeoutError:
        return ()
    finally:
        if child.poll() is None:
            child.kill()
    return parse_gpus(out.decode(errors="replace"))


def parse_gpus(text: str) -> tuple[GpuUse, ...]:
    """The GPUs in nvidia-smi's lines; if a device (MIG) does not report a number, load is -1 and memory 0.

    >>> parse_gpus("97, 70123, 81559\\n[N/A], 10, 20\\n")
    (GpuUse(percent=97, used=70123, total=81559), GpuUse(percent=-1, used=10, total=20))
    """
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.count(",") == 2]
    return tuple(GpuUse(_number(a, -1), _number(b, 0), _number(c, 0)) for a, b, c in rows)


def _number(text: str, else_: int) -> int:
    return int(text) if text.isdecimal() else else_


def said(gpus: Sequence[GpuUse]) -> str:
    """A summary of the GPUs: each of up to two; of more, the mean load and the sum of memory.

    >>> said([]), said([GpuUse(97, 70123, 81559)])
    ('no GPU here', 'GPU 97%  68.5/79.6 GiB')
    >>> said([GpuUse(100, 1024, 2048), GpuUse(50, 1024, 2048), GpuUse(-1, 0, 2048)])
    '3 GPUs 75%  2.0/6.0 GiB'
    """
    if not gpus:
        return "no GPU here"
    if len(gpus) <= 2:
        return "   ".join(_one(f"GPU {i}" if len(gpus) > 1 else "GPU", [g]) for i, g in enumerate(gpus))
    return _one(f"{len(gpus)} GPUs", gpus)


def _one(name: str, gpus: Sequence[GpuUse]) -> str:
    reported = [g.percent for g in gpus if g.percent >= 0]
    load = f" {sum(reported) / len(reported):.0f}%" if reported else ""
    used, total = (sum(values) / 1024 for values in ((g.used for g in gpus), (g.total for g in gpus)))
    return f"{name}{load}  {used:.1f}/{total:.1f} GiB"
