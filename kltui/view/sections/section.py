"""What a section of a report is: things to show, the same things as data, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text

from kltui.errors import KltuiError
from kltui.view.textplot import Frame, Series, Style, draw

Status = Literal["shown", "missing", "failed"]


@dataclass(frozen=True)
class Section:
    """One section: rich renderables for terminals, plain `data` for machines (numbers, NaN where undefined).

    `notes` say which vectors, units and exclusions it rests on. A "missing" section has a message that says
    what the workspace would need; a "failed" one carries an error and its hint.
    """

    name: str
    title: str
    blocks: tuple[RenderableType, ...] = ()
    notes: tuple[str, ...] = ()
    data: dict[str, object] = field(default_factory=dict)
    status: Status = "shown"
    message: str = ""
    hint: str = ""


class MissingError(KltuiError):
    """A section that this workspace's lineage cannot fill: `message` says what is absent, `hint` what it takes."""


@dataclass(frozen=True)
class Plot:
    """A text plot that takes its width, colours and character set from the console it is printed on."""

    series: Sequence[Series]
    frame: Frame
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
