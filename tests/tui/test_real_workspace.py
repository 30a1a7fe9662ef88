"""The real program on a real workspace in tmux: models added, scored, stopped, mended and read off the pane."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from running_jobs import LONG, job_row, wait_for
from terminal import Terminal
from tiny_models import write_run
from tmux_pane import Pane

import kltui
from kltui.analysis.diffusion import Exponent
from kltui.analysis.number_text import with_error
from kltui.store import JobRow, VectorRow

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

# Without these two, what the interface keeps between sessions stays below the pane's HOME.
KEPT_ELSEWHERE = ("XDG_STATE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """A run folder of eighteen checkpoints, a thousand steps apart, the first one's weights cut short; texts beside it, enough for a job of many seconds."""
    first = write_run(tmp_path / "walk", steps=range(1000, 19000, 1000), seed=1)[0] / "model.safetensors"
    first.rename(tmp_path / "whole.safetensors")
    first.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1000])
    texts = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 9)}dogs" for i in range(400)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    return tmp_path / "walk"


@pytest.fixture
def pane(tmp_path: Path) -> Iterator[Pane]:
    """The program on an empty folder."""
    (tmp_path / "ws").mkdir()
    bare = [word for name in KEPT_ELSEWHERE for word in ("-u", name)]
    made = Pane(140, 45, ["env", *bare, sys.executable, "-m", "kltui", str(tmp_path / "ws")], tmp_path)
    made.tmux("set-option", "-s", "set-clipboard", "on")  # lets programs in it fill tmux's buffers
    yield made
    made.close()
    end(tmp_path / "ws")


def end(folder: Path) -> None:
    """Ends a job that a failed test has left behind."""
    row = job_row(folder)
    if row is not None and row.pid is not None and row.status == "running":
        os.kill(row.pid, signal.SIGCONT)
        os.kill(row.pid, signal.SIGTERM)


def is_scoring(folder: Path, job: JobRow) -> bool:
    """Whether a checkpoint of the job is under way."""
    with kltui.open(folder) as ws:
        items = ws.job_items(job.id)
    return job.status == "running" and any(item.status == "running" for item in items)


@contextmanager
def held(folder: Path, done: int) -> Iterator[JobRow]:
    """The running job, held still as soon as `done` checkpoints are stored; it goes on afterwards."""
    pid = wait_for(folder, lambda row: row.done >= done and is_scoring(folder, row)).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        row = job_row(folder)
        assert row is not None and row.status == "running" and row.done + row.failed < row.total - 1
        yield row
    finally:
        os.kill(pid, signal.SIGCONT)


def vectors(folder: Path) -> dict[str, VectorRow]:
    """The stored final vectors by checkpoint, without their numbers; `created` tells one that was stored again."""
    with kltui.open(folder) as ws:
        return ws.vectors()


def attempts(folder: Path) -> dict[str, int]:
    """How often each checkpoint of the newest job was begun."""
    with kltui.open(folder) as ws:
        return {item.name: item.attempts for item in ws.job_items(ws.jobs()[0].id)}


def add(pane: Pane, folder: Path, texts: Path) -> None:
    """Adds a run folder and starts its job over `texts`, as the questions come."""
    pane.keys("A")
    pane.shows("Add checkpoints from", "folder", "preset")
    pane.keys("Enter")
    pane.shows("A model folder, a run folder, or a folder of these.", "tab: complete")
    pane.keys("-l", str(folder))
    pane.keys("Enter")
    pane.shows(f"checkpoints as run {folder.name}?", "gpt_neox")
    pane.keys("y")
    pane.shows("Score which texts?", "demo")
    pane.keys("C-u")
    pane.keys("-l", str(texts))
    pane.keys("Enter")
    pane.shows("This job", "s write and start", "texts.json")
    pane.keys("s")
    pane.shows("started as process", "Log")


def at_the_cursor(exponents: Sequence[Exponent]) -> Exponent:
    """The exponent whose start is nearest to the cursor, walk@3000: one more checkpoint stored makes it a start itself."""
    return min(exponents, key=lambda e: abs(e.start - 3000))


def see_the_exponents(pane: Pane, folder: Path) -> None:
    """On the Diffusion screen of a job that was stopped, and so has left no weight distances: press W to compute them."""
    pane.keys("5")
    text = pane.shows("likelihood c = ", "weights not known", "press W to compute them")
    with kltui.open(folder) as ws:
        assert ws.weight_distances() == {}
        shown = at_the_cursor(ws.diffusion())
    assert f"likelihood c = {with_error(shown.c_q, shown.se_q)}" in text
    pane.keys("W")
    pane.shows("weight distances are stored")
    text = pane.shows("weights c = ")
    assert "press W to compute them" not in text
    with kltui.open(folder) as ws:
        exponents = ws.diffusion()
    shown = at_the_cursor(exponents)
    assert f"weights c = {with_error(shown.c_w, shown.se_w)}" in text
    # The weights are a random walk: their squared distance grows as the lag.
    assert all(abs(e.c_w - 1) < 0.02 for e in exponents)
    c_q, c_w, alpha = (float(re.search(rf"{of} +(\d+\.\d+)", text)[1]) for of in ("c_q", "c_w", "alpha"))
    assert abs(c_w - 1) < 0.02 and abs(c_q / c_w - alpha) < 0.05


