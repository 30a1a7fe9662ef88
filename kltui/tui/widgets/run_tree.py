"""The table of all checkpoints, as a tree of runs that can be folded, or as a sorted list."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from itertools import chain
from operator import attrgetter, eq, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from kltui.analysis.number_text import with_error
from kltui.sanitize import short_name
from kltui.tui.data import MANY_ROWS, Snapshot, label_of_row
from kltui.tui.filter import EVERY
from kltui.tui.views.welcome import empty_line
from kltui.tui.widgets.canvas import Span
from kltui.tui.widgets.table import Cell, Column, Table
from kltui.tui.widgets.tree_lines import Branch, TreeLine, TreeLines

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow
    from kltui.tui.filter import Filter

STATUS = {
    "scored": ("●", "*", "muted"),
    "new": ("○", ".", "muted"),
    "queued": ("◌", ":", "muted"),
    "running": ("◐", "~", "accent"),
    "failed": ("✗", "x", "bad"),
    "elsewhere": ("○", ".", "muted"),
    "stopped": ("◌", ":", "warning"),
    "empty": ("○", "0", "warning"),
    "layers": ("○", "0", "warning"),
}
WORDS = {"elsewhere": "not here"}  # for states whose names are too long for their column


SORTS: dict[str, Callable[[CheckpointRow, Snapshot], Any]] = {
    "run": lambda row, snapshot: (row.checkpoint.run, row.checkpoint.step or -1, row.name),
    "step": lambda row, snapshot: row.checkpoint.step,
    "state": lambda row, snapshot: row.status,
    "bits/byte": lambda row, snapshot: loss.bits_per_byte if (loss := snapshot.losses.get(row.id)) else None,
    "layers": lambda row, snapshot: row.layers or None,
    "size": lambda row, snapshot: by_size(row.checkpoint.size),
    "variant": lambda row, snapshot: row.checkpoint.quantization,
    "type": lambda row, snapshot: row.checkpoint.type or None,
    "source": lambda row, snapshot: by_numbers(str(row.checkpoint.source)),
}


class Order(NamedTuple):
    """The order of the table: by a column of SORTS, or "" for the tree of runs."""

    column: str = ""
    is_reversed: bool = False

    def sorted(self, snapshot: Snapshot, keep: Filter) -> list[CheckpointRow]:
        """The rows that pass the filter, sorted by the column; rows without a value come last in both directions."""
        key = SORTS[self.column]
        pairs = [(key(row, snapshot), row) for row in snapshot.passing_rows(keep)]
        known = sorted((p for p in pairs if p[0] is not None), key=itemgetter(0), reverse=self.is_reversed)
        return [row for _, row in known] + [row for value, row in pairs if value is None]


def size_of(words: str) -> float | None:
    """The number of parameters for a size such as "410m"; None if it is not of this form.

    >>> size_of("410m"), size_of("1.4B"), size_of("tiny")
    (410000000.0, 1400000000.0, None)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmbt])", words.strip().lower())
    return float(found[1]) * {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[found[2]] if found else None


def by_size(words: str) -> tuple[float, str] | None:
    """A sort key for sizes: by number of parameters, then other words by name; None for "".

    >>> sorted(["tiny", "1b", "410m", "base"], key=by_size)
    ['410m', '1b', 'base', 'tiny']
    """
    number = size_of(words)
    return None if not words else (math.inf, words) if number is None else (number, "")


def by_numbers(text: str) -> list[str | int]:
    """A sort key for texts, in which numbers are compared as numbers.

    >>> sorted(["step100", "step20", "run"], key=by_numbers)
    ['run', 'step20', 'step100']
    """
    return [int(part) if at % 2 else part for at, part in enumerate(re.split(r"(\d+)", text))]


VARIANT = 6  # index of the column of variants
RUN_CELLS = 22  # width of a run's name, after its fold sign and marker
LOOKED_AT = 12  # rows whose characters are compared before the tree scrolls
KEPT_COLUMNS = 3  # columns that stay beside long names: state, loss and its error


class RunTree(Table):
    """The table of checkpoints."""

    title = "Checkpoints"
    columns: tuple[Column, ...] = (
        Column("run / step", 4 + RUN_CELLS),
        Column("state", 10),
        Column("bits/byte", 9, right=True),
        Column("± s.e.", 7, rank=1),
        Column("layers", 6, right=True, rank=3),
        Column("size", 7, rank=4),
        Column("variant", 9, rank=2),
        Column("source", 14, share=1, rank=5),
    )

    def __init__(self) -> None:
        super().__init__(id="run-tree")
        self.lines = TreeLines()
        self.folded: set[str] = set()
        self.order = Order()
        self.rests_on_run = False
        self._made_for: tuple[object, ...] = ()
        #: of many rows: (rows, losses and order that it is sorted from, the flat list, cells of its longest name)
        self._sorted: tuple[tuple[object, ...], Branch, int] | None = None

    def update_data(self) -> None:
        """Makes the lines again if rows, losses, filter, folds or order have changed, and finds the cursor's line."""
        snapshot = self.kl.snapshot
        made_for = (snapshot.rows, snapshot.losses, self.kl.filter, frozenset(self.folded), self.order)
        if made_for != self._made_for:
            self._made_for = made_for
            self.lines = TreeLines(self._branches())
            self._widths_for = -1
        self.find_cursor()
        self.refresh()

    def widths(self) -> list[int]:
        """The width of each column; in a sorted list, whole names have priority, and the variant is part of the name."""
        if self._widths_for != self.body_width:
            first, *others = RunTree.columns
            if self.order.column:
                kept = sum(2 + column.width for column in others[:KEPT_COLUMNS])
                room = self.body_width - 2 - kept
                first = replace(first, width=max(first.width, min(self._longest_name() + 4, room)))
                others = [c for c in others if c is not RunTree.columns[VARIANT]]
            self.columns = (first, *others)
        return super().widths()

    def _longest_name(self) -> int:
        """The number of characters of the longest name in the list."""
        branches = self.lines.branches
        if self._sorted is not None and branches == [self._sorted[1]]:
            return self._sorted[2]
        return max((len(row.name) for branch in branches for row in branch.rows), default=0)

    def _branches(self) -> list[Branch]:
        snapshot, keep = self.kl.snapshot, self.kl.filter
        if self.order.column:
            return [self._in_order()]
        if snapshot.counts:
            return [
                Branch(TreeLine(run, None, *count), self._unfolded(run, snapshot.runs.get(run, [])))
                for run, count in snapshot.counts.items()
            ]
        branches = []
        for run in snapshot.runs:
            if kept := snapshot.rows_of_run(run, keep):
                n_scored = (
                    sum(map(attrgetter("scored"), kept)) if keep.text else snapshot.run_facts[run].scored
                )
                heading = TreeLine(run, None, len(kept), n_scored)
                branches.append(Branch(heading, self._unfolded(run, kept)))
        return branches

    def _in_order(self) -> Branch:
        """The flat list in its order; what `_sort` has sorted is only filtered."""
        snapshot, keep = self.kl.snapshot, self.kl.filter
        if self._sorted is None or self._sorted[0] != (snapshot.rows, snapshot.losses, self.order):
            return Branch(None, self.order.sorted(snapshot, keep))
        branch = self._sorted[1]
        if not keep.text:
            return branch
        passing = snapshot.passing_names(keep)
        return Branch(None, [row for row in branch.rows if row.name in passing])

    def _unfolded(self, run: str, rows: Sequence[CheckpointRow]) -> Sequence[CheckpointRow]:
        return () if run in self.folded else rows

    def find_cursor(self) -> None:
        """Moves the cursor row to the shared cursor, unless the user has moved it to a run's heading."""
        name = self.kl.selection.cursor
        here = self.lines[self.cursor] if self.cursor < len(self.lines) else None
        if here is not None and (here.row.name == name if here.row else self.rests_on_run):
            self.keep_in_view()
            return
        row = self.kl.snapshot.by_name.get(name)
        at = self.lines.place_of(row) if row is not None else None
        before, self.cursor = self.cursor, max(0, min(self.cursor if at is None else at, len(self.lines) - 1))
        self._slide()
        if not self.keep_in_view():
            self.redraw(1 + before - self.top, 1 + self.cursor - self.top)

    def _slide(self) -> None:
        """If the cursor is out of view, scrolls so that few characters of the steps change on screen.

        Runs often have the same steps; far along a run, the last digits can be those of before.
        """
        rows = self.body_height - 1
        minimum, maximum = max(0, self.cursor - rows + 1), min(self.cursor, len(self.lines) - rows)
        if rows < 1 or minimum <= self.top <= self.cursor or minimum > maximum:
            return
        shown = [_step_of(line) for line in self.lines[self.top : self.top + rows]]
        steps = [_step_of(line) for line in self.lines[minimum : maximum + rows]]
        some = range(0, rows, max(1, rows // LOOKED_AT))

        def steadiness(top: int) -> tuple[int, int, int]:
            below = steps[top - minimum :]
            kept = sum(sum(map(eq, shown[i], below[i])) for i in some if i < len(shown))
            return sum(map(eq, shown, below)), kept, -abs(top - self.top)

        self.top = max(range(minimum, maximum + 1), key=steadiness)
        self.refresh()

    def header_right(self) -> list[Span]:
        """The order and the numbers of runs, checkpoints and scored ones; with a filter, how many pass."""
        snapshot, look = self.kl.snapshot, self.look
        if not snapshot.rows:
            return []
        sort = [(f"by {self.order.column}{', reversed' * self.order.is_reversed}  ", look("accent"))]
        spans = sort if self.order.column else []
        if self.kl.filter.text:
            kept = sum(b.heading.n if b.heading else len(b) for b in self.lines.branches)
            return [
                *spans,
                (f"{kept:,} of {counted(len(snapshot.rows), 'checkpoint')} by the filter", look("warning")),
            ]
        if counts := snapshot.counts:
            n, scored = (sum(column) for column in zip(*counts.values(), strict=True))
            return [(f"reading  {totals(len(counts), n, scored)}", look("muted"))]
        said = totals(len(snapshot.runs), len(snapshot.rows), snapshot.n_scored)
        return [*spans, (said, look("muted"))]

    def row_count(self) -> int:
        return len(self.lines)

    def _empty_line(self, y: int) -> list[Span]:
        said = f"No checkpoint matches the filter; press {self.kl.key('out')} to clear it."
        return empty_line(self, y, ("muted", said))

    def row_key(self, index: int) -> object:
        """Everything that the row shows; see `Table.row_key`."""
        line = self.lines[index]
        if line.row is None:
            return line, self.kl.snapshot.run_number.get(line.run, 0), line.run in self.folded
        name, chosen = line.row.name, self.kl.selection
        return (
            line,
            self.order.column,
            self.widths()[0],
            self._loss_of(line.row),
            self.state_of(line.row),
            name == chosen.a,
            name == chosen.b,
            name in chosen.selected,
        )

    def flag(self, index: int) -> Span | None:
        line = self.lines[index]
        chosen = self.kl.selection
        if line.row is None:
            return None
        if line.row.name in (chosen.a, chosen.b):
            return ("A" if line.row.name == chosen.a else "B"), self.look("accent", bold=True)
        if line.row.name in chosen.selected:
            return self.look.glyph("✓", "+"), self.look("accent")
        return None

    def cells(self, index: int) -> Sequence[Cell]:
        line = self.lines[index]
        return self._run_cells(line) if line.row is None else self._checkpoint_cells(line.row)

    def _run_cells(self, line: TreeLine) -> list[Cell]:
        look = self.look
        number = self.kl.snapshot.run_number.get(line.run, 0)
        fold = look.glyph("▸", ">") if line.run in self.folded else look.glyph("▾", "v")
        first = Cell(
            f"{fold} {look.marker(number)} {short_name(line.run, RUN_CELLS)}", look.series(number), bold=True
        )
        state = Cell(f"{line.scored}/{line.n}", "good" if line.scored == line.n else "muted")
        return [first, state, *[Cell("")] * 6]

    def _checkpoint_cells(self, row: CheckpointRow) -> list[Cell]:
        checkpoint = row.checkpoint
        step = "" if checkpoint.step is None else f"@{checkpoint.step}"
        state = self.state_of(row)
        fancy, plain, ink = STATUS.get(state, ("?", "?", "text"))
        number = self.kl.snapshot.run_number.get(label_of_row(row), 0)
        variant = "" if checkpoint.quantization == "none" else checkpoint.quantization
        shown = row.name if self.order.column else step or checkpoint.name
        said = f"+{variant}" if variant else ""
        if not self.order.column and self.widths()[VARIANT]:
            shown = shown.removesuffix(said)
        elif step and not self.order.column:
            shown += said  # otherwise it would look like the unquantised checkpoint
        name = f"  {self.look.marker(number)} {shown}" if self.order.column else f"      {shown}"
        return [
            Cell(name, "text" if row.scored else "muted"),
            Cell(f"{self.look.glyph(fancy, plain)} {WORDS.get(state, state)}", ink),
            *self._loss_cells(row),
            Cell(str(row.layers) if row.layers else "", "muted"),
            Cell(checkpoint.size, "muted"),
            *([] if self.order.column else [Cell(variant, "muted")]),
            Cell(row.error or str(checkpoint.source), "bad" if row.error else "faint"),
        ]

    def state_of(self, row: CheckpointRow) -> str:
        """The checkpoint's status, or "stopped" if it has no values and a job that has ended was scoring it."""
        is_stopped = row.status in ("new", "empty", "layers") and row.name in self.kl.snapshot.stopped
        return "stopped" if is_stopped else row.status

    def _loss_cells(self, row: CheckpointRow) -> list[Cell]:
        """The cells of the loss and of its standard error, or instead that it is scored on another corpus only."""
        if row.status == "elsewhere":
            return [Cell("other", "faint"), Cell("corpus", "faint")]
        value, _, error = self.loss_words(row).partition(" ± ")
        return [Cell(value), Cell(error, "muted")]

    def loss_words(self, row: CheckpointRow) -> str:
        """The checkpoint's loss in bits/byte, with its standard error once that is read.

        With ~ if some texts are unscored: until the vector is read, their length is assumed to be the mean.
        """
        found = self._loss_of(row)
        if found is None or math.isnan(found[0]):
            return ""
        value, se, is_exact = found
        said = f"{value:.3f}" if math.isnan(se) else with_error(value, se)
        return said if is_exact else f"~{said}"

    def _loss_of(self, row: CheckpointRow) -> tuple[float, float, bool] | None:
        """(loss in bits/byte, its standard error or NaN, whether it is exact) of a scored checkpoint."""
        stored = self.kl.snapshot.losses.get(row.id)
        if stored is None:
            return None
        read = self.kl.loss_errors.get(stored)
        if read is None or math.isnan(read[0]):
            return stored.bits_per_byte, math.nan, stored.is_exact
        return (*read, True)

    def do_sort(self) -> None:
        """Asks for the column to sort by; choosing the present one reverses the order."""
        from kltui.tui.dialogs.prompts import ChoiceDialog

        now = self.order
        options = [("runs", "the tree of runs, by step and variant")]
        for name in SORTS:
            here = name == now.column
            words = "reverse" if here else "as a flat list"
            options.append((name, words))

        def chosen(index: int | None) -> None:
            if index is None:
                return
            column = options[index][0] if index else ""
            turned = bool(column) and column == now.column and not now.is_reversed
            self._put_in(Order(column, turned))

        self.app.push_screen(ChoiceDialog("Sort by what?", options), chosen)

    def _put_in(self, order: Order) -> None:
        """Lists the checkpoints in another order; many are sorted in another thread first."""
        if order.column and len(self.kl.snapshot.rows) > MANY_ROWS:
            self.kl.busy_with(f"sorting {len(self.kl.snapshot.rows):,} checkpoints by {order.column}")
            self.kl.run_worker(self._sort(order), group="sort", exclusive=True)
            return
        self.order = order
        self.cursor = self.top = 0
        self.update_data()

    async def _sort(self, order: Order) -> None:
        snapshot = self.kl.snapshot
        try:
            branch, longest = await asyncio.to_thread(_sorted_branch, order, snapshot)
        finally:
            self.kl.busy_with("")
        self._sorted = (snapshot.rows, snapshot.losses, order), branch, longest
        self.order = order
        self.cursor = self.top = 0
        self.update_data()

    def neighbour(self, without: Set[str]) -> str:
        """The nearest listed checkpoint below the cursor, else above it, that is not in `without`; "" if there is none."""
        around = chain(range(self.cursor, len(self.lines)), range(self.cursor - 1, -1, -1))
        rows = (self.lines[at].row for at in around)
        return next((row.name for row in rows if row is not None and row.name not in without), "")

    @property
    def line(self) -> TreeLine | None:
        """The line under the cursor."""
        return self.lines[self.cursor] if self.lines else None

    def moved(self) -> None:
        """Moves the shared cursor to the checkpoint of the line."""
        line = self.line
        self.rests_on_run = line is not None and line.row is None
        if line is not None and line.row is not None and line.row.name != self.kl.selection.cursor:
            self.kl.set_cursor(line.row.name)
        elif self.kl.view is not None:
            self.kl.view.cursor_moved()

    def do_enter(self) -> None:
        """Folds or unfolds a run; on a checkpoint, moves the focus to its details."""
        line = self.line
        if line is None:
            return
        if line.row is not None:
            if self.kl.view is not None:
                self.kl.view.do_next_pane()
            return
        self.folded ^= {line.run}
        self.update_data()

    def do_left(self) -> None:
        """Moves to the run's heading; on a heading, folds the run."""
        line = self.line
        if line is None or self.order.column:
            return
        if line.row is None:
            self.folded.add(line.run)
            self.update_data()
        else:
            self.go(self.lines.heading_of(line.run))

    def do_right(self) -> None:
        """Unfolds the run."""
        line = self.line
        if line is not None and line.row is None and line.run in self.folded:
            self.folded.discard(line.run)
            self.update_data()

    def do_select(self) -> None:
        """Selects or unselects the checkpoint, or all of the run's that pass the filter."""
        line = self.line
        if line is None:
            return
        snapshot = self.kl.snapshot
        of_run = [] if line.row else snapshot.names_of_run(line.run, self.kl.filter)
        self.kl.selection.toggle([line.row.name] if line.row else of_run)
        if line.row is not None:
            self.go(self.cursor + 1)
        self.kl.selection_changed()

    def do_next_match(self) -> None:
        self._next_run(1)

    def do_previous_match(self) -> None:
        self._next_run(-1)

    def _next_run(self, by: int) -> None:
        ahead = [i for i in self.lines.headings if (i - self.cursor) * by > 0]
        if ahead:
            self.go(min(ahead, key=lambda i: abs(i - self.cursor)))


def _sorted_branch(order: Order, snapshot: Snapshot) -> tuple[Branch, int]:
    """All checkpoints as a flat list in an order, and the cells of the longest name."""
    branch = Branch(None, order.sorted(snapshot, EVERY))
    _ = branch.places  # looked for by the cursor
    return branch, max((len(row.name) for row in branch.rows), default=0)


def _step_of(line: TreeLine) -> str:
    """The step of a line's checkpoint; "" without one, and for a run's heading its name."""
    step = None if line.row is None else line.row.checkpoint.step
    return line.run if line.row is None else "" if step is None else str(step)


def totals(runs: int, checkpoints: int, scored: int) -> str:
    """The numbers of runs, checkpoints and scored ones, in words.

    >>> totals(2, 1, 0)
    '2 runs  1 checkpoint  0 scored'
    """
    return f"{counted(runs, 'run')}  {counted(checkpoints, 'checkpoint')}  {scored:,} scored"


def counted(count: int, what: str) -> str:
    """A number with a noun in the singular or plural.

    >>> counted(1, "run"), counted(2000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{count:,} {what}{'s' * (count != 1)}"
