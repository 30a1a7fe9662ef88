"""Changes made by keys, newest last, with functions that undo them; discarded when the interface closes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kltui.tui.filter import Filter, parse_filter
from kltui.tui.selection import Selection

MAX_STEPS = 100


class Chosen(NamedTuple):
    """Filter text, selected names and marks at one moment."""

    filter: str = ""
    selected: tuple[str, ...] = ()
    a: str = ""
    b: str = ""

    def put(self, selection: Selection) -> Filter:
        """Sets `selection` to this state, and returns the filter."""
        selection.selected = dict.fromkeys(self.selected)
        selection.a, selection.b = self.a, self.b
        return parse_filter(self.filter)


def chosen_now(filter_: Filter, selection: Selection) -> Chosen:
    """The present state."""
    return Chosen(filter_.text, tuple(selection.selected), selection.a, selection.b)


class UndoStep(NamedTuple):
    """A description of a change, and a function that undoes it."""

    what: str
    restore: Callable[[], None]


class Undo:
    """The last changes that can be undone, at most MAX_STEPS. While `waits` is true, `note` records nothing."""

    def __init__(self) -> None:
        self._steps: list[UndoStep] = []
        self._chosen = Chosen()
        self.waits = False

    def keep(self, what: str, restore: Callable[[], None]) -> None:
        """Records a change and the function that undoes it."""
        self._steps = [*self._steps[1 - MAX_STEPS :], UndoStep(what, restore)]

    def follow(self, now: Chosen) -> None:
        """Sets the present state without recording a change, after the workspace was read or a change undone."""
        self._chosen = now

    def note(self, now: Chosen, restore: Callable[[Chosen], None]) -> None:
        """Records a change if `now` differs from the state before; `restore` is called with that state to undo it."""
        before = self._chosen
        if self.waits or before == now:
            return
        self._chosen = now
        words = ("filter", "selection", "mark A", "mark B")
        changed = [w for w, old, new in zip(words, before, now, strict=True) if old != new]
        self.keep(" and ".join(changed), lambda: restore(before))

    def pop(self) -> UndoStep | None:
        """Removes and returns the last change; None if there is none."""
        return self._steps.pop() if self._steps else None
