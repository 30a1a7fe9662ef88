"""The Report screen: every section of `kltui --report`, computed when it is selected, with its options."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.color import Color
from rich.style import Style

from kltui.errors import KltuiError
from kltui.sanitize import safe_text
from kltui.tui.dialogs.forms import Answers, Field, Form
from kltui.tui.report_source import ReportProcess
from kltui.tui.report_worker import Looked, Made, Paper, ReportRequest, Subject
from kltui.tui.views.base import WIDE, WIDEST, ColumnOfPanes, View
from kltui.tui.views.welcome import empty_line, welcome
from kltui.tui.widgets.canvas import Span, TextPane, strip_of, wrapped
from kltui.tui.widgets.table import Cell, Column, Table
from kltui.view.palette import DARK
from kltui.view.section_words import USED_BY, WORDS

if TYPE_CHECKING:
    from rich.segment import Segment

LIST_WIDTH, WIDE_LIST = 22, 76  # width of the list with names alone, and with a line about each section
NARROWEST = 80  # least width for which a section is formatted; a narrower pane scrolls sideways
SIDEWAYS = 8
SETTLE_S = 0.12  # delay, so that sections that the cursor only passes are not computed
MARKS = {"shown": ("●", "*", "good"), "missing": ("–", "-", "faint"), "failed": ("✗", "x", "bad"),
         "stale": ("◌", ":", "warning"), "": ("○", ".", "muted")}  # fmt: skip


class SectionList(Table):
    """The sections with their states."""

    title = "Sections"
    columns = (Column("section", 16), Column("", 16, share=1, rank=1))

    def __init__(self) -> None:
        super().__init__(id="section-list")

    @property
    def names(self) -> list[str]:
        """The names of all sections in the report's order; [] if nothing can be reported yet."""
        return [] if welcome(self.kl) else list(WORDS)

    def row_count(self) -> int:
        return len(self.names)

    def header_right(self) -> list[Span]:
        """The number of the section under the cursor and of all sections, if they do not fit."""
        count = self.row_count()
        if count < self.body_height:
            return []
        return [(f"{self.cursor + 1}/{count}", self.look("faint"))]

    def _empty_line(self, y: int) -> list[Span]:
        """What to do first, unless the wider pane beside the list says so."""
        return [] if self.kl.size.width >= WIDE else empty_line(self, y)

    def cells(self, index: int) -> Sequence[Cell]:
        view, name = self.kl.view, self.names[index]
        state, words = view.said_of(name) if isinstance(view, ReportView) else ("", WORDS[name])
        fancy, plain, ink = MARKS[state]
        name_ink = "muted" if state in ("", "missing") else "text"
        return [
            Cell("", parts=((self.look.glyph(fancy, plain), ink), (f" {name:<14}", name_ink))),
            Cell(words, "faint" if state == "" else "muted" if state == "shown" else ink),
        ]

    def moved(self) -> None:
        """Shows the section, and its number."""
        self.redraw_focus()
        names = self.names
        if names and isinstance(self.kl.view, ReportView):
            self.kl.view.look_at(names[self.cursor])

    def do_enter(self) -> None:
        """Moves the focus to the text."""
        if self.names and isinstance(self.kl.view, ReportView):
            self.kl.view.focus_on(self.kl.view.text)


class SectionText(TextPane):
    """The section's lines, which scroll sideways if they are wider than the pane."""

    left = 0

    def body_line(self, y: int) -> Sequence[Span]:
        """The line at `y`, from column `left` on."""
        line = super().body_line(y)
        if not self.left or not line:
            return line
        whole = strip_of(line, sum(cell_len(text) for text, _ in line), self.look())
        seen = whole.crop(self.left, max(self.left, whole.cell_length))
        return [(text, style or self.look()) for text, style, _ in seen]

    def move(self, columns: int) -> None:
        """Scrolls sideways by so many columns, within the text."""
        widest = max((sum(cell_len(t) for t, _ in line) for line in self.all_lines()), default=0)
        left = max(0, min(widest - self.body_width, self.left + columns))
        if left != self.left:
            self.left = left
            self.refresh()

    def on_resize(self) -> None:
        """Keeps both scroll positions within the text."""
        self.move(0)
        super().on_resize()

    def do_right(self) -> None:
        self.move(SIDEWAYS)

    def do_left(self) -> None:
        self.move(-SIDEWAYS)


