"""The Registry screen: the checkpoints as a tree of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

from kltui.analysis.number_text import fixed, from_to
from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.views.base import ColumnOfPanes, View
from kltui.tui.widgets.canvas import Span, TextPane, wrapped
from kltui.tui.widgets.run_tree import RunTree
from kltui.tui.widgets.tree_lines import TreeLine

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow
    from kltui.workspace import Workspace
    from kltui.workspace.losses import StoredLoss

NAMED = 12
STATES = {
    "new": "new: not scored",
    "elsewhere": "not scored on this corpus",
    "stopped": "not scored",
    "empty": "empty: no text has a value",
    "layers": "layers: no final vector",
}
ELSEWHERE = "Scored on another corpus only; {corpus} selects the corpus that is shown."
EMPTY = "Its stored vector has no value for any text, so it is on no map. The usual reason is a tokenizer that fits neither"
EMPTY_SCORED = (
    f"{EMPTY} model nor texts, or texts of fewer than two tokens. Press {{start}} to score it again."
)
LAYERS = "Only its layer vectors are stored, and maps need the final one. Press {start} to score it, or import it: kltui --import."
EMPTY_IMPORTED = f"{EMPTY} model nor texts. Import it again with values: kltui --import."
ERRORS_AT_ONCE = 32  # vectors read in one go
REST_SECONDS = 1.0  # without a key, after which vectors out of view are read
NAME_CELLS = 12  # width of the names of facts


class RegistryView(View):
    """The tree, and details of the line under the cursor."""

    screen_name = "registry"

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self._asked = -1
        self._losses: dict[int, StoredLoss] = {}  # the losses whose errors were last requested
        self.same: dict[str, tuple[str, ...]] = {}  # {name: other checkpoints with the same weights}
        self.changed: dict[str, str] = {}  # {name: the one before it, which has another tokenizer}
        self.runs = RunTree()
        self.detail = TextPane("Details", self._details)
        return [ColumnOfPanes([self.runs]), ColumnOfPanes([self.detail], width=46, minimum=120)]

    def update_data(self) -> None:
        """Updates the panes; if vectors have changed, finds equal weights and reads the errors of losses."""
        super().update_data()
        if self._asked != self.kl.map_cache.version and not self.kl.map_cache.is_empty:
            self._asked = self.kl.map_cache.version
            self.run_worker(self._look_for_same(), group="same", exclusive=True)
        if self._losses is not self.kl.snapshot.losses:
            self._losses = self.kl.snapshot.losses
            self.run_worker(self._read_errors(), group="errors", exclusive=True)

    def _trees(self) -> list[RunTree]:
        """The tree of this screen, and that of the screen shown if it has another one."""
        shown = self.kl.view.panes if self.kl.view is not None else ()
        return [self.runs, *(p for p in shown if isinstance(p, RunTree) and p is not self.runs)]

    def _in_view(self) -> list[int]:
        """The ids of the checkpoints that the trees show at present."""
        lines = chain.from_iterable(t.lines[t.top : t.top + t.body_height] for t in self._trees())
        return [line.row.id for line in lines if line.row is not None]

    async def _read_errors(self) -> None:
        """Reads the standard errors of all losses, a few vectors at a time so that other reads are not delayed.

        Those out of view are read while no key is pressed: of very many it takes minutes.
        """
        unknown = (math.nan, math.nan)  # for damaged vectors
        losses, known = self.kl.snapshot.losses, self.kl.loss_errors
        if not losses:
            return
        every = await self.kl.reader.read(lambda ws: [one for one in losses.values() if one not in known])
        rest = iter(every)
        while part := self._next_unread(rest):
            if not self._is_in_view(part):
                await self.kl.calm(REST_SECONDS)
            try:
                read = await self.kl.reader.read(_losses_of(part))
            except KltuiError as error:
                self.kl.complain(error)
                return
            self.kl.loss_errors |= {one: read.get(one.vector, unknown) for one in part}
            if self._is_in_view(part):
                for tree in self._trees():
                    tree.refresh()
                self.detail.update_data()

    def _is_in_view(self, part: Sequence[StoredLoss]) -> bool:
        losses = self.kl.snapshot.losses
        return any(losses.get(i) in part for i in self._in_view())

    def _next_unread(self, rest: Iterator[StoredLoss]) -> list[StoredLoss]:
        """The next losses whose errors are read: those in view first, then the others."""
        losses, known = self.kl.snapshot.losses, self.kl.loss_errors
        wanted = chain((losses[i] for i in self._in_view() if i in losses), rest)
        return list(dict.fromkeys(islice((one for one in wanted if one not in known), ERRORS_AT_ONCE)))

    async def _look_for_same(self) -> None:
        try:
            groups, self.changed = await self.kl.reader.read(
                lambda ws: (ws.same_weights(), ws.changed_tokenizers())
            )
        except KltuiError as error:
            self.kl.complain(error)
            return
        self.same = {p.name: tuple(q.name for q in group if q is not p) for group in groups for p in group}
        self.detail.update_data()

    def cursor_moved(self) -> None:
        """Moves the tree's cursor and updates the details."""
        self.runs.find_cursor()
        self.detail.update_data()

    def _details(self, width: int) -> list[list[Span]]:
        line = self.runs.line
        if line is None:
            return []
        if line.row is None:
            return self._run_details(line, width)
        return self._checkpoint_details(line.row, width)

    def _run_details(self, line: TreeLine, width: int) -> list[list[Span]]:
        snapshot = self.kl.snapshot
        rows, found = snapshot.runs.get(line.run, []), snapshot.run_facts.get(line.run)
        n, scored = snapshot.counts.get(line.run) or (found[:2] if found else (0, 0))
        first, last = (found.first_step, found.last_step) if found else (None, None)
        facts = [
            ("run", line.run),
            ("checkpoints", str(n)),
            ("scored", str(scored)),
            ("failed", str(found.failed) if found else ""),
            ("steps", from_to(first, last) if first is not None and last is not None else ""),
            ("size", rows[0].checkpoint.size if rows else ""),
            ("type", rows[0].checkpoint.type if rows else ""),
        ]
        return self._facts(facts, width)

    def _checkpoint_details(self, row: CheckpointRow, width: int) -> list[list[Span]]:
        from kltui.registry.checkpoint import LocalSource, ServedSource

        c, look = row.checkpoint, self.look
        facts = [
            ("name", row.name),
            ("state", STATES.get(state := self.runs.state_of(row), state)),
            ("run", c.run),
            ("step", "" if c.step is None else f"{c.step:,}"),
            ("variant", "" if c.quantization == "none" else c.quantization),
            ("bits/byte", self.runs.loss_words(row)),
            ("nats/text", "" if math.isnan(row.mean_loglik) else fixed(row.mean_loglik, 3)),
            ("layers", str(row.layers) if row.layers else ""),
            ("seed", "" if c.seed is None else str(c.seed)),
            ("size", c.size),
            ("type", c.type),
            ("parent", c.parent),
            ("tags", " ".join(c.tags)),
        ]
        lines = self._facts(facts, width)
        if same := self.same.get(row.name):
            lines += [[], [("the same weights as", look("warning"))]]
            lines += [[(part, look("text"))] for part in wrapped(_listed(same), max(8, width))]
        if before := self.changed.get(row.name):
            from kltui.store.tokenizer_changes import change_words

            said = wrapped(change_words(before), max(8, width))
            lines += [[], *([(part, look("warning"))] for part in said)]
        lines += self._why_not_scored(row, width)
        kinds = {LocalSource: "on this machine", ServedSource: "served"}
        kind = kinds.get(type(c.source), "hub")
        lines += [[], [(kind, look("muted"))]]
        lines += [[(part, look("text"))] for part in wrapped(str(c.source), max(8, width))]
        if row.error:
            lines += [[], [("reason for the failure", look("bad", bold=True))]]
            lines += [[(part, look("text"))] for part in wrapped(row.error, max(8, width))]
            lines += [[(part, look("muted"))] for part in wrapped(row.hint, max(8, width))]
        return lines

    def _why_not_scored(self, row: CheckpointRow, width: int) -> list[list[Span]]:
        """Lines on a checkpoint that was being scored when its job ended, has no values, or is scored on another corpus only."""
        empty = EMPTY_IMPORTED if row.weights.startswith("import:") else EMPTY_SCORED
        said = {"elsewhere": ELSEWHERE, "empty": empty, "layers": LAYERS}.get(
            state := self.runs.state_of(row), ""
        )
        key = self.kl.key
        said = said.format(corpus=key("corpus"), start=key("start"))
        if state == "stopped":
            said = self.kl.snapshot.stopped[row.name].words(key("screen_jobs"), key("retry"))
        look = self.look
        return [[], *([(part, look("warning"))] for part in wrapped(said, max(8, width)))] if said else []

    def _facts(self, facts: Sequence[tuple[str, str]], width: int) -> list[list[Span]]:
        """Lines of names and values; a value that is longer goes on below its beginning."""
        look = self.look
        return [
            [(f"{'' if at else name:<{NAME_CELLS}}", look("muted")), (part, look("text"))]
            for name, value in facts
            if value
            for at, part in enumerate(wrapped(value, max(8, width - NAME_CELLS)))
        ]

    def csv_rows(self) -> Iterator[list[object]]:
        """Rows with the checkpoints that pass the filter."""
        yield ["name", "run", "step", "variant", "seed", "size", "type", "parent", "tags", "status", "nats_per_text",
               "bits_per_byte", "layers", "source", "error", "bits_per_byte_se"]  # fmt: skip
        snapshot, errors = self.kl.snapshot, self.kl.loss_errors
        for row in snapshot.passing_rows(self.kl.filter):
            c, loss = row.checkpoint, snapshot.losses.get(row.id)
            yield [row.name, c.run, c.step, c.quantization, c.seed, c.size, c.type, c.parent, " ".join(c.tags),
                   row.status, row.mean_loglik, loss.bits_per_byte if loss else None, row.layers, str(c.source),
                   row.error, errors[loss][1] if loss in errors else None]  # fmt: skip

    def do_add(self) -> None:
        from kltui.tui.dialogs import jobs_start

        jobs_start.add_models(self.kl)

    def do_place(self) -> None:
        """Opens the dialog that places a model on the map, and suggests the one under the cursor."""
        from kltui.tui.dialogs.place_form import place_model

        row = self.runs.line.row if self.runs.line else None
        own = row is not None and not row.weights.startswith("import:")
        place_model(self.kl, row.checkpoint if row and own else None)

    def do_edit(self) -> None:
        """Opens the form for the lineage of the chosen checkpoints."""
        if rows := self._chosen():
            from kltui.tui.dialogs.lineage_form import edit_lineage

            edit_lineage(self.kl, rows)

    def do_remove(self) -> None:
        """Removes the chosen checkpoints from the workspace, after asking."""
        if rows := self._chosen():
            from kltui.tui.removal import ask_to_remove

            ask_to_remove(self.kl, rows, self.runs.neighbour({row.name for row in rows}))

    def _chosen(self) -> list[CheckpointRow]:
        """The selected checkpoints, else the one under the cursor, else those of the run under it that pass the filter."""
        line, snapshot = self.runs.line, self.kl.snapshot
        rows = [snapshot.by_name[n] for n in self.kl.selection.selected if n in snapshot.by_name]
        if rows or line is None:
            return rows
        return [line.row] if line.row else snapshot.rows_of_run(line.run, self.kl.filter)

    def do_start(self) -> None:
        from kltui.tui.dialogs import jobs_start

        jobs_start.start_job(self.kl, self._chosen())


def _losses_of(losses: Sequence[StoredLoss]) -> Callable[[Workspace], dict[int, tuple[float, float]]]:
    """A function that reads these losses: {vector id: (loss in bits/byte, standard error)}."""
    return lambda ws: ws.losses_of([one.vector for one in losses])


def _listed(names: Sequence[str]) -> str:
    """The first NAMED names, and the number of others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return safe_text(", ".join(names[:NAMED]), 400) + more


VIEW = RegistryView
