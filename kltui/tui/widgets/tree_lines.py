"""The lines of the tree of runs, each made when it is needed, so that the cost does not depend on their number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, overload

from kltui.tui.data import run_of

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow


class TreeLine(NamedTuple):
    """A line of the tree: a checkpoint, or a run's heading (`row` None) with its numbers of checkpoints and scored ones."""

    run: str
    row: CheckpointRow | None
    n: int = 0
    scored: int = 0


@dataclass(frozen=True)
class Branch:
    """A run's heading (None in a sorted list) and the checkpoints shown below it."""

    heading: TreeLine | None
    rows: Sequence[CheckpointRow]

    def __len__(self) -> int:
        return len(self.rows) + (self.heading is not None)

    def line(self, place: int) -> TreeLine:
        """Line number `place`, from 0; the heading, if there is one, is line 0."""
        if self.heading is None:
            return TreeLine(run_of(self.rows[place]), self.rows[place])
        return TreeLine(self.heading.run, self.rows[place - 1]) if place else self.heading

    @cached_property
    def places(self) -> dict[int, int]:
        """{checkpoint id: number of its line}."""
        first = int(self.heading is not None)
        return {row.id: i for i, row in enumerate(self.rows, start=first)}


class TreeLines(Sequence[TreeLine]):
    """The lines of all branches, one after another."""

    def __init__(self, branches: Iterable[Branch] = ()) -> None:
        self.branches = [branch for branch in branches if len(branch)]
        self._starts = list(accumulate(map(len, self.branches), initial=0))
        self._number = {b.heading.run: i for i, b in enumerate(self.branches) if b.heading is not None}

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, at: int) -> TreeLine: ...

    @overload
    def __getitem__(self, at: slice) -> list[TreeLine]: ...

    def __getitem__(self, at: int | slice) -> TreeLine | list[TreeLine]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        number = bisect_right(self._starts, at) - 1
        return self.branches[number].line(at - self._starts[number])

    @property
    def headings(self) -> list[int]:
        """The indices of the runs' headings, in increasing order."""
        return [self._starts[i] for i in self._number.values()]

    def heading_of(self, run: str) -> int:
        """The index of a run's heading."""
        return self._starts[self._number[run]]

    def place_of(self, row: CheckpointRow) -> int | None:
        """The index of a checkpoint's line; None if it is not listed."""
        number = self._number.get(run_of(row)) if self._number else 0
        if number is None or number >= len(self.branches):
            return None
        place = self.branches[number].places.get(row.id)
        return None if place is None else self._starts[number] + place
