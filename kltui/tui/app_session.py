"""The session shared by all screens: the workspace as read, the selection, messages, and saved state."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import traceback
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.color import ColorSystem

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.actions import SCREENS, ActionHandlers
from kltui.tui.basis import Basis, Facts, basis_of, facts_of
from kltui.tui.data import Snapshot, SnapshotReader, label_of_row
from kltui.tui.filter import EVERY, Filter
from kltui.tui.job_watch import JobWatch
from kltui.tui.keymap import Keymap
from kltui.tui.map_cache import MapCache
from kltui.tui.selection import Selection
from kltui.tui.terminal.row_diff import ScreenFrame
from kltui.tui.terminal.textual_private import TerminalApp, driver_of
from kltui.tui.theme import Theme
from kltui.tui.ui_state import Memory
from kltui.tui.undo import Chosen, Undo, chosen_now
from kltui.tui.widgets.shell import MainScreen
from kltui.tui.workers import begun
from kltui.view.palette import PALETTES

if TYPE_CHECKING:
    from kltui.store.removal import Removed
    from kltui.tui.recent import Recent
    from kltui.tui.session import CoveringPicture
    from kltui.tui.terminal.pixels import Ability
    from kltui.tui.views.base import View
    from kltui.workspace import Workspace
    from kltui.workspace.losses import StoredLoss

BUSY_SECONDS, IDLE_SECONDS = 1.0, 3.0
SETTLED_SECONDS = 0.5  # after reading, until the first frame is certainly drawn
REST_SECONDS = 20.0  # without a key, after which all garbage is collected
KEPT_NAMES = ("cursor", "a", "b")  # of the selection, for the next session
DRAWING = ("kltui.tui.dialogs.prompts", "kltui.view.cell_buffer")
MIN_PAUSE = 3.0  # pause between two reads, as a multiple of the time that the last one took


class AppSession(TerminalApp, ActionHandlers, inherit_bindings=False):
    """One workspace and one selection; subclasses add the views and the keys."""

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
        self._begin = begin  # called once the workspace is read
        self.recent: list[Recent] = []  # recently opened workspaces, if this session began without one
        self.texts: Path | None = None  # texts that the command line named, which new jobs score
        self._asked_basis = basis  # from the command line; None: that of the last session
        # texts of the bar, and the version of the map that they describe
        self.facts, self._facts_of = Facts(), -1
        self.keymap = keymap or Keymap()
        self.map_cache = MapCache(self.reader, self.key)
        self.snapshot = Snapshot(path=path)
        self.selection = Selection()
        self.filter = Filter("")
        self.undo = Undo()
        self.removed: list[Removed] = []
        #: (loss in bits/byte, standard error) of the vectors read so far
        self.loss_errors: dict[StoredLoss, tuple[float, float]] = {}
        self.read_only, self.ascii_only = read_only, ascii_only
        self.memory = memory or Memory(None)
        self.message, self.message_ink, self._is_long = "", "muted", False
        self.under_way = ""
        self.awaits_job = False
        self.screen_name = SCREENS[0]
        self.view: View | None = None
        self.picture: CoveringPicture | None = None
        self.pixel_ability: Ability | None = None
        self.left_running = 0
        self.failure = ""
        self.marker_kind = 0
        self._main: MainScreen | None = None
        self._views: dict[str, View] = {}
        self._arriving: View | None = None
        self._opening: Any = None  # awaitable that ends when a dialog just pushed is mounted
        self._use_color = color and not self.no_color
        self._palette = 0
        self.look = self._make_look()
        system = ColorSystem.EIGHT_BIT if self._use_color else None
        self._frame = ScreenFrame(system, ascii_only=ascii_only)
        self._drawn = asyncio.Event()  # the first frame
        self._closely_until = 0.0
        self._read_seconds = 0.0
        # When the last key came, when the workspace was last read, and when all garbage was last collected.
        self.typed_at = self._read_at = self._collected_at = 0.0
        self._named: tuple[Path | None, str] = (None, "")
        self._watcher: asyncio.Task[None] | None = None
        self._job_watch = JobWatch(self._job_ended)

    @property
    def main(self) -> MainScreen:
        """The main screen, also while a dialog covers it, and when it has been closed."""
        if self._main is None:
            main = self.screen_stack[0]
            assert isinstance(main, MainScreen)
            self._main = main
        return self._main

    # -- messages ----------------------------------------------------------------------------------------

    def key(self, *actions: str) -> str:
        """The keys of actions on this screen, as messages name them; see `Keymap.spelled`."""
        return self.keymap.spelled(self.screen_name, *actions)

    def say(self, text: str, ink: str = "muted") -> None:
        """Shows a message on the status line until the next key."""
        self.message, self.message_ink = safe_text(text), ink
        self.redraw_status()

    def busy_with(self, text: str) -> None:
        """Shows on the status line what runs in the background; "" clears it."""
        self.under_way = safe_text(text)
        self.redraw_status()

    def complain(self, error: KltuiError) -> None:
        """Shows the error's message and hint on the status line."""
        self.say(error.in_one_line, "bad")

    def run_worker(self, work: Any, *given: Any, **how: Any) -> Any:
        """Runs a coroutine in the background; exceptions in it do not end the interface."""
        return begun(super().run_worker, self.outlived, work, *given, **how)

    async def outlived(self, work: Awaitable[Any], reported: Callable[[str], None] | None = None) -> Any:
        """The result of `work`. If it fails: None, a message on the status line, and `reported` is called with the message.

        The traceback of an exception other than KltuiError is appended to the log.
        """
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

    async def calm(self, seconds: float, at_most: float = math.inf) -> None:
        """Returns once no key has come for so long, or `at_most` seconds have passed: for work that a key may not wait for."""
        loop = asyncio.get_running_loop()
        end = loop.time() + at_most
        while (rest := min(self.typed_at + seconds, end) - loop.time()) > 0:
            await asyncio.sleep(rest)

    def redraw_status(self) -> None:
        """Draws the status line again, and the line of keys if that has or had the rest of a message (`_is_long`)."""
        from kltui.tui.widgets.shell import message_lines

        self.main.status.refresh()
        before, self._is_long = self._is_long, len(message_lines(self.message, self.size.width)) > 1
        if before or self._is_long:
            self.main.keys_line.refresh()

    @property
    def is_asking(self) -> bool:
        """Whether a dialog is open."""
        return len(self.screen_stack) > 1

    # -- what is chosen ----------------------------------------------------------------------------------

    @property
    def workspace_name(self) -> str:
        """The workspace's folder name, safe to show."""
        path = self.reader.path
        if self._named[0] != path:  # resolved once: every key draws the tabs, and a disk may be slow
            self._named = path, safe_text(path.resolve().name, 40) if path else ""
        return self._named[1]

    def run_number(self, name: str) -> int:
        """The number of a checkpoint's run and variant, which determines colour and marker; 0 for an unknown name."""
        row = self.snapshot.by_name.get(name)
        return self.snapshot.run_number.get(label_of_row(row), 0) if row else 0

    def set_cursor(self, name: str) -> None:
        """Moves the shared cursor to a checkpoint and updates the view."""
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
            self.say("no checkpoint is under the cursor")
            return
        if name := self.snapshot.along_run(row, by, self.filter):
            self.set_cursor(name)
        elif self.snapshot.along_run(row, by, EVERY):
            self.say(f"no {'later' if by > 0 else 'earlier'} checkpoint of the run passes the filter")
        else:
            self.say("the run ends here" if by > 0 else "the run begins here")

    def keep_cursor_shown(self) -> None:
        """Moves the cursor from a checkpoint that the filter hides to the nearest one shown, and back once it passes.

        It does not go back if it has been moved meanwhile: keys act on the checkpoint under the cursor, which must be on screen.
        """
        known = self.snapshot.by_name
        passing = self.snapshot.passing_names(self.filter) if self.filter.text else known
        left, instead = self.selection.left
        here = left if instead == self.selection.cursor and left in known else self.selection.cursor
        if here not in known or not passing:
            return
        shown = here if here in passing else self.snapshot.nearest_passing(here, self.filter)
        self.selection.left = (here, shown) if shown != here else ("", "")
        self.selection.cursor = shown

    def selection_changed(self) -> None:
        """Redraws what shows filter, selection or marks, and records the change for undo."""
        self.undo.note(chosen_now(self.filter, self.selection), self._choose_again)
        self.redraw_status()
        if self.view is not None:
            self.view.update_data()

    def _choose_again(self, chosen: Chosen) -> None:
        """Restores filter, selection and marks without checkpoints that no longer exist."""
        self.filter = chosen.put(self.selection)
        self.selection.keep(self.snapshot.by_name)
        self.keep_cursor_shown()
        self.undo.follow(chosen_now(self.filter, self.selection))
        self.selection_changed()

    # -- data --------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Reads the workspace whenever it has changed; checks every BUSY_SECONDS while a job runs, else IDLE_SECONDS."""
        self.main.call_after_refresh(self._drawn.set)
        await self._drawn.wait()  # reading would compete with the first frame for the interpreter
        await self.outlived(self._show_beginning())
        await self.outlived(self.reload())
        await asyncio.sleep(SETTLED_SECONDS)
        await asyncio.to_thread(_load_screens)
        gc.freeze()
        gc.enable()
        while True:
            await asyncio.sleep(self._pause())
            if getattr(driver_of(self), "is_gone", False):
                self.hung_up()
            await self.outlived(self._look())
            self._collect_garbage()

    def _collect_garbage(self) -> None:
        """Collects all garbage once after keys or reading, REST_SECONDS after the last key: no thread runs for up to 0.1 s."""
        now = asyncio.get_running_loop().time()
        is_needed = self._collected_at < max(self.typed_at, self._read_at)
        if is_needed and self.typed_at < now - REST_SECONDS:
            self._collected_at = now
            gc.collect()

    async def _show_beginning(self) -> None:
        """Before the workspace is read here: shows what was read ahead, or lists the first checkpoints of a large one.

        A large one's are listed with the number of checkpoints of each run, and only on the first screen.
        """
        found = await self.reader.beginning() if self.reader.ahead or self.screen_name == SCREENS[0] else None
        if found is None or self.snapshot.loaded:
            return
        if found.loaded:
            self._drawn.clear()
            self.main.call_after_refresh(self._drawn.set)
            self.reader.after = self._drawn
            self._take(found)
        elif self.screen_name == SCREENS[0]:
            self.snapshot = found
            if self.view is not None:
                self.view.update_data()

    async def _look(self) -> None:
        if await self.reader.generation() != self.snapshot.generation:
            await self.reload()

    async def reload(self, ids_before: Mapping[str, int] | None = None) -> None:
        """Reads the workspace and, if it has changed, updates the view.

        `ids_before` is {name: id} before checkpoints were renamed: the selection then follows their new names.
        """
        jobs = self._views.get("jobs")
        begun = asyncio.get_running_loop().time()
        new = await self.reader.snapshot(jobs.job_id if jobs is not None else None)
        self._read_seconds = asyncio.get_running_loop().time() - begun
        if new != self.snapshot:
            self._take(new, ids_before)

    def _take(self, new: Snapshot, ids_before: Mapping[str, int] | None = None) -> None:
        """Makes the workspace as read the present state, and shows it."""
        old, self.snapshot = self.snapshot, new
        self._read_at = asyncio.get_running_loop().time()
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
        """Makes every screen show the map of `basis`. Raises KltuiError, and changes nothing, if there is no such map."""
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
            self.say(
                f"the last settings could not be restored, so the whole map is shown: {self.reader.forgotten}",
                "warning",
            )
            self.reader.forgotten = ""

    def _begin_with(self) -> None:
        begin, self._begin = self._begin, None
        if begin is not None:
            self.call_next(begin, self)

    def watch_closely(self) -> None:
        """Checks the workspace often for 30 seconds, because a job was just started."""
        self.awaits_job = True
        self._closely_until = asyncio.get_running_loop().time() + 30.0
        if self.view is not None:
            self.view.update_data()

    def _job_ended(self, job_id: int) -> None:
        """Reads the workspace after a job's process has ended, and shows a message if the job did not finish."""

        async def look() -> None:
            await self.reload()
            job = next((j for j in self.snapshot.jobs if j.id == job_id), None)
            if job is not None and job.status in ("lost", "failed", "stopped"):
                failed = f"{job.failed} failed" if job.failed else "it failed"
                how = {"lost": "its process ended", "stopped": "it was stopped"}.get(job.status, failed)
                retry = self.key("retry")
                keys = retry if self.screen_name == "jobs" else f"{self.key('screen_jobs')}, then {retry},"
                rest = "" if self.read_only else f"; {keys} runs the rest"
                self.say(
                    f"job {job.id}: {how}; {job.done} of {job.total} are stored{rest}",
                    "warning" if job.status == "stopped" else "bad",
                )

        self.run_worker(look(), group=f"job {job_id} ended")

    def _pause(self) -> float:
        busy = asyncio.get_running_loop().time() < self._closely_until
        self.awaits_job &= busy
        busy |= bool(self.snapshot.active_jobs)
        return max(BUSY_SECONDS if busy else IDLE_SECONDS, MIN_PAUSE * self._read_seconds)

    def reload_soon(self) -> None:
        """Reads the workspace now, in the background."""
        self.run_worker(self.reload(), group="reload", exclusive=True)

    # -- state stored between sessions -------------------------------------------------------------------

    def _make_look(self) -> Theme:
        return Theme(PALETTES[self._palette], color=self._use_color, ascii_only=self.ascii_only)

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
        for field in KEPT_NAMES:
            value = kept.get(field)
            if isinstance(value, str) and not getattr(self.selection, field):
                setattr(self.selection, field, value)

    def _remember(self) -> None:
        """Stores the state for the next session; what this one has not restored stays as it was stored."""
        now = self.snapshot
        is_empty = now.loaded and not (now.rows or now.jobs or now.problem or self.awaits_job)
        if not self._views or is_empty:  # empty: the name was misspelt, or a new workspace was left as it was
            return
        kept = self.memory.load(self.reader.path)
        kept |= {
            "screen": self.screen_name,
            "palette": self.look.palette.name,
            "basis": self.reader.basis.as_record(),
        }
        chosen = {field: getattr(self.selection, field) for field in KEPT_NAMES}
        kept.update(chosen if self.snapshot.loaded else {k: name for k, name in chosen.items() if name})
        for name, view in self._views.items():
            kept.update({f"{name}.{k}": v for k, v in view.kept().items()})
        self.memory.save(self.reader.path, kept)

    def kept(self, key: str) -> object:
        """The value stored under `key` when this workspace was last closed."""
        return self.memory.load(self.reader.path).get(key)

    def _leave_on(self, number: signal.Signals) -> None:
        self._remember()
        self.exit(128 + number)

    def hung_up(self) -> None:
        """Quits because the terminal is gone, with or without a signal."""
        self._leave_on(signal.SIGHUP)


def _load_screens() -> None:
    """Imports the modules of all screens ahead, so that no key waits for an import."""
    for name in (*DRAWING, *(f"kltui.tui.views.{screen}" for screen in SCREENS)):
        import_module(name)
