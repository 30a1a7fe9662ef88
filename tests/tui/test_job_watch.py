"""A job that is killed shows at once, by the system's word and not by asking."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from screen_text import lines_of, text_of

from kltui.store.rows import JobRow
from kltui.tui import app_session
from kltui.tui.job_watch import JobWatch
from kltui.tui.views.jobs import job_share, way_out

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def job(workspace: FakeWorkspace, **changes: object) -> JobRow:
    return replace(workspace.job_rows[0], status="running", host=socket.gethostname(), **changes)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system has no process descriptors")
@pytest.mark.parametrize(
    ("status", "failed", "how"),
    [("lost", 0, "its process ended"), ("stopped", 1, "it was stopped"), ("failed", 6, "6 failed")],
)
async def test_a_killed_job_shows_at_once(
    make_app, until, monkeypatch, status: str, failed: int, how: str
) -> None:
    monkeypatch.setattr(app_session, "BUSY_SECONDS", 3600.0)
    monkeypatch.setattr(app_session, "IDLE_SECONDS", 3600.0)
    workspace = FakeWorkspace()
    child = os.posix_spawn(SLEEP[0], SLEEP, os.environ)  # as jobs are started: nobody waits for it
    try:
        workspace.job_rows = [job(workspace, pid=child, done=3, total=9)]
        app = make_app(workspace)
        async with app.run_test(size=(140, 40)) as pilot:
            await until(pilot, lambda: app.snapshot.active_jobs)
            workspace.job_rows = [replace(workspace.job_rows[0], status=status, failed=failed)]
            os.kill(child, signal.SIGKILL)
            await until(pilot, lambda: f"{how}; 3 of 9 are stored; 2, then R, runs" in text_of(app))
            with pytest.raises(ChildProcessError):
                os.waitpid(child, 0)  # it has been waited for
            await pilot.press("2")
            await until(
                pilot, lambda: "Press R to run the rest: 6 of 9" in text_of(app) and status in text_of(app)
            )
    finally:
        with pytest.raises(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("status", ["lost", "stopped", "failed"])
async def test_the_key_that_runs_the_rest_is_named_where_no_log_is_shown(
    make_app, until, status: str
) -> None:
    workspace = FakeWorkspace()
    workspace.job_rows = [replace(workspace.job_rows[0], status=status, done=3, total=9, message="on cpu")]
    app = make_app(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2")
        await until(pilot, lambda: "R runs the rest: 6 of 9" in text_of(app))
        assert ("its process ended" in text_of(app)) == (status == "lost")
        header = "".join(text for text, _ in app.view.items.header_left())
        assert ("on cpu" in header) == (status != "lost")  # which is its device, said as it began


async def test_a_job_with_failures_says_once_what_it_did_and_the_key_that_helps(make_app, until) -> None:
    workspace, said = FakeWorkspace(), "8 scored, 1 failed in 7 s"
    one = replace(workspace.job_rows[0], status="failed", done=8, failed=1, total=9, message=said)
    workspace.job_rows = [one]
    app = make_app(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2")
        await until(pilot, lambda: "R runs the rest: 1 of 9" in text_of(app))
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "Press R to run the rest: 1 of 9" in text_of(app))
        assert text_of(app).count(said) == 1
        log = ["".join(text for text, _ in line) for line in app.view.log_pane.all_lines()]
        assert log[0] == said and log[1].startswith("Press R")
        failed = next(item for item in app.view.items.rows if item.status == "failed")
        assert log.index("") < log.index(failed.name) < log.index("log")


@pytest.mark.parametrize("status", ["lost", "stopped"])
async def test_what_a_job_was_scoring_when_it_ended_is_neither_scored_nor_being_scored(
    make_app, until, status: str
) -> None:
    workspace = FakeWorkspace(scored=3)
    workspace.job_rows = [replace(workspace.job_rows[0], status=status)]
    name = workspace.all[3].name
    if status == "stopped":
        items = workspace.item_rows[2]
        workspace.item_rows[2] = [
            replace(i, status="queued" if i.status == "running" else i.status) for i in items
        ]
    app = make_app(workspace)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_cursor(name)
        await until(pilot, lambda: "state       not scored" in text_of(app))
        (line,) = (line for line in lines_of(app) if f"@{workspace.all[3].step} " in line and "◌" in line)
        assert "◌ stopped" in line
        said = " ".join(" ".join(line.partition("│")[2].split()) for line in lines_of(app))
        assert "Job 2 stopped at 42% of it" in said and "Press 2, then R, to run the rest." in said
        await pilot.press("2")
        await until(pilot, lambda: "at 42%" in text_of(app))
        (line,) = (line for line in lines_of(app) if "at 42%" in line)
        assert line.split()[:4] == [name, "stopped", "at", "42%"] and "/s" not in line
        assert "score" not in line.partition("│")[0]
        ended, items = app.snapshot.jobs[0], app.snapshot.items[2]
        assert job_share(ended, items) == (ended.done + ended.failed) / ended.total


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system has no process descriptors")
async def test_only_running_jobs_of_this_machine_are_followed_and_descriptors_are_closed() -> None:
    ended: list[int] = []
    watch = JobWatch(ended.append)
    workspace = FakeWorkspace()
    with subprocess.Popen(SLEEP) as one, subprocess.Popen(SLEEP) as two:
        before = descriptors()
        rows = [
            job(workspace, id=1, pid=one.pid),
            replace(job(workspace, id=2, pid=two.pid), host="elsewhere"),
        ]
        watch.follow(rows)
        assert list(watch._open) == [one.pid]
        watch.follow([replace(rows[0], status="done")])
        assert not watch._open and descriptors() == before
        watch.follow([job(workspace, id=3, pid=2**22 + 1)])
        watch.follow(rows)
        one.kill()
        while not ended:
            await asyncio.sleep(0.01)
        assert ended == [1] and descriptors() == before
        two.kill()
        watch.close()


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_no_key_is_named_that_read_only_refuses(make_app, until, size: tuple[int, int]) -> None:
    workspace = FakeWorkspace(scored=0)
    workspace.job_rows = [replace(workspace.job_rows[0], status="lost", done=3, failed=0, total=9)]
    app = make_app(workspace, read_only=True)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2")
        await until(pilot, lambda: "missing: 6 of 9" in text_of(app) or "6 of 9 are missing" in text_of(app))
        assert "R runs the rest" not in text_of(app) and "Press R" not in text_of(app)
        await pilot.press("3")
        await until(pilot, lambda: "job 2 did not finish" in text_of(app))
        assert "R there" not in text_of(app) and "1 s" not in text_of(app)


def test_the_way_out_names_the_key() -> None:
    row = job(FakeWorkspace(), done=2, total=5)
    assert way_out(row) == []
    assert way_out(replace(row, status="done", done=5)) == []
    assert way_out(replace(row, status="failed"))[-1].startswith("Press R to run the rest: 3 of 5")
    assert "out of memory" in way_out(replace(row, status="lost"))[0]
