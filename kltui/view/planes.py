"""A scene drawn into cells: one plane of code points and one of colour codes, through the native raster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kltui import native
from kltui.view.palette import SHADES
from kltui.view.scene import Floats, Scene, Window

Kind = Literal["braille", "dots", "half", "ascii"]
KINDS: tuple[Kind, ...] = ("braille", "dots", "half", "ascii")
DOTS: dict[Kind, tuple[int, int]] = {"braille": (2, 4), "dots": (1, 1), "half": (1, 2), "ascii": (1, 1)}

# A checkpoint is four dots, so that it stands out from the line through it; a crowd is left as it is.
BLOB = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
MOST_BLOBS = 1000


@dataclass(frozen=True)
class Planes:
    """height x width cells: what stands in each, and whose colour it has (-1: nobody's)."""

    codepoints: NDArray[np.uint32]
    codes: NDArray[np.int16]

    def text(self, row: int) -> str:
        """The characters of a row."""
        return bytes(self.codepoints[row].astype("<u4").tobytes()).decode("utf-32-le")

    def runs(self, row: int) -> list[tuple[str, int]]:
        """(text, code) runs of equal colour along a row."""
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
        """Every row's characters, trailing blanks dropped."""
        return [self.text(row).rstrip() for row in range(len(self.codepoints))]


def draw(
    scene: Scene, window: Window, width: int, height: int, kind: Kind, markers: Sequence[str] = "●"
) -> Planes:
    """The scene as seen through the window in width x height cells; later points lie on top.

    In cells of one dot, points show the marker of their series and lines a small dot.
    """
    raster = native.Raster(width, height, kind)
    across, down = DOTS[kind]
    dots = window.dots(scene.scaled(), width * across, height * down)
    shown = scene.code_n >= 0
    _segments(raster, scene, dots, shown, "." if kind == "ascii" else "·")
    shown = shown & scene.is_point_n
    if DOTS[kind] == (1, 1):
        for number in np.unique(scene.code_n[shown] // SHADES):
            own = shown & (scene.code_n // SHADES == number)
            _points(raster, dots[own], scene.code_n[own], markers[int(number) % len(markers)])
    else:
        codes = scene.code_n
        if not shown.all():
            dots, codes = dots[shown], codes[shown]
        for offset in BLOB if kind == "braille" and len(codes) <= MOST_BLOBS else BLOB[:1]:
            _points(raster, dots + offset if any(offset) else dots, codes, "●")
    return Planes(*raster.planes())


def _segments(
    raster: native.Raster, scene: Scene, dots: Floats, shown: NDArray[np.bool_], marker: str
) -> None:
    if not len(scene.segments_m2):
        return
    pairs = scene.segments_m2
    if not shown.all():
        pairs = pairs[shown[pairs[:, 0]] & shown[pairs[:, 1]]]
    raster.segments(dots.take(pairs.ravel(), axis=0).reshape(-1, 4), scene.code_n[pairs[:, 1]], marker)


def _points(raster: native.Raster, dots: Floats, code_n: NDArray[np.int16], marker: str) -> None:
    if len(dots):
        raster.points(dots, code_n, marker)


def spots(scene: Scene, window: Window, width: int, height: int, kind: Kind) -> Floats:
    """n x 2 places of every point in cells (column, row) from the upper left, with fractions; NaN for gaps.

    They round down to the very cell in which `draw` puts the point.
    """
    across, down = DOTS[kind]
    return np.asarray(window.dots(scene.scaled(), width * across, height * down) / (across, down))
