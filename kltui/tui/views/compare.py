"""The Compare screen: checkpoints A and B, their KL, each text's part of it, and single tokens."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style

from kltui.analysis.number_text import figure, fixed
from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.store.pair_values import CONDITIONAL
from kltui.tui.compared import COLUMNS as COLUMNS_WRITTEN
from kltui.tui.compared import TextComparison
from kltui.tui.dialogs import jobs_start
from kltui.tui.number_format import briefly, means_said, position, with_error
from kltui.tui.off_map import marks_off_map
from kltui.tui.views.base import WIDE, ColumnOfPanes, View
from kltui.tui.views.welcome import empty_line
from kltui.tui.widgets.canvas import Span, TextPane, names_in, shortened, width_of, wrapped
from kltui.tui.widgets.table import Cell, Column, Table
from kltui.view.palette import difference, heat, ink_on

if TYPE_CHECKING:
    from kltui.analysis.drivers import Drivers
    from kltui.analysis.exact import NextTokenKL
    from kltui.analysis.map import Map
    from kltui.corpus.corpus import Prompt
    from kltui.figures.shown import ShownSubject
    from kltui.jobs.launch import Detached
    from kltui.tui.widgets.token_lines import Part, TextTokens

READ_CELLS, READ_CELLS_WIDE = 62, 84  # width of the text pane; the wider one shows 80 characters whole
MIN_TABLE = 112
ORDERS = ("most", "a", "b")
SAID = {"most": "that drive the KL", "a": "where A is better", "b": "where B is better"}
WORST_NATS = 10.0
BOLD_NATS = 4.0  # without colours, tokens of a log-probability below minus this are bold
LOOK_SECONDS = 0.3  # between two checks of a short job's progress
COLUMNS = (
    Column("text", 6, right=True),
    Column("share", 6, right=True),
    Column("A − B", 8, right=True),
    Column("", 20, share=1, rank=1),
)
DOMAIN = Column("domain", 10, rank=2)


class TextTable(Table):
    """The texts of the map with their parts of the KL between A and B."""

    columns: tuple[Column, ...] = COLUMNS

    def __init__(self) -> None:
        super().__init__(id="text-table")
        self.drivers: Drivers | None = None
        self.order: list[int] = []
        self.texts: Sequence[str] = ()  # the map's, which may be fewer than the corpus has
        self.numbers: Sequence[int] = ()  # the place of each of these texts in the corpus
        self.prompts: Sequence[Prompt] = ()
        self.domains: Sequence[str] = ()
        self.order_name = "most"
        self.note = ""
        self.filled = 0  # how often it was filled: drawn rows are those of one time

    def forget(self, note: str) -> None:
        """Empties the table, which says `note`."""
        self.drivers, self.order, self.note = None, [], note
        self.filled += 1
        self.refresh()

    def row_key(self, index: int) -> object:
        """The text of the row; the rest is filled in at once."""
        return self.filled, self.order[index]

    @property
    def title(self) -> str:  # type: ignore[override]
        """A title that names the order."""
        return f"Texts {SAID[self.order_name]}"

    def show_domains(self, domains: Sequence[str]) -> None:
        """Sets the texts' domains, and shows their column if there are any."""
        self.domains = domains
        self.columns = (*COLUMNS[:-1], DOMAIN, COLUMNS[-1]) if any(domains) else COLUMNS
        self._widths_for = -1

    def header_right(self) -> list[Span]:
        """The unit of the differences."""
        return [("A − B in nats, less its mean", self.look("faint"))] if self.order else []

    def row_count(self) -> int:
        return len(self.order)

    def _empty_line(self, y: int) -> list[Span]:
        return empty_line(self, y, ("muted", self.note or self._what_to_mark()))

    def _what_to_mark(self) -> str:
        snapshot, key = self.kl.snapshot, self.kl.key
        if snapshot.n_scored < 2:
            return f"Two scored checkpoints are needed: press {key('screen_registry')}, then {key('start')} to score more."
        if snapshot.suggested_pairs:
            return f"{key('compare')} suggests pairs to compare; mark any two with {key('mark_a')} and {key('mark_b')}, on every screen."
        return f"Mark two checkpoints with {key('mark_a')} and {key('mark_b')}, here or on any screen."

    def cells(self, index: int) -> Sequence[Cell]:
        text = self.order[index]
        assert self.drivers is not None
        total, part = self.drivers.kl.value, float(self.drivers.bits_per_byte[text])
        by = float(self.drivers.difference[text])
        snippet = self.texts[text][:200] if text < len(self.texts) else ""
        cells = [
            Cell(str(self.numbers[text]), "muted"),
            Cell(f"{100 * part / total:.1f}%" if total > 0 else ""),
            Cell(fixed(by, 2, "+"), "warning" if by > 0 else "accent"),
            Cell(" ".join(snippet.split()), "faint"),
        ]
        if DOMAIN in self.columns:
            cells.insert(-1, Cell(self.domains[text] if text < len(self.domains) else "", "muted"))
        return cells

    def moved(self) -> None:
        """Shows the text under the cursor."""
        if isinstance(self.kl.view, CompareView):
            self.kl.view.show_text()

    def do_enter(self) -> None:
        """Moves the focus to the text."""
        if self.kl.view is not None:
            self.kl.view.do_next_pane()

    def do_next_match(self) -> None:
        self.go(self.cursor + 1)

    def do_previous_match(self) -> None:
        self.go(self.cursor - 1)


