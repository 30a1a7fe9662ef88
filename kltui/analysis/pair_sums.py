"""KL and its standard error for a tile of pairs at a time, from sums of powers of differences over the texts.

d = x_i - x_j for row i of one side and row j of the other. By the binomial formula, sums of d^2, d^3 and d^4 are sums of
products of powers of the rows, so that a tile of pairs costs a few matrix products. A pair whose sums are dominated by rounding
is computed from its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.products import blocks, tile_rows

Array = NDArray[np.float64]
Picked = slice | NDArray[np.intp]
Sides = tuple[Array, Array]

LN2 = math.log(2.0)
NO_SPREAD = 1e-12  # relative to a value: a smaller spread over texts is rounding
_BLOCK = 2048  # texts per product, so that the powers of one block take little memory
_CLOSE = 1e-8  # moments below this share of the norms are computed from the differences themselves
_NORMS = 256  # rows per product when norms are computed


@dataclass(slots=True)
class PairSums:
    """I x J sums over shared texts of 1, bytes, d, d^2, d^3, d^4 for d = x_i - x_j; norms per row of either side."""

    n: Array
    size: Array
    s1: Array
    s2: Array
    s3: Array
    s4: Array
    norm2: Sides
    norm4: Sides

    @classmethod
    def zeros(cls, shape: tuple[int, int], *, fourth: bool) -> PairSums:
        high = shape if fourth else (0, 0)
        sums = {f.name: np.zeros(high if f.name in ("s3", "s4") else shape) for f in fields(cls)[:6]}
        norms = [(np.zeros(shape[0]), np.zeros(shape[1])) for _ in range(2)]
        return cls(**sums, norm2=norms[0], norm4=norms[1])

    def variance(self) -> Array:
        mean = ratio(self.s1, self.n)
        return np.maximum(ratio(self.s2, self.n) - mean * mean, 0.0)  # Var d = mean d^2 - (mean d)^2

    def unit(self) -> Array:
        """2 B ln 2, B the mean bytes of the texts that a pair shares."""
        return 2.0 * LN2 * ratio(self.size, self.n)

    def deviations(self, mean: Array, m2: Array) -> Array:
        """Sum of ((d - mean)^2 - m2)^2, from the sums of powers."""
        # by Horner's rule, because raising an array to a power costs more than all the rest
        second = self.s2 + mean * (mean * self.n - 2.0 * self.s1)
        fourth = self.s4 + mean * (
            mean * (6.0 * self.s2 + mean * (mean * self.n - 4.0 * self.s1)) - 4.0 * self.s3
        )
        return fourth - m2 * (2.0 * second - m2 * self.n)


class RowSource(Protocol):
    """Double-centred rows over N texts, NaN where undefined: an array, or an object that computes them on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, picked: Picked, /) -> Array: ...


