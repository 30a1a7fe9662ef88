"""The application around its views: the terminal, keys, and which view is shown; its own actions are in `app`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events
from textual.screen import Screen
from textual.widget import Widget

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.actions import BY_NAME, SCREENS, Action, ActionHandlers
from kltui.tui.data import Snapshot
from kltui.tui.dialogs import styles
from kltui.tui.map_cache import MapCache
from kltui.tui.terminal.textual_private import CompositorUpdate
from kltui.tui.widgets.shell import MainScreen

if TYPE_CHECKING:
    from textual.driver import Driver

    from kltui.tui.views.base import View
from kltui.tui.app_session import AppSession


class AppCore(AppSession, inherit_bindings=False):
    """Ten views of one session, in one terminal: everything but the actions that all screens share."""

    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS = (
        """
    MainScreen { background: #1c1c1c; overflow: hidden hidden; }
    App.-light MainScreen { background: #ffffff; }
    Input { background: #303030; color: #e4e4e4; }
    App.-light Input { background: #d0d0d0; color: #262626; }
    Input > .input--cursor { background: #e4e4e4; color: #1c1c1c; }
    App.-light Input > .input--cursor { background: #262626; color: #ffffff; }
    App.-plain Input > .input--cursor { text-style: reverse; }
    """
        + styles.CSS
    )
    BINDINGS: ClassVar[list[object]] = []  # type: ignore[assignment]

    # -- the frame around everything ---------------------------------------------------------------------

    def get_default_screen(self) -> Screen[None]:
        """The one screen that holds all views."""
        return MainScreen()

    def first_view(self) -> View:
        """The view that the main screen begins with: that of the last session."""
        self._restore()
        return self._made(self.screen_name)

    def started(self) -> None:
        """Called by the main screen when it is there: first view, signals, first read."""
        self.set_class(self.ascii_only, "-ascii")
        self.set_class(not self.look.color, "-plain")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if not self.is_headless:
                loop.add_signal_handler(number, self._leave_on, number)
        self.app_resume_signal.subscribe(self.main, self._taken_up_again)
        self.show_screen(self.screen_name)
        if self.keymap.problems:
            self.say(f"keys.json: {self.keymap.problems[0]} (see kltui --doctor)", "warning")
        if self.reader.path is None:
            self.run_worker(self._find_recent(), group="recent")
        self._watcher = asyncio.create_task(self._watch())

    def get_driver_class(self) -> type[Driver]:
        """Textual's driver for this system; on POSIX ours, which notices what becomes of the terminal."""
        found = super().get_driver_class()
        if found.__name__ != "LinuxDriver":
            return found
        from kltui.tui.terminal.driver import TerminalDriver

        return TerminalDriver

    def _taken_up_again(self, _: object) -> None:
        """After a stop the terminal shows something else: nothing of what was written counts."""
        self._away_with_picture()
        self.draw_all_again()

    def text_of(self, update: CompositorUpdate) -> str:
        """Only what differs from what the terminal shows already."""
        return self._frame.write(update, *self.size)

    def draw_all_again(self) -> None:
        """Redraws the whole screen, because the terminal may show something other than what was written."""
        self._frame.forget()
        self.screen.refresh()

    def _away_with_picture(self) -> None:
        if self.picture is not None:
            self.picture.take_away()

    def on_resize(self) -> None:
        """A picture of pixels belongs to one size."""
        self._away_with_picture()

    def failed(self, lines: list[str]) -> None:
        """Keeps a bug's traceback for after the terminal is restored: plain, safe, without any data."""
        self.failure = self.failure or "\n".join(safe_text(line) for line in lines)

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

    # -- keys and actions --------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        """Handles keys one at a time, each to completion, so that keys typed ahead reach the right target."""
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
            self.say("opened with --read-only: nothing can be started or written", "warning")
            return
        if self.snapshot.counts and action.needs_all_rows:
            self.say("the list is still loading: try again in a moment")
            return
        for target in (self._pane(), self.view, self):
            if isinstance(target, ActionHandlers) and action.handler(target) is not False:
                return
        self.say(f"{action.name.replace('_', ' ')}: nothing to do in this pane")

    def _pane(self) -> Widget | None:
        """The pane that keys go to: the one in focus, once the view that came to the fore has taken the focus."""
        view, focused = self.view, self.main.focused
        if view is None or focused in view.panes:
            return focused
        return view.focus_pane

    # -- views -------------------------------------------------------------------------------------------

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
        """Calls `arrived` of a view that is shown now, once it has its size."""
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
