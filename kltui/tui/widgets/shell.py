"""The main screen around the views: tabs, map settings, status and keys, and a message if the window is too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.reactive import Reactive
from textual.strip import Strip
from textual.widget import Widget

from kltui.sanitize import safe_text, short_name
from kltui.tui.actions import SCREENS, screen_key
from kltui.tui.data import USUAL_VALUES
from kltui.tui.terminal.textual_private import PaintedScreen
from kltui.tui.widgets.canvas import Box, Pane, Span, fitted, shortened, spelled, strip_of, width_of, wrapped

if TYPE_CHECKING:
    from textual.geometry import Region

    from kltui.tui.session import ScreenOwner

MIN_WIDTH, MIN_HEIGHT = 60, 15
BESIDE_NAMES = 24  # cells that names leave to the count of the selected and to the filter
MIN_NAME = 16  # least width of a name on the status line
SHORTEST = 12  # least width of the corpus on the line of the map
MIN_FILTER = 27  # least width of a filter on the status line before it is left out


class Bar(Pane, can_focus=False):
    """One line across the screen."""

    DEFAULT_CSS = "Bar { height: 1; width: 100%; }"

    def spans(self) -> list[Span]:
        """The content of the line."""
        return []

    def render_line(self, y: int) -> Strip:
        """The line."""
        return strip_of(spelled(self.spans(), self.look), self.size.width, self.look("text", "raised"))


class TabBar(Bar):
    """The screens with their digits, the present one highlighted, and the workspace's name."""

    def spans(self) -> list[Span]:
        """Screens at the left, workspace at the right."""
        look, current = self.look, self.kl.screen_name
        named, roomy = self.size.width >= 79, self.size.width >= 100
        space, between = (" ", "  ") if roomy or not named else ("", " ")
        spans: list[Span] = [(" " if roomy else "", look("text", "raised"))]
        for i, name in enumerate(SCREENS, start=1):
            here = name == current
            label = name.capitalize() if named or here else ""
            digit = look("accent", "raised", bold=True) if here else look("faint", "raised")
            text = look("text", "raised", bold=True, underline=here) if here else look("muted", "raised")
            spans += [(screen_key(i), digit), (space if label else "", digit), (label, text)]
            spans.append((between if i < len(SCREENS) else "", look("text", "raised")))
        values = self.kl.reader.values
        name = self.kl.workspace_name + ("" if values == USUAL_VALUES else f" ({values})")
        gap = self.size.width - width_of(spans) - len(name) - 1
        if gap > 1:
            spans += [(" " * gap, look("text", "raised")), (name, look("muted", "raised"))]
        return spans

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Shows the screen under the mouse."""
        x = 0
        for text, _ in self.spans():
            if x <= event.x < x + len(text) and (word := text.lower()) in SCREENS:
                self.kl.show_screen(word)
            x += len(text)


class BasisBar(Bar):
    """The map's corpus, preprocessing, exclusions and dtype, on every screen once something is scored."""

    def update_data(self) -> None:
        """Shows the line if there is a map, and redraws it."""
        self.display = bool(self.kl.facts.corpus)
        self.refresh()

    def spans(self) -> list[Span]:
        """The four parts; if they do not fit, the corpus is shortened, then the dtype left out, then the map shortened."""
        facts, look, basis = self.kl.facts, self.look, self.kl.reader.basis
        if not facts.corpus:
            return []
        prepared = facts.preparation
        if self.kl.screen_name == "layers" and facts.preparation and "as scored" not in prepared:
            prepared = "layer vectors as scored"
        parts = [p for p in (prepared, facts.excluded, facts.dtype) if p]
        over = self._wider_by(parts)
        if over > 0 and facts.dtype:
            over = self._wider_by(parts := parts[:-1])
        if over > 0 and parts:
            parts[0] = fitted(parts[0], max(12, cell_len(parts[0]) - over))
        room = max(SHORTEST, -self._wider_by(parts) + SHORTEST)
        corpus = facts.corpus if cell_len(facts.corpus) <= room else fitted(facts.corpus, room)
        inks = [
            "muted" if basis.is_whole else "warning",
            "warning" if "none" not in facts.excluded else "muted",
            "muted",
        ]
        spans: list[Span] = [
            (" " + corpus, look("warning" if basis.over or basis.saved else "muted", "raised"))
        ]
        for part, ink in zip(parts, inks, strict=False):
            spans += [(f" {look.glyph('│', '|')} ", look("faint", "raised")), (part, look(ink, "raised"))]
        return shortened(spans, self.size.width)

    def _wider_by(self, parts: Sequence[str]) -> int:
        """By how many cells the parts and the shortest corpus are wider than the bar."""
        return sum(cell_len(part) + 3 for part in parts) + SHORTEST + 2 - self.size.width


