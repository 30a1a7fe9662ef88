"""A form over the view: a few named input lines, validated together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.geometry import Offset
from textual.strip import Strip
from textual.widgets.input import Selection

from kltui.tui.dialogs.prompts import LineInput, PathSuggester, Title, Words
from kltui.tui.terminal.textual_private import OverlaidScreen
from kltui.tui.widgets.canvas import Pane, Span, fitted, spelled, strip_of

Answers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """A line of a form: its name, initial value, placeholder (`empty`), and whether it is a path."""

    name: str
    value: str = ""
    empty: str = ""
    paths: bool = False


class FormLines(Pane, can_focus=False):
    """The names and values of all lines; a single input line lies over the value that is edited.

    An input line of its own for each would take longer to open than a key may.
    """

    NAMES = 15  # cells for the names, at the left

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        self.fields, self.at = list(fields), 0
        self._values = [field.value for field in fields]
        self._selections = [Selection.cursor(len(field.value)) for field in fields]
        first = self.fields[0]
        self.line = LineInput(first.value, first.empty, PathSuggester() if first.paths else None)
        self.line.styles.margin = (0, 0, 0, self.NAMES)
        self.styles.height = len(self.fields)

    def compose(self) -> ComposeResult:
        """The input line."""
        yield self.line

    def values(self) -> list[str]:
        """The values of all lines as they are now."""
        return [self.line.value if i == self.at else value for i, value in enumerate(self._values)]

    def go(self, at: int) -> None:
        """Puts the input line over line `at`, with the cursor where it was there."""
        self._values[self.at], self._selections[self.at] = self.line.value, self.line.selection
        moved, self.at, field = at - self.at, at, self.fields[at]
        self.line.take(self._values[at], self._selections[at], field.empty)
        self.line.suggester = PathSuggester() if field.paths else None
        self.line.styles.offset = (0, at)
        self.app.cursor_position = self.line.cursor_screen_offset + Offset(0, moved)
        self.refresh()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Puts the input line over the line under the mouse."""
        # `event.y` is that within the input line if this is under the mouse; it has moved its cursor itself then.
        at = min(int(event.screen_y) - self.region.y, len(self.fields) - 1)
        if at != self.at:
            self.go(at)

    def render_line(self, y: int) -> Strip:
        """A name, highlighted while its value is edited, and its value."""
        look, here = self.look, y == self.at
        if y >= len(self.fields):
            return strip_of([], self.size.width, look("text", "raised"))
        name = fitted(f" {self.fields[y].name}", self.NAMES)
        spans = spelled([(name, look("text" if here else "muted", "raised", bold=here))], look)
        return strip_of([*spans, *self._value(y)], self.size.width, look("text", self.line.ground))

    def _value(self, y: int) -> list[Span]:
        """The value of a line that is not edited; without one what its lack means."""
        look, line, value = self.look, self.line, self._values[y]
        text, ink = value, look("text", line.ground)
        if not value:
            text, ink = line.bracketed(self.fields[y].empty), look(line.faint, line.ground)
        text = fitted(text, max(0, self.size.width - self.NAMES - 2))
        return spelled([(f" {text} ", ink)], look)


class Form(OverlaidScreen[Answers | None]):
    """Lines to fill in. The result is {name: text}, or None if the user leaves; `check` returns an error message or ""."""

    def __init__(
        self,
        question: str,
        fields: Sequence[Field],
        check: Callable[[Answers], str] | None = None,
        hints: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.question, self.check = question, check
        self.heading = Title(question)
        self.lines = FormLines(fields)
        keys = "tab, arrows: next line   enter: done   esc: leave"
        keys += "   right: complete a path" if any(field.paths for field in fields) else ""
        self.hints = [keys, *hints]

    def compose(self) -> ComposeResult:
        """Question, lines, hints."""
        with Vertical(classes="sheet"):
            yield self.heading
            yield self.lines
            yield Words(self.hints)

    def on_mount(self) -> None:
        """Puts the cursor on the first line."""
        self.set_focus(self.lines.line)

    def answers(self) -> dict[str, str]:
        """{name: text} of all lines as they are now."""
        return dict(zip([field.name for field in self.lines.fields], self.lines.values(), strict=True))

    def _submit(self) -> None:
        """Closes the form with the answers if `check` accepts them, otherwise shows its message."""
        found = self.answers()
        complaint = self.check(found) if self.check else ""
        if complaint:
            self.heading.complain(complaint)
        else:
            self.dismiss(found)

    async def typed(self, event: events.Key) -> None:
        """Handles a key: types into the line, moves between lines, submits, or leaves."""
        moves = {"down": 1, "tab": 1, "up": -1, "shift+tab": -1}
        if event.key in ("escape", "ctrl+c"):
            self.dismiss(None)
        elif event.key == "enter":
            self._submit()
        elif event.key in moves:
            self.lines.go((self.lines.at + moves[event.key]) % len(self.lines.fields))
        else:
            await self.lines.line.typed(event)
            self.heading.complain("")

    def pasted(self, text: str) -> None:
        """Inserts pasted text into the line."""
        self.lines.line.pasted(text)
        self.heading.complain("")
