"""The interface's budgets, measured on a real pty: `python budgets.py WORKSPACE [--job JOB.toml]` prints the table.

With a job file, that job runs beside the interface while keys are timed. With `--keys`, the keys of every screen are
pressed one after the other, and the table has a row for each. Times mean something on a quiet machine only, less so
the CPU time of the interface's thread that `--keys` prints beside them; bytes always do.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import select
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# As tests/conftest.py does for pytest: helpers of all tests are found by their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from terminal import PACKAGE, Answer, Terminal

from kltui.jobs.launch import start_detached
from kltui.tui.actions import SCREENS, screen_key
from kltui.tui.terminal.row_diff import ScreenFrame
from kltui.view.cell_buffer import draw
from kltui.view.plot_data import Scene, fit_window, threads

WIDTH, HEIGHT = 200, 60
NEAR = 0.4  # seconds of silence after which the list of nearest checkpoints is there too
FIRST_MS, MOVED_BYTES, REDRAWN_BYTES = 30, 2000, 35_000
LEAVE = "\x1b[27u"  # escape as kitty sends it: after a bare one the reader waits for the rest of a sequence
NAMED = {"enter": "\r", "tab": "\t", "space": " ", "leave": LEAVE, "back": "\x1b[Z", "pagedown": "\x1b[6~"}
DIALOGS = "? leave : leave / s t leave f leave e leave"
# Screen: its keys in order. Those that change something are followed by what changes it back.
KEYS = {
    "registry": "j k ] [ pagedown G g j space space a a b b z Z o leave E leave A leave s leave enter enter n N y C C",
    "map": "l h k j ] [ G g ] + - = H J K L = m m m m i i i i i i p p E E E z z w w t t d < > } { d"
    " space space a a b b tab tab tab tab y",
    "curves": "] [ l h j k tab back + - H J K = L L Y Y m m m m v leave w w w z z t t a a enter enter space space y",
    "diffusion": "] [ l h j k + - H J K = L L m m m m w w w u u tab tab tab y",
    "matrix": "g l j h k + - = o o o space space y",
    "compare": "j k n N pagedown g tab j k back o o o x x y c leave",
    "layers": "l h j k + - H J K = L L m m m m v v tab tab y",
    "scale": "j k pagedown g enter tab back y",
    "report": "j k l h pagedown g tab j back w leave y",
    "jobs": "j k tab tab y",
}
MOVES = frozenset("hjkl[]")
PLOTS_AND_TABLES = ("registry", "map", "curves", "diffusion", "matrix")


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


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process has started, and theirs."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has ended
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def gone(pids: Iterable[int], most: float = 20.0) -> None:
    """Waits until these processes have ended: helpers end after the interface, and would delay the next one."""
    end = time.perf_counter() + most
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.perf_counter() < end:
        time.sleep(0.05)


def first_frames(workspace: Path, times: int = 5) -> list[Row]:
    """Milliseconds from exec to the first frame, and to the tree of runs, with modules compiled as an installation has them."""
    # Where PYTHONDONTWRITEBYTECODE is set, each start from a checkout would compile kltui anew: 250 ms.
    compileall.compile_dir(PACKAGE / "kltui", quiet=1)
    frame, rows = [], []
    for _ in range(times):
        # With a home of its own, each starts on the Registry, and not where the last one was left.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            terminal = interface(workspace, Path(home))
            frame.append(1000 * terminal.until("Registry")[0])
            rows.append(1000 * terminal.until(" scored")[0])
            family = [terminal.pid, *descendants(terminal.pid)]
            terminal.close()
            gone(family)
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


def said(what: str, answers: Sequence[Answer], max_bytes: float, max_ms: float = FIRST_MS) -> list[Row]:
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


@dataclass(frozen=True)
class Pressed:
    """A key on a screen: milliseconds to the first byte by the clock and of the interface's thread, that thread's until
    all was quiet, and bytes."""

    screen: str
    key: str
    first: float
    cpu: float
    cpu_in_all: float
    size: int

    @property
    def limit(self) -> int:
        """Most bytes for this key."""
        moves = self.key in MOVES and self.screen in PLOTS_AND_TABLES
        return MOVED_BYTES if moves else REDRAWN_BYTES

    @property
    def held(self) -> bool:
        return not self.first > FIRST_MS and self.size <= self.limit

    def __str__(self) -> str:
        first = "  nothing" if self.first != self.first else f"{self.first:9.1f}"
        over = "" if self.held else "   OVER"
        said = (
            f"{self.screen:<10}{self.key:<9}{first} ms {self.cpu:8.1f} ms CPU {self.cpu_in_all:8.1f} in all"
        )
        return f"{said} {self.size:8,} bytes of {self.limit:6,}{over}"


def interface_of(terminal: Terminal) -> int:
    """The process of the interface itself: the child of the one that restores the terminal."""
    return int(Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()[0])


def thread_ms(pid: int, every: bool = False) -> float:
    """CPU milliseconds that a process's first thread has used, or `every` thread of it."""
    tasks = Path(f"/proc/{pid}/task")
    used = 0
    for task in tasks.iterdir() if every else [tasks / str(pid)]:
        with contextlib.suppress(OSError):  # it has ended
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e6


