"""Tables of reports, whose columns fit the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kltui.analysis.number_text import UNDEFINED as UNDEFINED
from kltui.analysis.number_text import figure as figure
from kltui.analysis.number_text import spread as spread
from kltui.analysis.number_text import with_error as with_error
from kltui.sanitize import in_ascii, safe_text, short_name

WIDEST = 10_000  # cells, in which every table has its whole width


def count(n: int, noun: str, plural: str = "") -> str:
    """`n noun`, in the plural unless n is 1.

    >>> count(1, "run"), count(2, "run"), count(0, "vertex", "vertices")
    ('1 run', '2 runs', '0 vertices')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


class TableText(Text):
    """Text that is converted to ASCII, before it is measured, if only ASCII may be printed."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        return Text.__rich_console__(self._spelled(options), console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Text.__rich_measure__(self._spelled(options), console, options)

    def _spelled(self, options: ConsoleOptions) -> Text:
        if not options.ascii_only or self.plain.isascii():
            return self
        return Text(in_ascii(self.plain), self.style, no_wrap=self.no_wrap, overflow=self.overflow)


def words(text: str, style: str = "") -> Text:
    """Text, which may be untrusted, as a printable rich Text without markup."""
    return TableText(safe_text(text), style=style)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[int] = (0,),
    tight: bool = False,
    wrap: Sequence[int] = (),
) -> Table:
    """A rich table of strings. Columns in `left` are names, which are cut if there is no space; other columns are never cut.

    `tight` puts one space between columns instead of two; columns in `wrap` are text that may take several lines.
    """
    padding = (0, 1, 0, 0) if tight else (0, 1)
    made = _FittingTable(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=False, highlight=False
    )
    for i, heading in enumerate(headings):
        # Rich narrows only columns that may wrap, so columns of names may, but each name is cut instead.
        free = i in left or i in wrap
        made.add_column(words(heading), no_wrap=not free)
        made.columns[i].justify = "left" if free else "right"
    for row in rows:
        made.add_row(*(_name(cell) if i in left else words(cell) for i, cell in enumerate(row)))
    return made


class _FittingTable(Table):
    """A table with less space between its columns where they would be cut with more."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        padding = self.padding
        if Measurement.get(console, options.update_width(WIDEST), self).maximum > options.max_width:
            self.padding = (0, 1, 0, 0)
        try:
            yield from super().__rich_console__(console, options)
        finally:
            self.padding = padding


class _Name:
    """A name in a cell, cut in the middle to its width: `run-a@100` and `run-b@200` differ at their ends."""

    def __init__(self, text: str) -> None:
        self.text = safe_text(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cut = _cut_in_the_middle(self._spelled(options), options.max_width)
        yield Text(cut, no_wrap=True, overflow="ellipsis")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, Text(self._spelled(options), no_wrap=True))

    def _spelled(self, options: ConsoleOptions) -> str:
        return in_ascii(self.text) if options.ascii_only else self.text


def _cut_in_the_middle(name: str, width: int) -> str:
    """The name cut to `width` cells; unchanged if it fits."""
    return name if cell_len(name) <= width else short_name(name, width)


def _name(text: str) -> RenderableType:
    """A cell of a left column: a name is cut in the middle, text with spaces at its end."""
    if " " in text:
        return TableText(safe_text(text), no_wrap=True, overflow="ellipsis")
    return _Name(text)