def stop_it(pane: Pane, folder: Path) -> JobRow:
    """The job after `K` and `y`, with eleven checkpoints stored or some more."""
    with held(folder, done=11) as job:
        pane.shows(f"{job.done}/18", "running")
        pane.keys("K")
        pane.shows("Stop job 1?", f"{job.done} of 18 checkpoints are stored and stay stored.")
        pane.keys("y")
        pane.shows("stopping")
    pane.shows("stopped", "scored, 1 failed")
    stopped = job_row(folder)
    assert stopped is not None and stopped.status == "stopped" and 11 <= stopped.done < 17
    assert len(vectors(folder)) == stopped.done
    return stopped


def pause_it(pane: Pane, folder: Path, stopped: JobRow) -> JobRow:
    """The job run again by `R` and resting after `p`."""
    pane.keys("R")
    pane.shows("job 1 continues")
    with held(folder, done=stopped.done) as job:
        pane.shows("running")
        pane.keys("p")
        pane.shows("will pause after this checkpoint")
    pane.shows("paused", seconds=LONG)
    paused = job_row(folder)
    assert paused is not None and paused.status == "paused" and job.done < paused.done < 18
    pane.shows(f"{paused.done}/18")
    return paused


def see_the_failure(pane: Pane, folder: Path) -> None:
    """The checkpoint that cannot be read, with its error and its hint; its name copied out of the program."""
    with kltui.open(folder) as ws:
        (failed,) = (row for row in ws.checkpoints() if row.status == "failed")
    assert failed.name == "walk@1000" and failed.error and failed.hint
    log = pane.shows("walk@1000", "log")
    shown = "".join(line.partition("│")[2] for line in log.splitlines())
    assert (failed.error + failed.hint).replace(" ", "") in shown.replace(" ", "")
    pane.keys("1")
    pane.shows("name        walk@1000", "reason for the failure")
    pane.keys("y")
    pane.shows("copied: walk@1000")
    assert pane.tmux("show-buffer") == "walk@1000"


def test_a_run_is_added_stopped_looked_at_mended_and_run_to_its_end(
    pane: Pane, walk: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ws"
    pane.shows("This workspace is empty.", "A   add checkpoints")
    add(pane, walk, tmp_path / "texts.json")
    stopped = stop_it(pane, folder)
    before = vectors(folder)
    see_the_failure(pane, folder)
    (tmp_path / "whole.safetensors").replace(walk / "step1000" / "model.safetensors")
    pane.keys("3")
    pane.shows(f"PCA  {stopped.done} checkpoints", "● walk")
    pane.keys("]", "]")
    pane.shows("◉", "walk@3000   KL from @2000", "bits/byte")
    see_the_exponents(pane, folder)

    pane.keys("2")
    pane.shows("stopped")
    paused = pause_it(pane, folder, stopped)
    pane.keys("p")
    pane.shows("job 1 continues")
    pane.shows("18/18", "done", f"{18 - paused.done} scored, {paused.done} already stored", seconds=LONG)
    pane.keys("3")
    pane.shows("18 checkpoints")
    pane.keys("q")
    pane.shows("ENDED 0")
    check_the_store(folder, before)


def check_the_store(folder: Path, before: dict[str, VectorRow]) -> None:
    """Raises AssertionError unless every vector is there, and those of `before` were made once."""
    after = vectors(folder)
    assert list(after) == [f"walk@{step}" for step in range(1000, 19000, 1000)]
    assert {name: after[name] for name in before} == before, "what was stored has been stored again"
    assert all(row.n_unscored == 0 for row in after.values())
    begun = attempts(folder)
    assert {begun[name] for name in before} == {1}
    # One had failed and was tried again, and one was under way when the job was stopped.
    assert sorted(begun.values())[:-2] == [1] * 16 and max(begun.values()) <= 2


def interfaces(folder: Path) -> list[int]:
    """Processes that show the workspace."""
    shown = [b"kltui", str(folder).encode(), b""]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[-3:] == shown and words[0].rpartition(b"/")[2].startswith(b"python"):
            found.append(int(process.name))
    return found


def test_a_job_outlives_the_terminal_and_the_process_group_it_was_started_from(
    pane: Pane, walk: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ws"
    pane.shows("This workspace is empty.")
    add(pane, walk, tmp_path / "texts.json")
    with held(folder, done=1) as job:
        assert job.pid is not None and interfaces(folder)
        pane.close()
        end = time.monotonic() + 60
        while interfaces(folder):
            assert time.monotonic() < end, "the interface outlives its terminal"
            time.sleep(0.05)

    again = Terminal([sys.executable, "-m", "kltui", str(folder)], 100, 30, HOME=str(tmp_path))
    try:
        lines_and_echo = termios.ICANON | termios.ECHO
        with held(folder, done=job.done + 1) as row:
            assert row.pid == job.pid, "it went on, not again"
            again.until("job 1 running")
            assert not termios.tcgetattr(again.fd)[3] & lines_and_echo
            assert os.getsid(job.pid) != os.getsid(again.pid) == again.pid
            os.killpg(again.pid, signal.SIGHUP)
            code, rest = again.ended()
            assert code == 128 + signal.SIGHUP and b"\x1b[?1049l" in rest and b"\x1b[?25h" in rest
            assert termios.tcgetattr(again.fd)[3] & lines_and_echo == lines_and_echo
    finally:
        again.close()

    done = wait_for(folder, lambda row: row.status not in ("running", "queued"))
    assert (done.status, done.done, done.failed) == ("failed", 17, 1)
    assert set(attempts(folder).values()) == {1} and len(vectors(folder)) == 17