class PairTiles:
    """KL and errors of any tile of the pairs of double-centred rows (K x N, NaN where undefined), in bits/byte.

    Texts have `size_N` bytes; each column represents `copies_N` equal texts (None: 1). `complete_N`: which texts all rows
    have. `gram_KK` is X X^T of rows without gaps, if already computed. In a tile on the diagonal, the lower half mirrors
    the upper.
    """

    def __init__(
        self,
        rows: RowSource,
        size_N: Array,
        complete_N: NDArray[np.bool_],
        copies_N: Array | None = None,
        gram_KK: Array | None = None,
    ) -> None:
        self._rows, self._size, self._copies, self.gram_KK = rows, size_N, copies_N, gram_KK
        self._full = list(_column_blocks(np.flatnonzero(complete_N)))
        self._partly = list(_column_blocks(np.flatnonzero(~complete_N)))
        self._is_whole = not self._partly and copies_N is None
        self._norming = Lock()

    @property
    def _norm2(self) -> Array:
        """|x_k|^2 of rows without gaps, (K,); computed at the first use, by one thread only."""
        with self._norming:
            return self._norms

    @cached_property
    def _norms(self) -> Array:
        """As `_norm2`, by the same products as in a tile, so that for close rows rounding cancels in |x_i|^2 + |x_j|^2 - 2 x_i x_j."""
        if self.gram_KK is not None:
            return self.gram_KK.diagonal().copy()
        squares = []
        for block in blocks(len(self._rows), min(_NORMS, tile_rows(len(self._rows)))):
            X = self._rows[block]
            squares.append((X @ X.T).diagonal())
        return np.concatenate([np.zeros(0), *squares])

    def kl(self, a: Picked, b: slice, rounding: float) -> Array:
        """KL of rows `a` to rows `b`; NaN for pairs that share fewer than two texts, 0 of a row to itself.

        It is 0, too, where m2 is at most `rounding`.
        """
        sides, on_diagonal = self._sides(a, b)
        if self._is_whole:
            norm2 = self._norm2
            s2 = sides[0] @ sides[1].T if self.gram_KK is None else self.gram_KK[a, b].copy()
            sums = self._complete_sums(s2, (norm2[a], norm2[b]))
            constant: NDArray[np.bool_] | bool = False
            unit: Array | float = 2.0 * LN2 * float(self._size.mean())
            # |x_i - x_j|^2 = N Var(l_i - l_j) of centred rows, and N B is the sum of bytes: Var / (2 B ln 2)
            kl = sums.s2 / (2.0 * LN2 * self._size.sum())
        else:
            sums = self._sums(sides, fourth=False)
            unit, variance = sums.unit(), sums.variance()
            kl = ratio(variance, unit)  # Var / (2 B ln 2), B of the texts that both have
            # rows with gaps can differ by a constant, which cancels in the variance
            constant = variance <= _CLOSE * ratio(sums.s2, sums.n)
        close = (_close(sums.s2, sums.norm2) | constant) & (sums.n >= 2)
        self._recompute(np.triu(close, k=1) if on_diagonal else close, sides, kl, None, sums)
        kl[kl * unit <= rounding] = 0.0
        return _mirrored(kl, on_diagonal, sums.n < 2)

    def _sides(self, a: Picked, b: slice) -> tuple[Sides, bool]:
        """(the rows of both sides, whether they are the same)."""
        one = self._rows[a]
        if isinstance(a, slice) and a == b:
            return (one, one), True
        return (one, self._rows[b]), False

    def _complete_sums(self, s2: Array, norms: Sides) -> PairSums:
        """n, bytes and the second powers of rows without gaps: |x_i - x_j|^2 = |x_i|^2 + |x_j|^2 - 2 x_i x_j."""
        s2 *= -2.0
        s2 += np.add.outer(*norms)
        sums = PairSums.zeros((0, 0), fourth=False)
        n, size = (np.broadcast_to(np.float64(v), s2.shape) for v in (len(self._size), self._size.sum()))
        sums.n, sums.size, sums.s2, sums.norm2 = n, size, s2, norms
        return sums

    def standard_errors(self, a: slice, b: slice, rounding: float, minimum: int) -> Array:
        """Standard errors of KL over texts; NaN where m2 is at most `rounding`, or the pair shares fewer than `minimum` texts.

        se^2 = sum ((d - mean d)^2 - m2)^2 / n^2 / (2 B ln 2)^2.
        """
        copies = self._copies
        sides, on_diagonal = self._sides(a, b)
        sums = self._sums(sides, fourth=copies is None, weight=copies)
        high = sums if copies is None else self._sums(sides, fourth=True, weight=copies**2)
        m2 = sums.variance()
        spread = ratio(high.deviations(ratio(sums.s1, sums.n), m2), sums.n * sums.n)  # (m4 - m2^2) / n
        se = ratio(np.sqrt(np.maximum(spread, 0.0)), sums.unit())
        doubtful = _close(high.s4, high.norm4) | (spread <= _CLOSE * m2 * m2)
        doubtful &= sums.n >= 2
        self._recompute(np.triu(doubtful, k=1) if on_diagonal else doubtful, sides, None, se, sums)
        se[m2 <= rounding] = np.nan
        shared = sums.n if copies is None else _shared(sides)
        se = _mirrored(se, on_diagonal, shared < 2)
        few = shared < minimum
        if on_diagonal:
            np.fill_diagonal(few, False)
        se[few] = np.nan
        return se

    def _sums(self, sides: Sides, *, fourth: bool, weight: Array | None = None) -> PairSums:
        """Sums over texts block by block, each counted `weight` times (None: once).

        Texts that all rows have need no mask, the others carry one. Third powers enter by the mean difference, which is
        0 for centred rows without gaps.
        """
        total = PairSums.zeros((len(sides[0]), len(sides[1])), fourth=fourth)
        every = [(columns, False) for columns in self._full] + [(columns, True) for columns in self._partly]
        for columns, masked in every:
            counted = None if weight is None else weight[columns]
            one = _Side.of(sides[0][:, columns], masked, counted)
            other = one if sides[1] is sides[0] else _Side.of(sides[1][:, columns], masked, counted)
            _add(total, one, other, self._size[columns], fourth, bool(self._partly))
        return total

    def _recompute(
        self, close: NDArray[np.bool_], sides: Sides, kl: Array | None, se: Array | None, sums: PairSums
    ) -> None:
        """Writes KL and errors of the pairs marked from the differences of their rows."""
        for i in np.flatnonzero(close.any(axis=1)):
            for columns in _column_blocks(np.flatnonzero(close[i])):
                d = sides[1][columns] - sides[0][i]
                once = np.isfinite(d) * (1.0 if self._copies is None else self._copies)
                n = once.sum(axis=1, keepdims=True)
                d = np.where(once > 0, d, 0.0)
                d -= (d * once).sum(axis=1, keepdims=True) / n
                d *= d
                m2 = (d * once).sum(axis=1, keepdims=True) / n
                unit = 2.0 * LN2 * sums.size[i, columns] / sums.n[i, columns]
                if kl is not None:
                    kl[i, columns] = m2[:, 0] / unit
                if se is not None:
                    error = np.sqrt(np.square((d - m2) * once).sum(axis=1)) / n[:, 0]
                    error[error <= NO_SPREAD * m2[:, 0]] = np.nan
                    se[i, columns] = error / unit


