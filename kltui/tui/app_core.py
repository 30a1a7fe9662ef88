"""The application without its actions (see `app`): the terminal, the keys, and which view is shown."""

from __future__ import annotations

import asyncio
import contextlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events
from textual.screen import Screen
from textual.widget import Widget

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.termination import ENDING
from kltui.tui.actions import BY_NAME, FIRST_STEPS, SCREENS, Action, ActionHandlers
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
    """The ten views of one session in one terminal, without the actions that all screens share."""

    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS = (
        """
    MainScreen { background: #1c1c1c; overflow: hidden hidden; }
    App.-light MainScreen { background: #ffffff; }
    """
        + styles.CSS
    )
    BINDINGS: ClassVar[list[object]] = []  # type: ignore[assignment]

    # -- start, terminal and end -------------------------------------------------------------------------

    async def run_async(self, *, headless: bool = False, **how: Any) -> int | None:
        """Textual's method, with handlers of the signals that end the interface installed before anything else.

        Without them, Python cancels this task at SIGINT, and Textual takes the cancellation for a normal end.
        """
        if not headless:
            loop = asyncio.get_running_loop()
            for number in ENDING:
                loop.add_signal_handler(number, self._leave_on, number)
            await asyncio.sleep(0)  # lets a SIGINT from before end the task here
        return await super().run_async(headless=headless, **how)

    def get_default_screen(self) -> Screen[None]:
        """The one screen that holds all views."""
        return MainScreen()

    def first_view(self) -> View:
        """The view that is shown first: that of the last session, else the first one."""
        self._restore()
        return self._made(self.screen_name)

    def started(self) -> None:
        """Called by the main screen once it is mounted: shows the first view, starts reading."""
        self.set_class(self.ascii_only, "-ascii")
        self.set_class(not self.look.color, "-plain")
        self.typed_at = asyncio.get_running_loop().time()  # the command
        self.app_resume_signal.subscribe(self.main, self._taken_up_again)
        self.show_screen(self.screen_name)
        if self.keymap.problems:
            self.say(f"keys.json: {self.keymap.problems[0]} (see kltui --doctor)", "warning")
        if self.reader.path is None:
            self.run_worker(self._find_recent(), group="recent")
        self._watcher = asyncio.create_task(self._watch())

    def get_driver_class(self) -> type[Driver]:
        """Textual's driver for this system; on Linux and other POSIX systems kltui's own subclass of it."""
        found = super().get_driver_class()
        if found.__name__ != "LinuxDriver":
            return found
        from kltui.tui.terminal.driver import TerminalDriver

        return TerminalDriver

    def _taken_up_again(self, _: object) -> None:
        """Redraws everything after the process was stopped, because a shell has written to the terminal since."""
        self._away_with_picture()
        self.draw_all_again()

    def text_of(self, update: CompositorUpdate) -> str:
        """The escape sequences and text that change what the terminal shows into the update."""
        self._drawn.set()  # Textual itself says so only one or two frames later
        return self._frame.write(update, *self.size)

    def draw_all_again(self) -> None:
        """Redraws the whole screen, because the terminal may show something other than what was written."""
        self._frame.forget()
        self.screen.refresh()

    def _away_with_picture(self) -> None:
        if self.picture is not None:
            self.picture.take_away()

    def on_resize(self) -> None:
        """Removes a pixel image, which was made for the size before."""
        self._away_with_picture()

    def failed(self, lines: list[str]) -> None:
        """Stores the first traceback, made safe to print, to be shown once the terminal is restored."""
        self.failure = self.failure or "\n".join(safe_text(line) for line in lines)

    def closing(self) -> None:
        """Ends what would begin to read the workspace while the screens are closed."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._job_watch.close()

    def on_unmount(self) -> None:
        """Ends the threads and processes of the interface, not jobs, and makes removals of checkpoints permanent."""
        for removed in self.removed:
            with contextlib.suppress(KltuiError):
                removed.give_up()
        self.map_cache.close()
        self.reader.close()

    # -- keys and actions --------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        """Handles keys one at a time, each to completion, so that keys typed ahead reach the right target."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        self.typed_at = asyncio.get_running_loop().time()
        while (opening := self._opening) is not None:  # while one dialog opens, another may be pushed
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
        """Opens a dialog over the view; the next key is handled once the dialog is mounted."""
        self._opening = super().push_screen(screen, callback, **how)
        return self._opening

    def press(self, key: str) -> None:
        """Runs the action of `key` on the present screen."""
        if self.message:
            self.say("")
        if key in ("ctrl+c", "ctrl+q"):
            self.perform(BY_NAME["quit"])
            return
        if self.recent and self.reader.path is None and self._meant_at_first(key) is BY_NAME["enter"]:
            self._ask_recent()
            return
        action = self.keymap.action(key, self.screen_name) or self._first_step(key)
        if self.picture is not None:  # any key removes it; the key that shows it does nothing else
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
        self.reader, self.map_cache = opened, MapCache(opened, self.key)
        self.snapshot, self._facts_of = Snapshot(path=path), -1
        self._restore()
        self.show_screen(self.screen_name)
        self.reload_soon()

    def _meant_at_first(self, key: str) -> Action | None:
        """The action of `key` on the first screen: the welcome text on every screen names the keys of that one."""
        return self.keymap.action(key, SCREENS[0])

    def _first_step(self, key: str) -> Action | None:
        """In an empty workspace, shows the first screen and returns its action for `key` if that is "add" or "start"."""
        action = self._meant_at_first(key)
        if self.snapshot.rows or action is None or action.name not in FIRST_STEPS:
            return None
        self.show_screen(SCREENS[0])
        return action

    def perform(self, action: Action) -> None:
        """Runs an action on the focused pane, else on the view, else on the application."""
        if action.writes and self.read_only:
            self.say("opened with --read-only: nothing can be started or written", "warning")
            return
        if self.snapshot.counts and action.needs_all_rows:
            self.say("the list is still loading: try again in a moment")
            return
        if action.group != "screens":
            self.arrives_now()  # otherwise it would act on what the view showed before
        for target in (self._pane(), self.view, self):
            if isinstance(target, ActionHandlers) and action.handler(target) is not False:
                return
        self.say(f"{action.name.replace('_', ' ')}: nothing to do in this pane")

    def _pane(self) -> Widget | None:
        """The pane that receives keys: the focused one, or the view's own if the focus is still in another view."""
        view, focused = self.view, self.main.focused
        if view is None or focused in view.panes:
            return focused
        return view.focus_pane

    # -- views -------------------------------------------------------------------------------------------

    def show_screen(self, name: str) -> None:
        """Shows one of the ten views, which is made when it is first shown."""
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
        """Calls `arrived` of the view that was just shown."""
        view, self._arriving = self._arriving, None
        if view is not None and view is self.view:
            view.arrived()

    def arrives_now(self) -> View | None:
        """The view that was just shown, after a call of its `arrived`; None if there is none or it has no size yet.

        Called before painting, so that such a view is painted once and not twice, and before an action on it.
        """
        view = self._arriving
        if view is None or not view.focus_pane.size:
            return None
        self.arrive()
        return view
