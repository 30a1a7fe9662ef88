"""The Curves screen: panels of quantities against the training step, and the step at which a run settled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.strip import Strip

from kltui.analysis.number_text import with_error
from kltui.errors import KltuiError
from kltui.sanitize import safe_text, short_name
from kltui.tui.data import label_of_row, run_of
from kltui.tui.off_map import marks_off_map
from kltui.tui.views.base import WIDEST, ColumnOfPanes, RunPlotsView, draw_bar
from kltui.tui.views.welcome import welcome
from kltui.tui.weights import compute_weights
from kltui.tui.widgets.canvas import (
    Pane,
    Span,
    TextPane,
    fitted_name,
    shortened,
    spelled,
    strip_of,
    width_of,
    wrapped,
)
from kltui.tui.widgets.curve_panel import CurvePanel, Wanted
from kltui.view.curve_content import KINDS, WINDOWS, Content, Settled

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.analysis.spikes import Spike
    from kltui.analysis.stability import Stabilisation
    from kltui.analysis.trajectory import Trajectory
    from kltui.figures.shown import ShownSubject
    from kltui.tui.curve_source import CurveSource
    from kltui.tui.data import SnapshotReader
    from kltui.tui.map_cache import MapCache
    from kltui.view.axis import Scale

BARS = 4  # lines outside the panels: tabs, status, keys, and the sentence
MIN_CELL = (38, 10)  # least width and height of a panel
TWO_FROM, TABLE_WIDTH = 70, 50


class Sentence(Pane, can_focus=False):
    """One line of text below the panels."""

    DEFAULT_CSS = "Sentence { height: 1; width: 100%; dock: bottom; }"

    def __init__(self, words: Callable[[], list[Span]], elsewhere: Callable[[], str]) -> None:
        super().__init__()
        self._words, self._elsewhere = words, elsewhere

    @staticmethod
    def room_of(elsewhere: str) -> int:
        """Cells at the end of the line for what is elsewhere, with two before it and one after it."""
        return len(elsewhere) + 3 if elsewhere else 0

    def render_line(self, y: int) -> Strip:
        """The line; what is elsewhere is named at its end if there is room."""
        width, last = self.size.width, self._elsewhere()
        said = shortened(spelled(self._words(), self.look), width)
        if last and (spare := width - width_of(said) - self.room_of(last)) >= 0:
            said = [*said, (" " * (spare + 2) + last, self.look("faint"))]
        return strip_of(spelled(said, self.look), width, self.look())


class CurvesView(RunPlotsView):
    """As many panels as fit, with the same cursor in all; below them the step at which the cursor's run settled."""

    screen_name = "curves"
    has_figure = True
    DEFAULT_CSS = """
    CurvesView > Box { grid-gutter: 0; }
    """

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        turns = asyncio.Lock()
        self._by_kind = [CurvePanel(kind, turns) for kind in KINDS]
        self.panels = list(self._by_kind)  # in the order of the screen
        self.table = TextPane("Runs", self._runs)
        self.sentence = Sentence(self._settled_words, self._other_panels)
        self.large = False
        self.following = False
        self.level: float | None = None
        self.window, self.n_weights = WINDOWS[0], 0
        self.found: Map | None = None
        self.n_loose = 0  # models without a step
        self.settled = Settled({})
        self.spikes: list[Spike] = []
        self.trajectories: list[Trajectory] = []
        self._label = ""
        # (key, result, objects of the key's ids, which no others get as long as these are kept)
        self._shown_for: tuple[tuple[object, ...], dict[str, Trajectory], object] = ((), {}, None)
        self._wanted: Wanted | None = None
        self._source: CurveSource | None = None
        self._take_up()
        return [
            ColumnOfPanes(self.panels),
            ColumnOfPanes([self.table], width=TABLE_WIDTH, minimum=WIDEST),
        ]

    def compose(self) -> ComposeResult:
        """The panels, the table of runs, and the sentence below."""
        yield from super().compose()
        yield self.sentence

    # -- state stored between sessions ----------------------------------------------------------

    def _take_up(self) -> None:
        """Restores the axes, level and window of the last session."""
        kept = self.kl.kept
        for panel in self.panels:
            panel.x_scale = "linear" if kept("curves.steps") == "linear" else panel.x_scale
            values = kept(f"curves.{panel.panel.key}")
            panel.y_scale = values if values in ("linear", "log") else panel.y_scale
        level, window = kept("curves.level"), kept("curves.window")
        self.level = float(level) if isinstance(level, int | float) else None
        self.window = window if isinstance(window, int) and window in WINDOWS else WINDOWS[0]

    def kept(self) -> dict[str, object]:
        """The state to store for the next session."""
        scales = {panel.panel.key: panel.y_scale for panel in self.panels}
        return {**scales, "steps": self.panels[0].x_scale, "level": self.level, "window": self.window}

    # -- layout ---------------------------------------------------------------------------------

    def make_room(self, width: int) -> None:
        """Shows as many panels as fit, including the focused one; only that one if it is large or nothing is scored."""
        grid, side = self._boxes
        in_table = self.focus_pane is self.table
        side.display = width >= WIDEST or in_table
        grid.display = width >= WIDEST or not in_table
        side.styles.width = TABLE_WIDTH if grid.display else "1fr"
        grid.styles.width = "1fr"
        draw_bar(self.table, grid.display)
        across, down = self._cells(width - (TABLE_WIDTH if side.display else 0), self.kl.size.height - BARS)
        shown = self._page(across * down)
        grid.styles.layout = "grid"
        grid.styles.grid_size_columns, grid.styles.grid_size_rows = across, down
        for panel in self.panels:
            panel.display = panel in shown
        for place, panel in enumerate(shown):
            draw_bar(panel, place % across > 0)
            panel.name_runs(self.large or not side.display)
        self.sentence.refresh()  # it says how many panels are shown

    def _cells(self, width: int, height: int) -> tuple[int, int]:
        """The number of panels across and down in `width` x `height` cells."""
        if self.large or welcome(self.kl):
            return 1, 1
        across = 1 if width < TWO_FROM else min(3, max(2, width // 52))
        down = max(1, height // MIN_CELL[1])
        return across, min(down, -(-len(self.panels) // across))

    def _page(self, room: int) -> list[CurvePanel]:
        """`room` consecutive panels, or all if they are fewer, that include the focused one."""
        at = self.panels.index(self.focus_pane) if isinstance(self.focus_pane, CurvePanel) else 0
        first = min(at // room * room, max(0, len(self.panels) - room))
        return self.panels[first : first + room]

    # -- data -----------------------------------------------------------------------------------

    def update_data(self) -> None:
        """Computes again what depends on vectors, marks, the cursor's run or a choice that has changed."""
        self.make_room(self.kl.size.width)
        super().update_data()
        self.sentence.refresh()
        self._label_moved()
        self._follow_newest()
        self._ask()

    def cursor_moved(self) -> None:
        """Moves the cross-hair of every panel."""
        for panel in self.panels:
            panel.follow()
        self.sentence.refresh()
        self._label_moved()
        self._ask()

    def _label_moved(self) -> None:
        """Updates the table and the line of the settled step if they are now about another curve."""
        if (label := self.label()) != self._label:
            self._label = label
            self.table.update_data()
            self._show_settled()

    def _ask(self) -> None:
        kl = self.kl
        chosen = kl.selection
        wanted = Wanted(kl.map_cache.version, chosen.a, chosen.b, self.label(), self.window, self.n_weights)
        if wanted != self._wanted and not kl.map_cache.is_empty:
            self._wanted = wanted
            self.run_worker(self._load(wanted), group="curves", exclusive=True)

    async def _load(self, wanted: Wanted) -> None:
        """Computes and shows the panels one after another, the most useful first."""
        kl = self.kl
        source = await self._its_source()
        try:
            found = await kl.map_cache.map()
            if found is not self.found:
                self.n_loose = await kl.map_cache.ask("loose", lambda: _n_loose(found))
                self.found, self.trajectories = found, found.trajectories()
            consecutive = await source.consecutive(found)
            self.settled = await source.settled(found)
            self.level = self.level if self.level in self.settled.levels else None
            self._label = self.label()
            self._put("consecutive", self._flagged(consecutive, "kl"))
            self.sentence.refresh()
            loss = await source.loss()
            self._put("loss", self._flagged(loss, "loss"))
            self._put("between", await source.between(found, wanted))
            self._put("last", await source.to_last(found))
            absent = " ".join(marks_off_map(kl, found, "a"))
            marked = Content(missing=absent) if absent else await source.to_marked(found, wanted)
            self._put("marked", marked)
            self._put("exponents", await source.exponents(found, kl.snapshot, wanted.window))
            self.spikes = await source.spikes(found, kl.snapshot.jobs)
            self._put("consecutive", self._flagged(consecutive, "kl"))
            self._put("loss", self._flagged(loss, "loss"))
            self._put("updates", await source.updates(found, wanted))
        except KltuiError as error:
            self._say_nothing(error.in_one_line)
            return
        self.table.update_data()
        self.sentence.refresh()

    async def _its_source(self) -> CurveSource:
        """The source of the panels' contents; it is imported in a thread."""
        if self._source is None:
            self._source = await self.kl.reader.compute(
                lambda: _new_source(self.kl.map_cache, self.kl.reader)
            )
        return self._source

    def _put(self, key: str, content: Content) -> None:
        """Shows a panel's content if it has changed."""
        panel = self._panel(key)
        if panel.content != content:
            panel.show_content(content)
            self._put_empty_ones_last()

    def _put_empty_ones_last(self) -> None:
        """Moves panels that have no curves behind the others, so that the first page has none if there are others."""
        order = sorted(self._by_kind, key=lambda panel: bool(panel.content.missing))
        if order != self.panels:
            self.panels[:] = order
            self._boxes[0].sort_children(key=lambda panel: order.index(cast(CurvePanel, panel)))
            self.make_room(self.kl.size.width)

    def _flagged(self, content: Content, rule: str) -> Content:
        spiked = frozenset((s.at.run, s.at.step) for s in self.spikes if s.rule == rule)
        return replace(content, spikes=spiked, settled=self._line() if rule == "kl" else None)

    def _panel(self, key: str) -> CurvePanel:
        return next(panel for panel in self.panels if panel.panel.key == key)

    def _say_nothing(self, why: str) -> None:
        for panel in self.panels:
            panel.show_content(Content(missing=why))

    # -- where a run settled --------------------------------------------------------------------

    def label(self) -> str:
        """The curve that the sentence and the table are about: the cursor's, else the longest; "" without curves.

        A curve that is hidden or filtered out only if all are.
        """
        row = self.kl.snapshot.by_name.get(self.kl.selection.cursor)
        label = "" if row is None else label_of_row(row)
        if not self.settled.levels:
            return label
        shown = self._shown()
        if self.settled.has(label) and label in shown:
            return label
        longest = max(shown.values(), key=lambda t: len(t.rows), default=None)
        return longest.label if longest is not None and len(longest.rows) > 1 else ""

    def _shown(self) -> dict[str, Trajectory]:
        """{label: trajectory} of those with a point that is neither hidden nor filtered out; of all if none has one."""
        found, keep, snapshot = self.found, self.kl.filter, self.kl.snapshot
        hidden = frozenset(self.kl.selection.hidden)
        key = (id(self.trajectories), id(snapshot.rows), keep.text, hidden)
        if self._shown_for[0] != key:
            passing = snapshot.passing_names(keep) if keep.text else snapshot.by_name.keys()
            names = found.names if found is not None else ()
            some = {
                t.label: t
                for t in self.trajectories
                if t.run not in hidden and any(names[row] in passing for row in t.rows)
            }
            shown = some or {t.label: t for t in self.trajectories}
            self._shown_for = key, shown, (self.trajectories, snapshot.rows)
        return self._shown_for[1]

    def first_name(self) -> str:
        """The first checkpoint of the curve `label`; "" without one."""
        t = next((t for t in self.trajectories if t.label == self.label()), None)
        return self.found.points[t.rows[0]].name if t is not None and self.found is not None else ""

    def _here(self) -> Stabilisation | None:
        """The stabilisation of the curve `label`; None if it has none."""
        return self.settled.of(self.label(), self.level)

    def _line(self) -> tuple[int, str] | None:
        s = self._here()
        return None if s is None or s.step is None else (s.step, f"settled at {s.step} (≤ {s.level:g})")

    def _show_settled(self) -> None:
        panel = self._panel("consecutive")
        line = self._line()
        if panel.content.settled != line:
            panel.show_content(replace(panel.content, settled=line))

    def _settled_words(self) -> list[Span]:
        """A sentence about the checkpoint under the cursor, a spike or left out of the map, else where its run settled."""
        look, name = self.look, self.kl.selection.cursor
        if self.found is None or not name:
            return []
        spiked = next((s for s in self.spikes if s.at.name == name), None)
        if spiked is not None:
            return [(f" ! {safe_text(spiked.words(), 200)}", look("bad"))]
        if name in self.found.left_out:
            why = safe_text(self.found.left_out[name], 120)
            return [(f" {short_name(name, 32)} has no curve: {why}", look("warning"))]
        s = self._here()
        if s is None:
            differ = " that differ" if self.found.repeats.left_out else ""
            return [(f" no run has two scored steps{differ}, so settling is undefined", look("muted"))]
        number = self.kl.run_number(self.first_name())
        head: list[Span] = [(f" {look.marker(number)} ", look(look.series(number)))]
        head.append((short_name(s.run, 32), look("text", bold=True)))
        ways = [[*head, *words] for words in self._of_run(s)]
        room = self.kl.size.width - Sentence.room_of(self._other_panels())
        return next((said for said in ways if width_of(spelled(said, look)) <= room), ways[-1])

    def _other_panels(self) -> str:
        """That there are more panels than are shown, and the key to them; "" if all are shown."""
        n = sum(panel.display for panel in self.panels)
        return f"{n} of {len(self.panels)} panels (pagedown)" if 0 < n < len(self.panels) else ""

    def _of_run(self, s: Stabilisation) -> list[list[Span]]:
        """Sentences about where a run settled, from the longest to the shortest."""
        from kltui.view.sections.stabilisation import settled_words

        look = self.look
        if math.isnan(s.last_kl):
            return [[(": its last KL is undefined, so where it settled is too", look("warning"))]]
        if s.step is None:
            last = with_error(s.last_kl, s.last_se)
            ways = (
                f" has not settled: its last KL, {last}, is above {s.level:g} bits/byte",
                f" not settled: last KL {last} > {s.level:g} bits/byte",
            )
            return [[(words, look("warning"))] for words in ways]
        step, between = settled_words(s)
        said = "" if between in ("-", step) else f" ({between})"
        settled = (f" settled at step {step}{said}", look("good", bold=True))
        ways = (f": KL to previous ≤ {s.level:g} bits/byte since", f": KL ≤ {s.level:g} bits/byte since")
        return [*([settled, (words, look("muted"))] for words in ways), [settled]]

    def _runs(self, width: int) -> list[list[Span]]:
        """Lines of the table: for each run the steps at which it settled, by level."""
        look = self.look
        if self.found is None:
            return []
        levels, below = self.settled.levels, look.glyph("≤", "<=")
        wide = max(8, width - 3 - 8 * len(levels))
        head = f"   {'run':<{wide}}" + "".join(f"{f'{below}{level:g}':>8}" for level in levels)
        lines: list[list[Span]] = [[("settled at step, by KL in bits/byte", look("muted"))]]
        lines += [[(head, look("faint"))]]
        for t in sorted(self.trajectories, key=lambda t: not self.settled.has(t.label)):
            number = self.kl.run_number(self.found.points[t.rows[0]].name)
            hidden = t.run in self.kl.selection.hidden
            current = t.label == self.label()
            steps = "".join(f"{self._step_text(t.label, level):>8}" for level in levels)
            lines.append(
                [
                    (look.glyph("▌", ">") if current else " ", look("accent")),
                    (look.marker(number) + " ", look("faint" if hidden else look.series(number))),
                    (fitted_name(t.label, wide), look("faint" if hidden else "text", bold=current)),
                    (steps, look("faint" if hidden else "text")),
                ]
            )
        return lines + self._about(width)

    def _step_text(self, run: str, level: float) -> str:
        s = self.settled.by_level[level].get(run)
        from kltui.view.sections.stabilisation import settled_words

        return "-" if s is None else settled_words(s)[0]

    def _about(self, width: int) -> list[list[Span]]:
        """Lines on what the table leaves out, and on the meaning of lines and signs."""
        look = self.look
        loose, gone = self.n_loose, len(self.found.left_out) if self.found is not None else 0
        said = [
            f"{gone} checkpoint{'s' * (gone != 1)} left out of the map {'have' if gone != 1 else 'has'} no curve ({self.kl.key('screen_map')} says why)"
            if gone
            else "",
            f"{loose} model{'s' * (loose != 1)} without steps {'have' if loose != 1 else 'has'} no curve"
            if loose
            else "",
            f"{len(self.spikes)} spike{'s' * (len(self.spikes) != 1)} flagged ! by the rules of --watch"
            if self.spikes
            else "",
            "bars: one standard error, over texts or, of exponents, of the fit; lines across: published medians",
            f"exponents: window {self.window}",
        ]
        return [
            [],
            *([(part, look("muted"))] for text in said if text for part in wrapped(text, max(10, width))),
        ]

    # -- keys -----------------------------------------------------------------------------------

    def focus_on(self, pane: Pane) -> None:
        """Shows a pane and gives it the focus."""
        super().focus_on(pane)
        self.main_redraw()

    def main_redraw(self) -> None:
        """Redraws the headers, one of which shows the focus."""
        for panel in self.panels:
            panel.redraw_focus()

    def do_page_down(self) -> bool | None:
        """Shows the next page of panels; returns False if all are shown."""
        return self._turn_page(1)

    def do_page_up(self) -> bool | None:
        """Shows the previous page of panels; returns False if all are shown."""
        return self._turn_page(-1)

    def _turn_page(self, by: int) -> bool | None:
        room = sum(panel.display for panel in self.panels)
        if not isinstance(self.focus_pane, CurvePanel) or room == len(self.panels):
            return False
        first = (self.panels.index(self.focus_pane) // room + by) * room
        if 0 <= first < len(self.panels):
            self.focus_on(self.panels[first])
        return None

    def do_enter(self) -> None:
        """Shows the focused panel large."""
        if isinstance(self.focus_pane, CurvePanel) and not self.large:
            self._enlarge(True)

    def do_out(self) -> bool:
        """Leaves the table, or the large panel; False if neither is in focus."""
        if self.focus_pane is self.table:
            self.focus_on(self.panels[0])
            return True
        if not self.large:
            return False
        self._enlarge(False)
        return True

    def _enlarge(self, large: bool) -> None:
        self.large = large
        self.make_room(self.kl.size.width)
        self.focus_now()

    def do_axis_scale(self) -> None:
        scale: Scale = "linear" if self.panels[0].x_scale == "log1p" else "log1p"
        for panel in self.panels:
            panel.x_scale = scale
        self.kl.say(f"step axis: {'log10(1 + step)' if scale == 'log1p' else 'linear'}")
        for panel in self.panels:
            panel.draw_soon(keep_window=False)

    def do_settled_level(self) -> None:
        """Selects the next level of KL at which a run counts as settled; after the last, the smallest one reached."""
        choices = [None, *self.settled.levels]
        self.level = choices[(choices.index(self.level) + 1) % len(choices)]
        said = "the smallest level reached" if self.level is None else f"{self.level:g} bits/byte"
        self.kl.say(f"level of the settled step: {said}")
        self._show_settled()
        self.sentence.refresh()

    def do_window(self) -> None:
        self.window = WINDOWS[(WINDOWS.index(self.window) + 1) % len(WINDOWS)]
        self.kl.say(f"window of exponents: {self.window} checkpoints")
        self._ask()

    def do_weights(self) -> None:
        self.run_worker(self._compute_weights(), group="weights", exclusive=True)

    async def _compute_weights(self) -> None:
        computed = await compute_weights(self.kl)
        if computed is not None and self._source is not None:
            self._source.computed = computed
            self.n_weights += 1
            self._ask()

    def do_follow(self) -> None:
        self.following = not self.following
        self.kl.say("following the newest checkpoint" if self.following else "not following")
        self._follow_newest()

    def _follow_newest(self) -> None:
        """If `following`: moves the cursor to the checkpoint that a job scored last, else to the last one of the run."""
        if not self.following:
            return
        snapshot = self.kl.snapshot
        newest = [n for n in snapshot.newest_done if snapshot.by_name[n].scored]
        if not newest:
            row = snapshot.by_name.get(self.kl.selection.cursor)
            own = snapshot.runs[run_of(row)] if row is not None else []
            newest = [r.name for r in sorted(own, key=lambda r: r.checkpoint.step or 0) if r.scored]
        if newest:
            self.kl.set_cursor(newest[-1])

    # -- exports --------------------------------------------------------------------------------

    def csv_rows(self) -> Iterator[list[object]]:
        """Every point of every panel, without hidden runs and checkpoints that the filter excludes."""
        yield ["quantity", "unit", "run", "against", "checkpoint", "step", "value", "standard_error"]
        for panel in self._by_kind:
            kind = panel.panel
            for d in panel.drawn:
                about = [kind.title, kind.unit, d.curve.run, d.curve.against]
                for point in zip(d.names, d.steps, d.values, d.errors, strict=True):
                    yield [*about, *point]

    def shown_figure(self) -> ShownSubject | None:
        """The figure of the shown panels."""
        from kltui.figures.curves import CurvesShown
        from kltui.figures.shown import ShownSubject

        if self.found is None or not any(panel.drawn for panel in self.panels):
            return None
        every = {name for panel in self.panels for c in panel.content.curves for name in c.names}
        drawn = {name for panel in self.panels for d in panel.drawn for name in d.names}
        chosen = self.kl.selection
        shown = CurvesShown(
            self.panels[0].x_scale,
            {panel.panel.key: panel.y_scale for panel in self.panels},
            chosen.a,
            chosen.b,
            self.label(),
            self.level,
            frozenset(every - drawn),
            dict(self._source.weights) if self._source is not None else None,
        )
        return ShownSubject("curves", window=self.window, curves=shown)

    def figure_panel(self) -> tuple[str, bool]:
        """The focused panel (otherwise the first), and whether it is enlarged."""
        pane = self.focus_pane if isinstance(self.focus_pane, CurvePanel) else self.panels[0]
        return pane.panel.title, [p for p in self.panels if p.display] == [pane]


def _n_loose(found: Map) -> int:
    """The number of models without a step."""
    return sum(p.step is None and p.layer is None for p in found.points)


def _new_source(map_cache: MapCache, reader: SnapshotReader) -> CurveSource:
    from kltui.tui.curve_source import CurveSource

    return CurveSource(map_cache, reader)


VIEW = CurvesView
