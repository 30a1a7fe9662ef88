"""Key `I`: shows the present view's figure as a pixel image in its pane, or over all panes if that is too small, until the next key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.tui.terminal import pixels
from kltui.tui.terminal.textual_private import driver_of
from kltui.tui.views.base import View
from kltui.tui.widgets.canvas import Pane

if TYPE_CHECKING:
    from kltui.figures.picture import PaperFigure
    from kltui.figures.shown import ShownSubject
    from kltui.tui.session import Session
    from kltui.workspace import Workspace

MINIMUM = (24, 8)  # least width and height in cells for a figure
PANEL = (
    40,
    15,
)  # least width and height in cells for a readable panel, with its names and its share of the legend


@dataclass
class PixelPicture:
    """A pixel image over panes; `top` is the line of the screen above it."""

    app: Session
    panes: Sequence[Pane]
    top: int
    ability: pixels.Ability
    tmux: bool

    def put(self, text: str) -> None:
        """Clears the panes, except for headers at the line `top`, then writes `text`, which shows the image."""
        for pane in self.panes:
            pane.covered = "body" if pane.region.y == self.top else "whole"
            pane.refresh()
        self.app.call_after_refresh(self._send, text)

    def _send(self, text: str) -> None:
        driver = driver_of(self.app)
        if driver is not None and self.app.picture is self:
            driver.write(text)
            driver.flush()

    def take_away(self) -> None:
        """Removes the image and redraws the panes."""
        self.app.picture = None
        for pane in self.panes:
            pane.covered = ""
            pane.refresh()
        driver = driver_of(self.app)
        if driver is not None:
            driver.write(pixels.gone(self.ability, self.tmux))
        self.app.draw_all_again()
        if self.tmux:
            self.app.run_worker(asyncio.to_thread(pixels.redraw_tmux), group="tmux")


async def show_picture(app: Session) -> None:
    """Shows the figure of the present view in its pane. Raises KltuiError if that is not possible."""
    from kltui.tui.export import figure_of

    view = app.view
    if view is None or not view.has_figure:
        raise KltuiError(
            "this screen has no figure", "Map, Curves, Diffusion, Matrix, Layers and Scale have one."
        )
    pixels.check_libraries()
    ability = await ability_of(app)
    pane = view.focus_pane
    assert isinstance(view, View) and isinstance(pane, Pane)
    shown = await figure_of(app)
    places = places_of(view, pane)
    if places[-1].width < MINIMUM[0] or places[-1].height < MINIMUM[1]:
        raise KltuiError(
            "the pane is too small for a figure",
            f"Make the terminal larger, or press {app.key('export')} to write it to a file.",
        )
    tmux = pixels.in_tmux()
    text, place = await _drawn(app, view, shown, ability, places, tmux)
    if app.view is not view or view.focus_pane is not pane or app.is_asking:
        return  # the user has gone elsewhere in the meantime
    if app.picture is not None:
        app.picture.take_away()
    panes = [pane] if place is places[0] else [p for p in view.query(Pane) if p.region]
    app.picture = picture = PixelPicture(app, panes, place.y - 1, ability, tmux)
    picture.put(text)


def places_of(view: View, pane: Pane) -> tuple[pixels.Place, pixels.Place]:
    """The place of a pane's body, and that of the whole view below its first line."""
    bar = 2 if pane.barred else 0
    own, every = pane.region, view.region
    return (
        pixels.Place(own.x + bar, own.y + 1, own.width - bar, own.height - 1),
        pixels.Place(every.x, every.y + 1, every.width, every.height - 1),
    )


def fitted(
    made: PaperFigure, places: Sequence[pixels.Place], panel: str, *, alone: bool
) -> tuple[PaperFigure, pixels.Place]:
    """The figure and the first place in which all of its panels are readable.

    If there is none, or if `alone`, the figure is only its panel whose title begins with `panel` ("": all of them).
    """
    own = [p for p in made.panels if panel and p.title.startswith(panel)]
    one = replace(made, panels=tuple(own[:1]), columns=1) if own else made
    for place in places:
        columns = _columns(one if alone else made, place)
        if columns:
            return replace(one if alone else made, columns=columns), place
    return one, places[-1]


def _columns(made: PaperFigure, place: pixels.Place) -> int:
    """The number of columns, preferably the figure's own, in which its panels are readable in a place; 0 if there is none."""
    count = max(1, len(made.panels))
    tried: list[int] = [min(made.columns, count), *range(1, count + 1)]
    for columns in tried:
        rows = -(-count // columns)
        if columns * PANEL[0] <= place.width and rows * PANEL[1] <= place.height:
            return columns
    return 0


async def ability_of(app: Session) -> pixels.Ability:
    """How the terminal shows images, queried once. Raises KltuiError if it cannot."""
    if app.pixel_ability is None:
        driver = driver_of(app)
        ask = getattr(driver, "ask", None)
        answers = (
            await ask(pixels.question(pixels.in_tmux()), pixels.in_tmux())
            if ask
            else pixels.TerminalReplies()
        )
        app.pixel_ability = answers.ability(pixels.cell_of_window(getattr(driver, "fileno", 0)))
    if app.pixel_ability is None:
        hint = "In tmux: set -g allow-passthrough on. " if pixels.in_tmux() else ""
        raise KltuiError(
            "this terminal does not support kitty, iTerm2 or sixel graphics",
            f"{hint}Press {app.key('export')} to write the figure to a file.",
        )
    return app.pixel_ability


async def _drawn(
    app: Session,
    view: View,
    shown: ShownSubject,
    ability: pixels.Ability,
    places: Sequence[pixels.Place],
    tmux: bool,
) -> tuple[str, pixels.Place]:
    """The text that shows the figure, and the place that it takes; drawn and encoded in a thread."""

    def draw(ws: Workspace) -> tuple[str, pixels.Place]:
        from kltui.figures.draw import png
        from kltui.figures.shown import picture_of
        from kltui.view.sections.context import Context

        made = picture_of(Context(ws, shown.choice(basis.choice(ws, stored=True))), shown)
        made, place = fitted(made, places, panel, alone=alone)
        image = png(made, pixels.pixel_size(ability, place), ability.cell[1])
        return pixels.shown(image, ability, place, tmux), place

    basis = app.reader.basis
    panel, alone = view.figure_panel()
    app.busy_with(f"figure: drawing {shown.figure} …")
    try:
        return await app.reader.draw(draw)
    finally:
        app.busy_with("")