class CompareView(View):
    """The KL and its position on the scale, above a table of the texts; beside them the tokens of the text under the cursor."""

    screen_name = "compare"
    has_figure = needs_pair = True
    DEFAULT_CSS = "CompareView #compare-summary { height: 7; }"

    def __init__(self) -> None:
        super().__init__()
        self.focus_pane = self.texts

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self._asked: tuple[object, ...] = ()
        self._of = ("", "")  # the pair whose comparison is shown
        self.found: Map | None = None
        self.lines: tuple[TextTokens | None, TextTokens | None] = (None, None)
        self._read_at = -1
        self._exact_asked: tuple[object, ...] = ()
        self.exact: NextTokenKL | None = None
        self._working_out = False
        self.summary = TextPane("A against B", self._summary, id="compare-summary")
        self.texts = TextTable()
        self.reading = TextPane("Text", self._text)
        return [
            ColumnOfPanes([self.summary, self.texts]),
            ColumnOfPanes([self.reading], width=READ_CELLS, minimum=WIDE),
        ]

    def make_room(self, width: int) -> None:
        """Gives the text the width that the table does not need."""
        super().make_room(width)
        texts, reading = self._boxes
        if texts.display and reading.display:
            reading.styles.width = max(READ_CELLS, min(READ_CELLS_WIDE, width - MIN_TABLE))

    def update_data(self) -> None:
        """Compares again if A, B or the vectors have changed."""
        chosen, version = self.kl.selection, self.kl.map_cache.version
        if self._of != (chosen.a, chosen.b):
            self._forget(chosen.a, chosen.b)
        self._fit_summary()
        super().update_data()
        compared = (version, chosen.a, chosen.b)
        if compared != self._asked and not self.kl.map_cache.is_empty:
            self._asked = compared
            self.run_worker(self._load(chosen.a, chosen.b), group="compare", exclusive=True)
        elif None in self.lines and self._read_at != self.kl.snapshot.generation:
            self._ask_tokens()  # a job may have stored them since
        wanted = (self.kl.snapshot.generation, version, chosen.a, chosen.b)
        if wanted != self._exact_asked:
            self._exact_asked = wanted
            self.run_worker(self._read_exact(chosen.a, chosen.b), group="exact")

    def _fit_summary(self) -> None:
        both = self.kl.selection.a and self.kl.selection.b
        self.summary.styles.height = (9 if self.exact else 7) if both else 2

    def _forget(self, a: str, b: str) -> None:
        """Clears the results of the pair before, so that they are not shown for this one."""
        self._of, self.found, self.exact, self.lines = (a, b), None, None, (None, None)
        self.texts.forget("computing …" if a and b else "")

    async def _load(self, a: str, b: str) -> None:
        table = self.texts
        self._forget(a, b)
        try:
            if a and b:
                found = await self.kl.map_cache.map()
                if absent := marks_off_map(self.kl, found):
                    table.note = "; ".join(absent)
                else:
                    await self._fill(found, a, b)
        except KltuiError as error:
            table.note = error.in_one_line
        table.refresh()
        self.summary.update_data()
        self.show_text()

    async def _fill(self, found: Map, a: str, b: str) -> None:
        """Fills the table with the texts of the map `found`, on which A and B are."""
        table, self.found = self.texts, found
        texts, domains_of, prompts = await self.kl.reader.read(
            lambda ws: (ws.texts(), ws.domains(), ws.prompts())
        )
        table.numbers = [int(s) for s in found.text_index]
        table.texts = [texts[s] for s in table.numbers]
        table.prompts = [prompts[s] for s in table.numbers] if prompts else ()
        every = [domains_of[s] for s in table.numbers]
        table.show_domains(every)
        domains = every if any(every) else ()
        table.drivers = await self.kl.reader.compute(lambda: found.drivers(a, b, domains))
        self._put_in_order()
        if not table.drivers.kl.value > 0:
            table.order = []
            table.note = f"A and B {'are the same checkpoint' if a == b else 'have equal vectors'}."

    def _put_in_order(self) -> None:
        table = self.texts
        if table.drivers is None:
            return
        order = table.drivers.order
        if table.order_name != "most":
            sign = -1.0 if table.order_name == "a" else 1.0
            order = order[(sign * table.drivers.difference[order]).argsort(kind="stable")]
        table.order, table.cursor, table.top = order.tolist(), 0, 0
        table.refresh()

    def _summary(self, width: int) -> list[list[Span]]:
        look, chosen, found = self.look, self.kl.selection, self.texts.drivers
        a, b = names_in(chosen.a or "not marked", chosen.b or "not marked", width - 7)
        lines: list[list[Span]] = [
            [
                ("A ", look("accent", bold=True)),
                (a, look("text" if chosen.a else "muted")),
                ("   B ", look("accent", bold=True)),
                (b, look("text" if chosen.b else "muted")),
            ]
        ]
        if found is None or self.found is None:
            return lines
        kl = found.kl
        if not kl.value > 0:
            return [*lines, [(self.texts.note, look("warning"))]]
        lines.append([("KL ", look("muted")), (with_error(kl.value, kl.se), look("text", bold=True))])
        lines.append([(position(self.found, kl.value), look("muted"))])
        lines += self._exact_line()
        half = found.texts_for_share(0.5)
        dropped = f", {kl.n_dropped} left out, B {kl.mean_bytes:.1f} bytes" if kl.n_dropped else ""
        lines.append([(f"half of it lies in {half} of {kl.n_texts} texts{dropped}", look("muted"))])
        rows = self.found.rows_of((chosen.a, chosen.b))
        if len(rows) == 2:  # else the map has been read again without one of them
            room = width - look.ascii_only  # ± takes two letters there
            lines.append([(means_said(self.found, rows[0], rows[1], room), look("muted"))])
        if found.domains:
            said = [f"  {safe_text(d.domain, 18)} {100 * d.share:.0f}%" for d in found.domains[:5]]
            while len(said) > 1 and cell_len("domains" + "".join(said)) > width:
                said.pop()
            lines.append([("domains", look("muted")), ("".join(said), look("text"))])
        return [shortened(line, width) for line in lines]

    def _exact_line(self) -> list[list[Span]]:
        """Lines with the exact KL in both directions, the estimate's ratio to their mean, and the top-1 agreement."""
        found, look = self.exact, self.look
        if found is None:
            return []
        there, back = (briefly(d.bits_per_byte, d.bits_per_byte_se) for d in (found.forward, found.reverse))
        times = f"estimate {figure(found.ratio)}x of their mean, " if math.isfinite(found.ratio) else ""
        same = f"same top token at {100 * found.top1_agreement:.0f}%"
        return [
            [("exact ", look("muted")), (there, look("text")), (f", back {back}", look("muted"))],
            [(f"{times}{same}", look("muted"))],
        ]

    async def _read_exact(self, a: str, b: str) -> None:
        """Shows the stored exact KL of A and B, if there is one."""
        found = None
        if a and b:
            # nothing is stored for a pair without vectors or not on one map
            with contextlib.suppress(KltuiError):
                found = await self.kl.reader.read(lambda ws: ws.exact_kl(a, b, compute=False))
        if (a, b) != (self.kl.selection.a, self.kl.selection.b):
            return
        self.exact = found
        self._fit_summary()
        self.summary.update_data()

    # -- one text -------------------------------------------------------------------------------

    @property
    def text_index(self) -> int:
        """Index in the map of the text under the cursor; -1 without one."""
        order = self.texts.order
        return order[self.texts.cursor] if self.texts.cursor < len(order) else -1

    def show_text(self) -> None:
        """Shows the text under the cursor, and its tokens once they are read."""
        self.lines = (None, None)
        self.reading.top = 0
        self.reading.update_data()
        self._ask_tokens()

    def _ask_tokens(self) -> None:
        index, chosen = self.text_index, self.kl.selection
        self._read_at = self.kl.snapshot.generation
        if index >= 0:
            self.run_worker(self._read_tokens(index, chosen.a, chosen.b), group="tokens", exclusive=True)

    async def _read_tokens(self, index: int, a: str, b: str) -> None:
        from kltui.tui.widgets.token_lines import read_text_tokens

        text, number = self.texts.texts[index], self.texts.numbers[index]
        shown = self.lines
        try:
            self.lines = (
                await self.kl.reader.read(lambda ws: read_text_tokens(ws, a, number, text)),
                await self.kl.reader.read(lambda ws: read_text_tokens(ws, b, number, text)),
            )
        except KltuiError as error:
            self.kl.complain(error)
        if self.lines != shown:  # most texts have no tokens
            self.reading.update_data()

    def _text(self, width: int) -> list[list[Span]]:
        index, look = self.text_index, self.look
        if index < 0:
            return []
        text = self.texts.texts[index]
        a, b = self.lines
        made: list[list[Span]] = [
            [
                (
                    f"text {self.texts.numbers[index]}, {len(text.encode(errors='surrogatepass'))} bytes",
                    look("muted"),
                )
            ],
            [],
            *self._prompt_lines(index, width),
        ]
        if a is None or b is None or not a.line.spans or not b.line.spans:
            made += flowed([(text, None)], width, lambda _: look("text"), breaks=False)
            why = "the tokens could not be aligned with this text"
            if a is None or b is None:
                why = "no token log-probabilities stored" + self._key_of_tokens()
            return [*made, [], *([(part, look("warning"))] for part in wrapped(why, max(10, width)))]
        return made + self._heat_lines(text, a, b, width)

    def _prompt_lines(self, index: int, width: int) -> list[list[Span]]:
        """Lines of the text's prompt, labelled as not scored; [] if the text is not a response."""
        look, prompts = self.look, self.texts.prompts
        if index >= len(prompts):
            return []
        made: list[list[Span]] = [[("prompt, not scored", look("accent", bold=True))]]
        for role, content in prompts[index]:
            made += flowed([(f"{role}: {content}", None)], width, lambda _: look("muted"), breaks=False)
        return [*made, [], [("response", look("accent", bold=True))]]

    def _heat_lines(self, text: str, a: TextTokens, b: TextTokens, width: int) -> list[list[Span]]:
        from kltui.tui.widgets.token_lines import colored_runs

        look = self.look
        blocks: list[list[Span]] = []
        of, of_b = a.parts[-1].of, b.parts[-1].of
        if a.line.spans == b.line.spans and of == of_b:
            runs = colored_runs(text, a.line, a.line.logprobs.astype(float) - b.line.logprobs.astype(float))
            title: list[Span] = [(f"A − B {of} ".replace("  ", " "), look("accent", bold=True))]
            plain = "bold: A is better by over 1 nat, underlined: B is"
            title.append(("orange: A is better, blue: B is better" if look.color else plain, look("muted")))
            blocks += [title, *flowed(runs, width, self._gap), []]
        for label, tokens in (("A", a), ("B", b)):
            for part in tokens.parts:
                blocks += [*self._part_lines(label, part, text, width), []]
            if tokens.lacking:
                lacking = f"{label}: {tokens.lacking} of single tokens is not stored" + self._key_of_tokens()
                blocks += [*flowed([(lacking, None)], width, lambda _: look("warning")), []]
        return blocks

    def _part_lines(self, label: str, part: Part, text: str, width: int) -> list[list[Span]]:
        """Lines with a part's name and total, then its coloured tokens."""
        from kltui.tui.widgets.token_lines import colored_runs

        look, style = self.look, self._gap if part.signed else self._surprise
        if look.color:
            means = "orange: the prompt helps" if part.signed else "brighter: more surprising"
        else:
            means = "bold: the prompt helps" if part.signed else f"bold: over {BOLD_NATS:g} nats"
        head = [
            (f"{label} {part.of}".rstrip(), look("accent", bold=True)),
            (f" {fixed(part.total, 1)} nats, {means}", look("muted")),
        ]
        runs = colored_runs(text, part.line, part.line.logprobs.astype(float))
        return [head, *flowed(runs, width, style)]

    def _surprise(self, value: float | None) -> Style:
        if value is None:
            return self.look("faint")
        color = heat(min(1.0, -value / WORST_NATS) * 0.999)
        return (
            self.look(ink_on(color), color) if self.look.color else self.look("text", bold=value < -BOLD_NATS)
        )

    def _gap(self, value: float | None) -> Style:
        if value is None:
            return self.look("faint")
        color = difference(math.copysign(min(1.0, abs(value) / 3.0), value))
        if self.look.color:
            return self.look(ink_on(color), color)
        return self.look("text", bold=value > 1, underline=value < -1)

    def _key_of_tokens(self) -> str:
        """The key that scores tokens, where jobs may be started."""
        return "" if self.kl.read_only else f"; press {self.kl.key('tokens')} to score them"

    # -- keys -----------------------------------------------------------------------------------

    def do_next_match(self) -> None:
        self.texts.go(self.texts.cursor + 1)

    def do_previous_match(self) -> None:
        self.texts.go(self.texts.cursor - 1)

    def do_order_texts(self) -> None:
        table = self.texts
        table.order_name = ORDERS[(ORDERS.index(table.order_name) + 1) % len(ORDERS)]
        table.refresh()  # the title names the order, also while nothing is compared yet
        self._put_in_order()
        self.show_text()
        if not table.order:
            self.kl.say("no texts to order: A and B have no KL yet", "warning")

    def do_tokens(self) -> None:
        """Shows a job that scores A and B again and stores the log-probabilities of tokens."""
        chosen, rows = self.kl.selection, self.kl.snapshot.by_name
        both = [rows[n] for n in (chosen.a, chosen.b) if n in rows]
        corpus, scoring = jobs_start.usual_tables(self.kl.snapshot.jobs)
        if len(both) < 2 or not corpus:
            self.kl.say(
                "no job of this workspace says where its texts come from, so none can score their tokens"
                if len(both) == 2
                else "mark A and B first",
                "warning",
            )
            return
        asked = {"tokens": True} | ({"unconditional": True} if self.kl.reader.values != CONDITIONAL else {})
        jobs_start.offer(self.kl, jobs_start.entries_of(both), corpus, scoring | asked)

    def do_exact(self) -> None:
        """Starts a short job that computes the exact next-token KL of A and B; it continues when the interface quits."""
        chosen, path = self.kl.selection, self.kl.reader.path
        if not (chosen.a and chosen.b) or path is None:
            self.kl.say("mark A and B first", "warning")
        elif self.exact is not None:
            self.kl.say("the exact KL of A and B is already shown", "good")
        elif self._working_out:
            self.kl.say("an exact KL is already being computed", "warning")
        else:
            self.kl.run_worker(self._work_out(path, chosen.a, chosen.b), group="exact job", exclusive=True)

    async def _work_out(self, path: Path, a: str, b: str) -> None:
        from kltui.jobs.launch import start_exact

        try:
            # the same checks and messages as in the report, before a process is started
            await self.kl.reader.read(lambda ws: ws.check_exact(a, b))
            over = await self.kl.reader.read(lambda ws: ws.over)
            job = await asyncio.to_thread(start_exact, path, a, b, over, self.kl.reader.values)
        except KltuiError as error:
            self.kl.complain(error)
            return
        await self._watch(job)
        await self._read_exact(a, b)
        if self.exact is not None:
            self.kl.say("the exact KL is stored in the workspace", "good")
        else:
            self.kl.say(job.complaint() or f"the exact KL could not be computed: {job.log}", "bad")

    async def _watch(self, job: Detached) -> None:
        """Shows the progress of a short job until it ends."""
        self._working_out = True
        try:
            while await asyncio.to_thread(job.runs):
                self.kl.busy_with((job.lines() or ["exact KL: starting …"])[-1])
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._working_out = False
            self.kl.busy_with("")

    def cursor_moved(self) -> None:
        """Does nothing: A and B do not depend on the cursor."""

    def shown_figure(self) -> ShownSubject | None:
        """The figure of the texts' parts of the KL."""
        from kltui.figures.shown import ShownSubject

        chosen = self.kl.selection
        return ShownSubject("drivers", pair=(chosen.a, chosen.b)) if self.texts.order else None

    def _compared(self) -> TextComparison | None:
        """The comparison on screen, for exports; None while it is computed."""
        table, chosen = self.texts, self.kl.selection
        if table.drivers is None or self.found is None or self._of != (chosen.a, chosen.b):
            return None
        return TextComparison(
            chosen.a,
            chosen.b,
            self.found,
            table.drivers,
            table.order,
            table.texts,
            table.domains,
            table.numbers,
        )

    def csv_rows(self) -> list[list[object]]:
        """The rows of `TextComparison`."""
        found = self._compared()
        return found.rows() if found else [list(COLUMNS_WRITTEN)]

    def text_lines(self) -> list[str]:
        """The lines of `TextComparison`; [] while it is computed."""
        found = self._compared()
        return found.lines() if found else []

    def copied(self) -> str:
        """The text under the cursor."""
        return self.texts.texts[self.text_index] if self.text_index >= 0 else ""


