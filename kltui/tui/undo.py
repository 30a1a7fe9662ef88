"""Changes made by keys, newest last, with functions that undo them; discarded when the interface closes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kltui.tui.filter import Filter, parse_filter
from kltui.tui.selection import Selection

MAX_STEPS = 100


class Chosen(NamedTuple):
    """Filter, selection and marks at one moment."""

    filter: str = ""
    selected: tuple[str, ...] = ()
    a: str = ""
    b: str = ""

    def put(self, selection: Selection) -> Filter:
        """Restores `selection`, and returns the filter of that moment."""
        selection.selected = dict.fromkeys(self.selected)
        selection.a, selection.b = self.a, self.b
        return parse_filter(self.filter)


def chosen_now(filter_: Filter, selection: Selection) -> Chosen:
    """What is chosen now."""
    return Chosen(filter_.text, tuple(selection.selected), selection.a, selection.b)


@dataclass(frozen=True, slots=True)
class UndoStep:
    """A change in words, and what takes it back."""

    what: str
    restore: Callable[[], None]


class Undo:
    """The changes that can be taken back, at most the last `MAX_STEPS`. While it `waits`, no choice is noted."""

    def __init__(self) -> None:
        self._steps: list[UndoStep] = []
        self._chosen = Chosen()
        self.waits = False

    def keep(self, what: str, restore: Callable[[], None]) -> None:
        """Remembers how to take back a change."""
        self._steps = [*self._steps[1 - MAX_STEPS :], UndoStep(what, restore)]

    def follow(self, now: Chosen) -> None:
        """Sets the current selection without recording a change, after reading it from disk or undoing."""
        self._chosen = now

    def note(self, now: Chosen, restore: Callable[[Chosen], None]) -> None:
        """Remembers what was chosen before, where `now` differs from it."""
        before = self._chosen
        if self.waits or before == now:
            return
        self._chosen = now
        words = ("filter", "selection", "mark A", "mark B")
        changed = [w for w, old, new in zip(words, before, now, strict=True) if old != new]
        self.keep(" and ".join(changed), lambda: restore(before))

    def pop(self) -> UndoStep | None:
        """Removes and returns the newest change, or None."""
        return self._steps.pop() if self._steps else None
