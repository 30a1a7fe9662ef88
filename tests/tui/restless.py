"""A real workspace in which checkpoints appear, fail, are renamed and vanish, and jobs come and go, by another process' hand."""

from __future__ import annotations

import random
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from evil_workspace import EVIL

from kltui.corpus import Corpus
from kltui.errors import KltuiError
from kltui.registry import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.removal import Removed

N_TEXTS = 40
RUNS = ("tiny", "tiny-seed2", "small", "模型")


class Restless:
    """The workspace in `folder`; `stir` changes something in it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.n_jobs = 0
        texts = tuple(
            f"text {i} {EVIL[i % len(EVIL)]}".encode(errors="replace").decode() for i in range(N_TEXTS)
        )
        corpus = Corpus(texts, tuple(("code", "prose")[i % 2] for i in range(N_TEXTS)))
        with closing(Store.write(folder)) as store:
            with store.atomic():
                self.corpus = store.corpora.add(corpus, "texts.json")
            for step in (0, 1, 2, 4, *range(10, 130, 10)):
                self.add(
                    store, Checkpoint("tiny", LocalSource(Path("/m")), step, size="70m", type="gpt_neox")
                )

    def add(self, store: Store, checkpoint: Checkpoint) -> int:
        """A checkpoint with a vector, most often also with those of two layers."""
        with store.atomic():
            id_ = store.checkpoints.upsert(checkpoint)
            weights = f"w:{checkpoint.name}"
            store.checkpoints.set_weights(id_, weights)
            base = -40.0 - 200.0 / (2 + (checkpoint.step or 0)) - 3.0 * np.arange(N_TEXTS)
            for layer in (None, 0, 1) if self.chance.random() < 0.7 else (None,):
                values = base + self.rng.normal(0, 5.0 if layer is None else 30.0, N_TEXTS)
                if self.chance.random() < 0.1:
                    values[self.chance.randrange(N_TEXTS)] = np.nan
                key = {"weights": weights, "bos": "auto", "layer": str(layer), "dtype": "float32"}
                counts = np.where(np.isfinite(values), 9, 0).astype(np.int32)
                store.vectors.put(
                    id_, self.corpus, layer, key, "bos=auto dtype=float32", values, counts, None
                )
        return id_

    def stir(self) -> None:
        """One change, or none where the interface itself is writing."""
        change = self.chance.choice(
            (self._arrives, self._arrives, self._fails, self._leaves, self._is_renamed, self._job)
        )
        with suppress(KltuiError):
            change()

    def _new(self) -> Checkpoint:
        run, step = self.chance.choice(RUNS), self.chance.choice((None, self.chance.randrange(3000)))
        tags = (self.chance.choice(EVIL).encode(errors="replace").decode(),)
        variant = self.chance.choice(("none", "none", "bnb-8bit"))
        return Checkpoint(
            run, LocalSource(Path("/m")), step, variant, self.chance.choice((None, 1, 2)), tags=tags
        )

    def _arrives(self) -> None:
        with closing(Store.write(self.folder)) as store:
            self.add(store, self._new())

    def _fails(self) -> None:
        with closing(Store.write(self.folder)) as store, store.atomic():
            id_ = store.checkpoints.upsert(self._new())
            self.n_jobs += 1
            job = store.jobs.register(f"failing {self.n_jobs}", "[corpus]\nsource = 'demo'\n", [id_], None)
            store.jobs.start(job)
            said = self.chance.choice(EVIL).encode(errors="replace").decode()
            store.jobs.item_failed(job, id_, said, said)
            store.jobs.finish(job, "failed", said)

    def _names(self) -> list[str]:
        with closing(Store.read(self.folder)) as store:
            return [row.name for row in store.checkpoints.all()]

    def _leaves(self) -> None:
        names = self._names()
        count = self.chance.choice((1, 2, 8, 1000 if self.chance.random() < 0.1 else 3))
        Removed.of(self.folder, self.chance.sample(names, min(len(names), count))).give_up()

    def _is_renamed(self) -> None:
        with closing(Store.write(self.folder)) as store, store.atomic():
            rows = store.checkpoints.all()
            for row in self.chance.sample(rows, min(1, len(rows))):
                run = f"renamed-{self.chance.randrange(9)}"
                store.checkpoints.relabel(row.id, replace(row.checkpoint, run=run))

    def _job(self) -> None:
        with closing(Store.write(self.folder)) as store, store.atomic():
            ids = [row.id for row in store.checkpoints.all()][: self.chance.randrange(1, 9)]
            self.n_jobs += 1
            job = store.jobs.register(
                f"job {self.n_jobs}", "[corpus]\nsource = 'demo'\n", ids, Path("/none.log")
            )
            store.jobs.start(job)
            if self.chance.random() < 0.7:
                store.jobs.finish(job, self.chance.choice(("done", "failed", "stopped", "paused")), "said")
