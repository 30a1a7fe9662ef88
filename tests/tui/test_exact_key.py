"""X on Compare: the exact KL of A and B by a short job, shown when it is there, or why it is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from screen_text import text_of

from kltui.analysis.exact import Direction, NextTokenKL
from kltui.corpus.corpus import Corpus
from kltui.jobs import launch
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.tui.app import KltuiApp
from kltui.workspace import Workspace, exact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with two scored models of one tokenizer and an imported one."""
    rng, store = np.random.default_rng(3), Store.write(tmp_path / "ws")
    with store.atomic():
        corpus = store.corpora.add(Corpus(tuple(f"text {i}" for i in range(30))), "test")
        for name, weights in (("one", "w1"), ("two", "w2"), ("far", "import:f")):
            (tmp_path / name).mkdir()
            row = store.checkpoints.upsert(Checkpoint(name, LocalSource(tmp_path / name)))
            store.checkpoints.set_weights(row, weights)
            key, counts = {"weights": weights, "tokenizer": "t"}, np.full(30, 5, np.int32)
            values = -50.0 + rng.normal(size=30)
            store.vectors.put(row, corpus, None, key, "bos=auto dtype=float32", values, counts, None)
    store.close()
    return tmp_path / "ws"


@dataclass
class Job:
    """A short job that has ended; `log` says what came of it."""

    log: Path

    def runs(self) -> bool:
        return False

    def lines(self) -> list[str]:
        return []

    def complaint(self) -> str:
        return "error: there is no room"


def keep(folder: Path) -> None:
    """Keeps an exact KL of the first two, as a job does."""
    way = Direction(0.2, 0.01, 0.125, 0.002, 0.1, 0.9, 1.5)
    with Workspace.open(folder) as ws:
        asked = ws._asked_exactly("one", "two", None)
    store = Store.write(folder)
    made = NextTokenKL("one", "two", way, way, 0.75, 0.01, 30, 150, 180)
    with store.atomic():
        store.records.put(exact.KIND, exact._name(asked.key), exact._as_record(asked, made))
    store.close()


async def after_x(folder: Path, until, b: str, shown: str) -> str:
    app = KltuiApp(folder)
    async with app.run_test(size=(150, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.rows)
        app.selection.a, app.selection.b = "one", b
        await pilot.press("7")
        await until(pilot, lambda: app.view.texts.order)
        await pilot.press("X")
        await until(pilot, lambda: shown in text_of(app))
        return text_of(app)


async def test_the_result_is_shown_when_it_is_there(folder: Path, until, monkeypatch) -> None:
    asked = []

    def start(workspace: Path, *pair: str) -> Job:
        asked.append((workspace, *pair))
        keep(workspace)
        return Job(workspace)

    monkeypatch.setattr(launch, "start_exact", start)
    text = await after_x(folder, until, "two", "same top token at 75%")
    assert asked == [(folder, "one", "two", "", "conditional")]
    assert "exact 0.1250 ± 0.0020, back 0.1250 ± 0.0020" in text


async def test_what_went_wrong_is_said(folder: Path, until, monkeypatch) -> None:
    monkeypatch.setattr(launch, "start_exact", lambda workspace, *pair: Job(workspace))
    assert "exact 0" not in await after_x(folder, until, "two", "there is no room")


async def test_an_imported_model_is_refused_before_anything_starts(folder: Path, until, monkeypatch) -> None:
    monkeypatch.setattr(launch, "start_exact", lambda *a: pytest.fail("nothing can come of it"))
    await after_x(folder, until, "far", "imported as a vector")


def test_the_command_that_it_starts(folder: Path, monkeypatch) -> None:
    started = []
    monkeypatch.setattr(launch.os, "posix_spawn", lambda path, command, *a, **k: started.append(command) or 0)
    monkeypatch.setattr(launch.os, "setpriority", lambda *a: None)
    job = launch.start_exact(folder, "one", "two")
    assert started[0][-7:] == ["--report", "--section", "exact", "--pair", "one", "two", str(folder)]
    job.log.write_text("exact KL of one and two: 40%\nerror: no room\n\n")
    assert job.complaint() == "error: no room" and job.lines()[0].endswith("40%")
