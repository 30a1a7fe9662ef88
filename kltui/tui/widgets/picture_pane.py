"""Key `I`: shows the present view's figure as a pixel image in its pane, until the next key."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.tui.terminal import pixels
from kltui.tui.terminal.textual_private import driver_of
from kltui.tui.widgets.canvas import Pane

if TYPE_CHECKING:
    from kltui.figures.shown import ShownSubject
    from kltui.tui.session import Session
    from kltui.workspace import Workspace

MINIMUM = (24, 8)  # least width and height in cells for a readable figure


@dataclass
class PixelPicture:
    """A pixel image over a pane."""

    app: Session
    pane: Pane
    ability: pixels.Ability
    tmux: bool

    def put(self, text: str) -> None:
        """Clears the pane's body, then writes `text`, which shows the image."""
        self.pane.covered = True
        self.pane.refresh()
        self.app.call_after_refresh(self._send, text)

    def _send(self, text: str) -> None:
        driver = driver_of(self.app)
        if driver is not None and self.app.picture is self:
            driver.write(text)
            driver.flush()

    def take_away(self) -> None:
        """Removes the image and redraws the pane."""
        self.app.picture = None
        self.pane.covered = False
        self.pane.refresh()
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
    assert isinstance(pane, Pane)
    shown = await figure_of(app)
    bar = 2 if pane.barred else 0
    place = pixels.Place(
        pane.region.x + bar, pane.region.y + 1, pane.region.width - bar, pane.region.height - 1
    )
    if place.width < MINIMUM[0] or place.height < MINIMUM[1]:
        raise KltuiError(
            "the pane is too small for a figure",
            "Make the terminal larger, or press e to write it to a file.",
        )
    tmux = pixels.in_tmux()
    text = await _drawn(app, shown, ability, place, tmux)
    if app.view is not view or view.focus_pane is not pane or app.is_asking:
        return  # the user has gone elsewhere in the meantime
    if app.picture is not None:
        app.picture.take_away()
    app.picture = picture = PixelPicture(app, pane, ability, tmux)
    picture.put(text)


async def ability_of(app: Session) -> pixels.Ability:
    """How the terminal shows images, queried once. Raises KltuiError if it cannot."""
    if app.pixel_ability is None:
        ask = getattr(driver_of(app), "ask", None)
        answers = (
            await ask(pixels.question(pixels.in_tmux()), pixels.in_tmux())
            if ask
            else pixels.TerminalReplies()
        )
        app.pixel_ability = answers.ability()
    if app.pixel_ability is None:
        hint = "In tmux: set -g allow-passthrough on. " if pixels.in_tmux() else ""
        raise KltuiError(
            "this terminal does not support kitty, iTerm2 or sixel graphics",
            f"{hint}Press e to write the figure to a file.",
        )
    return app.pixel_ability


async def _drawn(
    app: Session, shown: ShownSubject, ability: pixels.Ability, place: pixels.Place, tmux: bool
) -> str:
    """The text that shows the figure; drawn and encoded in a thread."""

    def draw(ws: Workspace) -> str:
        from kltui.figures.draw import png
        from kltui.figures.shown import picture_of
        from kltui.view.sections.context import Context

        made = picture_of(Context(ws, shown.choice(basis.choice(ws, stored=True))), shown)
        image = png(made, pixels.pixel_size(ability, place), ability.cell[1])
        return pixels.shown(image, ability, place, tmux)

    basis = app.reader.basis
    app.busy_with(f"figure: drawing {shown.figure} …")
    try:
        return await app.reader.draw(draw)
    finally:
        app.busy_with("")
