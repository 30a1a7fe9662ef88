"""The protocols through which views, widgets and dialogs access the application: the workspace, the selection, and services.

Only `main` and `app` know the implementing class, so that no module of the interface imports it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from textual.geometry import Size
    from textual.widget import Widget

    from kltui.errors import KltuiError
    from kltui.figures.shown import ShownSubject
    from kltui.store.removal import Removed
    from kltui.tui.basis import Basis, Facts
    from kltui.tui.data import Snapshot, SnapshotReader
    from kltui.tui.filter import Filter
    from kltui.tui.keymap import Keymap
    from kltui.tui.map_cache import MapCache
    from kltui.tui.recent import Recent
    from kltui.tui.selection import Selection
    from kltui.tui.terminal.pixels import Ability
    from kltui.tui.theme import Theme
    from kltui.tui.ui_state import Memory
    from kltui.tui.undo import Undo
    from kltui.workspace.losses import StoredLoss


class CoveringPicture(Protocol):
    """A pixel image that covers one pane or all."""

    def take_away(self) -> None:
        """Shows the panes again."""


class ShownView(Protocol):
    """The methods of the view on screen that other modules call."""

    @property
    def has_figure(self) -> bool:
        """Whether there is a figure of it."""

    @property
    def panes(self) -> Sequence[Widget]:
        """All its panes, in the order of `tab`."""

    @property
    def focus_pane(self) -> Widget:
        """The pane that receives keys."""

    def do_next_pane(self) -> bool | None:
        """Moves the focus to the next pane."""

    def shown_figure(self) -> ShownSubject | None:
        """The figure of what is shown; None while there is nothing to draw."""

    def no_figure(self) -> str:
        """Why there is nothing to draw; "" while that is not known."""

    def csv_rows(self) -> Iterable[list[object]]:
        """The rows of what is shown, titles first; empty if there are none."""

    def text_lines(self) -> list[str]:
        """What is shown as lines of text; [] if it has no such form."""

    def json_data(self) -> dict[str, object]:
        """The data of what is shown; {} if it has no such form."""

    def update_data(self) -> None:
        """Updates the view after a change of snapshot, selection or filter."""

    def cursor_moved(self) -> None:
        """Updates the view after the shared cursor was moved."""

    def make_room(self, width: int) -> None:
        """Arranges the view for a width of `width` cells."""


class Interaction(Protocol):
    """The services that a dialog needs: messages, other dialogs, background work, and switching screens."""

    look: Theme

    @property
    def is_asking(self) -> bool:
        """Whether a dialog is open."""

    @property
    def size(self) -> Size:
        """The terminal's size in cells."""

    def say(self, text: str, ink: str = "muted") -> None:
        """Shows a message on the status line until the next key."""

    def busy_with(self, text: str) -> None:
        """Shows on the status line what runs in the background; "" clears it."""

    def key(self, *actions: str) -> str:
        """The keys of actions on this screen, as messages name them; see `Keymap.spelled`."""

    def complain(self, error: KltuiError) -> None:
        """Shows the error's message and hint on the status line."""

    def push_screen(self, screen: Any, callback: Any = None, **how: Any) -> Any:
        """Opens a dialog over the view; `callback` is called with its result."""

    def show_screen(self, name: str) -> None:
        """Shows one of the ten views."""

    def run_worker(self, work: Any, *given: Any, **how: Any) -> Any:
        """Runs a coroutine in the background; exceptions in it are shown."""

    async def outlived(self, work: Awaitable[Any], reported: Callable[[str], None] | None = None) -> Any:
        """The result of `work`; if it fails, None, after a message that is also passed to `reported`."""

    async def calm(self, seconds: float, at_most: float = math.inf) -> None:
        """Returns once no key has come for so long, or `at_most` seconds have passed."""

    def call_after_refresh(self, callback: Callable[..., Any], *given: Any, **named: Any) -> bool:
        """Calls `callback` after the next refresh."""

    def call_from_thread(self, callback: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """The result of `callback`, called in the interface's thread."""


class OpenWorkspace(Protocol):
    """The workspace as read, the map that is shown, and operations on both."""

    reader: SnapshotReader
    map_cache: MapCache
    snapshot: Snapshot
    loss_errors: dict[StoredLoss, tuple[float, float]]
    facts: Facts
    texts: Path | None
    read_only: bool
    awaits_job: bool
    recent: list[Recent]

    @property
    def workspace_name(self) -> str:
        """The workspace's folder name, safe to show."""

    async def reload(self, ids_before: Mapping[str, int] | None = None) -> None:
        """Reads the workspace; with {name: id} from before renames, the selection follows the new names."""

    def reload_soon(self) -> None:
        """Reads the workspace now, in the background."""

    def watch_closely(self) -> None:
        """Checks the workspace often for 30 seconds, because a job was just started."""

    async def make_map_of(self, basis: Basis) -> None:
        """Makes every screen show the map of `basis`. Raises KltuiError if there is no such map."""

    def open_workspace(self, path: Path) -> None:
        """Opens a workspace in a session that began without one."""

    def kept(self, key: str) -> object:
        """The value stored under `key` when this workspace was last closed."""


class SharedSelection(Protocol):
    """Cursor, selection, marks and filter, which all screens share, and undo."""

    selection: Selection
    filter: Filter
    undo: Undo
    removed: list[Removed]

    def set_cursor(self, name: str) -> None:
        """Moves the shared cursor to a checkpoint."""

    def walk(self, by: int) -> None:
        """Moves the cursor by so many checkpoints along its run."""

    def selection_changed(self) -> None:
        """Redraws what shows filter, selection or marks, and records the change for undo."""

    def run_number(self, name: str) -> int:
        """The number of a checkpoint's run and variant, which determines colour and marker."""


class ShownScreen(Protocol):
    """The contents of the terminal: the view, the status line, an image, and how they are drawn."""

    screen_name: str
    message: str
    message_ink: str
    under_way: str
    ascii_only: bool
    marker_kind: int
    keymap: Keymap
    memory: Memory
    picture: CoveringPicture | None
    pixel_ability: Ability | None

    @property
    def view(self) -> ShownView | None:
        """The view on screen."""

    def redraw_status(self) -> None:
        """Draws the status line again."""

    def draw_all_again(self) -> None:
        """Redraws the whole screen, because the terminal may show something other than what was written."""

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        """The screen as SVG."""


class WorkspaceSession(Interaction, OpenWorkspace, Protocol):
    """What a form or prompt about the workspace needs, independent of the selection and the view."""


class Session(WorkspaceSession, SharedSelection, ShownScreen, Protocol):
    """What views and panes need: all of the above."""


class ScreenOwner(Session, Protocol):
    """What the main screen needs in addition."""

    def first_view(self) -> Widget:
        """The view that is shown first."""

    def started(self) -> None:
        """Called once the main screen is mounted."""

    def arrives_now(self) -> ShownView | None:
        """The view that was just shown, after its `arrived` was called; None if there is none or it has no size yet."""

    def press(self, key: str) -> None:
        """Runs the action of `key` on the present screen."""
