"""The cost of each section of the report: CPU seconds and memory at three sizes, and the growth of time with K and N.

It generates workspaces of K checkpoints over N texts, of 4 K and of 4 N. Time grows as K^a N^b, with a and b from the
ratios; they are not determined for sections that take too little time.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kltui.bench.generated import write_workspace
from kltui.json_schema import JSON_SCHEMA
from kltui.threads import one_blas_thread
from kltui.view.report import report_on
from kltui.view.sections.catalogue import SECTIONS
from kltui.view.sections.context import Context
from kltui.workspace import Workspace

CHECKPOINTS, TEXTS, TIMES = 500, 5000, 4
MIN_S = 0.01  # CPU seconds below which the growth is not determined
READING = "reading the map"
_HEADING = "{:16} {:>6} {:>7} {:>8} {:>9} {:>8} {:>8}\n".format(
    "section", "K", "N", "CPU s", "MB more", "K^", "N^"
)


@dataclass(frozen=True)
class Cost:
    """The cost of one section on K checkpoints over N texts: CPU seconds, and bytes of additional memory at its peak.

    Bytes are NaN if the system does not report them.
    """

    section: str
    checkpoints: int
    texts: int
    cpu_seconds: float
    seconds: float
    peak_bytes: float


@dataclass(frozen=True)
class Growth:
    """The costs of one section at the three sizes, and the exponents of its CPU seconds; NaN if it takes too little time."""

    section: str
    costs: tuple[Cost, ...]
    exponent_checkpoints: float
    exponent_texts: float


def run(as_json: bool = False, checkpoints: int = CHECKPOINTS, texts: int = TEXTS) -> int:
    """Prints a table (or one JSON object) with the cost of every section; returns the exit code 0."""
    sizes = ((checkpoints, texts), (TIMES * checkpoints, texts), (checkpoints, TIMES * texts))
    with tempfile.TemporaryDirectory(prefix="kltui-bench-") as top:
        folders = [write_workspace(Path(top) / f"{K}x{N}", K, N) for K, N in sizes]
        list(section_costs(write_workspace(Path(top) / "first", 60, 60)))  # so that imports are not timed
        found = growths([cost for folder in folders for cost in section_costs(folder)])
    if as_json:
        report = {"schema": JSON_SCHEMA, "sections": [_plain(asdict(g)) for g in found]}
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        sys.stdout.write(_HEADING + "".join(_lines(growth) for growth in found))
    return 0


@one_blas_thread
def section_costs(folder: Path) -> Iterator[Cost]:
    """The cost of reading the map, and of each section for which the workspace has data, without reading the map again."""
    with Workspace.open(folder) as ws:
        shape, cost = _read(ws)
        yield cost
        for name in SECTIONS:
            ctx = Context(ws)
            _ = ctx.map
            before, started = _Before(), time.perf_counter()
            section = report_on(ctx, [name]).sections[0]
            if section.status == "shown":
                yield before.cost(name, shape, time.perf_counter() - started)


def _read(ws: Workspace) -> tuple[tuple[int, int], Cost]:
    before, started = _Before(), time.perf_counter()
    shape = ws.map().loglik_KN.shape
    size = (int(shape[0]), int(shape[1]))
    return size, before.cost(READING, size, time.perf_counter() - started)


class _Before:
    """CPU seconds and memory of this process when the object is created."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._bytes = _status("VmRSS")
        self._cpu = time.process_time()

    def cost(self, section: str, shape: tuple[int, int], seconds: float) -> Cost:
        """The CPU seconds and memory used since then."""
        cpu = time.process_time() - self._cpu
        return Cost(section, *shape, cpu, seconds, max(_status("VmHWM") - self._bytes, 0.0))


def _status(field: str) -> float:
    """A memory field in /proc of this process, in bytes; NaN if there is none."""
    with suppress(OSError, IndexError, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return math.nan


def growths(costs: Sequence[Cost]) -> list[Growth]:
    """The growth of every section, from its costs at K x N, 4 K x N and K x 4 N in that order."""
    found = []
    for name in dict.fromkeys(cost.section for cost in costs):
        own = tuple(cost for cost in costs if cost.section == name)
        exponents = [_exponent(own[0], more) for more in own[1:]] if len(own) == 3 else [math.nan] * 2
        found.append(Growth(name, own, *exponents))
    return found


def _exponent(less: Cost, more: Cost) -> float:
    if less.cpu_seconds < MIN_S:
        return math.nan
    return math.log(more.cpu_seconds / less.cpu_seconds) / math.log(TIMES)


def _lines(growth: Growth) -> str:
    a, b = (
        f"{e:8.1f}" if math.isfinite(e) else f"{'-':>8}"
        for e in (growth.exponent_checkpoints, growth.exponent_texts)
    )
    rows = []
    for at, c in enumerate(growth.costs):
        head = growth.section if at == 0 else ""
        tail = f" {a} {b}" if at == 0 else ""
        rows.append(
            f"{head:16} {c.checkpoints:6} {c.texts:7} {c.cpu_seconds:8.2f} {c.peak_bytes / 1e6:9.0f}{tail}\n"
        )
    return "".join(rows)


def _plain(values: object) -> object:
    """`values` with None for NaN."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values
