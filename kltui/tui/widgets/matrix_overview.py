"""The overview of a matrix: every character shows two cells, or two blocks of cells; a frame shows the part in view."""

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

MAXIMUM = 320  # blocks along each side, more than a pane can show
# Without colours: the darkness of a KL, the smaller the darker, then the signs of the diagonal and of an undefined KL, of
# frame and cursor.
DARKNESS_AND_SIGNS = " .:-=+*#%@\\?_|X"
DIAGONAL, UNDEFINED, ACROSS, DOWN, CURSOR = range(10, 15)
Frame = tuple[int, int, int, int]  # first row, first column, end of rows, end of columns (exclusive)


def blocks(kl_KK: Array, order: list[int], maximum: int = MAXIMUM) -> Array:
    """m x m means of ln KL over blocks of the rows and columns `order` (K) of a matrix, m = min(K, maximum).

    Only positive KLs count; a block without any is -inf if it has a KL of 0 off the diagonal, otherwise NaN.
    """
    import numpy as np

    K = len(order)
    m = min(K, maximum)
    part = kl_KK[np.ix_(order, order)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ln = np.where(part > 0, np.log(part), np.nan)
    zero = (part == 0) & ~np.eye(K, dtype=bool)
    if m == K:
        return np.where(zero, -np.inf, ln)
    edges = np.arange(m) * K // m
    known = np.isfinite(ln)
    sums, counts, zeros = np.where(known, ln, 0.0), known.astype(np.float64), zero.astype(np.float64)
    for axis in (0, 1):
        sums, counts, zeros = (np.add.reduceat(v, edges, axis) for v in (sums, counts, zeros))
    with np.errstate(invalid="ignore"):
        found: Array = sums / counts
    return np.where((counts == 0) & (zeros > 0), -np.inf, found)


class Overview:
    """The overview of a matrix of `count` rows in `width` x `height` characters, each of two dots, one above the other."""

    def __init__(self, ln_mm: Array, count: int, width: int, height: int) -> None:
        self.ln_mm, self.count = ln_mm, count
        self.side = max(1, min(count, width, 2 * height))  # number of dots along each side
        self._kept: tuple[tuple[Theme, float, float], list[list[int]]] | None = None

    def item(self, dot: int) -> int:
        """The first row of the matrix that a dot represents."""
        return dot * self.count // self.side

    def dot(self, item: int) -> int:
        """The dot that represents a row of the matrix."""
        return min(self.side - 1, item * self.side // self.count)

    def line(
        self, y: int, look: Theme, ends: tuple[float, float], frame: Frame, here: tuple[int, int]
    ) -> list[Span]:
        """Line `y`, which shows two rows of dots. Colours go from the smallest to the largest KL, `ends`.

        `frame` is the part in view, `here` the (row, column) of the cursor.
        """
        top, bottom = 2 * y, 2 * y + 1
        if top >= self.side:
            return []
        upper = self._row(top, look, ends, frame, here)
        lower = self._row(bottom, look, ends, frame, here) if bottom < self.side else [-1] * self.side
        return [self._character(a, b, look) for a, b in zip(upper, lower, strict=True)]

    def _character(self, upper: int, lower: int, look: Theme) -> Span:
        if not look.color:
            # A character shows only the upper dot, but frame and cursor of both.
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
        """A row of dots with frame and cursor: xterm-256 indices, or without colours indices in DARKNESS_AND_SIGNS."""
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
        """All dots without frame and cursor, cached until colours or ends change."""
        key = (look, *ends)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._coloured(look, ends)
        return self._kept[1]

    def _coloured(self, look: Theme, ends: tuple[float, float]) -> list[list[int]]:
        import numpy as np

        at = np.arange(self.side) * len(self.ln_mm) // self.side
        ln = self.ln_mm[np.ix_(at, at)]
        low, high = np.log(ends[0]), np.log(ends[1])
        near = (high - ln) / (high - low) if high > low else np.ones_like(ln)
        near = np.where(np.isneginf(ln), 1.0, near)
        inks = np.array(HEAT) if look.color else np.arange(DIAGONAL)
        with np.errstate(invalid="ignore"):
            step = np.clip(np.nan_to_num(near) * len(inks), 0, len(inks) - 1).astype(int)
        undefined, own = (look.index("rule"), look.index("ground")) if look.color else (UNDEFINED, DIAGONAL)
        inked = np.where(np.isnan(ln), undefined, inks[step])
        if len(self.ln_mm) == self.count:  # otherwise the blocks on the diagonal have other pairs too
            np.fill_diagonal(inked, own)
        rows: list[list[int]] = inked.tolist()
        return rows


def undefined_hint(look: Theme) -> str:
    """What an undefined KL looks like in the overview."""
    return "grey: undefined" if look.color else "?: undefined"


class OverviewPane(Pane, can_focus=False):
    """The pane with the overview, beside the part in view."""

    title = "Whole matrix; frame: part in view"

    def __init__(self, line: Callable[[int, int, int], list[Span]]) -> None:
        super().__init__(id="matrix-overview")
        self._line = line
        self.has_undefined = False

    def header_left(self) -> list[Span]:
        """The title; if a KL is undefined, with what that looks like."""
        if not self.has_undefined:
            return super().header_left()
        return [(f"Frame: part in view; {undefined_hint(self.look)}", super().header_left()[0][1])]

    def body_line(self, y: int) -> list[Span]:
        """A line of two rows of dots."""
        return self._line(y, self.body_width, self.body_height)
