"""What the interface rests on: the terminal, keys, views, data and what is kept; its actions are in `interface`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import traceback
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.color import ColorSystem
from textual import events
from textual._compositor import CompositorUpdate
from textual.app import App
from textual.screen import Screen
from textual.widget import Widget

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.actions import BY_NAME, SCREENS, Action, ActionHandlers
from kltui.tui.basis import Basis, Facts, basis_of, facts_of
from kltui.tui.data import Snapshot, SnapshotReader, run_of
from kltui.tui.dialogs import prompts
from kltui.tui.filter import Filter
from kltui.tui.job_watch import JobWatch
from kltui.tui.keymap import Keymap
from kltui.tui.map_cache import MapCache
from kltui.tui.selection import Selection
from kltui.tui.terminal.row_diff import ScreenFrame
from kltui.tui.theme import Theme
from kltui.tui.ui_state import Memory
from kltui.tui.undo import Chosen, Undo, chosen_now
from kltui.tui.widgets.shell import MainScreen
from kltui.view.palette import PALETTES

if TYPE_CHECKING:
    from textual.driver import Driver

    from kltui.store.removal import Removed
    from kltui.tui.recent import Recent
    from kltui.tui.session import CoveringPicture
    from kltui.tui.terminal.pixels import Ability
    from kltui.tui.views.base import View
    from kltui.workspace import Workspace

BUSY_SECONDS, IDLE_SECONDS = 1.0, 3.0


class AppCore(App[int], ActionHandlers, inherit_bindings=False):
    """One workspace, one selection, ten views: everything but the actions that all screens share."""

    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS = (
        """
    MainScreen { background: #1c1c1c; overflow: hidden hidden; }
    App.-light MainScreen { background: #eeeeee; }
    Input { background: #303030; color: #d0d0d0; }
    App.-light Input { background: #d0d0d0; color: #262626; }
    """
        + prompts.CSS
    )
    BINDINGS: ClassVar[list[object]] = []  # type: ignore[assignment]

    def __init__(
        self,
        path: Path | None,
        *,
        read_only: bool = False,
        ascii_only: bool = False,
        keymap: Keymap | None = None,
        memory: Memory | None = None,
        opener: Callable[[Path], Workspace] | None = None,
        color: bool = True,
        basis: Basis | None = None,
        begin: Callable[[Any], None] | None = None,
    ) -> None:
        super().__init__()
        self.animation_level = "none"
        self.reader = SnapshotReader(path, opener)
        self._begin = begin  # what is asked first, once the workspace is read
        self.recent: list[Recent] = []  # workspaces open before, where this session has none
        self.texts: Path | None = None  # which new jobs score, where the command line named them
        self._asked_basis = basis  # what the command line asked for, None: nothing
        self.facts, self._facts_of = Facts(), -1  # what the bar says, and of which version of the map
        self.map_cache = MapCache(self.reader)
        self.snapshot = Snapshot(path=path)
        self.selection = Selection()
        self.filter = Filter("")
        self.undo = Undo()
        self.removed: list[Removed] = []
        self.read_only, self.ascii_only = read_only, ascii_only
        self.keymap = keymap or Keymap()
        self.memory = memory or Memory(None)
        self.message, self.message_ink = "", "muted"
        self.under_way = ""
        self.awaits_job = False
        self.screen_name = SCREENS[0]
        self.view: View | None = None
        self.picture: CoveringPicture | None = None
        self.pixel_ability: Ability | None = None
        self.left_running = 0
        self.failure = ""
        self.marker_kind = 0
        self._views: dict[str, View] = {}
        self._arriving: View | None = None
        self._opening: Any = None  # of a question just asked; awaited, it is there
        self._use_color = color and not self.no_color
        self._palette = 0
        self.look = self._make_look()
        self._frame = ScreenFrame(ColorSystem.EIGHT_BIT if self._use_color else None)
        self._closely_until = 0.0
        self._watcher: asyncio.Task[None] | None = None
        self._job_watch = JobWatch(self._job_ended)

    # -- the frame around everything ------------------------------------------------------------

    def get_default_screen(self) -> Screen[None]:
        """The one screen that holds all views."""
        return MainScreen()

    @property
    def main(self) -> MainScreen:
        """The main screen, whatever lies over it."""
        main = self.screen_stack[0]
        assert isinstance(main, MainScreen)
        return main

    def first_view(self) -> View:
        """The view that the main screen begins with: that of the last session."""
        self._restore()
        return self._made(self.screen_name)

    def started(self) -> None:
        """Called by the main screen when it is there: first view, signals, first read."""
        self.set_class(self.ascii_only, "-ascii")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if not self.is_headless:
                loop.add_signal_handler(number, self._leave_on, number)
        self.app_resume_signal.subscribe(self.main, self._taken_up_again)
        self.show_screen(self.screen_name)
        if self.keymap.problems:
            self.say(f"keys.json: {self.keymap.problems[0]} (kltui --doctor says all)", "warning")
        if self.reader.path is None:
            self.run_worker(self._find_recent(), group="recent")
        self._watcher = asyncio.create_task(self._watch())

    def _leave_on(self, number: signal.Signals) -> None:
        self._remember()
        self.exit(128 + number)

    def get_driver_class(self) -> type[Driver]:
        """Textual's driver for this system; on POSIX ours, which notices what becomes of the terminal."""
        found = super().get_driver_class()
        if found.__name__ != "LinuxDriver":
            return found
        from kltui.tui.terminal.driver import TerminalDriver

        return TerminalDriver

    def hung_up(self) -> None:
        """Leaves: the terminal is gone, whether or not a signal said so."""
        self._leave_on(signal.SIGHUP)

    def _taken_up_again(self, _: object) -> None:
        """After a stop the terminal shows something else: nothing of what was written counts."""
        self._away_with_picture()
        self.draw_all_again()

    def draw_all_again(self) -> None:
        """Writes everything anew: the terminal may show something else than what was written."""
        self._frame.forget()
        self.screen.refresh()

    def _away_with_picture(self) -> None:
        if self.picture is not None:
            self.picture.take_away()

    def on_resize(self) -> None:
        """A picture of pixels belongs to one size."""
        self._away_with_picture()

    def _set_pointer_shape(self, shape: str) -> None:
        """Nothing: the pointer is the terminal's own business, and OSC 22 prints garbage on some."""

    def _fatal_error(self) -> None:
        """Keeps a bug's traceback for after the terminal is restored: plain, safe, without any data."""
        lines = traceback.format_exc().splitlines()
        self.failure = self.failure or "\n".join(safe_text(line) for line in lines)
        self._close_messages_no_wait()

    def on_unmount(self) -> None:
        """Lets the threads and processes of this interface go; jobs are none of them. What was removed is so for good."""
        for removed in self.removed:
            with contextlib.suppress(KltuiError):
                removed.give_up()
        if self._watcher is not None:
            self._watcher.cancel()
        self._job_watch.close()
        self.map_cache.close()
        self.reader.close()

    def _display(self, screen: Screen[object], renderable: Any) -> None:
        """Writes only what differs from what the terminal shows already."""
        driver = self._driver
        usable = self._running and not self._closed and not self.is_headless and not self._batch_count
        if driver is None or not usable or not isinstance(renderable, CompositorUpdate):
            super()._display(screen, renderable)
            return
        try:
            text = self._frame.write(renderable, *self.size)
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

    # -- keys and actions -----------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        """Takes keys one at a time, each to its end: what is typed ahead reaches what it was meant for."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        while (opening := self._opening) is not None:  # another question may follow meanwhile
            self._opening = None
            await opening
        screen: Any = self.screen
        if not hasattr(screen, "typed"):
            await super().on_event(event)
        elif isinstance(event, events.Key):
            await screen.typed(event)
        else:
            screen.pasted(event.text)

    def push_screen(self, screen: Any, callback: Any = None, **how: Any) -> Any:  # type: ignore[override]
        """Puts a question over the view; the next key waits until it is there."""
        self._opening = super().push_screen(screen, callback, **how)
        return self._opening

    def press(self, key: str) -> None:
        """Runs what `key` means on the present screen."""
        if self.message:
            self.say("")
        if key in ("ctrl+c", "ctrl+q"):
            self.perform(BY_NAME["quit"])
            return
        if self.recent and self.reader.path is None and self._meant_at_first(key) is BY_NAME["enter"]:
            self._ask_recent()
            return
        action = self.keymap.action(key, self.screen_name) or self._first_step(key)
        if self.picture is not None:  # it is there until the next key
            self._away_with_picture()
            if action is BY_NAME["pixels"]:
                return
        if action is not None:
            self.perform(action)

    async def _find_recent(self) -> None:
        from kltui.tui.dialogs.recent_choice import find_recent

        await find_recent(self)

    def _ask_recent(self) -> None:
        from kltui.tui.dialogs.recent_choice import ask_recent

        ask_recent(self)

    def open_workspace(self, path: Path) -> None:
        """Opens a workspace in a session that began without one."""
        opened = self.reader.anew(path)
        self.reader.close()
        self.map_cache.close()
        self.reader, self.map_cache = opened, MapCache(opened)
        self.snapshot, self._facts_of = Snapshot(path=path), -1
        self._restore()
        self.show_screen(self.screen_name)
        self.reload_soon()

    def _meant_at_first(self, key: str) -> Action | None:
        """What a key means on the first screen, whose next steps the welcome offers on all of them."""
        return self.keymap.action(key, SCREENS[0])

    def _first_step(self, key: str) -> Action | None:
        """In an empty workspace, what the welcome on every screen offers, done where it belongs."""
        action = self._meant_at_first(key)
        if self.snapshot.rows or action is None or action.name not in ("add", "start"):
            return None
        self.show_screen(SCREENS[0])
        return action

    def perform(self, action: Action) -> None:
        """Runs an action: by the focused pane, else the view, else the application."""
        if action.writes and self.read_only:
            self.say("opened with --read-only: nothing is started or written", "warning")
            return
        for target in (self._pane(), self.view, self):
            if isinstance(target, ActionHandlers) and action.handler(target) is not False:
                return

    def _pane(self) -> Widget | None:
        """The pane that keys go to: the one in focus, once the view that came to the fore has taken the focus."""
        view, focused = self.view, self.main.focused
        if view is None or focused in view.panes:
            return focused
        return view.focus_pane

    def say(self, text: str, ink: str = "muted") -> None:
        """Shows a message on the status line until the next key."""
        self.message, self.message_ink = safe_text(text), ink
        self.redraw_status()

    def busy_with(self, text: str) -> None:
        """Shows what goes on in the background, until it is over; "" when it is."""
        self.under_way = safe_text(text)
        self.redraw_status()

    def complain(self, error: KltuiError) -> None:
        """Shows what went wrong and what to do about it."""
        self.say(f"{error.message}. {error.hint}" if error.hint else error.message, "bad")

    def run_worker(self, work: Any, *given: Any, **how: Any) -> Any:
        """Runs a coroutine beside the interface, which outlives whatever goes wrong in it."""
        return super().run_worker(self.outlived(work), *given, **how)

    async def outlived(self, work: Awaitable[Any], reported: Callable[[str], None] | None = None) -> Any:
        """The result of `work`; where it fails, None, and a message, also to `reported`. A bug's traceback is kept."""
        try:
            return await work
        except KltuiError as error:
            self.complain(error)
            said = error.message
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            kept = self.memory.keep_traceback(traceback.format_exc())
            self.say(f"a bug in kltui: {said}{f'. The traceback is in {kept}' if kept else ''}", "bad")
        if reported is not None:
            reported(said)
        return None

    # -- views ----------------------------------------------------------------------------------

    def show_screen(self, name: str) -> None:
        """Brings one of the ten views to the fore, making it the first time."""
        assert name in SCREENS
        self._away_with_picture()
        view = self._views.get(name)
        if view is None:
            view = self._made(name)
            self.main.body.mount(view)
        for other in self._views.values():
            other.display = other is view
        self.screen_name, self.view = name, view
        view.make_room(self.size.width)
        self._arriving = view
        self.call_after_refresh(self.arrive)
        view.call_after_refresh(view.focus_now)
        self.main.redraw_bars()

    def _made(self, name: str) -> View:
        view: View = import_module(f"kltui.tui.views.{name}").VIEW()
        view.make_room(self.size.width)
        self._views[name] = view
        return view

    def arrive(self) -> None:
        """Tells a view that has come to the fore, once it has its size."""
        view, self._arriving = self._arriving, None
        if view is not None and view is self.view:
            view.arrived()

    def arrives_now(self) -> View | None:
        """Before painting: a view that has its size already arrives, to be drawn once; that view."""
        view = self._arriving
        if view is None or not view.focus_pane.size:
            return None
        self.arrive()
        return view

    @property
    def is_asking(self) -> bool:
        """Whether a dialog lies over the view."""
        return len(self.screen_stack) > 1

    def redraw_status(self) -> None:
        """Draws the status line again."""
        self.main.status.refresh()

    @property
    def workspace_name(self) -> str:
        """The workspace's folder name, safe to show."""
        path = self.reader.path
        return safe_text(path.resolve().name, 40) if path else ""

    def run_number(self, name: str) -> int:
        """The number of the run a checkpoint belongs to, for its colour and marker."""
        row = self.snapshot.by_name.get(name)
        return self.snapshot.run_number.get(row.checkpoint.run, 0) if row else 0

    def set_cursor(self, name: str) -> None:
        """Puts the shared cursor on a checkpoint and updates the view."""
        if name == self.selection.cursor:
            return
        self.selection.cursor = name
        self.redraw_status()
        if self.view is not None:
            self.view.cursor_moved()

    def walk(self, by: int) -> None:
        """Moves the cursor along its run, `by` checkpoints of the same variant."""
        row = self.snapshot.by_name.get(self.selection.cursor)
        if row is None:
            return
        here = row.checkpoint
        run = [
            r.name for r in self.snapshot.runs[run_of(row)] if r.checkpoint.quantization == here.quantization
        ]
        at = run.index(row.name) + by
        if 0 <= at < len(run):
            self.set_cursor(run[at])
        else:
            self.say("the run ends here" if by > 0 else "the run begins here")

    def selection_changed(self) -> None:
        """Draws again whatever shows the selection; the change can be undone."""
        self.undo.note(chosen_now(self.filter, self.selection), self._choose_again)
        self.redraw_status()
        if self.view is not None:
            self.view.update_data()

    def _choose_again(self, chosen: Chosen) -> None:
        """Brings back an earlier choice; checkpoints that are gone stay out of it."""
        self.filter = chosen.put(self.selection)
        self.selection.keep(self.snapshot.by_name)
        self.undo.follow(chosen_now(self.filter, self.selection))
        self.selection_changed()

    def _make_look(self) -> Theme:
        return Theme(PALETTES[self._palette], color=self._use_color, ascii_only=self.ascii_only)

    # -- data -----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Reads when the workspace has changed; asks often while something runs, seldom otherwise."""
        await self.outlived(self.reload())
        gc.freeze()
        gc.enable()
        while True:
            await asyncio.sleep(self._pause())
            if getattr(self._driver, "is_gone", False):
                self.hung_up()
            await self.outlived(self._look())

    async def _look(self) -> None:
        if await self.reader.generation() != self.snapshot.generation:
            await self.reload()

    async def reload(self, ids_before: Mapping[str, int] | None = None) -> None:
        """Reads the workspace and passes a changed snapshot on; with ids, the selection follows new names."""
        old = self.snapshot
        new = await self.reader.snapshot(getattr(self._views.get("jobs"), "job_id", None))
        if new == old:
            return
        self.snapshot = new
        if not old.loaded:
            self._restore_selection()
            self._begin_with()
        if ids_before:
            now = {row.id: name for name, row in new.by_name.items()}
            self.selection.rename({old: now[i] for old, i in ids_before.items() if i in now})
        self.selection.keep(new.by_name)
        self.undo.follow(chosen_now(self.filter, self.selection))
        self.map_cache.scored(new)
        self._job_watch.follow(new.jobs)
        self._read_facts()
        if new.jobs:
            self.awaits_job = False
        if not self.selection.cursor and new.rows:
            self.selection.cursor = new.rows[0].name
        if self.view is not None:
            self.view.update_data()
        self.main.redraw_bars()

    async def make_map_of(self, basis: Basis) -> None:
        """Draws every screen from that map. Raises KltuiError, and changes nothing, where there is no such map."""
        before = self.reader.basis
        await self.reader.use(basis)
        self.map_cache.forget()
        try:
            await self.map_cache.map()
        except KltuiError:
            await self.reader.use(before)
            self.map_cache.forget()
            raise
        await self.reload()
        self._read_facts()
        if self.view is not None:
            self.view.update_data()

    def _read_facts(self) -> None:
        if self._facts_of != self.map_cache.version:
            self._facts_of = self.map_cache.version
            self.run_worker(self._take_facts(), group="facts", exclusive=True)

    async def _take_facts(self) -> None:
        basis = self.reader.basis
        if self.map_cache.is_empty:
            self.facts = Facts()
        else:
            self.facts = await self.reader.read(lambda ws: facts_of(ws, basis))
        self.main.basis.update_data()
        if self.reader.forgotten:
            self.say(f"not as you left it, the whole map: {self.reader.forgotten}", "warning")
            self.reader.forgotten = ""

    def _begin_with(self) -> None:
        begin, self._begin = self._begin, None
        if begin is not None:
            self.call_next(begin, self)

    def watch_closely(self) -> None:
        """Looks often for a while: a job was just started and will soon appear."""
        self.awaits_job = True
        self._closely_until = asyncio.get_running_loop().time() + 30.0
        if self.view is not None:
            self.view.update_data()

    def _job_ended(self, job_id: int) -> None:
        """Reads at once how a job stands whose process is gone, and says so where it did not come to its end."""

        async def look() -> None:
            await self.reload()
            job = next((j for j in self.snapshot.jobs if j.id == job_id), None)
            if job is not None and job.status in ("lost", "failed"):
                how = "its process was ended" if job.status == "lost" else "it failed"
                self.say(
                    f"job {job.id}: {how}; {job.done} of {job.total} are stored, 2 R runs the rest", "bad"
                )

        self.run_worker(look(), group=f"job {job_id} ended")

    def _pause(self) -> float:
        busy = asyncio.get_running_loop().time() < self._closely_until
        self.awaits_job &= busy
        busy |= bool(self.snapshot.active_jobs)
        return BUSY_SECONDS if busy else IDLE_SECONDS

    def reload_soon(self) -> None:
        """Reads the workspace without waiting for the next look."""
        self.run_worker(self.reload(), group="reload", exclusive=True)

    # -- what is kept between sessions ----------------------------------------------------------

    def _restore(self) -> None:
        kept = self.memory.load(self.reader.path)
        name = kept.get("screen")
        self.screen_name = name if isinstance(name, str) and name in SCREENS else SCREENS[0]
        if self._asked_basis is not None:
            self.reader.basis = self._asked_basis
        else:
            self.reader.restore(basis_of(kept.get("basis")))
        if kept.get("palette") == "light":
            self._palette = 1
            self.look = self._make_look()
            self.set_class(True, "-light")

    def _restore_selection(self) -> None:
        kept = self.memory.load(self.reader.path)
        for field in ("cursor", "a", "b"):
            value = kept.get(field)
            if isinstance(value, str) and not getattr(self.selection, field):
                setattr(self.selection, field, value)

    def _remember(self) -> None:
        chosen = self.selection
        kept: dict[str, object] = {
            "screen": self.screen_name,
            "palette": self.look.palette.name,
            "cursor": chosen.cursor,
            "a": chosen.a,
            "b": chosen.b,
            "basis": self.reader.basis.as_record(),
        }
        for name, view in self._views.items():
            kept.update({f"{name}.{k}": v for k, v in getattr(view, "kept", dict)().items()})
        self.memory.save(self.reader.path, kept)

    def kept(self, key: str) -> object:
        """What was kept under `key` when this workspace was last left."""
        return self.memory.load(self.reader.path).get(key)
