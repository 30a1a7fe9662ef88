"""GPU figures on the Jobs screen: asked of a stand-in for nvidia-smi, only while a job runs and is looked at."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from screen_text import text_of

from kltui.tui import gpu
from kltui.tui.app import KltuiApp

MakeApp = Callable[..., KltuiApp]


def stand_in(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An executable nvidia-smi in front of PATH that notes every call in the file returned."""
    folder.mkdir(exist_ok=True)
    calls = folder / "calls"
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{body}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return calls


def here() -> FakeWorkspace:
    """The fixed workspace with its running job on this machine."""
    workspace = FakeWorkspace()
    workspace.job_rows = [replace(workspace.job_rows[0], host=socket.gethostname()), workspace.job_rows[1]]
    return workspace


async def count_at_rest(calls: Path) -> int:
    """How many calls there are once none has come for a while; one may have been under way."""
    count, before = len(calls.read_text().splitlines()), -1
    for _ in range(100):
        if count == before:
            return count
        await asyncio.sleep(0.3)
        before, count = count, len(calls.read_text().splitlines())
    raise AssertionError("it is asked though nobody looks")


async def test_gpu_use_is_shown_while_a_job_runs(make_app: MakeApp, until, tmp_path, monkeypatch) -> None:
    calls = stand_in(tmp_path / "bin", "echo '97, 70123, 81559'", monkeypatch)
    monkeypatch.setattr("kltui.tui.views.jobs.GPU_SECONDS", 0.05)
    workspace = here()
    app = make_app(workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        assert not calls.exists()
        await pilot.press("2")
        await until(pilot, lambda: "GPU 97%  68.5/79.6 GiB" in text_of(app))
        assert "--query-gpu=utilization.gpu,memory.used,memory.total" in calls.read_text()
        await pilot.press("1")
        count = await count_at_rest(calls)
        await pilot.press("2")
        await until(pilot, lambda: len(calls.read_text().splitlines()) > count)
        workspace.job_rows = [replace(workspace.job_rows[0], status="done"), workspace.job_rows[1]]
        workspace.change += 1
        await until(pilot, lambda: "GPU" not in text_of(app))


@pytest.mark.parametrize("body", ["exit 9", "echo 'No devices were found'"])
async def test_no_gpu_is_said(make_app: MakeApp, until, tmp_path, monkeypatch, body: str) -> None:
    stand_in(tmp_path / "bin", body, monkeypatch)
    app = make_app(here())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2")
        await until(pilot, lambda: "no GPU here" in text_of(app))


async def test_no_nvidia_smi_is_no_gpu(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await gpu.read_gpus() == ()


async def test_a_hanging_nvidia_smi_is_given_up(monkeypatch, tmp_path) -> None:
    stand_in(tmp_path / "bin", "exec sleep 60", monkeypatch)
    monkeypatch.setattr(gpu, "PATIENCE_S", 0.1)
    assert await gpu.read_gpus() == ()


async def test_the_device_that_a_job_computes_on_is_shown(make_app: MakeApp, until) -> None:
    workspace = here()
    workspace.job_rows = [
        replace(workspace.job_rows[0], message="on cuda:0 (NVIDIA L4)"),
        workspace.job_rows[1],
    ]
    app = make_app(workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2")
        await until(pilot, lambda: "on cuda:0 (NVIDIA L4)" in text_of(app))