@dataclass(frozen=True)
class _Side:
    """Rows of one side over a block of texts: `Z`, 0 where undefined; `mask`, 1 where defined (None: everywhere).

    `weight` says how often each text counts (None: once, as in `once`), and `W` is Z times that.
    """

    Z: Array
    mask: Array | None
    once: Array
    W: Array
    weight: Array | None

    @classmethod
    def of(cls, X: Array, masked: bool, weight: Array | None) -> _Side:
        defined = np.isfinite(X) if masked else None
        Z = X if defined is None else np.where(defined, X, 0.0)
        once = np.ones(X.shape[1]) if weight is None else np.ones(X.shape[1]) * weight
        return cls(
            Z, None if defined is None else defined * 1.0, once, Z if weight is None else Z * weight, weight
        )

    @cached_property
    def squares(self) -> Array:
        return self.Z * self.Z

    @cached_property
    def counted_squares(self) -> Array:
        return self.squares if self.weight is None else self.squares * self.weight

    @cached_property
    def sum_of_squares(self) -> Array:
        return np.asarray(self.counted_squares.sum(axis=1))

    @cached_property
    def counted_cubes(self) -> Array:
        return self.counted_squares * self.Z

    def sums_over(self, other: _Side) -> Array:
        """Weighted sums over the texts of each row of the other side, rows x other rows; one column if all have all texts."""
        return _over(self.W, other)

    def squares_over(self, other: _Side) -> Array:
        """As `sums_over`, of squares."""
        if other.mask is None:
            return self.sum_of_squares[:, None]
        return _over(self.counted_squares, other)

    def cubes_over(self, other: _Side) -> Array:
        """As `sums_over`, of third powers."""
        return _over(self.counted_cubes, other)

    @cached_property
    def sum_of_fourths(self) -> Array:
        return np.asarray(np.einsum("kn,kn->k", self.counted_squares, self.squares))

    def fourths_over(self, other: _Side) -> Array:
        """As `sums_over`, of fourth powers."""
        if other.mask is None:
            return self.sum_of_fourths[:, None]
        return _over(self.counted_squares * self.squares, other)


