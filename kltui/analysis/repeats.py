"""Checkpoints with the same weights, such as one file under several steps or names."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.kl import kl_pair
from kltui.analysis.point import Point
from kltui.analysis.trajectory import Trajectory, trajectories

Array = NDArray[np.float64]

_TIED = 1e-3  # relative: of two steps whose KLs to their neighbours differ by less, the earlier one is used
_LOOKED_AT = 8  # values by which most vectors differ already


@dataclass(frozen=True, slots=True)
class Repeats:
    """Groups of rows of a map with the same weights, and the rows that are `left_out` of their run.

    Analyses of a run use each group once, at the step where it is closest to the neighbouring checkpoints.
    """

    groups: tuple[tuple[int, ...], ...] = ()
    left_out: frozenset[int] = frozenset()

    def group_of(self, row: int) -> tuple[int, ...]:
        """The rows with the same weights as `row`, including itself; () if there are no others."""
        return next((g for g in self.groups if row in g), ())


def repeats(points: Sequence[Point], loglik_KN: Array, text_bytes_N: NDArray[np.int64]) -> Repeats:
    """Groups of final vectors with the same weights, detected from their files or from bit-identical vectors."""
    groups = same_weights(points, loglik_KN)
    gone: set[int] = set()
    for t in trajectories(points) if groups else ():
        for group in groups:
            members = [row for row in t.rows if row in group]
            if len(members) > 1:
                gone |= set(members) - {_place(t, members, loglik_KN, text_bytes_N)}
    return Repeats(tuple(groups), frozenset(gone))


def same_weights(points: Sequence[Point], loglik_KN: Array) -> list[tuple[int, ...]]:
    """Groups of two or more rows with the same weights, each by rising row.

    Interpolated models, random walks and layer vectors are not considered, because some equal others by design. Rows with
    equal vectors are grouped unless their files are known to differ: different untrained models may have equal vectors.
    """
    rows = [
        k
        for k, p in enumerate(points)
        if p.layer is None and not {"null", "interpolation"} & set(p.tags) and _is_defined(loglik_KN[k])
    ]
    root = {k: k for k in rows}

    def top(k: int) -> int:
        while root[k] != k:
            k = root[k]
        return k

    for alike in (*_equal_vectors(points, loglik_KN, rows), *_equal_files(points, rows)):
        for k in alike[1:]:
            root[max(top(k), top(alike[0]))] = min(top(k), top(alike[0]))
    found: dict[int, list[int]] = {}
    for k in rows:
        found.setdefault(top(k), []).append(k)
    return [tuple(group) for group in found.values() if len(group) > 1]


def _is_defined(loglik_N: Array) -> bool:
    """Whether a vector has any value. The first few usually suffice, so that the rest of a memory-mapped file is not read."""
    return bool(np.isfinite(loglik_N[:_LOOKED_AT]).any() or np.isfinite(loglik_N).any())


def _equal_files(points: Sequence[Point], rows: Sequence[int]) -> list[list[int]]:
    """Groups of rows with the same digest of the weights and the same quantisation."""
    known = [k for k in rows if points[k].weights]
    return _by(known, [(points[k].weights, points[k].quantization) for k in known])


def _equal_vectors(points: Sequence[Point], loglik_KN: Array, rows: Sequence[int]) -> list[list[int]]:
    """Groups of rows with equal values, separated if their files are known and differ."""
    found: list[list[int]] = []
    for maybe in _by(rows, [loglik_KN[k, :_LOOKED_AT].tobytes() for k in rows]):
        for alike in _by(maybe, [loglik_KN[k].tobytes() for k in maybe]):
            files = [points[k].weights if points[k].has_files_digest else "" for k in alike]
            variants = [points[k].quantization for k in alike]
            if len(set(files) - {""}) > 1 and len(set(variants)) == 1:
                found += _by(alike, files)
            else:
                found.append(alike)
    return found


def _by(rows: Sequence[int], keys: Sequence[Hashable]) -> list[list[int]]:
    """Groups of two or more rows with the same key."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in zip(rows, keys, strict=True):
        groups.setdefault(key, []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def _place(t: Trajectory, members: list[int], loglik_KN: Array, text_bytes_N: NDArray[np.int64]) -> int:
    """The member with the smallest mean KL to the nearest different weights before and after it; the first of equals."""
    others = [i for i, row in enumerate(t.rows) if row not in members]

    def distance(row: int) -> float:
        at = t.rows.index(row)
        around = [
            max((i for i in others if i < at), default=-1),
            min((i for i in others if i > at), default=-1),
        ]
        kl = [kl_pair(loglik_KN[row], loglik_KN[t.rows[i]], text_bytes_N).value for i in around if i >= 0]
        return float(np.mean(kl)) if kl and np.isfinite(kl).all() else np.inf

    far = [distance(row) for row in members]
    # least mean KL
    return next(row for row, d in zip(members, far, strict=True) if d <= min(far) * (1 + _TIED))
