"""Where the labels of a plot's points have room, beside each other and beside the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len

Cell = tuple[int, int]  # column, row
Way = tuple[bool, int]  # position of a label: (whether it is right of its point, number of rows below it)
NEAR_WAYS: tuple[Way, ...] = (True, 0), (False, 0), (True, 1), (True, -1), (False, 1), (False, -1)
# A label farther away is still recognised by the marker in it.
WAYS = (*NEAR_WAYS, *((right, by) for n in range(2, 6) for by in (n, -n) for right in (True, False)))
UP_FIRST = tuple(sorted(WAYS, key=lambda way: (abs(way[1]), way[1] > 0)))
FAR = 2  # cells of data that a label covers rather than be one row farther from its point


class LabelRoom:
    """The cells of a plot: those that marks and labels have `taken`, and for each row a byte for each cell, 1 where
    data is `drawn`.
    """

    def __init__(self, width: int, height: int, taken: Iterable[Cell], drawn: Sequence[bytes]) -> None:
        self.width, self.height, self.drawn = width, height, drawn
        # by row, a byte for each cell, with one more at either end for the blanks beside a label
        self._taken = [bytearray(width + 2) for _ in range(height)]
        for column, row in taken:
            if 0 <= column < width and 0 <= row < height:
                self._taken[row][column + 1] = 1

    def first(self, point: Cell, text: str, ways: Sequence[Way]) -> Cell | None:
        """Where a label begins in the first of `ways` that is free, which is taken then; None without one."""
        wide = cell_len(text)
        for way in ways:
            at = self._inside(point, wide, way)
            if at is not None and self._is_free(point, wide, at):
                return self._take(point, wide, at)
        return None

    def clearest(self, point: Cell, text: str, mark: str = "") -> tuple[Cell, str] | None:
        """(where a label begins in the free one of WAYS that covers little data and is near, the label); it is taken then.

        Beside the `mark` of its point, a label does not begin with the same, which would look like another point.
        """
        places: list[tuple[int, Cell, str]] = []
        for way in WAYS:
            said = text if way[1] or not mark else text.removeprefix(f"{mark} ")
            wide = cell_len(said)
            if (at := self._inside(point, wide, way)) is not None:
                covered = self.drawn[at[1]][at[0] : at[0] + wide].count(1)
                places.append((covered + FAR * abs(way[1]), at, said))
        for _, at, said in sorted(places, key=lambda place: place[0]):
            if self._is_free(point, cell_len(said), at):
                return self._take(point, cell_len(said), at), said
        return None

    def _inside(self, point: Cell, wide: int, way: Way) -> Cell | None:
        """Where a label begins; None if it would leave the plot."""
        right, down = way
        column, row = (point[0] + 2 if right else point[0] - wide - 1), point[1] + down
        is_inside = column >= 0 and column + wide <= self.width and 0 <= row < self.height
        return (column, row) if is_inside else None

    def _is_free(self, point: Cell, wide: int, at: Cell) -> bool:
        """Whether a label and a blank on either side cover nothing that is taken but their point."""
        column, row = at
        is_own = row == point[1] and column - 1 <= point[0] <= column + wide
        own = self._taken[row][point[0] + 1] if is_own else 0
        return self._taken[row].count(1, column, column + wide + 2) == own

    def _take(self, point: Cell, wide: int, at: Cell) -> Cell:
        column, row = at
        before = self._taken[point[1]][point[0] + 1]
        self._taken[row][column : column + wide + 2] = b"\1" * (wide + 2)
        self._taken[point[1]][point[0] + 1] = before
        return at
