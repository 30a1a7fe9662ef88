"""The Scale screen: KLs of the paper's settings in this workspace, with the published medians."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from textual.strip import Strip

from kltui.analysis.number_text import aligned, figure, spread
from kltui.errors import KltuiError
from kltui.sanitize import short_name
from kltui.tui.number_format import briefly, noise_floor_of, with_error
from kltui.tui.off_map import marks_off_map
from kltui.tui.views.base import ColumnOfPanes, View
from kltui.tui.views.welcome import empty_line
from kltui.tui.widgets.canvas import Span, TextPane, wrapped
from kltui.tui.widgets.table import Cell, Column, Table
from kltui.view.axis import Axis

if TYPE_CHECKING:
    from kltui.analysis.kl import KL
    from kltui.analysis.map import Map
    from kltui.analysis.scale import ScaleRow
    from kltui.figures.shown import ShownSubject
    from kltui.tui.basis import Basis
    from kltui.workspace import Workspace


HERE, QUARTILES = 2, 3  # indices of the columns of medians, and of quartiles in figures
STRIP = 5  # index of the column that shows range and quartiles as a line
AROUND = 4  # lines of the table in addition to its rows: header, titles, and the axis with its labels
WITH_RANGE = 76  # width that the whole legend needs


class ScaleTable(Table):
    """One row for each setting: range, quartiles and median on a logarithmic line, with the published median."""

    title = "KL scale, bits/byte"
    columns: tuple[Column, ...] = (
        Column("setting", 17),
        Column("published", 9),
        Column("here", 8),
        Column("quartiles", 9, rank=1),
        Column("pairs", 5, right=True),
        Column("bits/byte, log", 20, share=1),  # on narrow panes the quartiles are shown here alone
        Column("why", 24, share=1, rank=2),
    )

    def __init__(self) -> None:
        super().__init__(id="scale-table")
        self.rows: list[ScaleRow] = []
        self._said: list[tuple[str, str]] = []  # median, and quartiles in brackets
        self._published: list[str] = []
        self.note = ""
        self.floor = 0.0  # noise floor, bits/byte

    def header_right(self) -> list[Span]:
        """The meaning of the signs."""
        look = self.look
        if not self.rows:
            return []
        roomy = self.body_width >= WITH_RANGE
        dot, line, box = look.glyph("◆", "o"), look.glyph("─", "-"), look.glyph("━", "=")
        start, below = 10 ** self._span()[0], look.glyph("◂", "<")
        is_beyond = any(r.n and r.low < start for r in self.rows)
        beyond = [(below, look("accent")), (" smaller   " if roomy else " less  ", look("muted"))]
        return [
            *(beyond if is_beyond else []),
            (dot, look("warning")),
            (" published   ", look("muted")),
            (f"{line}{box}{look.glyph('┃', '|')}{box}{line}", look("accent")),
            (" range, quartiles, median here" if roomy else " here", look("muted")),
        ]

    def row_count(self) -> int:
        return len(self.rows)

    def show_rows(self, rows: list[ScaleRow]) -> None:
        """Sets the settings to show; numbers are aligned at their decimal points."""
        self.rows = rows
        self.cursor = min(self.cursor, max(0, len(rows) - 1))
        said = aligned([spread(r.median, r.q25, r.q75) if r.n > 1 else _alone(r) for r in rows])
        self._said = [
            (here.rstrip(), bracket + rest) for here, bracket, rest in (s.partition("[") for s in said)
        ]
        self._give_room()
        self._published = aligned(
            [figure(r.published, 2) if math.isfinite(r.published) else "" for r in rows]
        )

    def _give_room(self) -> None:
        """Makes the columns of medians and quartiles as wide as what they show."""
        columns = list(ScaleTable.columns)
        for at, shown in ((HERE, [here for here, _ in self._said]), (QUARTILES, [q for _, q in self._said])):
            columns[at] = replace(columns[at], width=max(columns[at].width, *map(len, shown), 0))
        self.columns = tuple(columns)
        self._widths_for = -1

    def body_line(self, y: int) -> Sequence[Span] | Strip:
        """Titles and rows; below them two lines with the axis of the strips and its labels."""
        at = y - 1 - len(self.rows) + self.top
        if not self.rows or at not in (0, 1) or not (width := self.widths()[STRIP]):
            return super().body_line(y)
        left = 2 + sum(w + 2 for w in self.widths()[:STRIP] if w)
        return [
            (
                " " * left + axis_lines(self._span(), width, ascii_only=self.look.ascii_only)[at],
                self.look("faint"),
            )
        ]

    def _empty_line(self, y: int) -> list[Span]:
        return empty_line(self, y, ("muted", self.note or "computing …"))

    def cells(self, index: int) -> Sequence[Cell]:
        row = self.rows[index]
        found = row.n > 0
        width = self.widths()[STRIP]
        return [
            Cell(row.setting, "text" if found else "muted", bold=found),
            Cell(self._published[index], "warning"),
            Cell(self._said[index][0], "accent"),
            Cell(self._said[index][1], "accent"),
            Cell(str(row.n) if found else "", "muted"),
            Cell("", parts=self._strip(row, width)),
            Cell(row.note, "faint"),
        ]

    def _strip(self, row: ScaleRow, width: int) -> tuple[tuple[str, str], ...]:
        text = strip(row, self._span(), width, ascii_only=self.look.ascii_only)
        head, dot, tail = text.partition(self.look.glyph("◆", "o"))
        return (head, "accent"), (dot, "warning"), (tail, "accent")

    def _span(self) -> tuple[float, float]:
        """The decimal logarithms of the ends of the axis; what is below the noise floor does not extend it."""
        known = [v for r in self.rows for v in (r.published, r.low, r.high) if math.isfinite(v) and v > 0]
        values = [v for v in known if v >= self.floor] or known
        return math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05

    def moved(self) -> None:
        """Shows the pairs of the setting."""
        if self.kl.view is not None:
            self.kl.view.cursor_moved()

    def do_enter(self) -> None:
        """Moves the focus to the pairs."""
        if self.kl.view is not None:
            self.kl.view.do_next_pane()


def _alone(row: ScaleRow) -> str:
    return figure(row.median) if row.n else ""


def axis_lines(span: tuple[float, float], width: int, *, ascii_only: bool = False) -> tuple[str, str]:
    """(line of ticks, line of labels) for strips of `width` cells from 10^span[0] to 10^span[1] bits/byte."""
    line, tick = "-+" if ascii_only else "─┴"
    marks, labels, free = [line] * width, [" "] * width, 0
    for place, label in Axis("log", *span).ticks(max(2, width // 7)):
        at = round(place * (width - 1))
        left = max(0, min(at - len(label) // 2, width - len(label)))
        marks[at] = tick
        if left >= free:
            labels[left : left + len(label)] = label
            free = left + len(label) + 1
    return "".join(marks), "".join(labels)[:width]


def strip(row: ScaleRow, span: tuple[float, float], width: int, *, ascii_only: bool = False) -> str:
    """Range, quartiles, median and published median of a row as characters on a logarithmic line.

    A range that begins before the line has an arrow in its first cell, and so has a median that lies there.
    """
    if width < 1:
        return ""
    line, box, middle, dot, below = "-=|o<" if ascii_only else "─━┃◆◂"
    cells = [" "] * width

    def at(value: float) -> int:
        share = (math.log10(value) - span[0]) / (span[1] - span[0]) if value > 0 else 0.0
        return max(0, min(width - 1, round(share * (width - 1))))

    if row.n:
        for low, high, sign in ((row.low, row.high, line), (row.q25, row.q75, box)):
            for i in range(at(low), at(high) + 1):
                cells[i] = sign
        cells[at(row.median)] = middle
        if row.low < 10 ** span[0]:
            cells[0] = below
    if math.isfinite(row.published):
        cells[at(row.published)] = dot
    return "".join(cells)


class PairTable(Table):
    """The pairs of one setting by increasing KL."""

    title = "Pairs"
    columns = (Column("KL, bits/byte", 18), Column("A", 14, share=1), Column("B", 14, share=1))

    def __init__(self) -> None:
        super().__init__(id="pair-table")
        self.pairs: list[tuple[KL, str, str]] = []
        self.note = ""
        self._said: list[str] = []

    def show_pairs(self, pairs: list[tuple[KL, str, str]]) -> None:
        """Sets the pairs to show; numbers are aligned at their decimal points."""
        self.pairs, self._said = pairs, aligned([briefly(kl.value, kl.se) for kl, _, _ in pairs])
        self.cursor = self.top = 0
        self.refresh()

    def row_count(self) -> int:
        return len(self.pairs)

    def _empty_line(self, y: int) -> list[Span]:
        lines = wrapped(self.note, max(10, self.body_width - 4))
        return [("  " + (lines[y] if 0 <= y < len(lines) else ""), self.look("muted"))]

    def cells(self, index: int) -> Sequence[Cell]:
        _, a, b = self.pairs[index]
        _, wide_a, wide_b = self.widths()
        return [Cell(self._said[index], "accent"), Cell(short_name(a, wide_a)), Cell(short_name(b, wide_b))]

    def moved(self) -> None:
        """Moves the shared cursor to the pair's first checkpoint."""
        if self.pairs:
            self.kl.set_cursor(self.pairs[self.cursor][1])

    def do_enter(self) -> None:
        """Marks the pair as A and B and opens Compare."""
        if self.pairs:
            _, self.kl.selection.a, self.kl.selection.b = self.pairs[self.cursor]
            self.kl.show_screen("compare")


