"""Products of all pairs of rows by tiles of one size, so that their bits do not depend on who computes which."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kltui.threads import in_parallel

Array = NDArray[np.float64]
TILE = 512  # rows at most: of 10,000 texts its products keep a core busy for a tenth of a second
_MIN_TILE = 128  # rows below which what a tile needs beside its products is as much as they are
_SHARE = 4  # tiles along each side of a smaller product: ten to be shared out


def blocks(K: int, size: int = TILE) -> list[slice]:
    """0 .. K - 1 in order, `size` at a time."""
    return [slice(start, min(start + size, K)) for start in range(0, K, size)]


def tile_rows(K: int) -> int:
    """Number of rows of a tile of K x K, as a function of K: a quarter of K, a multiple of 32, within bounds."""
    quarter = -(-K // (_SHARE * 32)) * 32
    return min(TILE, max(_MIN_TILE, quarter))


def self_product(X_KN: Array) -> Array:
    """X X^T, K x K, exactly symmetric."""
    out: Array = np.empty((len(X_KN), len(X_KN)))

    def tile(rows: slice, columns: slice) -> None:
        # For a diagonal tile numpy recognises A A^T and computes only half of it.
        out[rows, columns] = X_KN[rows] @ X_KN[columns].T
        if rows != columns:
            out[columns, rows] = out[rows, columns].T

    each_tile(len(X_KN), tile)
    return out


def each_tile(K: int, work: Callable[[slice, slice], None]) -> None:
    """Calls `work(rows, columns)` for every tile of the upper triangle of K x K, on the cores that are idle."""
    sides = blocks(K, tile_rows(K))
    in_parallel([partial(work, a, b) for a in sides for b in sides if b.start >= a.start])
