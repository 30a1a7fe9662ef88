"""How many of the ten nearest neighbours survive a sketch: `python tests/analysis/recall.py [--checkpoints 20000]`.

Data are generated: types, sizes and seeds of models, nested, and in each run checkpoints that move as fractional Brownian
motion with the exponent measured on Pythia (KL between checkpoints tau apart grows as tau^0.2). Distances are the
published medians (arXiv 2505.15353): neighbours 0.011 bits/byte, seeds 0.12, sizes 0.48, types 0.95 and 2.2; texts
differ in how much they vary, as texts do. Truth is brute force over whole vectors.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2])]

from kltui.analysis.kl import LN2  # noqa: E402
from kltui.analysis.resample import draw, sampling_probabilities  # noqa: E402
from kltui.analysis.sketch import Index, nearest_rows, reranked, sketch  # noqa: E402

BYTES = 972.0
STEP_KL, HURST = 0.011, 0.1
# KL of two models that part at this level, and how many branches a node of the level has
LEVELS = (("family", 2.2, 0), ("type", 0.95, 4), ("size", 0.48, 4), ("seed", 0.12, 4))
RUN_LENGTH = 150
NEAREST, CANDIDATES, QUERIES = 10, 50, 500
DIMS = (32, 64, 128, 256, 512, 1024)
TEXTS = (100, 300, 1000, 3000)


def recall(truth_Mn: Index, found_Mc: Index) -> float:
    """The share of the true neighbours that are among those found, over all rows."""
    hits = sum(len(np.intersect1d(t, f)) for t, f in zip(truth_Mn, found_Mc, strict=True))
    return hits / truth_Mn.size


def runs(checkpoints: int, texts: int, seed: int = 1) -> np.ndarray:
    """K x N float32 log-likelihoods of `checkpoints` models, in nats, around 0."""
    chance = np.random.default_rng(seed)
    spread_N = np.exp(chance.standard_normal(texts) * 0.7)
    spread_N *= np.sqrt(2.0 * BYTES * LN2 / np.mean(spread_N**2))  # a squared length in bits/byte, as nats
    walk_TT = np.linalg.cholesky(motion(RUN_LENGTH, HURST) * STEP_KL)
    L = np.empty((checkpoints, texts), np.float32)
    places = tree(chance, spread_N, LEVELS)
    for start in range(0, checkpoints, RUN_LENGTH):
        part = L[start : start + RUN_LENGTH]
        noise = chance.standard_normal((RUN_LENGTH, texts), dtype=np.float32)
        part[:] = ((walk_TT @ noise) * spread_N + next(places))[: len(part)]
    return L


def motion(steps: int, hurst: float) -> np.ndarray:
    """Covariance (steps x steps) of fractional Brownian motion whose increments have variance 1."""
    t = np.arange(1, steps + 1, dtype=np.float64)
    power = 2.0 * hurst
    return 0.5 * (t[:, None] ** power + t[None, :] ** power - np.abs(t[:, None] - t[None, :]) ** power)


def tree(chance: np.random.Generator, spread_N: np.ndarray, levels: tuple) -> Iterator[np.ndarray]:
    """Where runs start: leaves of a tree, any two of them as far apart as the level says at which they part."""
    (_, far, branches), *below = levels
    nearer = below[0][1] if below else STEP_KL
    made = 0
    while not branches or made < branches:
        made += 1
        offset = chance.standard_normal(len(spread_N)) * spread_N * np.sqrt(max(far - nearer, 0.0) / 2.0)
        if below:
            for place in tree(chance, spread_N, tuple(below)):
                yield offset + place
        else:
            yield offset


def main() -> int:
    parser = argparse.ArgumentParser(description="Recall of ten neighbours by sketches and by drawn texts.")
    parser.add_argument("--checkpoints", type=int, default=20_000)
    parser.add_argument("--texts", type=int, default=10_000)
    arguments = parser.parse_args()
    K, N = arguments.checkpoints, arguments.texts
    started = time.monotonic()
    L = runs(K, N)
    queries = np.random.default_rng(2).choice(K, QUERIES, replace=False)
    truth = nearest_rows(L - L.mean(axis=1, keepdims=True), queries, NEAREST)
    print(
        f"{K:,} checkpoints, {N:,} texts, {QUERIES} queries: made and searched whole in {time.monotonic() - started:.0f} s"
    )
    print(f"{'':24}recall@{NEAREST}  among {CANDIDATES} (re-ranked)  bytes a checkpoint")
    for dims in DIMS:
        tell(f"sketch, {dims} dims", sketch(L, BYTES, dims), L, queries, truth, 4 * dims)
    p_N = {
        method: sampling_probabilities(L[:1000] - L[:1000].mean(axis=0), method)
        for method in ("uniform", "kl")
    }
    for texts in TEXTS:
        for method, p in p_N.items():
            d = draw(p, texts, seed=3)
            square = d.weight**2
            part = L[:, d.index]
            part = (part - (part @ square / square.sum())[:, None]) * d.weight
            tell(f"{texts} texts, {method}", part, L, queries, truth, 4 * len(d.index))
    print(f"{time.monotonic() - started:.0f} s in all")
    return 0


def tell(name: str, S: np.ndarray, L: np.ndarray, queries: np.ndarray, truth: np.ndarray, size: int) -> None:
    candidates = nearest_rows(S, queries, CANDIDATES)
    direct = recall(truth, candidates[:, :NEAREST])
    mended = recall(truth, reranked(L, queries, candidates, NEAREST))
    print(f"{name:24}{direct:9.3f}  {mended:24.3f}  {size:18,}")


if __name__ == "__main__":
    sys.exit(main())
