"""The interface closes while something is under way: it ends without an error, whatever was waited for."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from fake_workspace import FakeWorkspace

from kltui.tui.app import KltuiApp
from kltui.tui.dialogs.import_form import timed
from kltui.workspace import Workspace

MakeApp = Callable[..., KltuiApp]


async def test_while_seconds_are_counted(make_app: MakeApp, until) -> None:
    """What ends with a change of the status line, as an import does."""
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.run_worker(timed(app, "waiting", lambda: asyncio.sleep(1000)), group="import")
        await until(pilot, lambda: app.under_way)
    assert not app.under_way


class Held(FakeWorkspace):
    """Says which jobs there are once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def jobs(self) -> Any:
        self.asked.set()
        self.may_answer.wait(60)
        return super().jobs()


@pytest.mark.parametrize("by", ["the watcher", "a worker"])
async def test_while_the_workspace_is_read(make_app: MakeApp, until, monkeypatch, by: str) -> None:
    """The answer comes when the screens are closed and the threads are not yet ended."""
    workspace, failures = Held(), []
    app = make_app(workspace)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    close = app._close_all

    async def answered_when_closed() -> None:
        await close()
        assert not app.screen_stack
        workspace.may_answer.set()
        await app.reader.read(lambda ws: None)  # in the same thread, so it has answered by then
        await asyncio.sleep(0)

    monkeypatch.setattr(app, "_close_all", answered_when_closed)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        before = app.snapshot
        workspace.may_answer.clear()
        workspace.asked.clear()
        workspace.change += 1
        workspace.all = workspace.all[:-1]
        if by == "a worker":
            app.reload_soon()
        await until(pilot, workspace.asked.is_set)
    gc.collect()  # a task that failed unheard says so when it goes
    assert not failures
    assert app.snapshot is before


async def test_while_weights_are_compared(make_app: MakeApp, until, monkeypatch) -> None:
    """The thread ends at its next report, as the interpreter waits for it."""
    ended = threading.Event()

    class Comparing(FakeWorkspace):
        def weight_distances(self, compute: bool = False, progress: Any = None) -> Any:
            try:
                while compute and not ended.wait(0.01):
                    progress("tiny", 1, 1000)
            finally:
                ended.set()
            return {}

    app = make_app()
    monkeypatch.setattr(Workspace, "open", lambda path: nullcontext(Comparing()))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4", "W")
        await until(pilot, lambda: "weight distances: tiny 1/1000" in app.message)
    assert await asyncio.to_thread(ended.wait, 20)