def calm(terminal: Terminal, most: float = 30.0) -> bytes:
    """What is written until no thread of the interface computes any more."""
    end, data, pid = time.perf_counter() + most, b"", interface_of(terminal)
    while time.perf_counter() < end:
        before = thread_ms(pid, every=True)
        data += terminal.read(0.1, 0.5).data
        if thread_ms(pid, every=True) - before < 5:
            break
    return data


def press_one(terminal: Terminal, screen: str, key: str, patience: float = 1.0) -> Pressed:
    """What a key costs on a screen; nothing may follow it."""
    pid = interface_of(terminal)
    before = thread_ms(pid)
    os.write(terminal.fd, NAMED.get(key, key).encode())
    begun, first, cpu, data = time.perf_counter(), float("nan"), float("nan"), b""
    while select.select([terminal.fd], [], [], 0.15 if data else patience)[0]:
        data += os.read(terminal.fd, 1 << 16)
        if first != first:
            first, cpu = 1000 * (time.perf_counter() - begun), thread_ms(pid) - before
    data += calm(terminal)
    return Pressed(screen, key, first, cpu, thread_ms(pid) - before, len(data))


def show_pair(terminal: Terminal) -> None:
    """Marks two neighbouring checkpoints of the Matrix as A and B, and shows their comparison, then the list."""
    for key in "6gl\r1":
        terminal.press(key, 0.5)
        calm(terminal)


def every_key(terminal: Terminal, screens: Sequence[str]) -> Iterator[Pressed]:
    """The keys of these screens and of the dialogs over them, then each screen's digit after the cursor has moved."""
    for screen in screens:
        digit = screen_key(SCREENS.index(screen) + 1)
        terminal.press("1", 0.5)
        calm(terminal)
        if screen == "compare":  # two neighbours of the Matrix
            show_pair(terminal)
        yield press_one(terminal, screen, digit, 60.0)
        for key in f"{KEYS[screen]} {DIALOGS}".split():
            yield press_one(terminal, screen, key)
        for _ in range(2):
            yield press_one(terminal, "registry", "1")
            terminal.press("j", 0.3)
            calm(terminal)
            yield press_one(terminal, screen, digit)


def keys_of(workspace: Path, home: Path, screens: Sequence[str], job: Path | None) -> Iterator[Pressed]:
    """Every key of these screens on one workspace, beside `job` if there is one."""
    terminal = interface(workspace, home)
    pid = start_detached(job) if job else 0
    try:
        terminal.until(" scored")
        show_map(terminal)
        calm(terminal)
        yield from every_key(terminal, screens)
        assert not pid or os.waitpid(pid, os.WNOHANG) == (0, 0), "the job ended while keys were timed"
    finally:
        terminal.close()
        if pid:
            end_job(pid)


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
    rows = first_frames(workspace)
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
        end_job(pid)


def end_job(pid: int) -> None:
    """Ends a job that was started beside the interface."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--job", type=Path, help="a job file to run meanwhile, at least half a minute long")
    parser.add_argument("--home", type=Path, default=Path("/dev/null"), help="where view state is kept")
    screens = ",".join(KEYS)
    parser.add_argument(
        "--keys", nargs="?", const=screens, help=f"measure every key of these screens: {screens}"
    )
    arguments = parser.parse_args()
    rows: Iterable[Row | Pressed]
    if arguments.keys:
        rows = keys_of(arguments.workspace, arguments.home, arguments.keys.split(","), arguments.job)
    else:
        rows = measure(arguments.workspace, arguments.home, arguments.job)
    held = True
    for row in rows:
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        held &= row.held
    return int(not held)


if __name__ == "__main__":
    raise SystemExit(main())
