"""O: which corpus all screens show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from screen_text import text_of

from kltui.corpus.corpus import Corpus
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.workspace import Workspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with three models on a corpus of 30 texts, two of them on one of 50 too."""
    rng, store = np.random.default_rng(3), Store.write(tmp_path / "ws")
    with store.atomic():
        for n, names in ((30, ("one", "two", "three")), (50, ("one", "two"))):
            corpus = store.corpora.add(Corpus(tuple(f"text {i} of {n}" for i in range(n))), f"texts-{n}.json")
            for name in names:
                row = store.checkpoints.upsert(Checkpoint(name, LocalSource(tmp_path / name)))
                store.checkpoints.set_weights(row, name)
                values, counts = -50.0 + rng.normal(size=n), np.full(n, 5, np.int32)
                key = {"weights": name, "n": str(n)}
                store.vectors.put(row, corpus, None, key, "bos=auto dtype=float32", values, counts, None)
    store.close()
    return tmp_path / "ws"


async def test_another_corpus_is_chosen_and_shown_on_every_screen(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(150, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.rows)
        app.selection.a, app.selection.b = "one", "two"
        await pilot.press("7")
        await until(pilot, lambda: "of 30 texts" in text_of(app))
        await pilot.press("O")
        await until(pilot, lambda: "texts-50.json" in text_of(app) and "(shown)" in text_of(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "of 50 texts" in text_of(app))
        await pilot.press("6")
        await until(pilot, lambda: "2 checkpoints" in text_of(app))


async def test_the_interface_begins_on_the_corpus_asked_for(folder: Path, until) -> None:
    with Workspace.open(folder) as ws:
        app = KltuiApp(folder, basis=Basis(over=ws.corpora()[1].sha256))
    async with app.run_test(size=(150, 40)) as pilot:
        await pilot.press("6")
        await until(pilot, lambda: "2 checkpoints" in text_of(app))
