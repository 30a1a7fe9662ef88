"""The Matrix screen: KL between the selected checkpoints as a heat map, one cell for each pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual import events

from kltui.analysis.number_text import aligned, figure
from kltui.errors import KltuiError
from kltui.sanitize import in_ascii, safe_text, short_name
from kltui.tui.number_format import briefly, noise_floor_of, with_error
from kltui.tui.views.base import ColumnOfPanes, View
from kltui.tui.views.welcome import empty_line
from kltui.tui.widgets.canvas import (
    Pane,
    Span,
    TextPane,
    fitted,
    fitted_name,
    names_in,
    shortened,
    spelled,
    width_of,
)
from kltui.tui.widgets.matrix_overview import (
    Overview,
    OverviewPane,
    blocks,
    undefined_hint,
)
from kltui.tui.widgets.matrix_scale import KLScale, scale_of, shade
from kltui.view.palette import HEAT, heat, ink_on

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.figures.shown import ShownSubject
    from kltui.tui.map_cache import Array
    from kltui.tui.theme import Theme

ORDERS = ("name", "kl", "cluster")
SAID = {"name": "by run and step", "kl": "by KL to the cursor's row", "cluster": "clustered"}
LABEL = 22
INKS = {color: ink_on(color) for color in HEAT}
MAX_ROWS = 2000  # rows of the largest K x K matrix, which takes 32 MB; larger maps are sampled
MAX_CELLS = 100_000  # drawn cells that are kept
NAMES_FIRST = 44  # cells that both names of the read-out get before the hint of a key
NARROW, NUMBERED = 2, 8  # width of a pair in cells: with a colour alone, or with its KL in digits too


class HeatMap(Pane):
    """The matrix of K checkpoints, scrolled around the cursor; colours by the logarithm of KL, the smallest is brightest.

    If columns are too narrow for names, rows have numbers, and columns the same numbers with digits one below another.
    """

    title = "KL, bits/byte"

    def __init__(self) -> None:
        super().__init__(id="heat-map")
        self.map: Map | None = None
        self.note = ""
        self.order_name = "name"
        self.order: list[int] = []
        self.kl_KK: Array | None = None
        self.n_chosen = 0  # number of checkpoints to show before sampling
        self.row = self.column = 0
        self.scale = KLScale(None)
        self.whole = False  # whether the overview of the whole matrix is shown
        self._overview: Overview | None = None
        self._ln_mm: Array | None = None
        # (palette, width) of drawn cells, and the pairs' cells away from the cursor, by row * K + column
        self._cells_for: tuple[Theme, int] | None = None
        self._plain_cells: dict[int, Span] = {}

    def show_matrix(self, found: Map, kl_KK: Array, order: list[int], scale: KLScale, ln_mm: Array) -> None:
        """Shows the rows and columns `order` of a matrix; the cursor stays on its pair if that is among them.

        `scale`: of the KLs shown; `ln_mm`: means of ln KL over blocks, for the overview.
        """
        before = self.pair
        self.map, self.kl_KK, self.order = found, kl_KK, order
        self._ln_mm, self._overview = ln_mm, None
        self.__dict__.pop("_tells_apart", None)
        self._plain_cells = {}
        self.scale = scale
        names = [found.names[k] for k in order]
        if before is not None and before[0] in names and before[1] in names:
            self.row, self.column = names.index(before[0]), names.index(before[1])
        elif self.kl.selection.cursor in names:
            self.row = names.index(self.kl.selection.cursor)
        last = max(0, len(order) - 1)
        self.row, self.column = min(self.row, last), min(self.column, last)
        self.refresh()

    @property
    def pair(self) -> tuple[str, str] | None:
        """Names of the row and the column under the cursor; None without a matrix."""
        if self.map is None or not self.order or self.row >= len(self.order):
            return None
        return self.map.names[self.order[self.row]], self.map.names[self.order[self.column]]

    def header_right(self) -> list[Span]:
        """The number of checkpoints, the order, and the colour scale."""
        if self.kl_KK is None:
            return []
        look = self.look
        count = counted_of(len(self.order), self.n_chosen)
        said: Span = (f"{count}, {SAID[self.order_name]}  ", look("muted"))
        if len(self.order) < 2:
            return [said, ("one alone has no KL", look("faint"))]
        hint = undefined_hint(look) if self.whole else f"{look.glyph('·', '.')}: undefined"
        scale, room = self.scale.legend(look, hint), self.body_width - width_of(self.header_left())
        ways = [said, *scale], scale, self.scale.legend(look, hint, ranges=False)
        return next((spans for spans in ways if width_of(spans) < room), ways[-1])

    @property
    def view_rows(self) -> int:
        """The number of matrix rows in view."""
        return max(1, self.body_height - 1 - self.heading_lines)

    @property
    def heading_lines(self) -> int:
        """The number of lines for the columns' names, or for the digits of their numbers."""
        return 2 if self.names_columns else len(str(len(self.order)))

    @property
    def fits(self) -> bool:
        """Whether the whole matrix is visible, a cell for each pair."""
        return len(self.order) <= min(self.view_rows, self.view_columns)

    @property
    def view_columns(self) -> int:
        """The number of matrix columns in view."""
        return max(1, (self.body_width - LABEL - 1) // self.cell_width)

    @property
    def cell_width(self) -> int:
        """The width of a pair in cells: NUMBERED if the whole matrix fits with it, otherwise NARROW."""
        fits = len(self.order) * NUMBERED <= self.body_width - LABEL - 1
        return NUMBERED if fits else NARROW

    @property
    def names_columns(self) -> bool:
        """Whether columns are headed by names: if they have room for them and no two would look the same."""
        return self.cell_width == NUMBERED and self._tells_apart

    @cached_property
    def _tells_apart(self) -> bool:
        """Whether the headings with names all differ; kept until another matrix is shown."""
        return len({self._column_name(j) for j in range(len(self.order))}) == len(self.order)

    def _column_name(self, j: int) -> tuple[str, str]:
        """The heading of column `j`: its run and its step, cut to the width of a pair."""
        assert self.map is not None
        run, at, step = self.map.names[self.order[j]].partition("@")
        return short_name(run, NUMBERED - 1), short_name(f"{at}{step}", NUMBERED - 1)

    def _corner(self) -> tuple[int, int]:
        count = len(self.order)
        top = max(0, min(self.row - self.view_rows // 2, count - self.view_rows))
        return top, max(0, min(self.column - self.view_columns // 2, count - self.view_columns))

    def body_line(self, y: int) -> list[Span]:
        """A line of the heading, the matrix or the overview; the last line is the read-out."""
        look = self.look
        if self.map is None or self.kl_KK is None or not self.order:
            return empty_line(self, y - 1, ("muted", self.note or "computing …"))
        if y >= self.body_height - 1:
            return shortened(self._readout(), self.body_width)
        if self.whole:
            return self.overview_line(y, self.body_width, self.body_height - 1)
        top, left = self._corner()
        if y < self.heading_lines:
            return self._heading(y, left)
        at = top + y - self.heading_lines
        if at >= len(self.order):
            return []
        here = at == self.row
        spans: list[Span] = [
            (self._row_label(at), look("text" if here else "muted", bold=here)),
            (" ", look()),
        ]
        return spans + self.cells(at, left, self.cell_width)

    def _row_label(self, at: int) -> str:
        """A row's name, after its number if columns have numbers."""
        assert self.map is not None
        name = self.map.names[self.order[at]]
        if self.names_columns:
            return fitted_name(name, LABEL)
        number = f"{at + 1:>{len(str(len(self.order)))}} "
        return number + fitted_name(name, LABEL - len(number))

    def _heading(self, y: int, left: int) -> list[Span]:
        """Line `y` of the heading: the columns' runs, then their steps; or digits of their numbers."""
        assert self.map is not None
        look = self.look
        word = "" if y or self.names_columns else "no."
        width = self.cell_width
        spans: list[Span] = [(fitted(word, LABEL, right=True), look("faint")), (" ", look())]
        for j in range(left, min(left + self.view_columns, len(self.order))):
            ink = look("text" if j == self.column else "muted", bold=j == self.column)
            if self.names_columns:
                text = self._column_name(j)[y]
                text = text.center(width - cell_len(text) + len(text))
            else:
                digit = f"{j + 1:>{self.heading_lines}}"[y]
                text = digit.center(width) if width == NUMBERED else digit.ljust(width)
            spans.append((text, ink))
        return spans

    def overview_line(self, y: int, width: int, height: int) -> list[Span]:
        """Line `y` of the overview of the whole matrix in `width` x `height` characters."""
        if self._ln_mm is None or not self.order:
            return []
        count = len(self.order)
        kept = self._overview
        if kept is None or kept.side != max(1, min(count, width, 2 * height)):
            kept = self._overview = Overview(self._ln_mm, count, width, height)
        top, left = self._corner()
        frame = (top, left, min(count, top + self.view_rows), min(count, left + self.view_columns))
        return kept.line(y, self.look, self.scale.drawn, frame, (self.row, self.column))

    def cells(self, at: int, left: int, width: int) -> list[Span]:
        """The visible cells of row number `at`, from column `left` on, each `width` wide."""
        assert self.kl_KK is not None
        columns = self.order[left : left + self.view_columns]
        if self._cells_for != (self.look, width) or len(self._plain_cells) > MAX_CELLS:
            self._plain_cells, self._cells_for = {}, (self.look, width)
        if at == self.row:
            values: list[float] = self.kl_KK[self.order[at], columns].tolist()
            return [self._cell(at, j, value, width) for j, value in enumerate(values, left)]
        kept, first, row_K = self._plain_cells, at * len(self.order) + left, self.kl_KK[self.order[at]]
        found: list[Span] = []
        for place, column in enumerate(columns):
            cell = kept.get(first + place)
            if cell is None:
                value = float(row_K[column])
                cell = kept[first + place] = self._filled_cell(at, left + place, value, width, cursor=False)
            found.append(cell)
        if left <= self.column < left + len(found):
            crossed = self.column - left
            found[crossed] = self._crossed(at, self.column, found[crossed], width)
        return found

    def _crossed(self, i: int, j: int, cell: Span, width: int) -> Span:
        """A cell in the cursor's row or column: dots where it is of a colour alone, so that its names are easy to find."""
        look = self.look
        if not look.color or width == NUMBERED or i == j or cell[0].strip():
            return cell
        return look.glyph("··", ".."), cell[1]

    def _cell(self, i: int, j: int, value: float, width: int) -> Span:
        cursor = (i, j) == (self.row, self.column)
        cell = self._filled_cell(i, j, value, width, cursor=cursor)
        return cell if cursor else self._crossed(i, j, cell, width)

    def _filled_cell(self, i: int, j: int, value: float, width: int, *, cursor: bool) -> Span:
        look = self.look
        if i == j:
            return _filled(look.glyph("╲", "\\"), cursor, width), look("text" if cursor else "rule")
        if not math.isfinite(value):
            return _filled("?" if cursor else look.glyph("·", "."), cursor, width), look("bad")
        near = 1 - self.scale.place(value)
        said = figure(value, 2) if width == NUMBERED else ""
        if not look.color:
            return _filled(said or shade(near) * 2, cursor, width), look(bold=cursor)
        color = heat(near)
        return _filled(said, cursor, width), look(INKS[color], color, bold=cursor)

    def _readout(self) -> list[Span]:
        look, pair = self.look, self.pair
        if pair is None or self.map is None:
            return []
        kl = self.map.pair(*pair)
        said = "itself" if pair[0] == pair[1] else with_error(kl.value, kl.se)
        said += ": too few texts in common" * math.isnan(kl.value)
        if self.scale.is_noise(kl.value):
            said += f", below the noise floor of {figure(self.scale.floor, 2)}"
        hint = f"   {self.kl.key('enter')} {'goes there' if self.whole else 'compares'}"
        room = self.body_width - width_of(spelled([(f" → {said}", look())], look)) - 5
        if room - len(hint) < min(NAMES_FIRST, sum(map(cell_len, pair))):
            hint = ""  # the names say more
        a, b = names_in(*pair, room - len(hint))
        return [
            (f" {a} ", look("text", bold=True)),
            (look.glyph("→ ", "-> "), look("muted")),
            (f"{b}   ", look("text", bold=True)),
            (said, look("accent")),
            (hint, look("faint")),
        ]

    def _move(self, down: int, right: int) -> None:
        if not self.order:
            return
        last = len(self.order) - 1
        if self.whole and self._overview is not None:  # by one dot of the overview
            step = max(1, len(self.order) // self._overview.side)
            down, right = down * step, right * step
        self.row = max(0, min(last, self.row + down))
        self.column = max(0, min(last, self.column + right))
        self.refresh()
        if self.kl.view is not None and isinstance(self.kl.view, MatrixView):
            self.kl.view.overview.refresh()
        if self.map is not None:
            self.kl.set_cursor(self.map.names[self.order[self.row]])

    def do_left(self) -> None:
        self._move(0, -1)

    def do_right(self) -> None:
        self._move(0, 1)

    def do_up(self) -> None:
        self._move(-1, 0)

    def do_down(self) -> None:
        self._move(1, 0)

    def do_page_down(self) -> None:
        self._move(self.view_rows, 0)

    def do_page_up(self) -> None:
        self._move(-self.view_rows, 0)

    def do_first(self) -> None:
        self._move(-len(self.order), -len(self.order))

    def do_last(self) -> None:
        self._move(len(self.order), len(self.order))

    def do_zoom_out(self) -> None:
        """Shows the overview of the whole matrix."""
        if self.fits:
            self.kl.say("the whole matrix is visible")
        else:
            self.whole = True
            self.refresh()

    def do_zoom_in(self) -> None:
        """Shows the cells around the cursor."""
        if not self.whole:
            single = f"single cells are shown; {self.kl.key('zoom_out')} shows the whole matrix"
            self.kl.say("the whole matrix is visible" if self.fits else single)
        self.whole = False
        self.refresh()

    def do_zoom_reset(self) -> None:
        self.do_zoom_in()

    def do_enter(self) -> None:
        """Marks the pair as A and B and opens Compare; in the overview, shows the cells around the cursor."""
        if self.whole:
            self.do_zoom_in()
            return
        pair = self.pair
        if pair is not None and pair[0] != pair[1]:
            self.kl.selection.a, self.kl.selection.b = pair
            self.kl.show_screen("compare")

    def do_mark_b(self) -> None:
        """Marks the column as B; key a marks the row, which is the shared cursor, as A."""
        if self.pair is not None:
            self.kl.selection.b = self.pair[1]
            self.kl.selection_changed()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Moves the cursor to the cell under the mouse."""
        top, left = self._corner()
        bar = 2 if self.barred else 0
        if self.whole and self._overview is not None:
            item = self._overview.item
            self.row = min(item(2 * (event.y - 1)), len(self.order) - 1)
            self.column = min(item(event.x - bar), len(self.order) - 1)
            self.do_zoom_in()
            return
        y, x = event.y - 1 - self.heading_lines, event.x - LABEL - 1 - bar
        if self.order and 0 <= y < self.view_rows and x >= 0:
            self._move(top + y - self.row, left + x // self.cell_width - self.column)


def counted_of(shown: int, chosen: int) -> str:
    """The number of checkpoints shown, and the total if that is larger.

    >>> counted_of(1, 1), counted_of(3, 3), counted_of(2000, 100000)
    ('1 checkpoint', '3 checkpoints', '2,000 drawn of 100,000 checkpoints')
    """
    if shown < chosen:
        return f"{shown:,} drawn of {chosen:,} checkpoints"
    return f"{shown:,} checkpoint" + "s" * (shown != 1)


def undefined_last(kl: float) -> tuple[bool, float]:
    """A key that sorts KLs by size and puts undefined ones (NaN) after them."""
    return math.isnan(kl), kl


def drawn_of(found: Map, rows: list[int]) -> list[int]:
    """At most MAX_ROWS of some rows of a map, in increasing order: the ends of every run and others evenly between."""
    import numpy as np

    from kltui.analysis.placing import drawn_rows

    place_K = np.full(len(found), -1)
    place_K[rows] = np.arange(len(rows))
    lines = [place_K[list(t.rows)] for t in found.trajectories()]
    drawn = drawn_rows(len(rows), [line[line >= 0].tolist() for line in lines], MAX_ROWS)
    return [rows[k] for k in drawn]


def _filled(text: str, cursor: bool, width: int) -> str:
    """The text in the width of a pair, in brackets if the cursor is on it."""
    if width == NARROW:
        return "[]" if cursor else text.ljust(width)
    return f"[{text}]".center(width)[:width] if cursor else text.center(width)


class MatrixView(View):
    """The heat map; beside it the nearest checkpoints to the row, and the overview of a large matrix."""

    screen_name = "matrix"
    has_figure = True

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self.heat = HeatMap()
        self._part: tuple[Map, list[int], Map] | None = None  # (a large map, the sampled rows, their map)
        self.near = TextPane("Nearest to the row, bits/byte", self._nearest)
        self.overview = OverviewPane(self._overview_line)
        side = ColumnOfPanes([self.near, self.overview], width=42, minimum=120)
        return [ColumnOfPanes([self.heat]), side]

    def _overview_line(self, y: int, width: int, height: int) -> list[Span]:
        return self.heat.overview_line(y, width, height)

    def update_data(self) -> None:
        """Makes the matrix again from selection, filter and vectors."""
        super().update_data()
        if not self.kl.map_cache.is_empty:
            self.run_worker(self._load(), group="matrix", exclusive=True)

    def cursor_moved(self) -> None:
        """Updates the nearest checkpoints."""
        self.near.update_data()

    async def _load(self) -> None:
        try:
            whole = await self.kl.map_cache.map()
            rows = await self.kl.reader.compute(lambda: self._chosen(whole))
            found, kept = await self.kl.reader.compute(lambda: self._bounded(whole, rows))
            order, scale, ln_mm = await self.kl.reader.compute(lambda: self._arranged(found, kept))
        except KltuiError as error:
            self.heat.note = error.in_one_line
            self.heat.refresh()
            return
        self.heat.n_chosen = len(rows)
        self.heat.show_matrix(found, found.kl(), order, scale, ln_mm)
        self.overview.display = not self.heat.fits
        self.overview.has_undefined = scale.undefined
        self.overview.refresh()
        self.near.update_data()

    def _bounded(self, whole: Map, rows: list[int]) -> tuple[Map, list[int]]:
        """(the map whose K x K matrix is computed, the rows to show); of a large map, an even sample of `rows`."""
        if len(whole) <= MAX_ROWS:
            return whole, rows
        drawn = drawn_of(whole, rows)
        before = self._part
        if before is None or before[0] is not whole or before[1] != drawn:
            self._part = before = whole, drawn, whole.select(drawn)
        return before[2], list(range(len(drawn)))

    def _arranged(self, found: Map, rows: list[int]) -> tuple[list[int], KLScale, Array]:
        """(ordered rows, the scale of the KLs between them, blocks of the overview)."""
        import numpy as np

        kl_KK = found.kl()
        order = self._ordered(found, rows)
        scale = scale_of(kl_KK[np.ix_(order, order)], noise_floor_of(found))
        return order, scale, blocks(kl_KK, order)

    def _ordered(self, found: Map, rows: list[int]) -> list[int]:
        if self.heat.order_name == "cluster" and len(rows) > 2:
            part = found.select(rows)
            return [rows[i] for i in part.clustering().order]
        if self.heat.order_name == "kl" and rows:
            pair = self.heat.pair
            anchor = next(iter(found.rows_of(pair[:1] if pair else ())), rows[0])
            return sorted(rows, key=lambda k: undefined_last(float(found.kl()[anchor, k])))
        return rows

    def _chosen(self, found: Map) -> list[int]:
        """The selected rows; if they are fewer than two, the rows that pass the filter."""
        rows = sorted(found.rows_of(tuple(self.kl.selection.selected)))
        snapshot, keep = self.kl.snapshot, self.kl.filter
        if len(rows) >= 2 or not keep.text:
            return rows if len(rows) >= 2 else list(range(len(found)))
        known, passing = snapshot.by_name, snapshot.passing_names(keep)
        return [k for k, n in enumerate(found.names) if n in passing or n not in known] or rows

    def do_order(self) -> None:
        self.heat.order_name = ORDERS[(ORDERS.index(self.heat.order_name) + 1) % len(ORDERS)]
        self.kl.say(f"order: {SAID[self.heat.order_name]}")
        self.update_data()

    def _nearest(self, width: int) -> list[list[Span]]:
        found, pair, look = self.heat.map, self.heat.pair, self.look
        if found is None or pair is None or self.heat.kl_KK is None:
            return []
        from kltui.analysis.neighbours import nearest

        row = found.row(pair[0])
        lines: list[list[Span]] = [[(short_name(pair[0], width), look("text", bold=True))], []]
        rows = [int(k) for k in nearest(self.heat.kl_KK[row], row, 20)]
        kls = [found.pair_rows(row, k) for k in rows]
        said = aligned([briefly(kl.value, kl.se) for kl in kls])
        said = [in_ascii(text) for text in said] if look.ascii_only else said  # this changes their width
        for k, text in zip(rows, said, strict=True):
            number = self.kl.run_number(found.names[k])
            lines.append(
                [
                    (f"{look.marker(number)} ", look(look.series(number))),
                    (f"{text}  ", look("text")),
                    (fitted_name(found.names[k], max(8, width - len(text) - 4)), look("muted")),
                ]
            )
        return lines

    def shown_figure(self) -> ShownSubject | None:
        """The figure of the shown rows, in their order."""
        from kltui.figures.shown import ShownSubject

        found = self.heat.map
        return ShownSubject("matrix", tuple(found.names[k] for k in self.heat.order)) if found else None

    def csv_rows(self) -> Iterator[list[object]]:
        """Every shown pair with its KL and standard error, bits/byte."""
        found, order = self.heat.map, self.heat.order
        yield ["a", "b", "kl_bits_per_byte", "se"]
        if found is None:
            return
        se = found.kl_se()
        names, kl = found.names, found.kl()
        for i in order:
            for j in order:
                if i < j:
                    yield [names[i], names[j], float(kl[i, j]), float(se[i, j])]

    def copied(self) -> str:
        """The pair under the cursor, its KL and standard error, separated by tabs."""
        pair = self.heat.pair
        if pair is None or self.heat.map is None:
            return ""
        kl = self.heat.map.pair(*pair)
        return f"{safe_text(pair[0])}\t{safe_text(pair[1])}\t{kl.value}\t{kl.se}"


VIEW = MatrixView