class ScaleView(View):
    """The settings above the pairs of the one under the cursor; beside them the position of A and B on the scale."""

    screen_name = "scale"
    has_figure = True
    DEFAULT_CSS = """
    ScaleView PairTable { height: 1fr; }
    """

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self._asked = -1
        self.map: Map | None = None
        self.apart: Apart | None = None
        self._paired: tuple[object, object] = (None, None)  # (map, row) whose pairs are shown
        self.table, self.pair_table = ScaleTable(), PairTable()
        self.place = TextPane("A and B on the scale", self._place)
        return [
            ColumnOfPanes([self.table, self.pair_table]),
            ColumnOfPanes([self.place], width=40, minimum=120),
        ]

    def update_data(self) -> None:
        """Computes again if vectors have changed."""
        self.pair_table.display = bool(self.table.rows)
        self.table.styles.height = len(self.table.rows) + AROUND if self.table.rows else "1fr"
        super().update_data()
        if self._asked != self.kl.map_cache.version and not self.kl.map_cache.is_empty:
            self._asked = self.kl.map_cache.version
            self.run_worker(self._load(), group="scale", exclusive=True)

    async def _load(self) -> None:
        try:
            found = await self._with_layers(await self.kl.map_cache.map())
            basis = self.kl.reader.basis
            asks = basis.separate or basis.saved
            apart = await self.kl.reader.draw(lambda ws: prepared_apart(ws, basis)) if asks else None
            rows = apart.rows if apart else await self.kl.map_cache.ask("scale", found.scale)
            floor = await self.kl.reader.compute(lambda: noise_floor_of(found))
        except KltuiError as error:
            self.map, self.table.rows, self.table.note = None, [], error.in_one_line
        else:
            # Set together with the rows, whose pairs must be names on this map.
            self.map, self.apart = found, apart
            self.table.floor = floor
            self.table.show_rows(rows)
        self.update_data()
        self.cursor_moved()

    async def _with_layers(self, found: Map) -> Map:
        """The map with the layer vectors of each run's last checkpoint that has some."""
        excluded = self.kl.map_cache.excluded
        rows = (r for r in self.kl.snapshot.with_layers if r.scored and r.name not in excluded)
        last = {r.checkpoint.run: r.name for r in rows}
        # layer vectors are never clipped, so cannot join such a map
        if not last or self.kl.map_cache.is_prepared:
            return found
        layered = await self.kl.map_cache.layers(tuple(last.values()))
        return joined(found, layered)

    def cursor_moved(self) -> None:
        """Shows the pairs of the setting under the cursor."""
        if not self.table.rows or self.map is None or self.focus_pane is self.pair_table:
            return
        self.place.update_data()
        row = self.table.rows[self.table.cursor]
        self.pair_table.title = f"Pairs: {row.setting}"
        self.pair_table.note = "computing …" if row.pairs else row.note or "no pairs here"
        shown = self.apart.map_of(row.setting) if self.apart else self.map
        if (shown, row) != self._paired:
            self._paired = shown, row
            self.pair_table.show_pairs([])
            self.run_worker(self._show_pairs(shown, row), group="pairs", exclusive=True)

    async def _show_pairs(self, shown: Map, row: ScaleRow) -> None:
        """Computes the pairs of a setting in the analysis thread, because a thousand pairs take long, and shows them."""
        self.pair_table.show_pairs(await self.kl.reader.compute(lambda: pairs_by_kl(shown, row)))

    def _place(self, width: int) -> list[list[Span]]:
        from kltui.analysis.scale import locate

        look, chosen = self.look, self.kl.selection
        note = self.table.rows[self.table.cursor].note if self.table.rows else ""
        rule: list[list[Span]] = [[(part, look("muted"))] for part in wrapped(note, max(10, width))]
        if self.map is None or not (chosen.a and chosen.b):
            a, b = self.kl.key("mark_a"), self.kl.key("mark_b")
            text = f"Mark A and B with {a} and {b}, here or on any screen, to see where their KL lies."
            return [[(part, look("muted"))] for part in wrapped(text, max(10, width))] + [[], *rule]
        if len(self.map.rows_of([chosen.a, chosen.b])) < 2:
            absent = marks_off_map(self.kl, self.map) or ["A or B is not on this map"]
            said = [part for text in absent for part in wrapped(text, max(10, width))]
            return [*([(part, look("warning"))] for part in said), [], *rule]
        kl = self.map.pair(chosen.a, chosen.b)
        if not kl.value > 0:
            why = "are the same checkpoint" if chosen.a == chosen.b else "have equal vectors"
            if math.isnan(kl.value):
                why = "have fewer than two texts in common"
            said = wrapped(f"A and B {why}.", max(10, width))
            return [*([(part, look("warning"))] for part in said), [], *rule]
        found = locate(kl.value, self.table.rows)
        noise = "Below the noise floor: rounding alone may cause it." if kl.value < self.table.floor else ""
        lines: list[list[Span]] = [
            [("A  ", look("accent", bold=True)), (short_name(chosen.a, width - 3), look("text"))],
            [("B  ", look("accent", bold=True)), (short_name(chosen.b, width - 3), look("text"))],
            [],
            [(with_error(kl.value, kl.se), look("text", bold=True))],
            *([(part, look("warning"))] for part in wrapped(noise, max(10, width)) if noise),
            [("above  ", look("muted")), (found.below or "nothing published", look("text"))],
            [("below  ", look("muted")), (found.above or "nothing published", look("text"))],
        ]
        if found.settings:
            lines += [[], [("as large as, in this workspace:", look("muted"))]]
            lines += [[(f"  {name}", look("text"))] for name in found.settings]
        return [*lines, [], *rule]

    def shown_figure(self) -> ShownSubject | None:
        """The figure of the scale."""
        from kltui.figures.shown import ShownSubject

        return ShownSubject("scale") if self.table.rows else None

    def csv_rows(self) -> list[list[object]]:
        """The rows of the table."""
        rows: list[list[object]] = [
            ["setting", "published", "median", "q25", "q75", "low", "high", "n", "note"]
        ]
        return rows + [
            [r.setting, r.published, r.median, *r.quartiles, r.low, r.high, r.n, r.note]
            for r in self.table.rows
        ]