class ReportView(View):
    """The list of sections, and the text of the selected one."""

    screen_name = "report"

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self.source = ReportProcess()
        self.shown = ""
        self.sections: dict[str, tuple[Subject, Made]] = {}
        self.asked: ReportRequest | None = None  # the last request
        self.complaints: dict[str, tuple[Subject, KltuiError]] = {}
        self.where: float | None = None
        self.level: float | None = None
        self.noise_corrected = False
        self.said = ""
        self.list, self.text = SectionList(), SectionText("Report", self._lines)
        return [ColumnOfPanes([self.list], width=LIST_WIDTH, minimum=120), ColumnOfPanes([self.text])]

    def __init__(self) -> None:
        super().__init__()
        self.focus_pane = self.list

    def do_out(self) -> bool:
        """Moves the focus back to the list; False if it is there already."""
        if self.focus_pane is self.list:
            return False
        self.focus_on(self.list)
        return True

    # -- requests -------------------------------------------------------------------------------

    def looked(self) -> Looked:
        """The user's choices: A and B as the pair, and the options of the form."""
        marks = self.kl.selection
        pair = (marks.a, marks.b) if marks.a and marks.b else None
        return Looked(pair, self.where, self.level, self.noise_corrected, self.kl.read_only)

    def subject(self) -> Subject:
        """The present subject of the report."""
        reader = self.kl.reader
        assert reader.path is not None
        return Subject(reader.path, reader.basis, reader.values, self.looked(), self.kl.map_cache.version)

    def paper(self) -> Paper:
        """The present output format."""
        return Paper(max(NARROWEST, self.text.body_width), self.look.color, self.kl.ascii_only)

    def said_of(self, name: str) -> tuple[str, str]:
        """(state of a section, one line about it: its headline, why it is missing or failed, or what it would show)."""
        state = self.state_of(name)
        if state == "failed" and (wrong := self._complaint_of(name)):
            return state, f"failed: {wrong.message}"
        found = self.sections.get(name)
        if found is None:
            return state, WORDS[name]
        head = {"missing": "missing: ", "failed": "failed: ", "stale": "older: "}.get(state, "")
        return state, safe_text(head + (found[1].headline or WORDS[name]), 200)

    def state_of(self, name: str) -> str:
        """ "shown", "missing", "failed", "stale" (from older vectors or other choices), or "" if not computed yet."""
        found = self.sections.get(name)
        if found is None:
            return "failed" if self._complaint_of(name) else ""
        return found[1].status if _same(name, found[0], self.subject()) else "stale"

    def _complaint_of(self, name: str) -> KltuiError | None:
        """The error because of which a section could not be computed from the present vectors and choices."""
        found = self.complaints.get(name)
        return found[1] if found is not None and _same(name, found[0], self.subject()) else None

    def look_at(self, name: str) -> None:
        """Shows a section, and computes it if it has not been computed."""
        if name != self.shown:
            self.shown, self.text.top, self.text.left = name, 0, 0
        self.text.title = "KL" if name == "kl" else name.capitalize()
        if self.kl.reader.path is not None and self._is_wanting(name):
            self._compute(settle=SETTLE_S)
        self.text.update_data()

    def _is_wanting(self, name: str) -> bool:
        """Whether a section is not computed, or showed nothing under other choices, which may be why."""
        state = self.state_of(name)
        return state == "" or (state == "stale" and self.sections[name][1].status != "shown")

    def _compute(self, *, settle: float = 0.0) -> None:
        self.said = "computing"
        self.asked = ReportRequest(self.subject(), self.shown, self.paper())
        self.run_worker(self._load(self.asked, settle), group="report", exclusive=True)
        self.text.update_data()

    async def _load(self, asked: ReportRequest, settle: float) -> None:
        await asyncio.sleep(settle)
        self.complaints.pop(asked.section, None)
        try:
            found = await self.source.section(asked, self._say)
        except KltuiError as error:
            self.complaints[asked.section] = asked.subject, error
            self.sections.pop(asked.section, None)
        else:
            self.sections[asked.section] = asked.subject, found
        if self.asked is asked:
            self.said = ""
        self.list.refresh()
        self.text.update_data()

    def _lay_out_anew(self) -> None:
        """Requests the section again in the present format if it has another one."""
        found = self.sections.get(self.shown)
        if found is None or self.said or found[1].paper == self.paper():
            return
        if self.state_of(self.shown) == "stale":
            return
        self.said = "formatting"
        self.asked = ReportRequest(self.subject(), self.shown, self.paper())
        self.run_worker(self._load(self.asked, 0.0), group="report", exclusive=True)

    def _say(self, text: str) -> None:
        self.said = safe_text(text)
        self.text.update_data()

    def update_data(self) -> None:
        """Updates the panes; computed sections stay, and the list marks those that are stale."""
        super().update_data()
        names = self.list.names
        if names and not self.shown:
            self.look_at(names[self.list.cursor])
        elif names and not self.said and self._is_wanting(self.shown):
            self.look_at(self.shown)

    def do_refresh(self) -> bool:
        """Computes the section again; False, so that the application reads the workspace again too."""
        if self.shown and self.list.names:
            self._compute()
        return False

    def do_choices(self) -> None:
        """Opens the form for the report's options."""
        fields = [
            Field("where", _text(self.where), "a KL in bits/byte: which settings have a KL of this size"),
            Field("level", _text(self.level), "a KL in bits/byte: when runs stay below it (stabilisation)"),
            Field(
                "noise",
                "yes" if self.noise_corrected else "no",
                "yes: subtract the noise floor before fitting exponents",
            ),
            Field("draw", "", "number of texts to draw for new models, as --draw N"),
        ]

        def answered(answers: Answers | None) -> None:
            if answers is not None:
                self.where, self.level = _number(answers["where"]), _number(answers["level"])
                self.noise_corrected = answers["noise"].strip().lower() in ("yes", "y", "true", "1")
                self._compute()
                if answers["draw"].strip():
                    self.run_worker(self._draw_texts(int(answers["draw"])), group="draw", exclusive=True)

        hints = (
            "noise: yes or no; yes subtracts the noise floor before fitting exponents",
            f"The pair is A and B; press {self.kl.key('basis')} for corpus, preprocessing and maps.",
        )
        self.app.push_screen(Form("Options of the report", fields, _complaint, hints), answered)

    async def _draw_texts(self, n: int) -> None:
        """Draws n texts of the shown map and stores them, as `--draw` does."""
        from kltui.workspace.subsample import draw_texts

        if self.kl.read_only:
            self.kl.say("opened with --read-only: no texts can be drawn", "warning")
            return
        self.kl.busy_with(f"drawing {n} texts")
        try:
            found = await self.kl.map_cache.map()
            path, made = await self.kl.reader.read(lambda ws: draw_texts(ws, found, n))
        except KltuiError as error:
            self.kl.complain(error)
            return
        finally:
            self.kl.busy_with("")
        counts = f"{made.n_drawn} draws, {len(made.index)} different of {made.n_texts} texts"
        self.kl.say(f"{counts}: a job with the corpus {path} scores new models for this map", "good")
        if self.shown == "added":
            self._compute()

    # -- text -----------------------------------------------------------------------------------

    def _lines(self, width: int) -> list[list[Span]]:
        look = self.look
        if not self.list.names:
            return [
                [("  " + part, look(ink))]
                for ink, text in welcome(self.kl)
                for part in wrapped(text, max(10, width - 4)) or [""]
            ]
        if not self.shown:
            return []
        lines: list[list[Span]] = []
        self.call_after_refresh(self._lay_out_anew)
        if self.said:
            lines += [[(part, look("warning"))] for part in wrapped(f"{self.said} …", max(10, width))]
        elif self.state_of(self.shown) == "stale":
            words = f"outdated (older vectors or other options): press {self.kl.key('refresh')} to compute it again"
            lines += [[(part, look("warning"))] for part in wrapped(words, max(10, width))]
        if (wrong := self._complaint_of(self.shown)) and not self.said:
            lines += [[(part, look("bad"))] for part in wrapped(wrong.message, max(10, width))]
            lines += [[(part, look("muted"))] for part in wrapped(wrong.hint or "", max(10, width))]
        if self.shown not in self.sections:
            words = WORDS[self.shown]
            return [*lines, [], *([(part, look("muted"))] for part in wrapped(words, max(10, width)))]
        return lines + [self._spans(line) for line in self.sections[self.shown][1].lines]

    def _spans(self, line: Sequence[Segment]) -> list[Span]:
        base = self.look()
        return [(text, base + self._inked(style) if style else base) for text, style, _ in line if text]

    def _inked(self, style: Style) -> Style:
        """The style in the present palette: reports use the colours of the dark one, and dim text for faint text."""
        if style.dim and self.look.color:  # terminals render dim text differently
            style += Style(dim=False, color=Color.from_ansi(self.look.index("faint")))
        number = style.color.number if style.color is not None else None
        if number not in DARK.series or self.look.palette is DARK:
            return style
        own = self.look.palette.series[DARK.series.index(number)]
        return style + Style(color=Color.from_ansi(own))

    def make_room(self, width: int) -> None:
        """Makes the list wide enough for a line about each section if there is room."""
        self.columns[0] = self.columns[0]._replace(width=WIDE_LIST if width >= WIDEST else LIST_WIDTH)
        super().make_room(width)

    def copied(self) -> str:
        """The section as text."""
        return "\n".join(self.text_lines())

    def text_lines(self) -> list[str]:
        """The section as `--report` writes it."""
        found = self.sections.get(self.shown)
        return found[1].text if found else []

    def csv_rows(self) -> list[list[object]]:
        """Rows of the section's data as in `report_worker.rows_of_data`."""
        found = self.sections.get(self.shown)
        return found[1].rows if found else []

    def json_data(self) -> dict[str, object]:
        """{name of the section: its data}, as under "sections" in `--report --json`."""
        found = self.sections.get(self.shown)
        return {self.shown: found[1].data} if found else {}

    def on_unmount(self) -> None:
        """Ends the computing process."""
        self.source.end()


def _same(name: str, one: Subject, other: Subject) -> bool:
    """Whether a section shows the same for two subjects: equal, but for choices that it does not use."""
    unused = {f: getattr(other.looked, f) for f, users in USED_BY.items() if name not in users}
    if name == "where" and other.looked.where is not None:
        unused["pair"] = other.looked.pair
    return one == other or replace(one, looked=replace(one.looked, **unused)) == other


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _number(text: str) -> float | None:
    return float(text) if text.strip() else None


def _complaint(answers: Answers) -> str:
    for name in ("where", "level"):
        try:
            value = _number(answers[name])
        except ValueError:
            return f"{name}: {safe_text(answers[name], 30)} is not a number"
        if value is not None and not (math.isfinite(value) and value >= 0):
            return f"{name}: a KL must be a number of at least 0"
    drawn = answers["draw"].strip()
    if drawn and not (drawn.isascii() and drawn.isdigit() and int(drawn)):
        return f"draw: {safe_text(drawn, 30)} is not a number of texts"
    return ""


VIEW = ReportView
