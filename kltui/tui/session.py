"""The protocols through which views, widgets and dialogs access the application: the workspace, the selection, and services.

Only `main` and `app` know the implementing class, so that no module of the interface imports it.
"""

from __future__ import annotations

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
    """A pixel image that covers a pane."""

    def take_away(self) -> None:
        """Shows the pane again."""


class ShownView(Protocol):
    """The view on screen, as others than itself know it."""

    @property
    def has_figure(self) -> bool:
        """Whether it can be written as a figure."""

    @property
    def panes(self) -> Sequence[Widget]:
        """All its panes, in the order of the key for the next one."""

    @property
    def focus_pane(self) -> Widget:
        """The pane that keys go to."""

    def do_next_pane(self) -> bool | None:
        """Gives the keys to the next pane."""

    def shown_figure(self) -> ShownSubject | None:
        """The figure of what is shown; None as long as there is nothing to draw."""

    def csv_rows(self) -> Iterable[list[object]]:
        """The rows of what is shown, titles first; none where there are none."""

    def text_lines(self) -> list[str]:
        """What is shown as lines of text; [] where it has no such form."""

    def json_data(self) -> dict[str, object]:
        """The data of what is shown; {} where it has no such form."""

    def update_data(self) -> None:
        """Shows a changed snapshot, selection or filter."""

    def cursor_moved(self) -> None:
        """Shows that the shared cursor is on another checkpoint."""

    def make_room(self, width: int) -> None:
        """Shows the columns that fit `width` cells."""


class Interaction(Protocol):
    """The services that a dialog needs: messages, other dialogs, background work, and switching screens."""

    look: Theme

    @property
    def is_asking(self) -> bool:
        """Whether a dialog is open."""

    @property
    def size(self) -> Size:
        """Cells of the terminal."""

    def say(self, text: str, ink: str = "muted") -> None:
        """Shows a message on the status line until the next key."""

    def busy_with(self, text: str) -> None:
        """Shows what goes on in the background; "" when it is over."""

    def complain(self, error: KltuiError) -> None:
        """Shows what went wrong and what to do about it."""

    def push_screen(self, screen: Any, callback: Any = None, **how: Any) -> Any:
        """Puts a dialog over the view; `callback` gets its answer."""

    def show_screen(self, name: str) -> None:
        """Brings one of the ten views to the fore."""

    def run_worker(self, work: Any, *given: Any, **how: Any) -> Any:
        """Runs a coroutine in the background; exceptions in it are shown."""

    async def outlived(self, work: Awaitable[Any], reported: Callable[[str], None] | None = None) -> Any:
        """The result of `work`; None, and a message, where it fails."""

    def call_after_refresh(self, callback: Callable[..., Any], *given: Any, **named: Any) -> bool:
        """Calls `callback` after the next refresh."""

    def call_from_thread(self, callback: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """The result of `callback`, called by the interface's own thread."""


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
        """Reads the workspace; with ids, the selection follows new names."""

    def reload_soon(self) -> None:
        """Reads the workspace without waiting for the next look."""

    def watch_closely(self) -> None:
        """Looks often for a while: a job was just started."""

    async def make_map_of(self, basis: Basis) -> None:
        """Makes every screen show that map. Raises KltuiError if there is no such map."""

    def open_workspace(self, path: Path) -> None:
        """Opens a workspace in a session that began without one."""

    def kept(self, key: str) -> object:
        """The value stored under `key` when this workspace was last closed."""


class SharedSelection(Protocol):
    """What is chosen of the workspace, on all screens alike, and what can be undone."""

    selection: Selection
    filter: Filter
    undo: Undo
    removed: list[Removed]

    def set_cursor(self, name: str) -> None:
        """Puts the shared cursor on a checkpoint."""

    def walk(self, by: int) -> None:
        """Moves the cursor along its run."""

    def selection_changed(self) -> None:
        """Draws again whatever shows the selection; the change can be undone."""

    def run_number(self, name: str) -> int:
        """The number of a checkpoint's run, for its colour and marker."""


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
    """What a form or prompt about the workspace needs, whatever is chosen and shown."""


class Session(WorkspaceSession, SharedSelection, ShownScreen, Protocol):
    """One workspace in one terminal, as its views and panes know it: all of the above."""


class ScreenOwner(Session, Protocol):
    """What the main screen asks of the application besides."""

    def first_view(self) -> Widget:
        """The view that the main screen begins with."""

    def started(self) -> None:
        """Called once the main screen is there."""

    def arrives_now(self) -> ShownView | None:
        """Called before painting a view that has its size and must be drawn immediately."""

    def press(self, key: str) -> None:
        """Runs what `key` means on the present screen."""