def message_lines(message: str, width: int) -> list[str]:
    """A message in one line of the screen, or in two if it is longer than one; if longer than two, it is cut."""
    room = max(20, width - 4)
    if cell_len(message) <= room:
        return [message]
    first, *others = wrapped(message, room)
    rest = " ".join(others)
    return [first, fitted(rest, min(cell_len(rest), room))] if rest else [first]


class StatusBar(Bar):
    """The selection at the left, and the last message, or its first line, or the running job at the right."""

    def spans(self) -> list[Span]:
        """Selection at the left; message, background work or job at the right."""
        look, kl = self.look, self.kl
        first, *rest = message_lines(kl.message, self.size.width)
        if rest:
            return [(" ", look("text", "raised")), (first, look(kl.message_ink, "raised"))]
        right = self._right()
        room = self.size.width - width_of(right) - 2
        left = self._selection(max(12, room))
        gap = self.size.width - width_of(left) - width_of(right) - 1
        if gap < 1:
            left, gap = [], max(0, self.size.width - width_of(right) - 1)
        return (
            [*left, (" " * gap, look("text", "raised")), *right, (" ", look("text", "raised"))] if kl else []
        )

    def _selection(self, room: int) -> list[Span]:
        look, kl = self.look, self.kl
        chosen = kl.selection
        text = look("text", "raised")
        parts: list[list[Span]] = [[(" ", text)]]
        cursor, a, b = self._names(room)
        if cursor:
            number = kl.run_number(chosen.cursor)
            marker = (look.marker(number) + " ", look(look.series(number), "raised"))
            parts.append([marker, (cursor, text)])
        for label, name in (("A", a), ("B", b)):
            if name:
                head = (f"  {label} ", look("accent", "raised", bold=True))
                parts.append([head, (name, text)])
        if chosen.selected:
            parts.append([(f"  {len(chosen.selected)} selected", look("muted", "raised"))])
        if kl.filter.text:
            said = f"  /{safe_text(kl.filter.text)}"
            left = max(MIN_FILTER, room - sum(map(width_of, parts)))
            parts.append([(fitted(said, min(cell_len(said), left)), look("warning", "raised"))])
        while len(parts) > 2 and sum(map(width_of, parts)) > room:
            parts.pop()
        return [span for part in parts for span in part]

    def _names(self, room: int) -> list[str]:
        """The names under the cursor and of A and B, whole or cut in their middles so that all have room."""
        chosen = self.kl.selection
        names = [safe_text(name) for name in (chosen.cursor, chosen.a, chosen.b)]
        beside = BESIDE_NAMES if chosen.selected or self.kl.filter.text else 1
        left, limits = room - beside - 4 * sum(map(bool, names)), [0, 0, 0]
        for done, place in enumerate(sorted(range(3), key=lambda i: cell_len(names[i]))):
            limits[place] = max(MIN_NAME, min(cell_len(names[place]), left // (3 - done)))
            left -= min(cell_len(names[place]), limits[place])
        return [short_name(name, limit) for name, limit in zip(names, limits, strict=True)]

    def _right(self) -> list[Span]:
        look, kl = self.look, self.kl
        if kl.message:
            return [(kl.message, look(kl.message_ink, "raised"))]
        if kl.under_way:
            return [(kl.under_way, look("warning", "raised"))]
        job = next(iter(kl.snapshot.active_jobs), None)
        found: list[Span] = []
        if kl.snapshot.alert:
            alert = safe_text(kl.snapshot.alert)
            room = min(cell_len(alert), max(20, self.size.width // 2))
            found = [(fitted(alert, room), look("bad", "raised"))]
        if job is not None:
            text = f"{'  ' if found else ''}job {job.id} {job.status} {job.done + job.failed}/{job.total}"
            found.append((text, look("good" if job.status == "running" else "warning", "raised")))
        return found


class KeyBar(Bar):
    """The most useful keys of the present screen, as many as fit; the second line of a long message until the next key."""

    def spans(self) -> list[Span]:
        """The rest of a message that is longer than the line above, or else keys and labels, always help and quit."""
        look = self.look
        if rest := message_lines(self.kl.message, self.size.width)[1:]:
            return [(" ", look("text", "raised")), (rest[0], look(self.kl.message_ink, "raised"))]
        kl, keymap, writing = self.kl, self.kl.keymap, not self.kl.read_only
        is_empty = kl.snapshot.loaded and not (kl.snapshot.rows or kl.snapshot.jobs or kl.snapshot.problem)
        if is_empty:
            pairs = keymap.first_line(writing=writing, adding=kl.reader.path is not None)
        else:
            pairs = keymap.line(kl.screen_name, writing=writing)
        always = [p for p in pairs if p[1] in ("help", "quit")]
        shown: list[tuple[str, str]] = []
        room = self.size.width - 2 - sum(len(k) + len(w) + 3 for k, w in always)
        for key, label in pairs:
            need = len(key) + len(label) + 3
            if (key, label) not in always and need <= room:
                shown.append((key, label))
                room -= need
        spans: list[Span] = [(" ", look("text", "raised"))]
        for key, label in [*shown, *always]:
            spans += [(key, look("accent", "raised")), (f" {label}  ", look("muted", "raised"))]
        return spans


class TooSmall(Pane, can_focus=False):
    """The message for a window that is too small."""

    DEFAULT_CSS = "TooSmall { width: 100%; height: 100%; display: none; }"

    def render_line(self, y: int) -> Strip:
        """A line of the message, in the middle of the screen."""
        size = self.size
        texts = (
            f"kltui needs {MIN_WIDTH} x {MIN_HEIGHT} cells;",
            f"this window has {size.width} x {size.height}.",
            f"Press {self.kl.key('quit')} to quit; jobs continue.",
        )
        index = y - max(0, (size.height - len(texts)) // 2)
        text = texts[index] if 0 <= index < len(texts) else ""
        return strip_of([(text.center(size.width), self.look("muted"))], size.width, self.look())


class MainScreen(PaintedScreen, inherit_bindings=False):
    """The main screen: tabs, map settings, the present view, status and keys. Keys are looked up in the table of actions."""

    DEFAULT_CSS = """
    MainScreen { layout: vertical; layers: base over; overflow: hidden hidden; }
    #body { height: 1fr; width: 100%; }
    TooSmall { layer: over; dock: top; }
    """

    # Textual would redraw the whole screen when the focus moves; here only two panes redraw their headers.
    focused: Reactive[Widget | None] = Reactive(None, repaint=False)

    def __init__(self) -> None:
        super().__init__()
        self.tabs, self.basis, self.status, self.keys_line = TabBar(), BasisBar(), StatusBar(), KeyBar()
        self.basis.display = False
        self.body = Box(id="body")
        self.too_small = TooSmall()

    @property
    def kl(self) -> ScreenOwner:
        """The application."""
        return cast("ScreenOwner", self.app)

    def compose(self) -> ComposeResult:
        """The bars, and the first view between them."""
        yield self.tabs
        yield self.basis
        with self.body:
            yield self.kl.first_view()
        yield self.status
        yield self.keys_line
        yield self.too_small

    def render_lines(self, crop: Region) -> list[Strip]:
        """Blank lines where there is no widget, without Textual's computation of borders and tint."""
        return [strip_of([], crop.width, self.kl.look())] * crop.height

    def on_mount(self) -> None:
        """Starts the application; the first view is shown before anything is read."""
        self.kl.started()

    def due_now(self) -> Sequence[Widget]:
        """The panes of a view that was just shown, so that they are part of the next frame."""
        view = self.kl.arrives_now()
        return view.panes if view is not None else ()

    def on_resize(self, event: events.Resize) -> None:
        """Fits the screen to the new size."""
        self.make_room(event.size.width, event.size.height)

    def make_room(self, width: int, height: int) -> None:
        """Shows the view's columns that fit, or the message if the window is too small."""
        small = width < MIN_WIDTH or height < MIN_HEIGHT
        self.too_small.display = small
        parts: tuple[Widget, ...] = (self.tabs, self.body, self.status, self.keys_line)
        for part in parts:
            part.display = not small
        self.basis.display = not small and bool(self.kl.facts.corpus)
        view = self.kl.view
        if view is not None and not small:
            view.make_room(width)

    async def typed(self, event: events.Key) -> None:
        """Runs the action of the key."""
        key = event.character if event.is_printable and event.character else event.key
        self.kl.press("space" if key == " " else key)

    def pasted(self, text: str) -> None:
        """Ignores pasted text, which is not a command."""

    def redraw_bars(self) -> None:
        """Redraws tabs, map settings, status and keys."""
        for bar in (self.tabs, self.basis, self.status, self.keys_line):
            bar.refresh()
