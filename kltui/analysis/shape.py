"""The shape of a trajectory in numbers: length, straightness, turning, winding; and a random walk to compare it with.

PCA bends any smooth random walk into arcs, so a spiral is meaningful only in comparison with a null model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.axes import CentredRows, leading_axes
from kltui.analysis.embed import pca
from kltui.analysis.kl import LN2
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]

_NULL_DIMS = 1024
_ROWS = 256  # read at a time
_IN_MEMORY = 1 << 24  # up to so many values are centred in one copy: 128 MB


@dataclass(frozen=True, slots=True)
class Shape:
    """A trajectory of n points. Lengths in sqrt(bits/byte), angles in degrees, winding in turns.

    `straightness` is chord / arc length (1: a line; T steps of a random walk: about 1 / sqrt(T)). `turning` is the
    median angle between successive steps in the full space (90: a random walk). `winding` counts the turns that the
    PCA picture of the run makes about its mean point.
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
    """A shape compared with random walks of the same step lengths: medians, and the share of walks that wind more."""

    shape: Shape
    null_straightness: float
    null_turning: float
    null_winding: float
    share_winding_more: float
    n_walks: int


class _ScaledRows:
    """Row-centred vectors over the texts that all have, scaled so that squared distances are KL in bits/byte; computed on demand."""

    def __init__(self, L_TN: ArrayLike, text_bytes_N: ArrayLike) -> None:
        self._L = np.asarray(L_TN, dtype=np.float64)
        used = np.ones(self._L.shape[1], dtype=np.bool_)
        for start in range(0, len(self._L), _ROWS):
            used &= np.isfinite(self._L[start : start + _ROWS]).all(axis=0)
        self._used = slice(None) if used.all() else np.flatnonzero(used)
        self._bytes = np.asarray(text_bytes_N, dtype=np.float64)
        n = int(used.sum())
        self.shape = (len(self._L), n)
        self._unit = math.sqrt(2.0 * n * float(self._bytes[used].mean()) * LN2) if n else 1.0

    def __getitem__(self, rows: slice) -> Array:
        q: Array = self._L[rows][:, self._used]
        if not self.shape[1]:
            return q
        q = q - q.mean(axis=1, keepdims=True)
        q /= self._unit
        return q

    def plane(self) -> Array:
        """T x 2 principal scores."""
        if self.shape[0] * self.shape[1] <= _IN_MEMORY:
            return pca(self[:], 2)
        return leading_axes(CentredRows.of_vectors(self._L, self._bytes), 2).scores_Kr


@one_blas_thread
def shape(run: str, L_TN: ArrayLike, text_bytes_N: ArrayLike) -> Shape:
    """The shape of a run's T vectors, over the texts that all of them have."""
    return _shape_of(run, _ScaledRows(L_TN, text_bytes_N))[0]


def _shape_of(run: str, q: _ScaledRows) -> tuple[Shape, Array]:
    """(shape, lengths of the steps) of a run."""
    if min(q.shape) < 2:
        nan = math.nan
        return Shape(run, q.shape[0], nan, nan, nan, nan, nan), np.zeros(0)
    return _shape(run, q, q.plane())


def _shape(run: str, q: _ScaledRows | Array, plane_T2: Array) -> tuple[Shape, Array]:
    """(shape, lengths of the steps) of a path whose principal scores are `plane_T2`, computed in blocks of rows."""
    T = q.shape[0]
    lengths, dots = [], []
    for start in range(0, T - 1, _ROWS):
        steps = np.diff(q[start : start + _ROWS + 2], axis=0)
        dots.append((steps[1:] * steps[:-1]).sum(axis=1))
        lengths.append(np.sqrt((steps[:_ROWS] ** 2).sum(axis=1)))
    length = np.concatenate(lengths)
    arc, chord = float(length.sum()), float(np.linalg.norm(q[T - 1 : T][0] - q[:1][0]))
    straightness = chord / arc if arc > 0 else math.nan  # the straightness index (Batschelet 1981)
    turning = _median_angle(np.concatenate(dots), length)
    return Shape(run, T, arc, chord, straightness, turning, winding(plane_T2)), length


def _median_angle(dots: Array, length: Array) -> float:
    size = length[1:] * length[:-1]
    cosines = dots[size > 0] / size[size > 0]
    if not len(cosines):
        return math.nan
    return float(np.median(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))))  # cos = a b / (|a| |b|)


def winding(xy_T2: ArrayLike) -> float:
    """Turns a plane path makes about its mean point, counterclockwise positive.

    >>> round(winding([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]]), 2)
    1.0
    """
    xy = np.asarray(xy_T2, dtype=np.float64)
    centred = xy - xy.mean(axis=0)
    angle = np.arctan2(centred[:, 1], centred[:, 0])
    # winding number: total change of the angle / 2 pi
    return float(np.unwrap(angle)[-1] - angle[0]) / math.tau


@one_blas_thread
def random_walk(L_TN: ArrayLike, seed: int = 42) -> Array:
    """T x N null model of a run: starts at its first vector, with random directions and the run's KLs between neighbours.

    Texts that any vector lacks are undefined in the walk; lengths are over the texts that all have.
    """
    L = np.asarray(L_TN, dtype=np.float64)
    used = np.isfinite(L).all(axis=0)
    out: Array = np.full_like(L, np.nan)
    q = L[:, used]
    steps = np.diff(q, axis=0)
    length = np.sqrt(steps.var(axis=1))  # sqrt(2 B ln 2 KL) of neighbours
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
    """A run's shape compared with `walks` random walks of the same step lengths.

    The walks use up to 1,024 dimensions, enough that a walk's shape no longer depends on their number.
    """
    q = _ScaledRows(L_TN, text_bytes_N)
    own, length = _shape_of(run, q)
    rng = np.random.default_rng(seed)
    null = []
    for _ in range(walks if min(q.shape) > 1 else 0):
        walk = _walk(length, min(q.shape[1], _NULL_DIMS), rng)
        null.append(_shape(run, walk, pca(walk, 2))[0])

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
    """A path of steps of these lengths in random directions, T x dims, computed in place."""
    path = np.zeros((len(length) + 1, dims))
    rng.standard_normal(out=path[1:])
    for first in range(1, len(path), _ROWS):
        steps, long = path[first : first + _ROWS], length[first - 1 : first - 1 + _ROWS]
        steps *= (long / np.linalg.norm(steps, axis=1))[:, None]
    for before, here in pairwise(path):
        here += before
    return path
