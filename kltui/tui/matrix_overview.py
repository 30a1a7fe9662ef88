"""A whole matrix on one pane: two cells of it (or two blocks of cells) in every character, and a frame of what is in view."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kltui.tui.canvas import Pane, Span
from kltui.view.palette import heat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.tui.look import Look

    Array = NDArray[np.float64]

MOST = 320  # blocks a side that an overview is made of: more than any pane has
Frame = tuple[
    int, int, int, int
]  # first row, first column, the row after the last, the column after the last


def blocks(kl_KK: Array, order: list[int], most: int = MOST) -> Array:
    """m x m means of ln KL over blocks of an ordered K x K matrix, m = min(K, most); NaN where none is positive."""
    import numpy as np

    K = len(order)
    m = min(K, most)
    part = kl_KK[np.ix_(order, order)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ln = np.where(part > 0, np.log(part), np.nan)
    if m == K:
        return ln
    edges = np.arange(m) * K // m
    known = np.isfinite(ln)
    sums, counts = np.where(known, ln, 0.0), known.astype(np.float64)
    for axis in (0, 1):
        sums, counts = np.add.reduceat(sums, edges, axis), np.add.reduceat(counts, edges, axis)
    with np.errstate(invalid="ignore"):
        found: Array = sums / counts
    return found


class Overview:
    """An overview in a pane of some size: which block of the matrix a character shows, and its lines."""

    def __init__(self, ln_mm: Array, count: int, width: int, height: int) -> None:
        self.ln_mm, self.count = ln_mm, count
        self.side = max(1, min(count, width, 2 * height))  # dots of a side: one a column, two a line

    def item(self, dot: int) -> int:
        """The first of the matrix's rows that a dot stands for."""
        return dot * self.count // self.side

    def dot(self, item: int) -> int:
        """The dot that a row of the matrix falls into."""
        return min(self.side - 1, item * self.side // self.count)

    def line(
        self, y: int, look: Look, place: Callable[[float], float], frame: Frame, here: tuple[int, int]
    ) -> list[Span]:
        """Line `y`: the colours of its two rows of dots; `place` says where a ln KL lies from 0 to 1."""
        top, bottom = 2 * y, 2 * y + 1
        if top >= self.side:
            return []
        spans: list[Span] = []
        for x in range(self.side):
            upper = self._colour(top, x, look, place, frame, here)
            lower = self._colour(bottom, x, look, place, frame, here) if bottom < self.side else -1
            spans.append(self._character(upper, lower, look))
        return spans

    def _character(self, upper: int, lower: int, look: Look) -> Span:
        if not look.color or look.ascii_only:
            return (" .:-=+*#%@"[max(0, min(9, upper))], look())
        if lower < 0:
            return ("▀", look(upper))
        return ("▀", look(upper, lower)) if upper != lower else (" ", look("text", upper))

    def _colour(
        self, y: int, x: int, look: Look, place: Callable[[float], float], frame: Frame, here: tuple[int, int]
    ) -> int:
        """An xterm index; without colours a darkness from 0 to 9, 9 the brightest."""
        plain = not look.color or look.ascii_only
        if (y, x) == (self.dot(here[0]), self.dot(here[1])):
            return 9 if plain else look.index("text")
        if self._on_frame(y, x, frame):
            return 9 if plain else look.index("accent")
        m = len(self.ln_mm)
        value = float(self.ln_mm[y * m // self.side, x * m // self.side])
        if value != value:
            return 0 if plain else look.index("ground")
        near = 1.0 - place(value)
        return int(9 * near) if plain else heat(near)

    def _on_frame(self, y: int, x: int, frame: Frame) -> bool:
        first_y, first_x, last_y, last_x = (
            self.dot(frame[0]), self.dot(frame[1]), self.dot(frame[2] - 1), self.dot(frame[3] - 1)
        )  # fmt: skip
        inside = first_y <= y <= last_y and first_x <= x <= last_x
        return inside and (y in (first_y, last_y) or x in (first_x, last_x))


class OverviewPane(Pane, can_focus=False):
    """The whole matrix beside the part of it that is in view."""

    title = "All of it, what is in view framed"

    def __init__(self, line: Callable[[int, int, int], list[Span]]) -> None:
        super().__init__(id="matrix-overview")
        self._line = line

    def body_line(self, y: int) -> list[Span]:
        """A line of two rows of dots."""
        return self._line(y, self.body_width, self.body_height)
