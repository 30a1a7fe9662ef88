"""The interface's budgets, measured on a real pty: `python budgets.py WORKSPACE [--job JOB.toml]` prints the table.

With a job file, that job runs beside the interface while keys are timed. Times mean something on a quiet
machine only; bytes always do.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# As tests/conftest.py does for pytest: helpers of all tests are found by their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from terminal import PACKAGE, Answer, Terminal

from kltui.jobs.launch import start_detached
from kltui.tui.terminal.row_diff import ScreenFrame
from kltui.view.cell_buffer import draw
from kltui.view.plot_data import Scene, fit_window, threads

WIDTH, HEIGHT = 200, 60
NEAR = 0.4  # seconds of silence after which the list of nearest checkpoints is there too


@dataclass(frozen=True)
class Row:
    """One budget: what, what was measured, and at most what."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def held(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "" if self.held else "   OVER"
        return f"{self.what:<52} {self.value:9,.0f} {self.unit:<5} of {self.limit:7,.0f}{verdict}"


def interface(workspace: Path, home: Path, width: int = WIDTH, height: int = HEIGHT) -> Terminal:
    """The real program on a workspace, in an interpreter of its own: a fork of one that has imported it starts sooner."""
    command = [sys.executable, "-m", "kltui", str(workspace.resolve())]
    return Terminal(command, width, height, HOME=str(home), PYTHONPATH=str(PACKAGE))


def first_frames(workspace: Path, home: Path, times: int = 5) -> list[Row]:
    """Milliseconds from exec to the first frame, and to the tree of runs, with modules compiled as an installation has them."""
    # Where PYTHONDONTWRITEBYTECODE is set, each start from a checkout would compile kltui anew: 250 ms.
    compileall.compile_dir(PACKAGE / "kltui", quiet=1)
    frame, rows = [], []
    for _ in range(times):
        terminal = interface(workspace, home)
        frame.append(1000 * terminal.until("Registry")[0])
        rows.append(1000 * terminal.until(" scored")[0])
        terminal.close()
    return [
        Row("first frame, from exec", statistics.median(frame), 500, "ms"),
        Row("the tree of runs, from exec", statistics.median(rows), 500, "ms"),
    ]


def show_map(terminal: Terminal) -> None:
    """The map by PCA, drawn: t-SNE of 2,000 points is another process's work."""
    shown = terminal.press("3", 0.5).text + terminal.press("v", 0.5).text
    end = time.perf_counter() + 60.0
    while not ("√(bits/byte)" in shown and any("⠀" < c <= "⣿" for c in shown)):
        assert time.perf_counter() < end, "no plot was drawn in a minute"
        shown += terminal.read(0.5, 1.0).text
    terminal.read(1.0)


def pressed(terminal: Terminal, keys: Sequence[str], quiet: float = 0.15) -> list[Answer]:
    """What followed each key; every key must have shown something."""
    answers = [terminal.shown_for(key, quiet) for key in keys]
    silent = [key for key, answer in zip(keys, answers, strict=True) if not answer.data]
    assert not silent, f"nothing followed {silent}"
    return answers


def said(what: str, answers: Sequence[Answer], max_bytes: float, max_ms: float = 30) -> list[Row]:
    """Medians of first byte and size."""
    first = 1000 * statistics.median(a.first for a in answers)
    size = statistics.median(len(a.data) for a in answers)
    return [
        Row(f"{what}: key to first byte", first, max_ms, "ms"),
        Row(f"{what}: size", size, max_bytes, "bytes"),
    ]


def keys_on_screens(terminal: Terminal, busy: str = "", times: int = 2) -> list[Row]:
    """Cursor moves on table and plot, and full redraws of the plot. The map must have its picture already."""
    terminal.press("1", 0.5)
    terminal.press("g", 0.5)  # the last session may have left the cursor at the end
    rows = said(f"table cursor move{busy}", pressed(terminal, "jjk" * times), 2000)
    terminal.press("3", 1.0)
    rows += said(f"plot cursor along a run{busy}", pressed(terminal, "]]]" * times, NEAR), 2000)
    nearest = pressed(terminal, "lkjh" * times, NEAR)
    rows += said(f"plot cursor to the nearest point that way{busy}", nearest, 2000)
    largest = max(len(answer.data) for answer in nearest)
    rows.append(Row(f"the same, where the tree has to follow{busy}: largest", largest, 2000, "bytes"))
    rows += said(f"plot redrawn (zoom, marker){busy}", pressed(terminal, "+m-m" * times, NEAR), 35_000)
    rows += said(f"another screen{busy}", pressed(terminal, "1313" * times, 0.4), 35_000)
    terminal.press("4", 4.0)
    rows += said(f"curves: cursor along a run{busy}", pressed(terminal, "]]]" * times, NEAR), 2000)
    rows += said(f"curves: cursor to another run{busy}", pressed(terminal, "jkj" * times, NEAR), 2000)
    rows += said(f"curves: all panels redrawn{busy}", pressed(terminal, "LL" * times, NEAR), 35_000)
    terminal.press("3", 1.0)
    moved = pressed(terminal, "1j3]" * (times + 1), 0.4)
    rows += said(f"another screen, the cursor moved meanwhile{busy}", moved[::2], 35_000)
    return rows


