"""Draws a scene into character cells, as arrays of code points and colour codes, with the native raster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kltui.kernels import native
from kltui.view.palette import SHADES
from kltui.view.plot_data import Floats, Scene, Window

Rows = NDArray[np.intp]
Value = TypeVar("Value", bound=np.generic)
Kind = Literal["braille", "dots", "half", "ascii"]
KINDS: tuple[Kind, ...] = ("braille", "dots", "half", "ascii")
DOTS: dict[Kind, tuple[int, int]] = {"braille": (2, 4), "dots": (1, 1), "half": (1, 2), "ascii": (1, 1)}

# A checkpoint is drawn as four dots, to distinguish it from the line through it, unless there are very many.
BLOB = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
MAX_BLOBS = 1000
# Without colour, lines differ by their dashes (dots drawn, left out, drawn, ...) or by their character.
STROKES: tuple[tuple[int, ...], ...] = ((), (7, 4), (1, 2), (7, 3, 1, 3))
LINE_CHARACTERS: dict[Kind, str] = {"dots": "·-:~", "ascii": ".-:~"}
SLICES = 6  # by depth, drawn from the farthest to the nearest


@dataclass(frozen=True)
class CellBuffer:
    """height x width cells: the character in each, and its colour code (-1: none)."""

    codepoints: NDArray[np.uint32]
    codes: NDArray[np.int16]

    def text(self, row: int) -> str:
        """The characters of a row."""
        return bytes(self.codepoints[row].astype("<u4").tobytes()).decode("utf-32-le")

    def runs(self, row: int) -> list[tuple[str, int]]:
        """Runs of cells with equal colour along a row, as (text, code)."""
        return self._runs[row]

    @cached_property
    def _runs(self) -> list[list[tuple[str, int]]]:
        height, width = self.codes.shape
        rows: list[list[tuple[str, int]]] = [[] for _ in range(height)]
        if self.codes.size:
            codes, text = self.codes.ravel(), self.codepoints.astype("<u4").tobytes().decode("utf-32-le")
            begins_run = np.ones(codes.size, bool)
            np.not_equal(codes[1:], codes[:-1], out=begins_run[1:])
            begins_run[::width] = True
            begins = np.flatnonzero(begins_run)
            cuts = [*begins.tolist(), codes.size]
            for begin, end, code in zip(cuts, cuts[1:], codes[begins].tolist(), strict=False):
                rows[begin // width].append((text[begin:end], code))
        return rows

    def lines(self) -> list[str]:
        """The characters of every row, without trailing blanks."""
        return [self.text(row).rstrip() for row in range(len(self.codepoints))]


def eye_ratio(width: int, height: int, kind: Kind) -> float:
    """Visible width over height of the area between the outermost dots; a cell is twice as high as wide."""
    across, down = DOTS[kind]
    return max(width * across - 1, 1) / across / (2 * max(height * down - 1, 1) / down)


def draw(
    scene: Scene,
    window: Window,
    width: int,
    height: int,
    kind: Kind,
    marker: Callable[[int], str] = lambda series: "●",
    *,
    marked: bool = False,
    dots_n2: Floats | None = None,
) -> CellBuffer:
    """The scene in the window, drawn in width x height cells; later points are drawn over earlier ones, and nearer over farther.

    In cells of one dot, points show the `marker` of their series and lines a small dot; with `marked`, the
    cells of points show it in every kind, and lines between points are dotted or dashed by their series.
    `dots_n2`: the result of `dots_of` for the same arguments, if known.
    """
    raster = native.Raster(width, height, kind)
    across, down = DOTS[kind]
    dots = dots_of(scene, window, width, height, kind) if dots_n2 is None else dots_n2
    shown = scene.code_n >= 0
    is_point = shown & scene.is_point_n
    blobs = BLOB if kind == "braille" and is_point.sum() <= MAX_BLOBS else BLOB[:1]
    for points, segments in _slices(scene):
        _segments(
            raster, scene, dots, shown, segments, kind, (width * across, height * down) if marked else None
        )
        own = _where(is_point, points)
        if DOTS[kind] == (1, 1):
            _marked_points(raster, dots, scene.code_n, own, marker)
        else:
            places, codes = _taken(dots, own), _taken(scene.code_n, own)
            for offset in blobs:
                _points(raster, places + offset if any(offset) else places, codes, "●")
    planes = CellBuffer(*raster.planes())
    if marked and DOTS[kind] != (1, 1):
        _mark(planes, scene, np.where(is_point[:, None], dots / (across, down), np.nan), marker)
    return planes


def _where(which_n: NDArray[np.bool_], rows: Rows | None) -> Rows | None:
    """The elements of `rows` (None: all rows) where `which_n` is true; None if those are all rows."""
    if rows is not None:
        return rows[which_n[rows]]
    return None if which_n.all() else np.flatnonzero(which_n)


def _taken(values: NDArray[Value], rows: Rows | None) -> NDArray[Value]:
    """The given rows (None: all); faster than with a Boolean mask."""
    return values if rows is None else values.take(rows, axis=0)


def _slices(scene: Scene) -> Iterator[tuple[Rows | None, Rows | None]]:
    """(indices of points, indices of segments) of each slice, the farthest first; (None, None) for all at once."""
    if scene.depth_n is None or not len(scene.depth_n):
        yield None, None
        return
    slice_n = slices_of(scene.depth_n, SLICES).astype(np.int16)
    first, second = slice_n.take(scene.segments_m2.T)
    yield from zip(_in_slices(slice_n), _in_slices(np.minimum(first, second)), strict=True)


def _in_slices(slice_n: NDArray[np.int16]) -> list[Rows]:
    """The rows of each slice in increasing order."""
    order = np.argsort(slice_n, kind="stable")  # a radix sort for 16-bit integers
    return np.split(order, np.searchsorted(slice_n[order], np.arange(1, SLICES)))


def _by_series(code_n: NDArray[np.int16], rows: Rows | None) -> Iterator[tuple[int, Rows]]:
    """(series, its rows among `rows` (None: all)) for every series, both in increasing order."""
    series = _taken(code_n, rows) // SHADES
    order = np.argsort(series, kind="stable")
    ordered = series[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    for own in np.split(order, begins[1:]):
        if len(own):
            yield int(series[own[0]]), own if rows is None else rows[own]


def slices_of(depth_n: Floats, count: int) -> NDArray[np.intp]:
    """The slice of each point, 0 for the farthest to `count` - 1 for the nearest, of equal depth each, (n,)."""
    is_finite = np.isfinite(depth_n)
    finite = depth_n if is_finite.all() else depth_n[is_finite]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if not high > low:
        return np.full(len(depth_n), count - 1, dtype=np.intp)
    share = depth_n - low
    share /= high - low
    if len(finite) < len(depth_n):
        np.nan_to_num(share, copy=False)
    share *= count
    found: NDArray[np.intp] = share.astype(np.intp)
    return np.clip(found, 0, count - 1, out=found)


def _marked_points(
    raster: native.Raster,
    dots: Floats,
    code_n: NDArray[np.int16],
    own: Rows | None,
    marker: Callable[[int], str],
) -> None:
    """Draws points with the marker of their series."""
    for number, rows in _by_series(code_n, own):
        _points(raster, _taken(dots, rows), _taken(code_n, rows), marker(number))


def _mark(planes: CellBuffer, scene: Scene, cells_n2: Floats, marker: Callable[[int], str]) -> None:
    """Writes the marker of their series into the cells of points, without changing colours."""
    height, width = planes.codes.shape
    at = np.floor(np.nan_to_num(cells_n2, nan=-1.0).clip(-1.0, 65536.0)).astype(np.intp)
    seen: NDArray[np.bool_] = ((at >= 0) & (at < (width, height))).all(axis=1)
    for number, rows in _by_series(scene.code_n, np.flatnonzero(seen)):
        own = at[rows]
        planes.codepoints[own[:, 1], own[:, 0]] = ord(marker(number))


def _segments(
    raster: native.Raster,
    scene: Scene,
    dots: Floats,
    shown: NDArray[np.bool_],
    rows_m: Rows | None,
    kind: Kind,
    stroked: tuple[int, int] | None,
) -> None:
    """Draws lines; with `stroked` (width and height of the raster), lines between points are dashed by their series."""
    pairs = _taken(scene.segments_m2, rows_m)
    if not len(pairs):
        return
    if not shown.all():
        pairs = _taken(pairs, np.flatnonzero(shown[pairs[:, 0]] & shown[pairs[:, 1]]))
    code_m = scene.code_n[pairs[:, 1]]
    ends_m4 = dots.take(pairs.ravel(), axis=0).reshape(-1, 4)
    plain = LINE_CHARACTERS.get(kind, "·")[0]
    if stroked is None:
        raster.segments(ends_m4, code_m, plain)
        return
    own = scene.is_point_n[pairs].all(axis=1)
    raster.segments(ends_m4[~own], code_m[~own], plain)
    stroke_m = code_m // SHADES % len(STROKES)
    for number, stroke in enumerate(STROKES):
        these = own & (stroke_m == number)
        ends, codes = ends_m4[these], code_m[these]
        if kind in LINE_CHARACTERS:
            raster.segments(ends, codes, LINE_CHARACTERS[kind][number])
        elif stroke:
            raster.segments(*dashed(*clipped(ends, codes, *stroked), stroke))
        else:
            raster.segments(ends, codes, plain)


def clipped(
    ends_m4: Floats, code_m: NDArray[np.int16], width: int, height: int
) -> tuple[Floats, NDArray[np.int16]]:
    """The parts of m segments (x, y to x, y) inside a raster with a margin of one dot, and their codes."""
    a, d = ends_m4[:, :2], ends_m4[:, 2:] - ends_m4[:, :2]
    low, high = np.array([-1.0, -1.0]), np.array([width + 1.0, height + 1.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (low - a) / d, (high - a) / d
    inside = (a >= low) & (a <= high)
    enter = np.where(d == 0, np.where(inside, 0.0, np.inf), np.minimum(one, two)).max(axis=1).clip(0.0)
    leave = np.where(d == 0, np.where(inside, 1.0, -np.inf), np.maximum(one, two)).min(axis=1).clip(max=1.0)
    kept = enter <= leave  # False for NaN
    a, d, enter, leave = a[kept], d[kept], enter[kept, None], leave[kept, None]
    return np.hstack([a + enter * d, a + leave * d]), code_m[kept]


def dashed(
    ends_m4: Floats, code_m: NDArray[np.int16], stroke: tuple[int, ...]
) -> tuple[Floats, NDArray[np.int16]]:
    """The dashes of m segments and their codes: `stroke` dots drawn, left out, ..., continued from segment to segment."""
    d = ends_m4[:, 2:] - ends_m4[:, :2]
    length = np.abs(d).max(axis=1)  # in dots, as lines are drawn
    begin = np.cumsum(length) - length
    period = sum(stroke)
    first = np.floor(begin / period).astype(np.intp)
    counts = np.floor((begin + length) / period).astype(np.intp) - first + 1
    of = np.repeat(np.arange(len(length)), counts)
    within = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces, codes = [], []
    for place in range(0, len(stroke), 2):
        start = (first[of] + within) * period + sum(stroke[:place]) - begin[of]
        end = start + stroke[place] - 1
        kept = (end >= 0) & (start <= length[of])
        k, span = of[kept], np.maximum(length[of[kept]], 1e-9)
        from_, to = (start[kept] / span).clip(0.0, 1.0)[:, None], (end[kept] / span).clip(0.0, 1.0)[:, None]
        pieces.append(np.hstack([ends_m4[k, :2] + from_ * d[k], ends_m4[k, :2] + to * d[k]]))
        codes.append(code_m[k])
    return np.concatenate(pieces), np.concatenate(codes)


def _points(raster: native.Raster, dots: Floats, code_n: NDArray[np.int16], marker: str) -> None:
    if len(dots):
        raster.points(dots, code_n, marker)


def dots_of(scene: Scene, window: Window, width: int, height: int, kind: Kind) -> Floats:
    """n x 2 positions of all points in dots, from the upper left corner of width x height cells; NaN for gaps."""
    across, down = DOTS[kind]
    return window.dots(scene.scaled(), width * across, height * down)


def cells_of(dots_n2: Floats, kind: Kind, taller: float = 1.0) -> Floats:
    """n x 2 positions in cells (column, row), with fractions, of positions in dots; rows are multiplied by `taller`.

    Rounded down, they are the cells into which `draw` puts the points.
    """
    across, down = DOTS[kind]
    places = np.empty_like(dots_n2)
    np.divide(dots_n2[:, 0], across, out=places[:, 0])
    np.multiply(dots_n2[:, 1], taller / down, out=places[:, 1])  # exact: a power of two
    return places
