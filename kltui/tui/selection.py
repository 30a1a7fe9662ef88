"""The selection that all screens share."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

ALL_SHOWN = "all runs shown"
NO_RUN = "put the cursor on a run first"


@dataclass
class Selection:
    """Names of the checkpoints under the cursor, selected (in order of selection), and marked A and B."""

    cursor: str = ""
    selected: dict[str, None] = field(default_factory=dict)
    a: str = ""
    b: str = ""
    hidden: set[str] = field(default_factory=set)  # runs that plots leave out
    # The checkpoint that was under the cursor until the filter hid it, and the one that the cursor moved to.
    left: tuple[str, str] = "", ""

    def toggle(self, names: Iterable[str]) -> None:
        """Selects `names`, or unselects them if all of them are selected."""
        names = list(names)
        if all(n in self.selected for n in names):
            for name in names:
                self.selected.pop(name, None)
        else:
            self.selected.update(dict.fromkeys(names))

    def toggle_hidden(self, run: str, shows: str) -> str:
        """Hides a run in all plots, or shows it again; returns a message on what is hidden now.

        `shows` is the key that shows all runs.
        """
        self.hidden ^= {run}
        return f"hidden: {', '.join(sorted(self.hidden))}; {shows} shows all" if self.hidden else ALL_SHOWN

    def hide_none(self) -> str:
        """Shows all runs in all plots; returns a message that says so."""
        self.hidden.clear()
        return ALL_SHOWN

    def swap(self) -> None:
        """Exchanges A and B."""
        self.a, self.b = self.b, self.a

    def rename(self, names: Mapping[str, str]) -> None:
        """Replaces old names by new ones, {old: new}."""
        self.selected = {names.get(n, n): None for n in self.selected}
        self.cursor, self.a, self.b = (names.get(n, n) for n in (self.cursor, self.a, self.b))

    def keep(self, known: Container[str]) -> None:
        """Removes every name of a checkpoint that is not in `known`."""
        self.selected = {n: None for n in self.selected if n in known}
        self.cursor, self.a, self.b = (n if n in known else "" for n in (self.cursor, self.a, self.b))
