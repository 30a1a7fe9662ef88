"""W on the Diffusion screen: what it says is what has become of the weight distances."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from screen_text import text_of

import kltui
from kltui.bench.generated import write_workspace
from kltui.corpus.corpus import Corpus
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.registry.digest import fingerprint
from kltui.store import Store
from kltui.store.writer_lock import _process_identity
from kltui.tui.app import KltuiApp


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with a run of twelve checkpoints that walk at random, weights and vectors, its files beside it."""
    rng = np.random.default_rng(3)
    weights, loglik = np.zeros(2000, np.float32), np.full(30, -50.0)
    store = Store.write(tmp_path / "ws")
    with store.atomic():
        corpus = store.corpora.add(Corpus(tuple(f"text {i}" for i in range(30))), "test")
        for step in range(12):
            weights = weights + rng.normal(size=2000).astype(np.float32)
            loglik = loglik + rng.normal(size=30)
            files = tmp_path / "walk" / f"step{step}"
            files.mkdir(parents=True)
            save_file({"w": weights}, files / "model.safetensors")
            (files / "config.json").write_text('{"model_type": "gpt_neox"}')
            write_step(store, corpus, files, step, fingerprint(files), loglik)
    store.close()
    return tmp_path / "ws"


def write_step(store: Store, corpus: int, files: Path, step: int, weights: str, loglik: np.ndarray) -> None:
    """Puts the vector of these weights into the store, as a job does that scored them."""
    row = store.checkpoints.upsert(Checkpoint("walk", LocalSource(files), step))
    store.checkpoints.set_weights(row, weights)
    key, counts = {"weights": weights}, np.full(30, 5, np.int32)
    store.vectors.put(row, corpus, None, key, "dtype=float32", loglik, counts, None)


async def after_w(folder: Path, until, shown: str, exponent: str) -> str:
    """The screen once `shown` and `exponent` are on it after W was pressed."""
    app = KltuiApp(folder)
    async with app.run_test(size=(150, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: "press W to compute them" in text_of(app))
        await pilot.press("W")
        await until(pilot, lambda: shown in text_of(app))
        await until(pilot, lambda: exponent in text_of(app))
        return text_of(app)


async def test_they_are_stored_and_shown(folder: Path, until) -> None:
    text = await after_w(folder, until, "weight distances are stored", "weights c = 1.0")
    assert "press W to compute them" not in text
    with kltui.open(folder) as ws:
        assert len(ws.weight_distances()) == 2 * (12 * 10 - 55)  # pairs up to ten apart, both ways round


def hold(folder: Path) -> None:
    """Makes another process, which lives, the writer of the workspace."""
    other = os.getppid()
    with sqlite3.connect(folder / "kltui.sqlite") as db:
        now = time.time()
        row = (1, socket.gethostname(), other, _process_identity(other), now, now)
        db.execute("INSERT OR REPLACE INTO writer VALUES (?, ?, ?, ?, ?, ?)", row)
    db.close()


async def test_while_a_job_writes_they_are_shown_and_said_not_to_be_stored(folder: Path, until) -> None:
    hold(folder)
    text = await after_w(folder, until, "could not be stored", "weights c = 1.0")
    assert "are stored" not in text
    with kltui.open(folder) as ws:
        assert ws.weight_distances() == {}


async def test_curves_draw_the_norm_of_each_update(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(200, 60)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: "press W to compute them" in text_of(app))
        await pilot.press("W")
        updates = next(p for p in app.view.panels if p.panel.key == "updates")
        await until(pilot, lambda: updates.drawn)
        with kltui.open(folder) as ws:
            truth = ws.weight_distances()["walk@3", "walk@4"]
        assert updates.drawn[0].steps == tuple(range(1, 12))
        assert updates.drawn[0].values[3] == pytest.approx(truth**0.5)


async def test_files_that_are_gone_are_told(folder: Path, until) -> None:
    shutil.rmtree(folder.parent / "walk")
    text = await after_w(folder, until, "the files of 12 checkpoints are missing", "weights not known")
    assert "are stored" not in text


@pytest.mark.parametrize("held", [False, True], ids=["stored", "not stored"])
async def test_those_of_weights_that_have_changed_are_not_shown(folder: Path, until, held: bool) -> None:
    if held:
        hold(folder)
    app = KltuiApp(folder)
    async with app.run_test(size=(150, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: "press W to compute them" in text_of(app))
        await pilot.press("W")
        await until(pilot, lambda: len(app.view.distances) == 130)
        with sqlite3.connect(folder / "kltui.sqlite") as db:
            db.execute("DELETE FROM writer")
        db.close()
        store = Store.write(folder)
        with store.atomic():
            corpus = store.corpora.all()[0].id
            write_step(store, corpus, folder.parent / "walk" / "step3", 3, "others", np.full(30, -9.0))
        store.close()
        await until(pilot, lambda: len(app.view.distances) != 130)
        assert not any("walk@3" in pair for pair in app.view.distances)
        assert len(app.view.distances) == 130 - 2 * 11


async def test_w_does_not_say_that_distances_are_stored_where_there_is_none(tmp_path: Path, until) -> None:
    app = KltuiApp(write_workspace(tmp_path / "ws", 4, 20))  # a step of each run
    async with app.run_test(size=(150, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5", "W")
        await until(pilot, lambda: "there is no weight distance" in app.message)
