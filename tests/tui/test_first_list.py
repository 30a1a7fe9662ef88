"""What the interface lists first is read by another process, and is what the interface would read itself."""

from __future__ import annotations

import concurrent.futures.thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from full_store import fill
from screen_text import text_of

from kltui.store.rows import CheckpointRow
from kltui.tui import main, read_ahead
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.tui.data import Snapshot, SnapshotReader
from kltui.tui.read_ahead import ReadAhead
from kltui.tui.ui_state import Memory
from kltui.workspace import Workspace, workspace

# pytest has a thread of its own, which newer Pythons warn of; the interface has none when it forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def idle_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "has_idle_core", lambda: True)


@pytest.fixture(autouse=True)
def only_thread_at_work() -> None:
    """Waits for threads of earlier tests' interfaces, which may still close a workspace.

    If one is inside SQLite when this process forks, SQLite's global lock is taken in the fork for ever. The interface has no
    threads when it forks.
    """
    end = time.monotonic() + 60
    while working := [t.name for t in threading.enumerate() if t.name.startswith("kltui-") and is_at_work(t)]:
        assert time.monotonic() < end, f"still at work: {working}"
        time.sleep(0.01)


def is_at_work(thread: threading.Thread) -> bool:
    """Whether an executor's thread does anything but wait for work."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is not concurrent.futures.thread._worker.__code__


def has_ended(ahead: ReadAhead, pid: int) -> bool:
    """Whether its process has ended and was waited for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return not ahead._pid
    return False


def n_open() -> int:
    """How many files this process has open; 0 where the system does not say."""
    open_files = Path("/proc/self/fd")
    return len(list(open_files.iterdir())) if open_files.is_dir() else 0


def timeless(snapshot: Snapshot) -> Snapshot:
    """Without the moments at which items of jobs were read."""
    items = {job: tuple(replace(item, now=0.0) for item in of) for job, of in snapshot.items.items()}
    return replace(snapshot, items=items)


def read_here(folder: Path, basis: Basis | None = None) -> Snapshot:
    with closing(SnapshotReader(folder)) as reader:
        reader.basis = basis or Basis()
        return reader.first()


def test_another_process_reads_what_this_one_would(tmp_path: Path) -> None:
    fill(tmp_path)
    ahead = main._read_ahead(tmp_path, None, "conditional", Memory(None))
    pid = ahead._pid
    found = ahead.result()
    assert timeless(found) == timeless(read_here(tmp_path)) and found.loaded and found.generation == -1
    assert len(found.rows) == len(found.losses) == 3 and found.jobs and found.items
    assert pid and has_ended(ahead, pid)
    with Workspace.open(tmp_path) as ws:
        assert list(found.rows) == ws.checkpoints() and list(found.jobs) == ws.jobs()


def test_of_a_large_workspace_the_beginning_is_read(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path)
    monkeypatch.setattr(workspace, "MAX_AT_ONCE", 2)
    found = main._read_ahead(tmp_path, None, "conditional", Memory(None)).result()
    assert not found.loaded and found.counts == {"run": (3, 3)} and len(found.rows) == 3


def test_the_settings_are_those_of_the_session(tmp_path: Path) -> None:
    fill(tmp_path)
    with Workspace.open(tmp_path) as ws:
        over = ws.corpus().sha256[:8]
    asked = []

    class Noted(Basis):
        def apply(self, ws: Workspace) -> None:
            asked.append(self.over)
            super().apply(ws)

    assert len(read_here(tmp_path, Noted(over)).losses) == 3 and asked == [over]
    memory = Memory(tmp_path / "view.json")
    memory.save(tmp_path, {"basis": Basis(over).as_record()})
    for basis, values in ((None, "conditional"), (Basis(over), "pmi")):
        found = main._read_ahead(tmp_path, basis, values, memory).result()
        assert timeless(found) == timeless(read_here(tmp_path))


async def test_settings_that_cannot_be_restored_are_left_to_the_interface(tmp_path: Path, until) -> None:
    """Nothing is shown, and so no map is made, before they are replaced."""
    fill(tmp_path / "ws")
    memory = Memory(tmp_path / "view.json")
    memory.save(tmp_path / "ws", {"basis": Basis(exclude=("gone",)).as_record()})
    app = KltuiApp(tmp_path / "ws", memory=memory)
    app.reader.ahead = main._read_ahead(tmp_path / "ws", None, "conditional", memory)
    async with app.run_test(size=(130, 40)) as pilot:
        await until(pilot, lambda: "so the whole map is shown: 'gone' matches no run" in text_of(app))
        await until(pilot, lambda: "as scored │ none excluded" in text_of(app))


def test_an_error_is_left_to_the_interface(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main._read_ahead(tmp_path / "none", None, "conditional", Memory(None)).result() is None

    def fails() -> None:
        os.write(1, b"to nowhere")
        raise SystemExit(3)

    for question in (fails, lambda: threading.Lock()):  # a lock cannot be pickled
        ahead = ReadAhead(question)
        pid = ahead._pid
        assert ahead.result() is None and has_ended(ahead, pid)
    assert capfd.readouterr().out == ""


def test_a_process_that_is_stuck_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "PATIENCE_S", 0.05)
    ahead = ReadAhead(lambda: time.sleep(600))
    pid = ahead._pid
    assert ahead.result() is None and has_ended(ahead, pid)
    unasked = ReadAhead(lambda: time.sleep(600))
    pid = unasked._pid
    unasked.close()
    assert has_ended(unasked, pid) and unasked.result() is None


