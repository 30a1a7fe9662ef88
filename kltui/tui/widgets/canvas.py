"""A pane: a widget drawn line by line from styled spans, with its own header."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.containers import Vertical
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from kltui.sanitize import in_ascii, safe_text, short_name
from kltui.tui.actions import ActionHandlers
from kltui.tui.theme import Theme

if TYPE_CHECKING:
    from kltui.tui.session import Session

Span = tuple[str, Style]


def spelled(spans: Iterable[Span], look: Theme) -> list[Span]:
    """The spans, converted to ASCII if only that may be shown."""
    return [(in_ascii(text), style) for text, style in spans] if look.ascii_only else list(spans)


def strip_of(spans: Iterable[Span], width: int, fill: Style) -> Strip:
    """The spans as one strip of exactly `width` cells, cut or filled up; unprintable characters are replaced."""
    segments: list[Segment] = []
    used, last = 0, None
    for text, style in spans:
        if not text:
            continue
        if not text.isprintable():
            text = safe_text(text)
        used += len(text) if text.isascii() else cell_len(text)
        if style is last:
            segments[-1] = Segment(segments[-1].text + text, style)
        else:
            segments.append(Segment(text, style))
            last = style
        if used > width:
            break
    if used > width:
        return Strip(segments, used).crop(0, width)
    if used < width:
        segments.append(Segment(" " * (width - used), fill))
    return Strip(segments, width)


def width_of(spans: Iterable[Span]) -> int:
    """The width of the spans in cells."""
    return sum(cell_len(text) for text, _ in spans)


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """`text` in exactly `width` cells, cut with an ellipsis or padded on the right (`right`: on the left)."""
    if width <= 0:
        return ""
    text = safe_text(text, 4 * width)
    cells = len(text) if text.isascii() else cell_len(text)
    if cells > width:
        text = text.rstrip()  # spaces from alignment need no ellipsis
        cells = cell_len(text)
    if cells > width:
        text = f"{_beginning(text, width - 1)}…"
        cells = cell_len(text)
    padding = " " * (width - cells)
    return padding + text if right else text + padding


def _beginning(text: str, width: int) -> str:
    """The longest beginning of `text` that takes at most `width` cells."""
    if text.isascii():
        return text[: max(0, width)]
    return text[: max(0, bisect_right(range(len(text) + 1), width, key=lambda n: cell_len(text[:n])) - 1)]


def fitted_name(name: str, width: int) -> str:
    """A name in exactly `width` cells, cut in its middle or padded."""
    return fitted(short_name(name, width), width)


def names_in(a: str, b: str, width: int) -> tuple[str, str]:
    """Two names cut in their middles to `width` cells together; a short one leaves its room to the other.

    >>> names_in("tiny@1", "a-long-name@1000", 20)
    ('tiny@1', 'a-long…me@1000')
    """
    room_a = max(width // 2, width - cell_len(b))
    a = short_name(a, room_a)
    return a, short_name(b, max(1, width - cell_len(a)))


def shortened(spans: Sequence[Span], width: int) -> list[Span]:
    """The spans in at most `width` cells, cut with an ellipsis."""
    if width_of(spans) <= width or width < 1:
        return list(spans)
    kept: list[Span] = []
    room = width - 1
    for text, style in spans:
        left = _beginning(text, room)
        room -= cell_len(left)
        if left != text:
            return [*kept, (f"{left}…", style)]
        kept.append((text, style))
    return kept


def _without_end(spans: Sequence[Span]) -> list[Span]:
    """The spans without trailing spaces."""
    kept = list(spans)
    while kept and not kept[-1][0].strip(" "):
        kept.pop()
    return [*kept[:-1], (kept[-1][0].rstrip(" "), kept[-1][1])] if kept else []


def wrapped(text: str, width: int) -> list[str]:
    """`text` broken at spaces into lines of at most `width` cells, all with its indent; longer words are cut.

    >>> wrapped("in /models/small/step1000", 14)
    ['in', '/models/small/', 'step1000']
    """
    bare = text.lstrip(" ")
    indent = " " * min(len(text) - len(bare), width // 2)
    if indent and bare:
        return [indent + line for line in wrapped(bare, width - len(indent))]
    lines, line = [], ""
    for word in safe_text(text).split(" "):
        while cell_len(word) > width > 0:
            if line:
                lines.append(line)
            at = _cut_of(word, width)
            lines.append(word[:at])
            word, line = word[at:], ""
        joined = f"{line} {word}" if line else word
        if cell_len(joined) > width:
            lines.append(line)
            line = word
        else:
            line = joined
    return [*lines, line] if line or not lines else lines


def _cut_of(word: str, width: int) -> int:
    """The index at which a word longer than `width` cells is cut: after a slash in its second half, else at the width."""
    at = cells = 0
    while at < len(word) and (cells := cells + cell_len(word[at])) <= width:
        at += 1
    at = max(1, at)
    slash = word.rfind("/", 0, at) + 1
    return slash if slash > at // 2 else at


class Box(Vertical):
    """A container that draws nothing itself."""

    def render_lines(self, crop: Region) -> list[Strip]:
        """[], so that the screen behind is visible where there is no child."""
        return []


class SessionWidget(Widget, ActionHandlers):
    """The base of views and panes: access to the session and its styles."""

    @cached_property
    def kl(self) -> Session:
        """The session."""
        return cast("Session", self.app)

    @property
    def look(self) -> Theme:
        """The styles of the present palette."""
        return self.kl.look


class Pane(SessionWidget, can_focus=True, inherit_bindings=False):
    """A pane: a header line and a body. Subclasses define `title`, `header_right` and `body_line`.

    A line that was drawn is kept until `refresh` asks for it again: a dialog over the pane, or its end, draws nothing anew.
    """

    ALLOW_SELECT: ClassVar[bool] = False
    DEFAULT_CSS = "Pane { width: 100%; height: 1fr; }"
    title = ""
    #: whether a vertical line separates it from the pane on its left
    barred = False
    #: what a pixel image covers
    covered: Literal["", "body", "whole"] = ""

    def __init__(self, id: str | None = None) -> None:
        self._kept_lines: dict[int, Strip] = {}
        self._kept_lines_for: tuple[object, ...] = ()
        super().__init__(id=id)
        #: the size while lines are drawn, because getting it from Textual each time takes a fifth of a frame
        self.room: Size | None = None
        self._with_bar: dict[int, tuple[Strip, Strip]] = {}
        self._blank: tuple[tuple[int, bool, Theme], Strip] | None = None

    @property
    def body_width(self) -> int:
        """The width of a body line in cells."""
        return max(0, (self.room or self.size).width - (2 if self.barred else 0))

    @property
    def body_height(self) -> int:
        """The number of lines below the header."""
        return max(0, (self.room or self.size).height - 1)

    def header_left(self) -> list[Span]:
        """Spans at the left of the header."""
        return [(self.title, self.look("accent" if self.has_focus else "muted", bold=self.has_focus))]

    def header_right(self) -> list[Span]:
        """Spans at the right of the header."""
        return []

    def body_line(self, y: int) -> Sequence[Span] | Strip:
        """Line `y` of the body, at most `body_width` cells."""
        return []

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of `crop`, without Textual's computation of borders, padding and tint, which panes do not have."""
        self.room = size = self.size
        kept_for = self.lines_depend_on()
        if self._kept_lines_for != kept_for:
            self._kept_lines, self._kept_lines_for = {}, kept_for
        kept = self._kept_lines
        strips = []
        for y in crop.line_range:
            strip = kept.get(y)
            if strip is None:
                strip = kept[y] = self.render_line(y)
            strips.append(strip)
        self.room = None
        if crop.column_span != (0, size.width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def lines_depend_on(self) -> tuple[object, ...]:
        """What lines are drawn anew for without `refresh`."""
        return self.size, self.look

    def refresh(self, *regions: Region, **how: Any) -> Self:
        """Asks for lines to be drawn again: those of `regions`, or all."""
        if regions:
            for region in regions:
                for y in region.line_range:
                    self._kept_lines.pop(y, None)
        else:
            self._kept_lines.clear()
        return super().refresh(*regions, **how)

    def render_line(self, y: int) -> Strip:
        """Line `y` of the widget; line 0 is the header."""
        shown = self.covered != "whole" if y == 0 else not self.covered
        line = (self._header() if y == 0 else self.body_line(y - 1)) if shown else []
        if not isinstance(line, Strip):
            return self._strip_of(line)
        if not self.barred:
            return line
        kept = self._with_bar.get(y)
        if kept is None or kept[0] is not line:
            bar = [Segment(text, style) for text, style in self._separator()]
            kept = self._with_bar[y] = line, Strip([*bar, *line], 2 + line.cell_length)
        return kept[1]

    def _strip_of(self, spans: Sequence[Span]) -> Strip:
        look = self.look
        width = self.body_width + (2 if self.barred else 0)
        bar = self._separator() if self.barred else []
        if spans:
            said = spelled(spans, look)
            if width_of(said) > self.body_width:
                said = spelled(shortened(_without_end(said), self.body_width), look)
            return strip_of([*bar, *said], width, look())
        if self._blank is None or self._blank[0] != (width, self.barred, look):
            self._blank = (width, self.barred, look), strip_of(bar, width, look())
        return self._blank[1]

    def _separator(self) -> list[Span]:
        look = self.look
        return [(look.glyph("│", "|"), look("rule")), (" ", look())]

    def _header(self) -> list[Span]:
        left, right = spelled(self.header_left(), self.look), spelled(self.header_right(), self.look)
        gap = self.body_width - width_of(left) - width_of(right)
        if gap > 0:
            return [*left, (" " * gap, self.look()), *right]
        return spelled(shortened(left, self.body_width), self.look)

    def redraw(self, *lines: int) -> None:
        """Requests a redraw of some body lines, or of the whole pane."""
        if not lines:
            self.refresh()
        elif shown := [y for y in lines if 0 <= y < self.body_height]:
            self.refresh(*(Region(0, y + 1, self.size.width, 1) for y in shown))

    def update_data(self) -> None:
        """Called when snapshot, selection or filter has changed."""
        self.refresh()

    def redraw_focus(self) -> None:
        """Requests a redraw of the header, which shows whether the pane has the focus."""
        self.refresh(Region(0, 0, self.size.width, 1))

    def on_focus(self, event: events.Focus) -> None:
        """Redraws only the header."""
        event.prevent_default()  # Textual would redraw the whole pane
        self.has_focus = True
        self.redraw_focus()

    def on_blur(self, event: events.Blur) -> None:
        """Redraws only the header."""
        event.prevent_default()
        self.has_focus = False
        self.redraw_focus()


class TextPane(Pane):
    """A scrolling pane of lines from `lines(width)`, which is called again when data, width or colours change."""

    def __init__(
        self, title: str, lines: Callable[[int], Sequence[Sequence[Span]]], id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.title = title
        self._make = lines
        self._lines: Sequence[Sequence[Span]] | None = None
        self._made_for: tuple[int, Theme] | None = None
        self.top = 0

    def all_lines(self) -> Sequence[Sequence[Span]]:
        """The lines at the present width."""
        return self.lines_in(self.body_width)

    def lines_in(self, width: int) -> Sequence[Sequence[Span]]:
        """The lines for a width of `width` cells; cached."""
        made_for = (width, self.look)
        if self._lines is None or self._made_for != made_for:
            self._lines, self._made_for = self._make(width), made_for
        return self._lines

    def body_line(self, y: int) -> Sequence[Span]:
        """The line at `y` below the scroll position."""
        lines = self.all_lines()
        index = self.top + y
        return lines[index] if index < len(lines) else []

    def header_right(self) -> list[Span]:
        """The number of the last visible line and of all lines, if they do not fit."""
        count = len(self.all_lines())
        if count <= self.body_height:
            return []
        return [(f"{min(count, self.top + self.body_height)}/{count}", self.look("faint"))]

    def update_data(self) -> None:
        """Makes the lines again."""
        self._lines = None
        self.refresh()

    def scroll_by(self, lines: int) -> None:
        """Scrolls by so many lines, within the text."""
        if not self.body_height:
            return
        top = max(0, min(len(self.all_lines()) - self.body_height, self.top + lines))
        if top != self.top:
            self.top = top
            self.refresh()

    def on_resize(self) -> None:
        """Keeps the scroll position within the text."""
        self.scroll_by(0)

    def do_down(self) -> None:
        self.scroll_by(1)

    def do_up(self) -> None:
        self.scroll_by(-1)

    def do_page_down(self) -> None:
        self.scroll_by(self.body_height - 1)

    def do_page_up(self) -> None:
        self.scroll_by(1 - self.body_height)

    def do_first(self) -> None:
        self.scroll_by(-(10**9))

    def do_last(self) -> None:
        self.scroll_by(10**9)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scrolls with the wheel."""
        self.scroll_by(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scrolls with the wheel."""
        self.scroll_by(-3)
