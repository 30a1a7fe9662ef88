"""Embeddings of a sample of many points, with the other points placed next to their neighbours or by their distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
NEIGHBOURS = 3
_BLOCK = 1024  # points placed at a time
_ITERATIONS = 60
_PLACED = 64  # points placed by their distances at a time


def drawn_rows(K: int, runs: Sequence[Sequence[int]], maximum: int) -> Index:
    """Up to `maximum` of K row indices in increasing order: the ends of every run, evenly spaced checkpoints between them, and a
    proportional share of the other rows.

    All rows if there are no more than that. If even the ends are too many, every n-th of them.
    """
    if maximum >= K:
        return np.arange(K)
    of_runs = {row for run in runs for row in run}
    lines = [list(run) for run in runs] + [[row for row in range(K) if row not in of_runs]]
    lines = [line for line in lines if line]
    share, found = maximum / K, np.zeros(0, dtype=np.intp)
    for _ in range(_ITERATIONS):
        found = np.unique(np.concatenate([_evenly(line, share) for line in lines]))
        if len(found) <= maximum:
            return found
        share *= maximum / len(found)
    return found[:: -(-len(found) // maximum)]


def _evenly(line: Sequence[int], share: float) -> Index:
    """An evenly spaced share of `line`, at least its two ends."""
    count = min(len(line), max(2, int(share * len(line))))
    at = np.linspace(0, len(line) - 1, count).round().astype(np.intp)
    return np.asarray(line, dtype=np.intp)[at]


def beside_neighbours(scores_Kr: Array, drawn_m: Index, places_md: Array) -> Array:
    """K x d coordinates: those given for the drawn rows; for each other row the mean of its nearest drawn rows, weighted 1 / d^2."""
    out = np.empty((len(scores_Kr), places_md.shape[1]))
    out[drawn_m] = places_md
    anchors = scores_Kr[drawn_m]
    near = min(NEIGHBOURS, len(drawn_m))
    for rows in _others(len(scores_Kr), drawn_m):
        square = _square_distances(scores_Kr[rows], anchors)
        at = np.argpartition(square, near - 1, axis=1)[:, :near]
        # inverse distance weighting (Shepard 1968) with exponent 2
        weight = 1.0 / np.maximum(np.take_along_axis(square, at, axis=1), np.finfo(float).tiny ** 0.5)
        weight /= weight.sum(axis=1, keepdims=True)
        out[rows] = np.einsum("mn,mnd->md", weight, places_md[at])
    return out


def by_distances(target_Mm: Array, places_md: Array, start_Md: Array) -> Array:
    """M x d coordinates whose distances to m fixed points fit `target_Mm` best, starting from `start_Md`.

    Least squares by majorisation of one point among fixed ones: x <- mean_j (y_j + target_j (x - y_j) / |x - y_j|).
    """
    placed = [np.empty((0, places_md.shape[1]))]
    for first in range(0, len(target_Mm), _PLACED):
        rows = slice(first, first + _PLACED)
        placed.append(_placed(target_Mm[rows], places_md, start_Md[rows]))
    return np.concatenate(placed)


def _placed(target_Mm: Array, places_md: Array, x: Array) -> Array:
    """`by_distances` of a few points, so that their distances stay in the processor's cache during the iteration."""
    middle, norm_m, twice_dm = places_md.mean(axis=0), (places_md**2).sum(axis=1), (2.0 * places_md).T
    shown, ratio = np.empty_like(target_Mm), np.empty_like(target_Mm)
    for _ in range(_ITERATIONS):
        np.matmul(x, twice_dm, out=ratio)
        np.add((x**2).sum(axis=1)[:, None], norm_m, out=shown)
        shown -= ratio
        np.sqrt(np.maximum(shown, 0.0, out=shown), out=shown)
        if shown.min() > 0:
            np.divide(target_Mm, shown, out=ratio)
        else:
            ratio[:] = 0.0
            np.divide(target_Mm, shown, out=ratio, where=shown > 0)
        # x <- mean_j y_j + mean_j target_j (x - y_j) / |x - y_j|: majorisation (de Leeuw 1977)
        x = middle + (x * ratio.sum(axis=1)[:, None] - ratio @ places_md) / len(places_md)
    return x


def _others(K: int, drawn_m: Index) -> list[Index]:
    """The rows that were not drawn, in blocks."""
    rest = np.setdiff1d(np.arange(K), drawn_m)
    return [rest[start : start + _BLOCK] for start in range(0, len(rest), _BLOCK)]


def _square_distances(a_Md: Array, b_md: Array) -> Array:
    """M x m squared distances of rows, never below 0."""
    square: Array = np.add.outer((a_Md**2).sum(axis=1), (b_md**2).sum(axis=1))
    square -= a_Md @ (2.0 * b_md).T
    return np.maximum(square, 0.0, out=square)