@dataclass(frozen=True, eq=False)
class Apart:
    """The scale with separately preprocessed groups of runs: its rows, {group: its map}, the map of other settings."""

    rows: list[ScaleRow]
    groups: Mapping[str, Map]
    others: Map

    def map_of(self, setting: str) -> Map:
        """The map from which the KLs of a setting were computed."""
        from kltui.analysis.scale import group_of

        return self.groups.get(group_of(setting), self.others)


def pairs_by_kl(shown: Map, row: ScaleRow) -> list[tuple[KL, str, str]]:
    """(KL, A, B) of every pair of a setting by increasing KL."""
    found = ((shown.pair(a, b), a, b) for a, b in row.pairs)
    return sorted(found, key=lambda pair: pair[0].value)


def prepared_apart(ws: Workspace, basis: Basis) -> Apart | None:
    """The scale as in the report if the basis preprocesses runs separately, otherwise None."""
    from kltui.view.sections.context import Context

    ctx = Context(ws, basis.choice(ws))
    if not ctx.choice.preparation.separate:
        return None
    return Apart(ctx.scale_rows, dict(ctx.apart), ctx.layered)


def joined(found: Map, layered: Map) -> Map:
    """The map `found` with the vectors that only `layered` has; unchanged if the numbers of texts differ."""
    import numpy as np

    known = set(found.names)
    rows = [k for k, n in enumerate(layered.names) if n not in known]
    if not rows or layered.loglik_KN.shape[1] != found.loglik_KN.shape[1]:
        return found
    points = found.points + tuple(layered.points[k] for k in rows)
    loglik_KN = np.concatenate([found.loglik_KN, layered.loglik_KN[rows]])
    return replace(found, points=points, loglik_KN=loglik_KN, n_scored_KN=None, record=dict(found.record))


VIEW = ScaleView
