"""The application: the actions that every screen has, added to `app_core`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.actions import Action
from kltui.tui.app_core import AppCore
from kltui.tui.data import MANY_ROWS
from kltui.tui.filter import parse_filter
from kltui.tui.terminal.textual_private import driver_of
from kltui.view.palette import PALETTES

if TYPE_CHECKING:
    from textual.timer import Timer

TYPING_SECONDS = 0.15


def _pasteable(line: str) -> str:
    return "\t".join(map(safe_text, line.split("\t")))


def _in_short(copied: str) -> str:
    """The first line of a copied text without its trailing rule, and the number of lines if there are several.

    >>> _in_short("tiny@4"), _in_short("Loss ─────\\nrun  points\\n")
    ('tiny@4', 'Loss, 2 lines')
    """
    lines = copied.rstrip("\n").split("\n")
    first = safe_text(lines[0].rstrip(" ─"), 60)
    return first if len(lines) == 1 else f"{first}, {len(lines)} lines".removeprefix(", ")


class KltuiApp(AppCore):
    """The terminal interface of one workspace."""

    _typed: Timer | None = None  # applies the filter after a pause in typing

    def do_screen(self, name: str) -> None:
        self.show_screen(name)

    def do_quit(self) -> None:
        self.left_running = sum(job.status == "running" for job in self.snapshot.jobs)
        self._remember()
        self.exit(0)

    def do_suspend(self) -> None:
        driver = driver_of(self)
        if getattr(driver, "has_shell", False):
            driver.to_shell()
        else:
            quits = self.key("quit")
            self.say(f"cannot suspend: there is no shell to return to; {quits} quits, and jobs continue")

    def do_refresh(self) -> None:
        self._frame.forget()
        self.main.refresh()
        self.reload_soon()
        self.say("the workspace is read again")

    def do_theme(self) -> None:
        self._palette = (self._palette + 1) % len(PALETTES)
        self.look = self._make_look()
        self.set_class(self.look.palette.name == "light", "-light")
        self.main.refresh()
        for pane in self.main.query("Pane"):
            pane.refresh()
        self.say(f"palette: {self.look.palette.name}")

    def do_out(self) -> None:
        """Clears the filter, or else the selection. Marks stay; `undo` restores what was cleared."""
        chosen = self.selection
        if self.filter.text:
            self.set_filter("")
        elif chosen.selected:
            chosen.selected.clear()
            self.selection_changed()
        else:
            self.say(f"nothing to step out of; {self.key('quit')} quits")

    def do_undo(self) -> None:
        """Undoes the last change of filter, selection or marks, or the last removal of checkpoints."""
        step = self.undo.pop()
        if step is None:
            self.say("nothing to undo")
            return
        step.restore()
        self.say(f"undone: {step.what}")

    def do_help(self) -> None:
        from kltui.tui.dialogs import prompts

        groups = self.keymap.help(self.screen_name, writing=not self.read_only)
        groups.append(("keys.json", self.keymap.file_help(self.screen_name)))
        title = f"Keys on the {self.screen_name.capitalize()} screen"
        self.push_screen(prompts.TextDialog(title, prompts.key_help(groups, self.look)))

    def do_palette(self) -> None:
        from kltui.tui.dialogs import prompts
        from kltui.tui.keymap import key_label

        actions = self.keymap.everywhere(self.screen_name, writing=not self.read_only)
        words = [
            (
                " ".join(map(key_label, self.keymap.keys(a.name))),
                ("" if a.on(self.screen_name) else f"{' and '.join(map(str.capitalize, a.screens))}: ")
                + a.help,
            )
            for a in actions
        ]
        names = [a.name.replace("_", " ") for a in actions]
        options = list(zip(names, prompts.aligned(words, self.look), strict=True))

        def chosen(index: int | None) -> None:
            if index is not None:
                self.call_next(self._perform_where_it_is, actions[index])

        self.push_screen(prompts.ChoiceDialog("Run which action?", options), chosen)

    def _perform_where_it_is(self, action: Action) -> None:
        """Runs an action; if the present screen does not have it, on the first screen that does."""
        if action.on(self.screen_name):
            self.perform(action)
            return
        self.show_screen(action.screens[0])
        self.call_after_refresh(self.perform, action)

    def do_filter(self) -> None:
        from kltui.tui.dialogs import prompts

        def check(text: str) -> str:
            try:
                parse_filter(text)
            except KltuiError as error:
                return f"{error.message}  {error.hint}"
            return ""

        def changed(text: str) -> None:
            if not check(text):
                self._filter_while_typed(text)

        before = self.filter.text
        # the list is filtered at each letter, but undo restores the filter before the first
        self.undo.waits = True

        def answered(text: str | None) -> None:
            self.undo.waits = False
            self._forget_typed()
            self.set_filter(before if text is None else text)
            self.selection_changed()
            if text is not None:
                self._say_what_nothing_passes()

        prompt = prompts.Prompt(
            "Filter",
            before,
            check,
            changed,
            hints=(
                "run:NAME|OTHER  run=NAME  step>=1000  step:1..9k  loss<3  -quant:8bit",
                'size: type: tag: parent: seed:  words of the name  py*-1?b  "a b"  a | b',
            ),
        )
        self.push_screen(prompt, answered)

    def _filter_while_typed(self, text: str) -> None:
        """Filters at each letter; above MANY_ROWS rows only after a pause in typing, so that no letter waits for the list."""
        self._forget_typed()
        if len(self.snapshot.rows) > MANY_ROWS:
            self._typed = self.set_timer(TYPING_SECONDS, lambda: self._filter_soon(text))
        else:
            self.set_filter(text)

    def _filter_soon(self, text: str) -> None:
        if self._typed is not None:
            self.run_worker(self._filter_later(text, self._typed), group="filter", exclusive=True)

    async def _filter_later(self, text: str, typed: Timer) -> None:
        """Filters once another thread has found what passes, unless something else was typed meanwhile."""
        await asyncio.to_thread(self.snapshot.passing_names, parse_filter(text))
        if typed is self._typed:
            self.set_filter(text)

    def _forget_typed(self) -> None:
        if self._typed is not None:
            self._typed.stop()
            self._typed = None

    def _say_what_nothing_passes(self) -> None:
        if words := self.snapshot.unmatched(self.filter):
            self.say(f"no checkpoint matches {', '.join(words)}", "warning")

    def set_filter(self, text: str) -> None:
        """Filters every list by `text`, which must parse."""
        if text != self.filter.text:
            self.filter = parse_filter(text)
            self.keep_cursor_shown()
            self.selection_changed()

    def do_select(self) -> None:
        if self.selection.cursor:
            self.selection.toggle([self.selection.cursor])
            self.selection_changed()

    def do_mark_a(self) -> None:
        self.selection.a = "" if self.selection.a == self.selection.cursor else self.selection.cursor
        self.selection_changed()

    def do_mark_b(self) -> None:
        self.selection.b = "" if self.selection.b == self.selection.cursor else self.selection.cursor
        self.selection_changed()

    def do_swap(self) -> None:
        if not (self.selection.a or self.selection.b):
            self.say(f"nothing to swap: {self.key('mark_a')} and {self.key('mark_b')} mark checkpoints")
            return
        self.selection.swap()
        self.selection_changed()

    def do_compare(self) -> None:
        """Opens Compare for A and B; without both, shows a list of pairs."""
        from kltui.tui.dialogs.pair_choice import ask_pair

        chosen = self.selection
        others = [n for n in (chosen.b, chosen.cursor, *chosen.selected) if n and n != chosen.a]
        if chosen.a and others and not chosen.b:
            chosen.b = others[0]
        if chosen.a and chosen.b:
            self.show_screen("compare")
        else:
            ask_pair(self)

    def do_next_step(self) -> None:
        self.walk(1)

    def do_previous_step(self) -> None:
        self.walk(-1)

    def do_copy(self) -> None:
        copied = (self.view.copied() if self.view is not None else "") or safe_text(self.selection.cursor)
        if copied:
            # Line breaks and tabs stay; other control characters are removed, since a terminal could act on them when pasted.
            self.copy_to_clipboard("\n".join(map(_pasteable, copied.replace("\r\n", "\n").split("\n"))))
            self.say(f"copied: {_in_short(copied)}")
        else:
            self.say("nothing to copy here")

    def do_pixels(self) -> None:
        from kltui.tui.widgets.picture_pane import show_picture

        self.run_worker(show_picture(self), group="picture", exclusive=True)

    def do_export(self) -> None:
        from kltui.tui.dialogs import prompts
        from kltui.tui.export import export_view, exports

        found = exports(self)

        def chosen(index: int | None) -> None:
            if index is not None:
                self.run_worker(export_view(self, found[index]), group="export")

        self.push_screen(prompts.ChoiceDialog("Export as", [(e.name, e.what) for e in found]), chosen)