def _over(P: Array, other: _Side) -> Array:
    """Sums of P's rows over the texts of each row of the other side; one column if all have all texts."""
    return P.sum(axis=1)[:, None] if other.mask is None else P @ other.mask.T


def _shared(sides: Sides) -> Array:
    """Number of columns that each pair shares, I x J."""
    one, other = (np.isfinite(X) * 1.0 for X in sides)
    return np.asarray(one @ other.T)


def _add(total: PairSums, a: _Side, b: _Side, size: Array, fourth: bool, with_third: bool) -> None:
    """Adds a block of texts to the sums."""
    shape = total.n.shape
    if a.mask is None or b.mask is None:
        total.n += np.full(shape, a.once.sum())
        total.size += (a.once * size).sum()
    else:
        total.n += (a.mask * a.once) @ b.mask.T
        total.size += (a.mask * a.once * size) @ b.mask.T
    first, second = _both(a, b, _Side.sums_over), _both(a, b, _Side.squares_over)
    total.s1 += first[0] - first[1].T
    total.s2 += second[0] + second[1].T - 2.0 * (a.W @ b.Z.T)  # (x - y)^2 = x^2 + y^2 - 2 x y
    for norm, side in zip(total.norm2, (a, b), strict=True):
        norm += side.sum_of_squares
    if fourth:
        _add_high(total, a, b, with_third)


def _add_high(total: PairSums, a: _Side, b: _Side, with_third: bool) -> None:
    """Adds third powers, if `with_third`, and fourth powers of a block of texts to the sums."""
    if with_third:
        cubes, mixed = _both(a, b, _Side.cubes_over), _both(a, b, lambda x, y: x.counted_squares @ y.Z.T)
        total.s3 += cubes[0] - cubes[1].T - 3.0 * (mixed[0] - mixed[1].T)  # x^3 - y^3 - 3 (x^2 y - x y^2)
    # (x - y)^4 = x^4 + y^4 - 4 (x^3 y + x y^3) + 6 x^2 y^2
    powers, mixed = _both(a, b, _Side.fourths_over), _both(a, b, lambda x, y: x.counted_cubes @ y.Z.T)
    total.s4 += (
        powers[0] + powers[1].T - 4.0 * (mixed[0] + mixed[1].T) + 6.0 * (a.counted_squares @ b.squares.T)
    )
    for norm, side in zip(total.norm4, (a, b), strict=True):
        norm += side.sum_of_fourths


def _both(a: _Side, b: _Side, what: Callable[[_Side, _Side], Array]) -> Sides:
    """(`what(a, b)`, `what(b, a)`), computed once if a is b."""
    one = what(a, b)
    return one, one if a is b else what(b, a)


def _column_blocks(columns: NDArray[np.intp]) -> Iterator[Picked]:
    for start in range(0, len(columns), _BLOCK):
        block = columns[start : start + _BLOCK]
        run = block[-1] - block[0] + 1 == len(block)
        yield slice(int(block[0]), int(block[-1]) + 1) if run else block


def _close(square: Array, norms: Sides) -> NDArray[np.bool_]:
    """Pairs whose sum is so small compared with the rows' own that rounding may dominate it."""
    return np.less(square, np.add.outer(_CLOSE * norms[0], _CLOSE * norms[1]))


def _mirrored(tile: Array, on_diagonal: bool, undefined: NDArray[np.bool_]) -> Array:
    """The tile with NaN where undefined; a tile on the diagonal gets its upper half mirrored and a diagonal of 0."""
    if on_diagonal:
        tile = np.triu(tile, k=1)
        tile += tile.T
    tile[undefined] = np.nan
    return tile


def have_all(rows: Array) -> NDArray[np.bool_]:
    """Which columns are finite in every row, N."""
    return np.asarray(np.isfinite(rows).all(axis=0))


def ratio(a: Array, b: Array) -> Array:
    """a / b, NaN where b is 0."""
    out: Array = np.full(np.broadcast_shapes(a.shape, np.shape(b)), np.nan)
    np.divide(a, b, out=out, where=np.asarray(b) > 0)
    return out
