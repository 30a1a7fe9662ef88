"""The shape of a trajectory in numbers: length, straightness, turning, winding; and a random walk to hold it against.

A PCA picture of any smooth random walk bends into arcs, so a spiral means something only beside a null.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.embed import pca
from kltui.analysis.kl import LN2
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]

_NULL_DIMS = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """A trajectory of n points. Lengths in sqrt(bits/byte), angles in degrees, winding in turns.

    `straightness` is chord / arc length (1: a line; T steps of a random walk: about 1 / sqrt(T)). `turning` is the
    median angle between successive steps in the full space (90: a random walk). `winding` counts the turns that the
    PCA picture of the run makes about its own middle.
    """

    run: str
    n: int
    arc_length: float
    chord: float
    straightness: float
    turning: float
    winding: float


@dataclass(frozen=True, slots=True)
class AgainstNull:
    """A shape beside random walks with the same step lengths: medians, and the share of walks that wind more."""

    shape: Shape
    null_straightness: float
    null_turning: float
    null_winding: float
    share_winding_more: float
    n_walks: int


@one_blas_thread
def shape(run: str, L_TN: ArrayLike, text_bytes_N: ArrayLike) -> Shape:
    """The shape of a run's T vectors, over the texts that all of them have."""
    q = _scaled(L_TN, text_bytes_N)
    if min(q.shape) < 2:
        return Shape(run, len(q), math.nan, math.nan, math.nan, math.nan, math.nan)
    return _shape(run, q)


def _scaled(L_TN: ArrayLike, text_bytes_N: ArrayLike) -> Array:
    """Row-centred vectors over the texts that all have, scaled so that squared distances are KL in bits/byte."""
    L = np.asarray(L_TN, dtype=np.float64)
    used = np.isfinite(L).all(axis=0)
    if not used.any():
        return np.zeros((len(L), 0))
    q = L[:, used]
    unit = 2.0 * q.shape[1] * float(np.asarray(text_bytes_N, dtype=np.float64)[used].mean()) * LN2
    centred: Array = (q - q.mean(axis=1, keepdims=True)) / math.sqrt(unit)
    return centred


def _shape(run: str, q_TN: Array) -> Shape:
    steps = np.diff(q_TN, axis=0)
    length = np.sqrt((steps**2).sum(axis=1))
    arc, chord = float(length.sum()), float(np.linalg.norm(q_TN[-1] - q_TN[0]))
    straightness = chord / arc if arc > 0 else math.nan
    return Shape(
        run, len(q_TN), arc, chord, straightness, _median_angle(steps, length), winding(pca(q_TN, 2))
    )


def _median_angle(steps: Array, length: Array) -> float:
    size = length[1:] * length[:-1]
    dots = (steps[1:] * steps[:-1]).sum(axis=1)[size > 0] / size[size > 0]
    if not len(dots):
        return math.nan
    return float(np.median(np.degrees(np.arccos(np.clip(dots, -1.0, 1.0)))))


def winding(xy_T2: ArrayLike) -> float:
    """Turns a plane path makes about its mean point, counterclockwise positive.

    >>> round(winding([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]]), 2)
    1.0
    """
    xy = np.asarray(xy_T2, dtype=np.float64)
    centred = xy - xy.mean(axis=0)
    angle = np.arctan2(centred[:, 1], centred[:, 0])
    return float(np.unwrap(angle)[-1] - angle[0]) / math.tau


@one_blas_thread
def random_walk(L_TN: ArrayLike, seed: int = 42) -> Array:
    """T x N null of a run: from its first vector, random directions, every KL between neighbours as in the run.

    Texts that a vector lacks stay undefined, and the lengths are taken over the texts that all have.
    """
    L = np.asarray(L_TN, dtype=np.float64)
    used = np.isfinite(L).all(axis=0)
    out: Array = np.full_like(L, np.nan)
    q = L[:, used]
    steps = np.diff(q, axis=0)
    length = np.sqrt(steps.var(axis=1))
    walk = np.random.default_rng(seed).normal(size=steps.shape)
    walk -= walk.mean(axis=1, keepdims=True)
    spread = np.sqrt(walk.var(axis=1))
    walk *= (length / np.where(spread > 0, spread, 1.0))[:, None]
    walk += steps.mean(axis=1, keepdims=True)
    out[:, used] = np.concatenate([q[:1], q[0] + np.cumsum(walk, axis=0)])
    return out


@one_blas_thread
def against_null(
    run: str, L_TN: ArrayLike, text_bytes_N: ArrayLike, walks: int = 10, seed: int = 42
) -> AgainstNull:
    """A run's shape beside that of `walks` random walks with its step lengths.

    The walks take place in at most 1,024 dimensions, which at that many a walk's shape no longer notices.
    """
    own = shape(run, L_TN, text_bytes_N)
    q = _scaled(L_TN, text_bytes_N)
    length = np.linalg.norm(np.diff(q, axis=0), axis=1)
    rng = np.random.default_rng(seed)
    null = [
        _shape(run, _walk(length, min(q.shape[1], _NULL_DIMS), rng))
        for _ in range(walks if min(q.shape) > 1 else 0)
    ]

    def median(values: list[float]) -> float:
        return float(np.median(values)) if values else math.nan

    return AgainstNull(
        own,
        median([s.straightness for s in null]),
        median([s.turning for s in null]),
        median([abs(s.winding) for s in null]),
        float(np.mean([abs(s.winding) > abs(own.winding) for s in null])) if null else math.nan,
        len(null),
    )


def _walk(length: Array, dims: int, rng: np.random.Generator) -> Array:
    steps = rng.normal(size=(len(length), dims))
    steps *= (length / np.linalg.norm(steps, axis=1))[:, None]
    return np.concatenate([np.zeros((1, dims)), np.cumsum(steps, axis=0)])
