"""A form over the view: a few named input lines, validated together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.strip import Strip

from kltui.tui.dialogs.prompts import LineInput, PathSuggester, Title, Words
from kltui.tui.terminal.textual_private import OverlaidScreen
from kltui.tui.widgets.canvas import Pane, strip_of

Answers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """A line of a form: its name, initial value, placeholder (`empty`), and whether it is a path."""

    name: str
    value: str = ""
    empty: str = ""
    paths: bool = False


class FieldName(Pane, can_focus=False):
    """The name to the left of a line, highlighted while the line has the cursor."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.here = text, False

    def render_line(self, y: int) -> Strip:
        """The name."""
        look = self.look
        style = look("text" if self.here else "muted", "raised", bold=self.here)
        return strip_of([(" " + self.text, style)], self.size.width, look("text", "raised"))


class FormRow(Horizontal):
    """A name and its input line."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.label = FieldName(field.name)
        self.line = LineInput(field.value, field.empty, PathSuggester() if field.paths else None)
        super().__init__(self.label, self.line)


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
        self.rows = [FormRow(field) for field in fields]
        keys = "tab, arrows: next line   enter: done   esc: leave"
        keys += "   right: complete a path" if any(field.paths for field in fields) else ""
        self.hints = [keys, *hints]

    def compose(self) -> ComposeResult:
        """Question, lines, hints."""
        with Vertical(classes="sheet"):
            yield self.heading
            yield from self.rows
            yield Words(self.hints)

    def on_mount(self) -> None:
        """Puts the cursor on the first line."""
        self._go(0)

    def answers(self) -> dict[str, str]:
        """{name: text} of all lines as they are now."""
        return {row.field.name: row.line.value for row in self.rows}

    def _go(self, index: int) -> None:
        self.at = index % len(self.rows)
        self.set_focus(self.rows[self.at].line)
        for i, row in enumerate(self.rows):
            row.label.here = i == self.at
            row.label.refresh()

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
            self._go(self.at + moves[event.key])
        else:
            await self.rows[self.at].line.typed(event)
            self.heading.complain("")

    def pasted(self, text: str) -> None:
        """Inserts pasted text into the line."""
        self.rows[self.at].line.pasted(text)
        self.heading.complain("")
