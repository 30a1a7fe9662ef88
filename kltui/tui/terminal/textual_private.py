"""All private names of Textual that the interface uses, which a newer Textual may remove.

`tests/tui/test_textual_private.py` looks each of them up and says which one is missing.
"""

from __future__ import annotations

import traceback
from asyncio import AbstractEventLoop
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import Any, Self

from textual import events
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.app import App
from textual.geometry import Region, Size
from textual.keys import Keys
from textual.message import Message
from textual.screen import ModalScreen, Screen, ScreenResultType
from textual.strip import Strip
from textual.widget import Widget

__all__ = [
    "BRACKETED_PASTE_END",
    "BRACKETED_PASTE_START",
    "ChopsUpdate",
    "CompositorUpdate",
    "LayoutUpdate",
    "OverlaidScreen",
    "PaintedScreen",
    "TerminalApp",
    "TolerantParser",
    "announce_resuming",
    "app_of",
    "driver_of",
    "image_to_sixels",
    "is_debugging",
    "is_to_go_on",
    "loop_of",
    "terminal_size",
    "wrap_output",
]


class TerminalApp(App[int], inherit_bindings=False):
    """An application that encodes screen updates itself (`text_of`) and handles the traceback of a bug (`failed`)."""

    def __init__(self) -> None:
        super().__init__()
        # kltui uses neither, and their widgets would slow down the start.
        self._disable_tooltips = self._disable_notifications = True

    def text_of(self, update: CompositorUpdate) -> str:
        """The text to write for an update of the screen; "" if nothing changed."""
        raise AssertionError("an application says what it writes")

    def failed(self, lines: list[str]) -> None:
        """Called with the lines of the traceback of a bug that ends the application."""

    def closing(self) -> None:
        """Called before the screens are closed, after all workers were cancelled."""

    async def _close_all(self) -> None:
        # Textual closes the screens first, and whatever still runs would draw on them.
        self.workers.cancel_all()
        self.closing()
        await super()._close_all()

    def _display(self, screen: Screen[object], renderable: Any) -> None:
        driver = self._driver
        usable = self._running and not self._closed and not self.is_headless and not self._batch_count
        if driver is None or not usable or not isinstance(renderable, CompositorUpdate):
            super()._display(screen, renderable)
            return
        try:
            text = self.text_of(renderable)
        except Exception as error:
            self._handle_exception(error)
            return
        if text:
            x, y = self.screen.outer_size.clamp_offset(self.cursor_position)
            text += f"\x1b[{y + 1};{x + 1}H"
            if self._sync_available:
                text = f"\x1b[?2026h{text}\x1b[?2026l"
            driver.write(text)
            driver.flush()
        self.post_display_hook()

    def _set_pointer_shape(self, shape: str) -> None:
        """Does nothing: some terminals print OSC 22, which sets the pointer's shape, as text."""

    def _fatal_error(self) -> None:
        self.failed(traceback.format_exc().splitlines())
        self._close_messages_no_wait()


class PaintedScreen(Screen[None], inherit_bindings=False):
    """A screen with widgets (`due_now`) that are painted together with the next update."""

    def due_now(self) -> Iterable[Widget]:
        """Further widgets to paint in the next frame."""
        return ()

    def _compositor_refresh(self) -> None:
        if due := set(self.due_now()):
            self._compositor.update_widgets(due & self._compositor.visible_widgets.keys())
        super()._compositor_refresh()


