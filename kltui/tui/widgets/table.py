"""A table that draws only the visible rows, so that its cost does not depend on the number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.strip import Strip

from kltui.sanitize import in_ascii
from kltui.tui.widgets.canvas import Pane, Span, fitted, spelled, strip_of, width_of
from kltui.view.palette import READABLE, contrast

MAX_ROWS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Column:
    """A column: title, least width, share of spare width, alignment, and rank (on narrow panes the highest is hidden first).

    `brief`: the title if the column is narrower than `title`.
    """

    title: str
    width: int
    share: int = 0
    right: bool = False
    rank: int = 0
    brief: str = ""

    def titled(self, width: int, *, ascii_only: bool = False) -> str:
        """The title in `width` cells."""
        said = self.brief if self.brief and width < len(self.title) else self.title
        return fitted(in_ascii(said) if ascii_only else said, width, right=self.right)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: text, and its colour as a role or xterm-256 index; `parts` (text, colour) replace both if given.

    `rest`: the cell takes the width of all columns from its own on, and later cells are not shown.
    """

    text: str
    ink: str | int = "text"
    bold: bool = False
    parts: tuple[tuple[str, str | int], ...] = ()
    rest: bool = False


class Table(Pane):
    """A table. Subclasses define `row_count` and `cells`; `cursor` is the index of the cursor row."""

    columns: tuple[Column, ...] = ()
    empty: tuple[str, ...] = ("Nothing here.",)

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.cursor = 0
        self.top = 0
        self._widths_for = -1
        self._widths: list[int] = []
        self._drawn: dict[int, tuple[object, Strip]] = {}
        self._drawn_for: tuple[object, ...] = ()
        self._kept_for: Size | None = None

    def row_count(self) -> int:
        """The number of rows."""
        return 0

    def cells(self, index: int) -> Sequence[Cell]:
        """The cells of a row, one for each column."""
        return []

    def row_key(self, index: int) -> object:
        """Everything that a row shows, except cursor, width and colours: a drawn row is reused while its key is equal.

        None: draw the row every time.
        """
        return None

    def flag(self, index: int) -> Span | None:
        """A one-cell sign before the row, or None."""
        return None

    def moved(self) -> None:
        """Called after the cursor was moved to another row."""

    def widths(self) -> list[int]:
        """The width of each column at the present width of the pane; 0: hidden."""
        if self._widths_for != self.body_width:
            self._widths, self._widths_for = column_widths(self.columns, self.body_width - 2), self.body_width
        return self._widths

    def body_line(self, y: int) -> Sequence[Span] | Strip:
        """Titles on the first line, then rows."""
        if y == 0:
            return self._titles()
        index = self.top + y - 1
        count = self.row_count()
        if not count:
            return self._empty_line(y - 1)
        return self._kept_row(index) if index < count else []

    def _kept_row(self, index: int) -> Sequence[Span] | Strip:
        """A row, from the cache if its key has not changed."""
        key = self.row_key(index)
        if key is None:
            return self._row(index)
        drawn_for = (self.body_width, self.look)
        if drawn_for != self._drawn_for or len(self._drawn) > MAX_ROWS_KEPT:
            self._drawn, self._drawn_for = {}, drawn_for
        key = (key, self._ground(index))
        kept = self._drawn.get(index)
        if kept is None or kept[0] != key:
            look = self.look
            kept = key, strip_of(spelled(self._row(index), look), self.body_width, look())
            self._drawn[index] = kept
        return kept[1]

    def _ground(self, index: int) -> str:
        """The role of a row's background."""
        if index != self.cursor:
            return "ground"
        return "cursor" if self.has_focus else "raised"

    def _empty_line(self, y: int) -> list[Span]:
        text = self.empty[y - 1] if 1 <= y <= len(self.empty) else ""
        return [("  " + text, self.look("text" if y == 1 else "muted"))]

    def _titles(self) -> list[Span]:
        look, widths = self.look, self.widths()
        shown = [(c, w) for c, w in zip(self.columns, widths, strict=True) if w]
        cells = [c.titled(w, ascii_only=look.ascii_only) for c, w in shown]
        return [("  " + "  ".join(cells), look("faint"))] if self.row_count() else []

    def _row(self, index: int) -> list[Span]:
        look = self.look
        ground = self._ground(index)
        flag = self.flag(index) or (" ", look("text", ground))
        here = ">" if ground == "raised" and not look.color else " "  # no background shows the cursor row
        spans: list[Span] = [(flag[0], self._on(flag[1], ground)), (here, look("text", ground))]
        first, widths = True, self.widths()
        for column, width, cell in zip(self.columns, widths, self.cells(index), strict=False):
            if not width:
                continue
            spans.append(("" if first else "  ", look("text", ground)))
            first = False
            said = in_ascii(cell.text) if look.ascii_only else cell.text  # this changes the width
            if cell.rest:
                text = fitted(said, self.body_width - width_of(spans))
                spans.append((text, look(self._ink(cell.ink, ground), ground, bold=cell.bold)))
                break
            if cell.parts:
                spans += [(text, look(self._ink(ink, ground), ground)) for text, ink in cell.parts]
            else:
                text = fitted(said, width, right=column.right)
                spans.append((text, look(self._ink(cell.ink, ground), ground, bold=cell.bold)))
        used = width_of(spans)
        spans.append((" " * max(0, self.body_width - used), look("text", ground)))
        return spans

    def _ink(self, ink: str | int, ground: str) -> str | int:
        """The colour, or that of normal text if the contrast with the background is too low."""
        look = self.look
        quiet = ground == "cursor" and ink in ("faint", "muted")
        return "text" if quiet or contrast(look.index(ink), look.index(ground)) < READABLE else ink

    def _on(self, style: Style, ground: str) -> Style:
        own = self.look("text", ground)
        color = own.color if ground == "cursor" else style.color
        return style + Style(color=color, bgcolor=own.bgcolor, reverse=own.reverse)

    def redraw_focus(self) -> None:
        """Redraws the header and the cursor row, which show the focus."""
        super().redraw_focus()
        self.redraw(1 + self.cursor - self.top)

    def go(self, index: int) -> None:
        """Moves the cursor to a row, and scrolls if necessary; redraws only what changes."""
        count = self.row_count()
        index = max(0, min(count - 1, index)) if count else 0
        if index == self.cursor:
            self.keep_in_view()
            return
        before, self.cursor = self.cursor, index
        if not self.keep_in_view():
            self.redraw(1 + before - self.top, 1 + index - self.top)
        self.moved()

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of `crop`; in a new size with the cursor row in view, for Textual may leave out the event that says so."""
        if self.size != self._kept_for:
            self._kept_for = self.size
            self._scrolled()
        return super().render_lines(crop)

    def keep_in_view(self) -> bool:
        """Scrolls the cursor row into view; whether the table scrolled, and is redrawn."""
        if not self._scrolled():
            return False
        self.refresh()
        return True

    def _scrolled(self) -> bool:
        """Brings the cursor row into view; whether other rows are in view now."""
        before, rows = self.top, self.body_height - 1
        if rows >= 1:
            top = min(max(self.top, self.cursor - rows + 1), self.cursor)
            self.top = max(0, min(top, self.row_count() - rows))
        return self.top != before

    def on_resize(self) -> None:
        """Keeps the cursor row in view."""
        self.keep_in_view()

    def do_down(self) -> None:
        self.go(self.cursor + 1)

    def do_up(self) -> None:
        self.go(self.cursor - 1)

    def do_page_down(self) -> None:
        self.go(self.cursor + max(1, self.body_height - 2))

    def do_page_up(self) -> None:
        self.go(self.cursor - max(1, self.body_height - 2))

    def do_first(self) -> None:
        self.go(0)

    def do_last(self) -> None:
        self.go(self.row_count() - 1)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Moves the cursor to the row under the mouse."""
        if event.y >= 2:
            self.go(self.top + event.y - 2)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Moves down with the wheel."""
        self.go(self.cursor + 3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Moves up with the wheel."""
        self.go(self.cursor - 3)


def column_widths(columns: Sequence[Column], room: int) -> list[int]:
    """The width of each column in `room` cells, with gaps of two. Columns of high rank are hidden first (width 0), and
    spare width is divided by shares.

    >>> column_widths([Column("a", 4, share=1), Column("b", 6, rank=1)], 20)
    [12, 6]
    >>> column_widths([Column("a", 4, share=1), Column("b", 6, rank=1)], 8)
    [8, 0]
    """
    shown = set(range(len(columns)))
    while len(shown) > 1 and sum(columns[i].width + 2 for i in shown) - 2 > room:
        shown.remove(max(shown, key=lambda i: (columns[i].rank, i)))
    spare = max(0, room - (sum(columns[i].width + 2 for i in shown) - 2))
    shares = sum(columns[i].share for i in shown)
    widths = [0] * len(columns)
    for i in shown:
        widths[i] = columns[i].width + (spare * columns[i].share // shares if shares else 0)
    return widths
