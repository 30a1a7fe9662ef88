"""A whole matrix on one pane: two cells of it (or two blocks of cells) in every character, and a frame of what is in view."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kltui.tui.widgets.canvas import Pane, Span
from kltui.view.palette import HEAT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.tui.theme import Theme

    Array = NDArray[np.float64]

MAXIMUM = 320  # blocks a side that an overview is made of: more than any pane has
# Without colours: the nearer the darker; then the frame's edges and the cursor, which are none of these.
DARKNESS_AND_SIGNS = " .:-=+*#%@_|X"
ACROSS, DOWN, CURSOR = 10, 11, 12
Frame = tuple[
    int, int, int, int
]  # first row, first column, the row after the last, the column after the last


def blocks(kl_KK: Array, order: list[int], maximum: int = MAXIMUM) -> Array:
    """m x m means of ln KL over blocks of an ordered K x K matrix, m = min(K, most); NaN where none is positive."""
    import numpy as np

    K = len(order)
    m = min(K, maximum)
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
        self._kept: tuple[tuple[Theme, float, float], list[list[int]]] | None = None

    def item(self, dot: int) -> int:
        """The first of the matrix's rows that a dot stands for."""
        return dot * self.count // self.side

    def dot(self, item: int) -> int:
        """The dot that a row of the matrix falls into."""
        return min(self.side - 1, item * self.side // self.count)

    def line(
        self, y: int, look: Theme, ends: tuple[float, float], frame: Frame, here: tuple[int, int]
    ) -> list[Span]:
        """Line `y`: the colours of its two rows of dots, from the least to the largest KL of `ends`."""
        top, bottom = 2 * y, 2 * y + 1
        if top >= self.side:
            return []
        upper = self._row(top, look, ends, frame, here)
        lower = self._row(bottom, look, ends, frame, here) if bottom < self.side else [-1] * self.side
        return [self._character(a, b, look) for a, b in zip(upper, lower, strict=True)]

    def _character(self, upper: int, lower: int, look: Theme) -> Span:
        if not look.color:
            # One dot a character; of the frame and the cursor also what the lower dot has.
            return (DARKNESS_AND_SIGNS[lower if lower >= ACROSS else upper], look())
        if look.ascii_only:
            signs = (look.index("accent"), look.index("text"))
            return " ", look("text", lower if lower in signs and upper not in signs else upper)
        if lower < 0:
            return ("▀", look(upper))
        return ("▀", look(upper, lower)) if upper != lower else (" ", look("text", upper))

    def _row(
        self, y: int, look: Theme, ends: tuple[float, float], frame: Frame, here: tuple[int, int]
    ) -> list[int]:
        """A row of dots with the frame and the cursor over it: xterm indices; without colours places in DARKNESS_AND_SIGNS."""
        row = list(self._dots(look, ends)[y])
        accent, text = look.index("accent"), look.index("text")
        across, down, cursor = (accent, accent, text) if look.color else (ACROSS, DOWN, CURSOR)
        top, left, bottom, right = map(self.dot, (frame[0], frame[1], frame[2] - 1, frame[3] - 1))
        if y in (top, bottom):
            row[left : right + 1] = [across] * (right + 1 - left)
        elif top < y < bottom:
            row[left] = row[right] = down
        if y == self.dot(here[0]):
            row[self.dot(here[1])] = cursor
        return row

    def _dots(self, look: Theme, ends: tuple[float, float]) -> list[list[int]]:
        """All dots without frame and cursor, kept until colours or ends change."""
        key = (look, *ends)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._coloured(look, ends)
        return self._kept[1]

    def _coloured(self, look: Theme, ends: tuple[float, float]) -> list[list[int]]:
        import numpy as np

        at = np.arange(self.side) * len(self.ln_mm) // self.side
        ln = self.ln_mm[np.ix_(at, at)]
        low, high = np.log(ends[0]), np.log(ends[1])
        near = (high - ln) / (high - low) if high > low else np.where(np.isnan(ln), np.nan, 0.5)
        inks = np.array(HEAT) if look.color else np.arange(ACROSS)
        with np.errstate(invalid="ignore"):
            step = np.clip(np.nan_to_num(near) * len(inks), 0, len(inks) - 1).astype(int)
        nothing = look.index("ground") if look.color else 0
        rows: list[list[int]] = np.where(np.isnan(ln), nothing, inks[step]).tolist()
        return rows


class OverviewPane(Pane, can_focus=False):
    """The whole matrix beside the part of it that is in view."""

    title = "All of it, what is in view framed"

    def __init__(self, line: Callable[[int, int, int], list[Span]]) -> None:
        super().__init__(id="matrix-overview")
        self._line = line

    def body_line(self, y: int) -> list[Span]:
        """A line of two rows of dots."""
        return self._line(y, self.body_width, self.body_height)
