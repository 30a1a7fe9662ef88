"""Generates workspaces of any size, for measuring analyses and the interface."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kltui.corpus.corpus import Corpus
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store

RUNS = ("tiny", "tiny-seed2", "small", "base")
EVERY = 10


def write_workspace(folder: Path, n_checkpoints: int, n_texts: int) -> Path:
    """Writes a workspace of four runs, whose vectors move smoothly and with noise of a few nats per text; returns `folder`."""
    rng = np.random.default_rng(0)
    base = rng.normal(-1500, 200, n_texts)
    steps = n_checkpoints // len(RUNS)
    store = Store.write(folder)
    with store.atomic():
        texts = tuple(f"text {i} " + "lorem ipsum dolor sit amet " * 34 for i in range(n_texts))
        corpus = store.corpora.add(Corpus(texts), "generated")
        for run in RUNS:
            a, b, c = rng.normal(0, 60, (3, n_texts))
            for i in range(steps):
                t = math.log1p(i) / math.log1p(steps)
                row = (
                    base
                    - 900 * (1 - t) ** 2
                    + a * math.sin(3 * t)
                    + b * math.cos(2 * t) * (1 - t)
                    + c * t * t
                )
                _put(store, corpus, run, EVERY * i, row + rng.normal(0, 6, n_texts))
    store.close()
    return folder


def _put(store: Store, corpus: int, run: str, step: int, loglik: np.ndarray) -> None:
    source = LocalSource(Path(f"/models/{run}/step{step}"))
    checkpoint = Checkpoint(run, source, step, seed=1, size=run.split("-")[0], type="gpt_neox")
    row, weights = store.checkpoints.upsert(checkpoint), f"{run}-{step}"
    store.checkpoints.set_weights(row, weights)
    counts = np.full(len(loglik), 240, np.int32)
    store.vectors.put(row, corpus, None, {"weights": weights}, "dtype=float32", loglik, counts, None)
