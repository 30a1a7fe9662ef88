"""A real workspace, written through the store, with vectors made here: random walks of known lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kltui.corpus.corpus import Corpus
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.workspace import Workspace

SETTINGS = "bos=auto dtype=float32 overlong=error"


@dataclass
class Builder:
    """Adds checkpoints with vectors to a workspace folder; `open` gives it to readers."""

    folder: Path
    n_texts: int = 60
    seed: int = 0
    domains: bool = True
    rng: np.random.Generator = field(init=False)
    corpus: Corpus = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        sizes = self.rng.integers(260, 1024, self.n_texts)
        texts = tuple(f"text {i} ".ljust(int(n), "x") for i, n in enumerate(sizes))
        names = tuple(("code", "prose")[i % 2] for i in range(self.n_texts)) if self.domains else ()
        self.corpus = Corpus(texts, names, {"seed": self.seed})
        self.base_N = -2.0 * np.sqrt(self.corpus.text_bytes) * self.rng.uniform(5, 8, self.n_texts)
        self.store = Store.write(self.folder)
        with self.store.atomic():
            self.corpus_id = self.store.corpora.add(self.corpus, "texts.json")

    def add(
        self,
        checkpoint: Checkpoint,
        loglik_N: np.ndarray | None,
        layer: int | None = None,
        settings: str = SETTINGS,
    ) -> None:
        """One checkpoint, scored when it has a vector."""
        with self.store.atomic():
            cid = self.store.checkpoints.upsert(checkpoint)
            if loglik_N is None:
                return
            weights = f"w:{checkpoint.name}"
            self.store.checkpoints.set_weights(cid, weights)
            key = {"weights": weights, "layer": str(layer), "quantization": checkpoint.quantization}
            key |= dict(part.split("=") for part in settings.split())
            n = np.where(np.isfinite(loglik_N), 100, 0).astype(np.int32)
            self.store.vectors.put(
                cid, self.corpus_id, layer, key, settings, loglik_N.astype(np.float64), n, None
            )

    def run(
        self, name: str, steps: Sequence[int], scale: float = 5.0, layers: int = 0, **lineage: object
    ) -> list[np.ndarray]:
        """A run that learns and diffuses: falling loss, a Gaussian walk on top."""
        walk, found = np.zeros(self.n_texts), []
        for i, step in enumerate(steps):
            walk = walk + scale * self.rng.standard_normal(self.n_texts)
            vector = self.base_N * (1 + 1.5 / (1 + i)) + walk
            checkpoint = self.checkpoint(name, step, **lineage)
            self.add(checkpoint, vector)
            found.append(vector)
            for k in range(layers):
                noise = 30.0 * (layers - k) * self.rng.standard_normal(self.n_texts)
                self.add(checkpoint, vector * (1 + 0.1 * (layers - k)) + noise, layer=k)
        return found

    def checkpoint(self, run: str, step: int | None = None, **lineage: object) -> Checkpoint:
        """A checkpoint of this workspace with that lineage."""
        where = self.folder / "models" / f"{run}-{step}"
        return Checkpoint(run=run, source=LocalSource(where), step=step, **lineage)  # type: ignore[arg-type]

    def weights(self, run: str, steps: Sequence[int], exponent: float = 1.0) -> None:
        """Stored weight distances of a run: |t - t'| to the power `exponent`."""
        pairs = {
            (f"w:{run}@{a}", f"w:{run}@{b}"): float((b - a) ** exponent)
            for i, a in enumerate(steps)
            for b in steps[i + 1 : i + 11]
        }
        with self.store.atomic():
            self.store.weight_distances.put(pairs, 1000)

    def open(self) -> Workspace:
        """The workspace, closed for writing and opened for reading."""
        self.store.close()
        return Workspace.open(self.folder)


STEPS = (0, 1, 2, 4, 8, 16, *range(20, 20 * 21, 20))


def suite(folder: Path) -> Workspace:
    """Two sizes, three seeds of the smaller, a fine-tune, a quantised variant, layer vectors, a failure."""
    made = Builder(folder)
    finals = {}
    for run, size, seed in (
        ("tiny", "tiny", 1),
        ("tiny-s2", "tiny", 2),
        ("tiny-s3", "tiny", 3),
        ("small", "small", 1),
    ):
        finals[run] = made.run(
            run, STEPS, size=size, seed=seed, type="gpt_neox", layers=3 if run == "tiny" else 0
        )[-1]
        made.weights(run, STEPS)
    for run in ("tiny", "small"):
        quantised = finals[run] + 4.0 * made.rng.standard_normal(made.n_texts) + 3.0
        made.add(made.checkpoint(run, STEPS[-1], quantization="bnb-8bit", type="gpt_neox"), quantised)
    tuned = finals["tiny"] + 20.0 * made.rng.standard_normal(made.n_texts)
    made.add(made.checkpoint("tuned", parent=f"tiny@{STEPS[-1]}", type="gpt_neox"), tuned)
    made.add(made.checkpoint("other", type="llama"), made.base_N * 1.2)
    return made.open()
