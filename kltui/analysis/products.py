"""Products of all pairs of rows, tile by tile. Tiles have a fixed size, so that results do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kltui.threads import in_parallel

Array = NDArray[np.float64]
TILE = 512  # maximum rows of a tile: with 10,000 texts its product takes a core a tenth of a second
_MIN_TILE = 128  # minimum rows of a tile: in smaller ones the overhead is as large as the product
_SHARE = 4  # tiles along each side of a smaller product: ten in the upper triangle, for several cores


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