def flowed(
    runs: Sequence[tuple[str, float | None]],
    width: int,
    style_of: Callable[[float | None], Style],
    *,
    breaks: bool = True,
) -> list[list[Span]]:
    """(text, value) pieces as lines of at most `width` cells, each styled by its value, broken at spaces if possible.

    The text's own line breaks are kept, and shown by a sign if `breaks`.
    """
    lines: list[list[Span]] = [[]]
    used = 0
    for text, value in runs:
        style = style_of(value)
        for i, part in enumerate(text.split("\n")):
            if i:
                lines[-1].append(("⏎" if breaks else "", style))
                lines.append([])
                used = 0
            for char in safe_text(part):
                cells = cell_len(char)
                # the last cell is for a space, or the sign of a line break
                if used + cells > width - (char != " "):
                    lines.append(_word_begun(lines[-1]))
                    used = width_of(lines[-1])
                lines[-1].append((char, style))
                used += cells
    return lines


def _word_begun(line: list[Span]) -> list[Span]:
    """Removes the last, incomplete word from a full line and returns it; [] if the line is only that word and its indent."""
    at = len(line)
    while at and line[at - 1][0] != " ":
        at -= 1
    if not any(char != " " for char, _ in line[:at]):
        return []
    line[at:], word = [], line[at:]
    return word


VIEW = CompareView