def test_an_answer_that_breaks_off_is_none() -> None:
    ahead = ReadAhead(lambda: [bytes(5 << 20)])
    pid = ahead._pid
    assert select.select([ahead._pipe], [], [], 60)[0]
    os.kill(pid, signal.SIGKILL)
    assert ahead.result() is None and has_ended(ahead, pid)


def test_an_answer_may_be_larger_than_a_pipe() -> None:
    assert len(ReadAhead(lambda: bytes(5 << 20)).result()) == 5 << 20


def test_there_is_no_such_process_without_a_second_core_or_a_workspace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_fork() -> int:
        raise AssertionError("nothing was to be forked")

    monkeypatch.setattr(read_ahead, "has_idle_core", lambda: False)
    monkeypatch.setattr(os, "fork", no_fork)
    ahead = ReadAhead(lambda: 1)
    assert ahead.result() is None
    ahead.close()


def test_without_another_process_to_be_had_the_interface_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    before = n_open()
    assert ReadAhead(lambda: 1).result() is None
    assert n_open() == before


class Slow(FakeWorkspace):
    """Gives its rows when `may_go_on` is set, and notes what the screen shows when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on, self.asked = threading.Event(), threading.Event()

    def checkpoints(self) -> list[CheckpointRow]:
        self.asked.set()
        self.may_go_on.wait(60)
        return super().checkpoints()


class Answered(ReadAhead):
    """An answer that has come."""

    def __init__(self, found: Snapshot | None) -> None:
        self._found = found

    def result(self) -> Snapshot | None:
        return self._found

    def close(self) -> None:
        pass


def as_read() -> Snapshot:
    """The fixed workspace as another process would read it."""
    with closing(SnapshotReader(Path("/w"), lambda _: FakeWorkspace())) as reader:  # type: ignore[arg-type,return-value]
        return reader.first()


@pytest.mark.parametrize("screen", ["registry", "curves"])
async def test_what_was_read_ahead_is_whole_before_anything_is_read_here(
    make_app: Callable[..., KltuiApp], until, tmp_path: Path, screen: str
) -> None:
    slow, found = Slow(), as_read()
    memory = Memory(tmp_path / "view.json")
    memory.save(Path("/workspaces/demo"), {"screen": screen, "cursor": "tiny@100"})
    begun: list[int] = []
    app = make_app(slow, memory=memory, begin=lambda app: begun.append(len(app.snapshot.rows)))
    app.reader.ahead = Answered(found)
    async with app.run_test(size=(130, 40)) as pilot:
        await until(pilot, lambda: app.snapshot is found)
        await pilot.press("1")
        await until(pilot, lambda: "5 runs  84 checkpoints" in text_of(app))
        assert "reading" not in text_of(app) and app.selection.cursor == "tiny@100" and begun == [84]
        await pilot.press("space")
        assert list(app.selection.selected) == ["tiny@100"] and app.selection.cursor == "tiny@200"
        await until(pilot, slow.asked.is_set)
        lines = app.view.runs.lines
        slow.may_go_on.set()
        await until(pilot, lambda: app.snapshot is not found)
        assert app.snapshot.rows is found.rows and app.view.runs.lines is lines and begun == [84]
        assert app.snapshot.generation >= 0 and len(app.selection.selected) == 1


async def test_nothing_is_read_while_the_list_waits_to_be_drawn(
    make_app: Callable[..., KltuiApp], until
) -> None:
    shown: list[str] = []

    class Noting(FakeWorkspace):
        def generation(self) -> int:
            if not shown:
                shown.append(text_of(app))
            return super().generation()

    app = make_app(Noting())
    app.reader.ahead = Answered(as_read())
    async with app.run_test(size=(130, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.generation >= 0)
        assert "5 runs  84 checkpoints" in shown[0]


async def test_a_beginning_that_was_read_ahead_is_listed_on_the_first_screen_only(
    make_app: Callable[..., KltuiApp], until, tmp_path: Path
) -> None:
    whole = as_read()
    counts = {run: (len(rows), 1) for run, rows in whole.runs.items()}
    part = Snapshot(path=whole.path, rows=whole.rows[:5], counts=counts)
    for screen in ("registry", "curves"):
        slow, memory = Slow(), Memory(tmp_path / "view.json")
        memory.save(Path("/workspaces/demo"), {"screen": screen})
        app = make_app(slow, memory=memory)
        app.reader.ahead = Answered(part)
        async with app.run_test(size=(130, 40)) as pilot:
            await until(pilot, slow.asked.is_set)
            assert (app.snapshot is part) == (screen == "registry")
            slow.may_go_on.set()
            await until(pilot, lambda app=app: app.snapshot.loaded)


async def test_without_an_answer_the_workspace_is_read_here(make_app: Callable[..., KltuiApp], until) -> None:
    app = make_app()
    app.reader.ahead = Answered(None)
    async with app.run_test(size=(130, 40)) as pilot:
        await until(pilot, lambda: "5 runs  84 checkpoints" in text_of(app))
        assert app.reader.ahead is None and replace(app.snapshot, generation=-1) == replace(
            as_read(), path=app.snapshot.path
        )
