"""Dialogs over the view: an input line, a list to choose from, a yes-or-no question, a text to read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.cells import cell_len
from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.geometry import Size
from textual.strip import Strip
from textual.suggester import Suggester
from textual.widgets import Input
from textual.widgets.input import Selection

from kltui.sanitize import expanded
from kltui.tui.terminal.textual_private import OverlaidScreen
from kltui.tui.theme import Theme
from kltui.tui.widgets.canvas import (
    Pane,
    Span,
    TextPane,
    fitted,
    shortened,
    spelled,
    strip_of,
    width_of,
    wrapped,
)

if TYPE_CHECKING:
    from kltui.tui.session import Session

TOGETHER = "\u00a0"  # no-break space
MAX_READ, FRAME = 110, 4  # width in cells of a text to read, and of its border and padding
FOLDER_SECONDS = 2.0  # timeout for listing a folder, which may be on a network file system


class Words(Pane, can_focus=False):
    """Wrapped text of at most 1 / `share` of the screen's lines: a question, an error, hints."""

    DEFAULT_CSS = "Words { height: auto; width: 100%; }"
    bold, share = False, 2

    def __init__(self, texts: Sequence[str], ink: str = "muted") -> None:
        super().__init__()
        self.texts, self.ink = list(texts), ink

    def say(self, text: str, ink: str) -> None:
        """Replaces the text."""
        self.texts, self.ink = [text], ink
        self.refresh(layout=True)

    def lines(self, width: int) -> list[str]:
        """The lines in `width` cells; if some do not fit, the last one shown ends in an ellipsis."""
        texts = [line for text in self.texts for line in text.split("\n")]
        lines = [line for text in texts for line in wrapped(text, max(1, width - 2))]
        maximum = max(1, self.app.size.height // self.share)
        lines = [line.replace(TOGETHER, " ") for line in lines]
        return lines if len(lines) <= maximum else [*lines[: maximum - 1], f"{lines[maximum - 1]} …"]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """The number of lines, for Textual's layout."""
        return len(self.lines(width))

    def render_line(self, y: int) -> Strip:
        """A line."""
        look, lines = self.look, self.lines(self.size.width)
        text = fitted(lines[y], max(1, self.size.width - 2)) if y < len(lines) else ""
        spans = spelled([(" " + text, look(self.ink, "raised", bold=self.bold))], look)
        # without a background colour, a rule separates it from the view
        if y == 0 and self.bold and not look.color:
            spans = [(spans[0][0].rstrip() + " ", spans[0][1])]
            rule = look.glyph("─", "-") * max(0, self.size.width - width_of(spans))
            spans.append((rule, look("rule", "raised")))
        return strip_of(spans, self.size.width, look("text", "raised"))


class Title(Words, can_focus=False):
    """The question, or an error message about the answer."""

    bold, share = True, 4

    def __init__(self, question: str, complaint: str = "") -> None:
        super().__init__([complaint or question], "bad" if complaint else "accent")
        self.question = question

    def complain(self, complaint: str) -> None:
        """Shows an error message; "" shows the question again."""
        text = complaint or self.question
        if self.texts != [text]:
            self.say(text, "bad" if complaint else "accent")


class PathSuggester(Suggester):
    """Suggests the first folder entry, by name, that begins with what is typed."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """The completed path; None if no entry matches."""
        return await asyncio.to_thread(completed, value)


def completed(value: str) -> str | None:
    """`value` completed to the first matching entry of its folder, None without one; folders end in a slash."""
    head, slash, tail = value.rpartition("/")
    folder = expanded(f"{head}{slash}" or ".")
    try:
        names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if p.name.startswith(tail))
    except (OSError, RuntimeError):
        return None
    shown = [name for name in names if tail or not name.startswith(".")]
    return f"{head}{slash}{shown[0]}" if shown and shown[0].isprintable() else None


class LineInput(Input, inherit_css=False):
    """An input line whose screen passes it keys one at a time, so that they are handled in order.

    Its styles come from the session's palette: Textual takes longer to find those of an `Input` than to draw it.
    """

    EDITING: ClassVar = {
        key: b.action for b in Input.BINDINGS if isinstance(b, Binding) for key in b.key.split(",")
    }

    def __init__(self, value: str = "", placeholder: str = "", suggester: Suggester | None = None) -> None:
        super().__init__(value, placeholder=placeholder, suggester=suggester, select_on_focus=False)
        self.cursor_blink = False

    @property
    def look(self) -> Theme:
        """The styles of the present palette."""
        return cast("Session", self.app).look

    @property
    def ground(self) -> int:
        """The background, as xterm-256 index."""
        return 236 if self.look.palette.name == "dark" else 252

    @property
    def faint(self) -> int:
        """The colour of placeholders and suggestions, as xterm-256 index."""
        return 248 if self.look.palette.name == "dark" else 239

    def get_component_rich_style(self, *names: str, **how: Any) -> Style:
        """The style of the cursor, the selected text, the placeholder or the suggestion."""
        look, dark = self.look, self.look.palette.name == "dark"
        if not look.color:
            return Style(reverse=True) if {"input--cursor", "input--selection"} & {*names} else Style()
        if "input--cursor" in names:
            return look("ground", 254) if dark else look("ground", 235)
        if "input--selection" in names:
            return Style(bgcolor=look("text", "cursor").bgcolor)
        return Style(color=look(self.faint).color)

    def validate(self, value: str) -> None:
        """Does nothing: dialogs check their answers themselves. Textual would look for styles of valid lines."""

    def bracketed(self, placeholder: str) -> str:
        """The placeholder, in brackets without colours, since it would look like an answer."""
        return f"({placeholder})" if placeholder and not self.look.color else placeholder

    def on_mount(self) -> None:
        """Shows the placeholder as the palette wants it."""
        self.placeholder = self.bracketed(self.placeholder)

    def take(self, value: str, selection: Selection, placeholder: str) -> None:
        """Edits another value; nothing is suggested before something is typed."""
        self.suggester = None
        self.placeholder = self.bracketed(placeholder)
        self.value, self.selection = value, selection

    async def typed(self, event: events.Key) -> None:
        """Inserts a character or runs the key's editing action; enter is handled by the screen."""
        if event.is_printable and event.character:
            self.replace(event.character, *self.selection)
        elif event.key != "enter" and (action := self.EDITING.get(event.key)):
            await self.run_action(action)

    def pasted(self, text: str) -> None:
        """Inserts the first line of pasted text."""
        self.replace((text.splitlines() or [""])[0], *self.selection)


class Prompt(OverlaidScreen[str | None]):
    """An input line at the bottom of the screen. The result is its text, or None if the user leaves.

    `check` returns an error message or ""; `changed` is called with each new value while the user types.
    """

    def __init__(
        self,
        question: str,
        value: str = "",
        check: Callable[[str], str] | None = None,
        changed: Callable[[str], None] | None = None,
        hints: Sequence[str] = (),
        paths: bool = False,
        complaint: str = "",
    ) -> None:
        super().__init__()
        self.question, self.value, self.paths = question, value, paths
        keys = "enter: done   esc: leave" + ("   tab: complete" if paths else "")
        self.check, self.changed, self.hints = check, changed, [keys, *hints]
        self.heading = Title(question, complaint)
        self.line = LineInput(value, suggester=PathSuggester() if paths else None)

    def compose(self) -> ComposeResult:
        """Question, hints, line."""
        with Vertical(classes="sheet"):
            yield self.heading
            yield Words(self.hints)
            yield self.line

    def on_mount(self) -> None:
        """Puts the cursor on the line."""
        self.set_focus(self.line)

    def on_input_changed(self) -> None:
        """Calls `changed` with a new value, once for each."""
        if self.line.value == self.value:
            return
        self.value = self.line.value
        self.heading.complain("")
        if self.changed is not None:
            self.changed(self.value)

    def _submit(self) -> None:
        """Closes the prompt with the text if `check` accepts it, otherwise shows its message."""
        complaint = self.check(self.line.value) if self.check else ""
        if complaint:
            self.heading.complain(complaint)
        else:
            self.dismiss(self.line.value)

    async def _complete(self) -> None:
        """Completes the path, unless listing its folder takes too long."""
        with contextlib.suppress(TimeoutError):
            found = await asyncio.wait_for(asyncio.to_thread(completed, self.line.value), FOLDER_SECONDS)
            if found is not None:
                self.line.value = found
                self.line.action_end()

    async def typed(self, event: events.Key) -> None:
        """Handles a key: types, completes a path (tab), submits, or leaves."""
        if event.key in ("escape", "ctrl+c"):
            self.dismiss(None)
        elif event.key == "enter":
            self._submit()
        elif event.key == "tab":
            if self.paths:
                await self._complete()
        else:
            await self.line.typed(event)
        self._take_note()

    def pasted(self, text: str) -> None:
        """Inserts pasted text."""
        self.line.pasted(text)
        self._take_note()

    def _take_note(self) -> None:
        if self.is_current:
            self.on_input_changed()


def matching(options: Sequence[tuple[str, str]], needle: str) -> list[int]:
    """Indices of the options (name, words) in which every word of `needle` occurs, nearest names first.

    If there are none, up to three options whose names are similar to `needle`, which may be misspelt.

    >>> matching([("zoom out", "smaller"), ("out", "leave"), ("walk", "go out")], "out")
    [1, 0, 2]
    >>> matching([("compare", "A with B"), ("copy", "the name")], "comprae")
    [0]
    """
    words = needle.lower().split()

    def distance(name: str, text: str) -> int:
        """The sum over the words of how well each matches (0: the whole name); -1 if one occurs nowhere."""
        name, text, ranks = name.lower(), text.lower(), 0
        for word in words:
            found = (
                name == word,
                name.startswith(word),
                any(part.startswith(word) for part in name.split()),
                word in name,
                any(part.startswith(word) for part in text.split()),
                word in text,
            )
            if True not in found:
                return -1
            ranks += found.index(True)
        return ranks

    ranked = [(distance(*option), i) for i, option in enumerate(options)]
    if found := [i for rank, i in sorted(ranked) if rank >= 0]:
        return found
    names = [name.lower() for name, _ in options]
    near = get_close_matches(needle.lower(), names, n=3, cutoff=0.6)
    return [names.index(name) for name in near]


def aligned(rows: Sequence[Sequence[str]], look: Theme) -> list[str]:
    """The words of options in columns: each row's parts padded to the widest of their column, two blanks apart."""
    shown = [[spelled([(part, look())], look)[0][0] for part in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(
            part + " " * (width - cell_len(part)) for part, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in shown
    ]


class ChoiceList(Pane):
    """Options that match `needle`, one a line, the chosen one highlighted."""

    def __init__(self, options: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.options, self.needle, self.cursor = list(options), "", 0
        self._matching: tuple[str, list[int]] | None = None  # of which needle, and those

    def matching(self) -> list[int]:
        """Indices of the options that match `needle`, best first."""
        if self._matching is None or self._matching[0] != self.needle:
            self._matching = self.needle, matching(self.options, self.needle)
        return self._matching[1]

    def render_line(self, y: int) -> Strip:
        """The line of an option."""
        look, shown = self.look, self.matching()
        top = max(0, min(self.cursor - self.size.height // 2, len(shown) - self.size.height))
        at = top + y
        if at >= len(shown):
            said: list[Span] = [(" nothing matches", look("muted", "raised"))] if y == 0 else []
            return strip_of(said, self.size.width, look("text", "raised"))
        ground = "cursor" if at == self.cursor else "raised"
        head, tail = self.options[shown[at]]
        width = min(34, max(len(o[0]) for o in self.options) + 1)
        spans: list[Span] = [
            (" " + fitted(head, width), look("text", ground, bold=True)),
            (" " + tail, look("text" if ground == "cursor" else "muted", ground)),
        ]
        return strip_of(
            shortened(spelled(spans, look), self.size.width), self.size.width, look("text", ground)
        )

    def step(self, by: int) -> None:
        """Moves the choice by so many options."""
        count = len(self.matching())
        self.cursor = max(0, min(count - 1, self.cursor + by)) if count else 0
        self.refresh()


class ChoiceDialog(OverlaidScreen[int | None]):
    """A list to choose from by arrows or by typing part of a name. The result is the option's index, or None."""

    def __init__(self, question: str, options: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.question = question
        self.list = ChoiceList(options)
        self.line = LineInput(placeholder="type to narrow, arrows to move, enter to choose, esc to leave")

    def compose(self) -> ComposeResult:
        """Question, options, and a line to filter them."""
        with Vertical(classes="sheet"):
            yield Title(self.question)
            yield self.list
            yield self.line

    def on_mount(self) -> None:
        """Puts the cursor on the filter line."""
        self.make_room(self.app.size.height)
        self.set_focus(self.line)

    def on_resize(self, event: events.Resize) -> None:
        """Fits the options to the new size."""
        self.make_room(event.size.height)

    def make_room(self, height: int) -> None:
        """Limits the options so that the question and the input line stay visible."""
        maximum = min(14, 8 * height // 10 - 2)
        self.list.styles.height = max(1, min(maximum, len(self.list.options)))

    def on_input_changed(self) -> None:
        """Filters the options by the line."""
        if self.line.value != self.list.needle:
            self.list.needle, self.list.cursor = self.line.value, 0
            self.list.refresh()

    async def typed(self, event: events.Key) -> None:
        """Handles a key: moves the choice, types into the filter, chooses, or leaves."""
        moves = {"down": 1, "up": -1, "pagedown": 10, "pageup": -10, "tab": 1, "shift+tab": -1}
        if event.key in ("escape", "ctrl+c"):
            self.dismiss(None)
        elif event.key == "enter":
            if shown := self.list.matching():
                self.dismiss(shown[self.list.cursor])
        elif event.key in moves:
            self.list.step(moves[event.key])
        else:
            await self.line.typed(event)
            self.on_input_changed()

    def pasted(self, text: str) -> None:
        """Inserts pasted text into the filter."""
        self.line.pasted(text)
        self.on_input_changed()


def key_help(
    groups: Sequence[tuple[str, Sequence[tuple[str, str]]]], look: Theme
) -> Callable[[int], list[list[Span]]]:
    """Lines for a TextDialog: in each group, a key and what it does. `groups` are those of `Keymap.help`."""

    def said(keys: str) -> str:
        return spelled([(keys, look())], look)[0][0]

    widest = max(len(said(keys)) for _, entries in groups for keys, _ in entries)

    def lines(width: int) -> list[list[Span]]:
        made: list[list[Span]] = []
        for group, entries in groups:
            made.append([(group.upper(), look("accent", bold=True))])
            for keys, text in entries:
                heads = [said(keys)]
                for part in wrapped(text, max(10, width - widest - 3)):
                    head = heads.pop() if heads else ""
                    made.append([(f"  {head:<{widest}} ", look("text", bold=True)), (part, look("muted"))])
            made.append([])
        return made

    return lines


class TextDialog(OverlaidScreen[str | None]):
    """A text to read. The result is the pressed key if it is one of `keys` (key, label), or None for esc and q."""

    def __init__(
        self,
        title: str,
        lines: Callable[[int], Sequence[Sequence[Span]]],
        keys: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__()
        self.text = TextPane(title, lines)
        self.keys = dict(keys)
        said = [*(f"{k} {w}" for k, w in self.keys.items()), "jk scroll", "esc close"]
        self.hint = Words(["   ".join(key.replace(" ", TOGETHER) for key in said)])
        self.sheet = Vertical(self.text, self.hint, classes="sheet")

    def compose(self) -> ComposeResult:
        """The text, and the keys below it."""
        yield self.sheet

    def on_mount(self) -> None:
        """Gives the focus to the text."""
        self.make_room(self.app.size)
        self.text.focus()

    def on_resize(self, event: events.Resize) -> None:
        """Fits the dialog to the new size."""
        self.make_room(event.size)

    def make_room(self, size: Size) -> None:
        """Sets the height to the lines of text and keys; the style sheet limits it."""
        width = min(MAX_READ, 9 * size.width // 10) - FRAME
        lines = 1 + len(self.text.lines_in(width)) + len(self.hint.lines(width))
        self.sheet.styles.height = lines + 2

    async def typed(self, event: events.Key) -> None:
        """Handles a key: scrolls, answers, or leaves."""
        key = event.character if event.is_printable and event.character else event.key
        moves = {"j": self.text.do_down, "down": self.text.do_down, "k": self.text.do_up, "up": self.text.do_up,
                 "pagedown": self.text.do_page_down, " ": self.text.do_page_down,
                 "pageup": self.text.do_page_up, "g": self.text.do_first, "G": self.text.do_last}  # fmt: skip
        if key in self.keys:
            self.dismiss(key)
        elif key in ("escape", "q", "ctrl+c", "?"):
            self.dismiss(None)
        elif key in moves:
            moves[key]()

    def pasted(self, text: str) -> None:
        """Ignores pasted text."""


def reading(text: str, style: Style) -> Callable[[int], Sequence[Sequence[Span]]]:
    """A function from a width to the wrapped lines of plain text, for `TextDialog`."""

    def lines(width: int) -> list[list[Span]]:
        return [[(part, style)] for line in text.split("\n") for part in wrapped(line, max(10, width))]

    return lines


def confirm(question: str, detail: str, style: Style) -> TextDialog:
    """A yes-or-no question; the result is "y", "n" or None."""
    return TextDialog(question, reading(detail, style), keys=(("y", "yes"), ("n", "no")))