class OverlaidScreen(ModalScreen[ScreenResultType]):
    """A screen that shows the one below it, as it is, wherever it has no widget of its own.

    Textual takes 20 ms at 200 x 60 for the same: it makes new segments of what is below, without their links.
    """

    AUTO_FOCUS = ""  # a dialog gives the focus itself, when it is mounted
    below: dict[int, Strip] | None = None  # lines of the screen below, until something of it is refreshed
    below_size = Size(0, 0)
    is_drawn = False
    wanted: Container[int] | None = None  # lines of the present frame; None: all

    def _on_screen_resume(self, event: events.ScreenResume) -> None:
        """Leaves the styles as they are: nothing that they depend on changes while a dialog is open or is mounted."""
        event.refresh_styles = False

    async def _on_resize(self, event: events.Resize) -> None:
        """Lays out this screen and those below only for a size that they do not have yet."""
        if all(screen.size == event.size for screen in self.app.screen_stack):
            event.prevent_default()

    def _compositor_refresh(self) -> None:
        """Draws nothing before there are widgets, then these first: the terminal shows the screen below already."""
        if not self._nodes:
            return
        dirty, whole = self._compositor._dirty_regions, self.size.region
        if not self.is_drawn:
            dirty.discard(whole)
        self.is_drawn = True
        self.wanted = None if whole in dirty else {y for region in dirty for y in region.line_range}
        super()._compositor_refresh()
        self.wanted = None

    def refresh(self, *regions: Region, **how: Any) -> Self:
        """Draws again; Textual calls it for changes of the screen below, too."""
        self.below = None
        return super().refresh(*regions, **how)

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of the screen below."""
        stack = self.app.screen_stack
        at = stack.index(self) if self in stack else 0  # it may just have been left
        if not at:
            return super().render_lines(crop)
        if self.below is None or self.below_size != self.size:
            self.below, self.below_size = {}, self.size
        lines = [y for y in crop.line_range if self.wanted is None or y in self.wanted]
        self.fetch(stack[at - 1], [y for y in lines if y not in self.below])
        none = Strip([])  # also of what the screen below has not drawn yet for a new size
        return [self.below.get(y, none).crop_extend(*crop.column_span, None) for y in crop.line_range]

    def fetch(self, screen: Screen[Any], lines: Collection[int]) -> None:
        """Adds lines of the screen below to `below`."""
        if lines and self.below is not None:
            part = Region(0, min(lines), self.size.width, max(lines) + 1 - min(lines))
            for y, chops in enumerate(screen._compositor._render_chops(part, set(lines).__contains__)):
                if y in lines:
                    self.below[y] = _line_of(chops, self.size.width)


def _line_of(chops: Mapping[int, Strip | None], width: int) -> Strip:
    strip = Strip.join([chop for chop in chops.values() if chop is not None])
    return strip.adjust_cell_length(width)


class TolerantParser(XTermParser):
    """Textual's parser, which here ignores invalid character codes and mouse events on a screen without size."""

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        try:
            keys = list(super()._sequence_to_key_events(sequence, alt))
        except (ValueError, OverflowError):
            return [events.Key(Keys.Ignore, sequence)]
        if all(_has_utf8(f"{key.key}{key.character or ''}") for key in keys):
            return keys
        return [events.Key(Keys.Ignore, sequence)]

    def parse_mouse_code(self, code: str) -> Message | None:
        """The message of a mouse sequence; None if it is invalid."""
        try:
            return super().parse_mouse_code(code)
        except ArithmeticError:
            return None


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def driver_of(app: Any) -> Any:
    """An application's driver; None if it has none."""
    return app._driver


def app_of(driver: Any) -> Any:
    """The application of a driver."""
    return driver._app


def loop_of(driver: Any) -> AbstractEventLoop:
    """The event loop of a driver's application."""
    loop: AbstractEventLoop = driver._loop
    return loop


def wrap_output(driver: Any, wrapped: Callable[[Any], Any]) -> None:
    """Replaces a driver's output file by `wrapped(file)`."""
    driver._file = wrapped(driver._file)


def is_debugging(driver: Any) -> bool:
    """Whether a driver logs what it reads."""
    return bool(driver._debug)


def terminal_size(driver: Any) -> tuple[int, int]:
    """Columns and rows of a driver's terminal according to the system."""
    columns, rows = driver._get_terminal_size()
    return columns, rows


def is_to_go_on(driver: Any) -> bool:
    """Whether a driver sets up the terminal again after a stop: not if its application is quitting."""
    return bool(driver._auto_restart and not driver._app._exit)


def announce_resuming(driver: Any) -> None:
    """Makes a driver send SignalResume when it sets up the terminal again."""
    driver._must_signal_resume = True


def image_to_sixels(image: Any) -> str:
    """The escape sequence that shows a PIL image on a sixel terminal. Raises ImportError without textual-image."""
    from textual_image._sixel import image_to_sixels as sixels

    return str(sixels(image))
