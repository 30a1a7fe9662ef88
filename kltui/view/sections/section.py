"""A section of a report: blocks to show, the same as data, and notes on their basis."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from kltui.errors import KltuiError
from kltui.view.tables import words
from kltui.view.textplot import PlotFrame, Series, Style, draw

HTML_COLUMNS = 110
_HTML = '<pre style="font-family: monospace; line-height: 1.2; overflow-x: auto">{code}</pre>'
Status = Literal["shown", "missing", "failed"]


@dataclass(frozen=True)
class Section:
    """One section: rich renderables for terminals, plain `data` for machines (numbers, NaN where undefined).

    `notes` state the vectors, units and exclusions that it is based on. A "missing" section has a message on what the
    workspace lacks; a "failed" one has an error and its hint. `headline` is one line about what it shows; None: the text
    that it begins with.
    """

    name: str
    title: str
    blocks: tuple[RenderableType, ...] = ()
    notes: tuple[str, ...] = ()
    data: dict[str, object] = field(default_factory=dict)
    status: Status = "shown"
    message: str = ""
    hint: str = ""
    headline: str | None = None

    def __repr__(self) -> str:
        return f"Section({self.name!r}, {self.status})"

    def renderable(self) -> RenderableType:
        """The section for a terminal: its title, its blocks or why there are none, and its notes."""
        parts: list[RenderableType] = [Rule(words(self.title, "bold"), align="left", style="none")]
        if self.status != "shown":
            lead = "not here: " if self.status == "missing" else "error: "
            parts.append(Text.assemble((lead, "bold"), words(self.message)))
            if self.hint:
                parts.append(Padding(words(self.hint), (0, 0, 0, 2)))
        for block, following in zip(self.blocks, [*self.blocks[1:], None], strict=False):
            parts.append(block)
            if not (isinstance(block, Text) and isinstance(following, Text)):
                parts.append(Text(""))
        parts += [Padding(words(note, "dim"), (0, 0, 0, 2)) for note in self.notes]
        return Group(*parts, Text(""))

    def _repr_html_(self) -> str:
        console = Console(
            file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor", width=HTML_COLUMNS,
            highlight=False, markup=False, emoji=False, legacy_windows=False,
        )  # fmt: skip
        console.print(self.renderable())
        return console.export_html(inline_styles=True, code_format=_HTML)


class MissingError(KltuiError):
    """Raised for a section without data in this workspace: `message` says what is missing, `hint` what to do."""


@dataclass(frozen=True)
class Plot:
    """A text plot with the width, colours and character set of the console on which it is printed."""

    series: Sequence[Series]
    frame: PlotFrame
    height: int = 18

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colour = console.color_system is not None and not console.no_color
        style = Style(options.max_width, self.height, colour, options.ascii_only)
        for row in draw(self.series, self.frame, style).split("\n"):
            text = Text.from_ansi(row) if colour else Text(row)
            text.no_wrap, text.overflow = True, "crop"
            yield text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(24, options.max_width), options.max_width)
