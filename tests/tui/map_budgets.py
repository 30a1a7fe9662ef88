"""The map's pictures by the clock, in tmux on the real program: `python map_budgets.py WORKSPACE [--job JOB.toml]`.

Seconds from the key that opens the map to the first picture, to that of all checkpoints and to the last one (by t-SNE),
and the most memory of the interface and of its largest helper. With a job file, that job runs meanwhile.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# As tests/conftest.py does for pytest: helpers of all tests are found by their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from budgets import HEIGHT, WIDTH, descendants, end_job
from tmux_pane import Pane

from kltui.jobs.launch import start_detached

FIRST_S = 2.0
_TITLE = re.compile(r"Map  (\S+)  (.*)")
_SAMPLE = re.compile(r"[\d,]+ of [\d,]+ checkpoints")
_UNDER_WAY = re.compile(r"\d+%; |is being computed|meanwhile")


@dataclass
class Seen:
    """When each picture was there, in seconds from the key, and the most memory in GB."""

    first: float = 0.0
    of_all: float = 0.0
    last: float = 0.0
    title: str = ""
    memory_GB: dict[int, float] = field(default_factory=dict)

    def look(self, text: str, seconds: float) -> bool:
        """Notes what the pane shows now; whether the last picture is there."""
        found = _TITLE.search(text)
        if not found or not any("⠀" < c <= "⣿" for c in text):
            return False
        self.first = self.first or seconds
        if not _SAMPLE.search(found[2]):
            self.of_all = self.of_all or seconds
        if not _UNDER_WAY.search(found[0]) and not _SAMPLE.search(found[2]):
            self.last, self.title = seconds, found[0].split("│")[0].strip()
        return bool(self.last)


def most_memory(pid: int) -> float:
    """The most memory that a process has used so far, in GB."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has ended
        return 0.0
    return int(found[1]) / 1e6 if found else 0.0


def watch(pane: Pane, most_s: float) -> Seen:
    """Opens the map and reads the pane until the last picture is there."""
    seen, root = Seen(), int(pane.tmux("display-message", "-p", "#{pane_pid}"))
    pane.keys("3")
    begun = time.perf_counter()
    while (seconds := time.perf_counter() - begun) < most_s:
        if seen.look(pane.text(), seconds):
            break
        for pid in descendants(root):
            seen.memory_GB[pid] = max(most_memory(pid), seen.memory_GB.get(pid, 0.0))
        time.sleep(0.05 if seconds < 10 else 0.5)
    return seen


def measure(workspace: Path, home: Path, job: Path | None, most_s: float) -> Seen:
    """The pictures of one workspace, beside `job` if there is one."""
    pid = start_detached(job) if job else 0
    if pid:
        time.sleep(8.0)  # for its workers to score
    pane = Pane(WIDTH, HEIGHT, [sys.executable, "-m", "kltui", str(workspace.resolve())], home)
    try:
        pane.shows(" scored")
        time.sleep(1.0 if pid else 3.0)
        seen = watch(pane, most_s)
        assert not pid or os.waitpid(pid, os.WNOHANG) == (0, 0), "the job ended before the last picture"
        return seen
    finally:
        pane.close()
        if pid:
            end_job(pid)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--job", type=Path, help="a job file to run meanwhile, longer than the pictures take")
    parser.add_argument("--most", type=float, default=900.0, help="seconds to wait for the last picture")
    arguments = parser.parse_args()
    if shutil.which("tmux") is None:
        sys.exit("tmux is not installed: the map's pictures are read from a tmux pane")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        seen = measure(arguments.workspace, Path(home), arguments.job, arguments.most)
    for what, value in {"first": seen.first, "of all": seen.of_all, "last": seen.last}.items():
        over = "   OVER" if what == "first" and not 0 < value <= FIRST_S else ""
        sys.stdout.write(f"{what + ' picture':<20}{f'{value:8.2f} s' if value else '    none'}{over}\n")
    memory = sorted(seen.memory_GB.values(), reverse=True)
    sys.stdout.write(f"{seen.title}\nmost memory, GB: {', '.join(f'{m:.2f}' for m in memory[:4])}\n")
    return int(not 0 < seen.first <= FIRST_S)


if __name__ == "__main__":
    raise SystemExit(main())