def idle(terminal: Terminal, seconds: float = 6.0) -> Row:
    """Bytes written while nothing happens, once what was asked for before has come."""
    for _ in range(10):
        written = len(terminal.read(seconds, seconds).data)
        if not written:
            break
    return Row(f"idle for {seconds:g} s", written, 0, "bytes")


def drawing(n_points: int, times: int = 15) -> float:
    """Milliseconds to draw `n_points` on four lines into 200 x 60 cells, to styled rows and to a terminal's text."""
    from rich.segment import Segment
    from rich.style import Style
    from textual._compositor import LayoutUpdate
    from textual.geometry import Region
    from textual.strip import Strip

    rng = np.random.default_rng(1)
    parts = np.array_split(np.arange(n_points), 4)
    code_n, segments = threads([(i, p) for i, p in enumerate(parts)], n_points)
    scene = Scene(np.cumsum(rng.normal(size=(n_points, 2)), axis=0), code_n, segments)
    window = fit_window(scene)
    styles = [Style(color=f"color({16 + i})") for i in range(64)]
    taken = []
    for turn in range(times):
        frame = ScreenFrame()
        begun = time.perf_counter()
        planes = draw(scene, window.zoomed(1 + turn / 50, (0.5, 0.5)), WIDTH, HEIGHT, "braille")
        lines = [Strip([Segment(t, styles[c % 64]) for t, c in planes.runs(y)], WIDTH) for y in range(HEIGHT)]
        frame.write(LayoutUpdate([[line] for line in lines], Region(0, 0, WIDTH, HEIGHT)), WIDTH, HEIGHT)
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def ticking(label_text: str = "texts 41/500") -> Row:
    """Bytes for one label that changes: the running job's progress, on the fixed workspace."""
    terminal = Terminal.of_fake(0, WIDTH, HEIGHT, "ticking")
    try:
        terminal.until("84 checkpoints")
        terminal.press("2", 1.0)
        sizes = [len(terminal.read(0.4, 3.0).data) for _ in range(4)]
        return Row(
            "a running job's progress ticks", statistics.median([s for s in sizes if s] or [0]), 300, "bytes"
        )
    finally:
        terminal.close()


def measure(workspace: Path, home: Path, job: Path | None = None) -> list[Row]:
    """All budgets on one workspace."""
    rows = first_frames(workspace, home)
    terminal = interface(workspace, home)
    try:
        terminal.until(" scored")
        terminal.read(0.5)
        show_map(terminal)
        rows += keys_on_screens(terminal)
        rows.append(idle(terminal))
        if job is not None:
            rows += beside_a_job(terminal, job)
    finally:
        terminal.close()
    rows.append(Row("draw 800 points at 200 x 60, in process", drawing(800), 10, "ms"))
    rows.append(Row("draw 100,000 points at 200 x 60, in process", drawing(100_000), 20, "ms"))
    return [*rows, ticking()]


def beside_a_job(terminal: Terminal, job: Path) -> list[Row]:
    """The same keys while the job scores, started as the interface starts it."""
    pid = start_detached(job)
    try:
        time.sleep(8.0)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the job is over before anything was measured"
        rows = keys_on_screens(terminal, ", job running")
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the job ended while keys were timed"
        return rows
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--job", type=Path, help="a job file to run meanwhile, at least half a minute long")
    parser.add_argument("--home", type=Path, default=Path("/dev/null"), help="where view state is kept")
    arguments = parser.parse_args()
    rows = measure(arguments.workspace, arguments.home, arguments.job)
    sys.stdout.write("\n".join(map(str, rows)) + "\n")
    return int(not all(row.held for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
