"""Differences that are only rounding, and those of very few or many nats, on the screens."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from screen_text import lines_of, text_of

from kltui.corpus.corpus import Corpus
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.tui.app import KltuiApp


def shifted(folder: Path, by: float, noise: float = 0.0) -> Path:
    """A run of 14 steps whose vectors, and those of two layers, differ by constants `by` and Gaussian `noise`."""
    rng = np.random.default_rng(2)
    base_N = rng.uniform(-2600, -300, 60)
    with closing(Store.write(folder)) as store, store.atomic():
        corpus = store.corpora.add(Corpus(tuple(f"text {i}" * 40 for i in range(60))), "texts.json")
        for k in range(14):
            row = store.checkpoints.upsert(Checkpoint("r", LocalSource(folder), 1000 * k))
            store.checkpoints.set_weights(row, f"w{k}")
            for layer in (0, 1, None):
                vector = base_N + by * (k + 0.1 * (layer or 0)) + noise * rng.standard_normal(60)
                key, counts = {"weights": f"w{k}", "layer": str(layer)}, np.full(60, 9, np.int32)
                store.vectors.put(row, corpus, layer, key, "bos=auto dtype=float32", vector, counts, None)
    return folder


async def test_differences_of_rounding_are_not_drawn_as_data(tmp_path: Path, until) -> None:
    app = KltuiApp(shifted(tmp_path, 0.1))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "14 checkpoints" in text_of(app))
        for key, words in {
            "4": ("every value is 0, which a log axis", "KL from the start is 0 or undefined"),
            "5": ("KL from the start is 0 or undefined",),
            "6": ("every KL is 0",),
            "8": ("Every KL is 0, which a log axis cannot show",),
        }.items():
            await pilot.press(key)
            await until(pilot, lambda words=words: all(w in flat(app) for w in words))
            assert " nan" not in text_of(app) and "e-2" not in text_of(app)
        await pilot.press("L")
        await until(pilot, lambda: "KL axis: linear" in text_of(app) and "cannot show" not in text_of(app))


@pytest.mark.parametrize(("noise", "shown"), [(3e-4, "e-04"), (1e9, "e+09")])
async def test_very_small_and_large_differences_have_digits(
    noise: float, shown: str, tmp_path: Path, until
) -> None:
    app = KltuiApp(shifted(tmp_path, 0.0, noise))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "14 checkpoints" in text_of(app))
        app.selection.a, app.selection.b = "r@0", "r@1000"
        await pilot.press("7")
        await until(pilot, lambda: "Texts that drive" in text_of(app) and "KL " in text_of(app))
        await until(pilot, lambda: shown in text_of(app))
        assert "0.00 " not in text_of(app) and "000000" not in text_of(app)


def flat(app: KltuiApp) -> str:
    """The words on screen, without line ends and what is drawn between panes."""
    panes = zip(*(line.split("│") for line in lines_of(app) if line.count("│") == 1), strict=True)
    every = [lines_of(app), *panes]
    return "  ".join(" ".join(" ".join(part).split()) for part in every)
