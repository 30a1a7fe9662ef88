"""Products of all pairs of rows by tiles of one size, so that their bits do not depend on who computes which."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kltui.threads import in_parallel

Array = NDArray[np.float64]
TILE = 1024  # rows: its products keep a core busy for a tenth of a second and more


def blocks(K: int, size: int = TILE) -> list[slice]:
    """0 .. K - 1 in order, `size` at a time."""
    return [slice(start, min(start + size, K)) for start in range(0, K, size)]


def self_product(X_KN: Array) -> Array:
    """X X^T, K x K, exactly symmetric."""
    out: Array = np.empty((len(X_KN), len(X_KN)))

    def tile(rows: slice, columns: slice) -> None:
        # numpy sees that a diagonal tile is symmetric, and computes half of it.
        out[rows, columns] = X_KN[rows] @ X_KN[columns].T
        if rows != columns:
            out[columns, rows] = out[rows, columns].T

    each_tile(len(X_KN), tile)
    return out


def each_tile(K: int, work: Callable[[slice, slice], None], size: int = TILE) -> None:
    """Calls `work(rows, columns)` for every tile of the upper triangle of K x K, on the cores that are idle."""
    in_parallel([partial(work, a, b) for a in blocks(K, size) for b in blocks(K, size) if b.start >= a.start])
