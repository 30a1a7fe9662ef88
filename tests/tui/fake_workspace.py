"""A workspace of fixed rows in the shape of `kltui.workspace.Workspace`, without a disk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from kltui.analysis.embed import Picture
from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.errors import StoreError
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.store.rows import Beginning, CheckpointRow, CorpusRow, JobItemRow, JobRow
from kltui.workspace.losses import StoredLoss, stored_losses
from kltui.workspace.workspace import VectorGroup

STEPS = (0, 1, 2, 4, 8, 16, *range(100, 1500, 100))
LAYERS = 4
MEAN_BYTES = 900.0
SETTINGS = "bos=auto dtype=float32 overlong=error"
TEXT = "def heap_push(heap, item):\n    heap.append(item)  # sift up, keep the invariant"


def checkpoints(steps: tuple[int, ...] = STEPS) -> list[Checkpoint]:
    """Two sizes, three seeds of the smaller, one fine-tune and one 8-bit variant."""
    runs = [("tiny", 1, "tiny"), ("tiny-seed2", 2, "tiny"), ("tiny-seed3", 3, "tiny"), ("small", 1, "small")]
    made = [
        Checkpoint(run, LocalSource(Path(f"/models/{run}/step{s}")), s, seed=seed, size=size, type="gpt_neox")
        for run, seed, size in runs
        for s in steps
    ]
    made += [
        Checkpoint("tuned", HubSource("someone/tuned", f"step{s}"), s, size="tiny", type="gpt_neox",
                   parent=f"tiny@{steps[-1]}")
        for s in (10, 20, 40)
    ]  # fmt: skip
    last = next(c for c in reversed(made) if c.run == "tiny")
    return [*made, replace(last, quantization="bnb-8bit")]


def loglik(points: list[Checkpoint], n_texts: int) -> np.ndarray:
    """K x N log-likelihoods that fall into place as training goes on: a smooth path and some noise of its own."""
    rng = np.random.default_rng(7)
    target = rng.normal(-1500, 200, n_texts)
    directions: dict[str, np.ndarray] = {}
    rows = []
    for c in points:
        base = "tiny" if c.run == "tuned" else c.run
        if base not in directions:
            directions[base] = rng.normal(0, 60, (3, n_texts))
        a, b, d = directions[base]
        t = math.log1p((c.step or 0) + (STEPS[-1] if c.run == "tuned" else 0)) / math.log1p(STEPS[-1])
        row = target - 900 * (1 - t) ** 2 + a * math.sin(3 * t) + b * math.cos(2 * t) * (1 - t) + d * t * t
        rows.append(
            row + rng.normal(0, 6, n_texts) + (rng.normal(0, 12, n_texts) if c.quantization != "none" else 0)
        )
    return np.array(rows)


class FakeWorkspace:
    """Everything the interface asks of a workspace. `scored` limits how many have vectors."""

    with_released = False  # whether a picture came with a release

    def __init__(
        self, n_texts: int = 200, scored: int | None = None, names: list[Checkpoint] | None = None
    ) -> None:
        self.path = Path("/workspaces/demo")
        self.all = checkpoints() if names is None else names
        self.count = len(self.all) if scored is None else scored
        self.n_texts = n_texts
        self.change = 1
        self.job_rows: list[JobRow] = default_jobs(len(self.all))
        self.item_rows: dict[int, list[JobItemRow]] = {2: default_items(self.all)}
        self.kept_records: dict[str, dict[str, dict[str, object]]] = {}

    def at_one_moment(self, *, brief: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    def generation(self) -> int:
        return self.change

    def close(self) -> None:
        pass

    def checkpoints(self) -> list[CheckpointRow]:
        scored, rows = self.all[: self.count], []
        values = loglik(scored, 8).mean(axis=1) if scored else []
        for i, c in enumerate(self.all):
            done = i < self.count
            status = "scored" if done else "new"
            error = hint = ""
            if c.run == "tuned" and c.step == 40:
                done, status = False, "failed"
                error, hint = "text 17: not a number in float16", 'Score it with dtype = "float32".'
            mean = float(values[i]) if done else math.nan
            rows.append(
                CheckpointRow(
                    i, c, done, LAYERS if c.run == "small" else 0, mean, status, error, hint, f"w{i}"
                )
            )
        return rows

    def checkpoints_on_corpus(self) -> list[CheckpointRow]:
        return self.checkpoints()

    def beginning(self, n: int) -> Beginning | None:
        return None

    def losses(self) -> dict[int, StoredLoss]:
        means = {r.id: (r.mean_loglik, 0, r.id) for r in self.checkpoints() if r.scored}
        return stored_losses(means, MEAN_BYTES)

    def losses_of(self, vectors: Sequence[int]) -> dict[int, tuple[float, float]]:
        """Errors that are alike, without the trouble of making vectors."""
        return {i: (2.0 + 0.001 * i, 0.0123) for i in vectors}

    def run_numbers(self) -> dict[str, int]:
        return {}

    def jobs(self) -> list[JobRow]:
        return self.job_rows

    def job_items(self, job_id: int) -> list[JobItemRow]:
        return self.item_rows.get(job_id, [])

    def texts(self, sha256: str | None = None) -> list[str]:
        return [f"{TEXT} {i}" for i in range(self.n_texts)]

    def prompts(self, sha256: str | None = None) -> tuple[object, ...]:
        return ()

    def records(self, kind: str) -> dict[str, dict[str, object]]:
        return self.kept_records.get(kind, {})

    def benchmark_scores(self) -> dict[str, dict[str, float]]:
        return {}

    def same_weights(self) -> list[tuple[Point, ...]]:
        return []

    def changed_tokenizers(self) -> dict[str, str]:
        return {}

    def released_pictures(self, names: list[str]) -> dict[str, np.ndarray]:
        xy = np.array([[k, k % 3] for k in range(len(names))], dtype=float)
        xy[-1:] = np.nan
        return {"released tsne_Q": xy} if self.with_released else {}

    def vectors(self) -> dict[str, object]:
        return {
            r.name: SimpleNamespace(key_fields={"dtype": "float32"}) for r in self.checkpoints() if r.scored
        }

    def saved_maps(self) -> list[object]:
        return []

    def exact_kl(self, a: str, b: str, compute: bool = True) -> None:
        """Nothing is kept."""

    def check_exact(self, a: str, b: str) -> None:
        """Refuses: there are no models."""
        raise StoreError("exact KL needs the models, and this workspace has none")

    def vector_groups(self) -> list[VectorGroup]:
        """The one group, of all that is scored."""
        n = sum(r.scored for r in self.checkpoints())
        return [VectorGroup(1, SETTINGS, n)] if n else []

    def corpora(self) -> list[CorpusRow]:
        """The one corpus."""
        return [self.corpus()]

    def corpus(self) -> CorpusRow:
        """The one corpus."""
        return CorpusRow(1, "0" * 64, self.n_texts, 70.0, "demo", 0.0)

    def domains(self, sha256: str | None = None) -> list[str]:
        return ["code" if i % 2 else "prose" for i in range(self.n_texts)]

    def token_logprobs(self, name: str, alone: bool = False) -> Path | None:
        return None

    def weight_distances(self, compute: bool = False, window: int = 10, progress: object = None) -> dict:
        rows = [r for r in self.checkpoints() if r.scored and r.checkpoint.quantization == "none"]
        return {
            (a.name, b.name): 0.01 * abs((b.checkpoint.step or 0) - (a.checkpoint.step or 0)) ** 1.1
            for a in rows
            for b in rows
            if a.checkpoint.run == b.checkpoint.run and a is not b
        }

    def map(
        self, runs=None, names=None, layers=False, corpus=None, preprocess="none", settings=None, device="cpu"
    ) -> Map:
        rows = [r for r in self.checkpoints() if r.scored and (names is None or r.name in names)]
        if not rows:
            raise StoreError("nothing is scored in this workspace yet", "Score something first.")
        chosen = [r.checkpoint for r in rows]
        values = loglik(self.all[: self.count], self.n_texts)[[r.id for r in rows]]
        points = [
            Point(c.name, c.run, c.step, c.quantization, None, c.seed, c.size, c.type, c.parent, c.tags)
            for c in chosen
        ]
        if layers:
            points, values = with_layers(rows, points, values)
        text_bytes = np.full(self.n_texts, 900, dtype=np.int64)
        return Map(
            tuple(points),
            values,
            text_bytes,
            np.full(values.shape, 240, dtype=np.int32),
            {"preprocess": "none", "corpus": self.corpus().sha256, "settings": SETTINGS},
        )


class TickingWorkspace(FakeWorkspace):
    """The same with a job that has scored seven more texts every time one looks."""

    def generation(self) -> int:
        self.change += 1
        return self.change

    def job_items(self, job_id: int) -> list[JobItemRow]:
        return [
            replace(i, texts_done=(210 + 7 * self.change) % 500, tokens_done=1680 * self.change)
            if i.status == "running"
            else i
            for i in super().job_items(job_id)
        ]


def with_layers(
    rows: list[CheckpointRow], points: list[Point], values: np.ndarray
) -> tuple[list[Point], np.ndarray]:
    """The same with a layer vector for every layer of the checkpoints that have them."""
    rng = np.random.default_rng(3)
    made, numbers = [], []
    for row, point, value in zip(rows, points, values, strict=True):
        for k in range(row.layers):
            made.append(replace(point, name=f"{point.name}#{k}", layer=k))
            numbers.append(value - 400 * (1 - k / LAYERS) + rng.normal(0, 80 * (1 - k / LAYERS), len(value)))
        made.append(point)
        numbers.append(value)
    return made, np.array(numbers)


def default_jobs(total: int) -> list[JobRow]:
    """A running job after a finished one that had a failure."""
    log = Path("/workspaces/demo/logs/none.log")
    toml = '[corpus]\nsource = "demo"\n'
    started = 1_700_000_000.0
    return [
        JobRow(2, "running", started + 900, started + 900, None, 4242, "here", log, "", 3, 0, 8, toml),
        JobRow(
            1,
            "failed",
            started,
            started,
            started + 700,
            4000,
            "here",
            log,
            "1 of 84 failed",
            total - 2,
            1,
            total,
            toml,
        ),
    ]


def default_items(all_checkpoints: list[Checkpoint]) -> list[JobItemRow]:
    """Three done, one under way, one failed, three waiting."""
    states = ["done"] * 3 + ["running", "failed"] + ["queued"] * 3
    made = []
    for c, state in zip(all_checkpoints, states, strict=False):
        done = {"done": 500, "running": 210}.get(state, 0)
        now = 1_700_001_000.0
        error = "missing tensors: embed_out.weight" if state == "failed" else ""
        hint = "The download may be incomplete: fetch it again." if error else ""
        started = None if state == "queued" else now - 12.0
        ended = now if state in ("done", "failed") else None
        made.append(JobItemRow(c.name, state, "score", done, 500, done * 240, 120_000, started, ended,
                               0 if state == "queued" else 1, error, hint, {"seconds_score": 9.5}, now))  # fmt: skip
    return made


async def fake_embedded(
    found: Map, method: str, dims: int, *, first: bool
) -> AsyncIterator[tuple[Picture, bool]]:
    """Stands in for the process that computes t-SNE and MDS."""
    await asyncio.sleep(0)
    yield Picture(method, found.coordinates("pca", dims) * 3), True
