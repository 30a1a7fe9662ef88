"""Report: every section of `kltui --report`, computed as it is looked at, and what its reader chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kltui.errors import KltuiError
from kltui.safe import safe_text
from kltui.tui.canvas import Span, TextPane, wrapped
from kltui.tui.forms import Answers, Field, Form
from kltui.tui.report_source import ReportProcess
from kltui.tui.report_worker import Asked, Subject
from kltui.tui.table import Cell, Column, Table
from kltui.tui.views.base import ColumnOfPanes, View
from kltui.tui.views.welcome import empty_line, welcome

if TYPE_CHECKING:
    from rich.segment import Segment

    from kltui.view.sections.context import Choice
    from kltui.view.sections.section import Section

LIST_WIDTH = 36
MARKS = {"shown": ("●", "*", "good"), "missing": ("–", "-", "faint"), "failed": ("✗", "x", "bad"),
         "stale": ("◌", ":", "warning"), "": ("○", ".", "muted")}  # fmt: skip


class SectionList(Table):
    """The sections with what became of each."""

    title = "Sections"
    columns = (Column("section", 16), Column("", 16, share=1, rank=1))

    def __init__(self) -> None:
        super().__init__(id="section-list")

    @property
    def names(self) -> list[str]:
        """Every section, in the report's order; [] where there is nothing to report on."""
        from kltui.view.report import section_names

        return [] if welcome(self.kl) else section_names()

    def row_count(self) -> int:
        return len(self.names)

    def _empty_line(self, y: int) -> list[Span]:
        return empty_line(self, y)

    def cells(self, index: int) -> Sequence[Cell]:
        view, name = self.kl.view, self.names[index]
        state = view.state_of(name) if isinstance(view, ReportView) else ""
        fancy, plain, ink = MARKS[state]
        words = {"": "", "stale": "older vectors", "missing": "not here", "failed": "failed"}.get(state, "")
        return [
            Cell(f"{self.look.glyph(fancy, plain)} {name}", "muted" if state in ("", "missing") else "text"),
            Cell(words, ink),
        ]

    def moved(self) -> None:
        """Shows the section."""
        if isinstance(self.kl.view, ReportView):
            self.kl.view.look_at(self.names[self.cursor])

    def do_enter(self) -> None:
        """Goes to the text."""
        if self.names and isinstance(self.kl.view, ReportView):
            self.kl.view.focus_on(self.kl.view.text)


class ReportView(View):
    """The list of sections, and the one that is looked at."""

    screen_name = "report"

    def make_columns(self) -> Sequence[ColumnOfPanes]:
        self.source = ReportProcess()
        self.shown = ""
        self.sections: dict[str, tuple[Subject, Section]] = {}
        self.complaints: dict[str, tuple[Subject, KltuiError]] = {}
        self.where: float | None = None
        self.level: float | None = None
        self.noise_corrected = False
        self.said = ""
        self.list, self.text = SectionList(), TextPane("Report", self._lines)
        return [ColumnOfPanes([self.list], width=LIST_WIDTH, least=120), ColumnOfPanes([self.text])]

    def __init__(self) -> None:
        super().__init__()
        self.focus_pane = self.list

    def do_out(self) -> bool:
        """Steps back to the list."""
        if self.focus_pane is self.list:
            return False
        self.focus_on(self.list)
        return True

    # -- what is asked for ----------------------------------------------------------------------

    def choice(self) -> Choice:
        """What the reader chose: the marks as the pair, and the lines of the form."""
        from kltui.view.sections.context import Choice

        marks = self.kl.selection
        pair = (marks.a, marks.b) if marks.a and marks.b else None
        return replace(
            Choice(), pair=pair, where=self.where, level=self.level, noise_corrected=self.noise_corrected
        )

    def subject(self) -> Subject:
        """What the report is made of now."""
        reader = self.kl.reader
        assert reader.path is not None
        return Subject(reader.path, reader.basis, reader.values, self.choice(), self.kl.atlas.version)

    def state_of(self, name: str) -> str:
        """ "shown", "missing", "failed", "stale" (made of older vectors or other choices), or "" where it was not asked for."""
        found = self.sections.get(name)
        if found is None:
            return "failed" if name in self.complaints else ""
        return found[1].status if found[0] == self.subject() else "stale"

    def look_at(self, name: str) -> None:
        """Shows a section, computing it where it is not there yet."""
        if name != self.shown:
            self.shown, self.text.top = name, 0
        self.text.title = {"kl": "KL"}.get(name, name.capitalize())
        if self.kl.reader.path is not None and self.state_of(name) == "":
            self._compute()
        self.text.update_data()

    def _compute(self) -> None:
        self.said = "computing"
        self.run_worker(self._load(Asked(self.subject(), self.shown)), group="report", exclusive=True)
        self.text.update_data()

    async def _load(self, asked: Asked) -> None:
        self.complaints.pop(asked.section, None)
        try:
            found = await self.source.section(asked, self._say)
        except KltuiError as error:
            self.complaints[asked.section] = asked.subject, error
            self.sections.pop(asked.section, None)
        else:
            self.sections[asked.section] = asked.subject, found
        self.said = ""
        self.list.refresh()
        self.text.update_data()

    def _say(self, text: str) -> None:
        self.said = safe_text(text)
        self.text.update_data()

    def update_data(self) -> None:
        """Goes on showing what was made; what it was made of may have changed since, which the list says."""
        super().update_data()
        names = self.list.names
        if names and not self.shown:
            self.look_at(names[self.list.cursor])

    def do_refresh(self) -> bool:
        """Computes the section again; the workspace is read again too."""
        if self.shown and self.list.names:
            self._compute()
        return False

    def do_choices(self) -> None:
        """Asks for what the sections look at beside the marks."""
        fields = [
            Field("where", _text(self.where), "a KL in bits/byte: which pairs are about so far apart"),
            Field(
                "level", _text(self.level), "a KL in bits/byte: when did runs come below it (stabilisation)"
            ),
            Field("noise", "yes" if self.noise_corrected else "no", "yes: noise floor off before exponents"),
        ]

        def answered(answers: Answers | None) -> None:
            if answers is not None:
                self.where, self.level = _number(answers["where"]), _number(answers["level"])
                self.noise_corrected = answers["noise"].strip().lower() in ("yes", "y", "true", "1")
                self._compute()

        hint = "The pair is that of the marks A and B; f chooses corpus, preparation and maps."
        self.app.push_screen(Form("What the report looks at", fields, _complaint, (hint,)), answered)

    # -- what is shown --------------------------------------------------------------------------

    def _lines(self, width: int) -> list[list[Span]]:
        from kltui.view.report import section_lines, section_words

        look = self.look
        if not self.shown or not self.list.names:
            return []
        lines: list[list[Span]] = []
        if self.said:
            lines += [[(part, look("warning"))] for part in wrapped(f"{self.said} …", max(10, width))]
        elif self.state_of(self.shown) == "stale":
            words = "made of older vectors or other choices: r computes it again"
            lines += [[(part, look("warning"))] for part in wrapped(words, max(10, width))]
        if (wrong := self.complaints.get(self.shown)) and not self.said:
            lines += [[(part, look("bad"))] for part in wrapped(wrong[1].message, max(10, width))]
            lines += [[(part, look("muted"))] for part in wrapped(wrong[1].hint or "", max(10, width))]
        if self.shown not in self.sections:
            return [
                *lines,
                [],
                *([(part, look("muted"))] for part in wrapped(section_words(self.shown), max(10, width))),
            ]
        section = self.sections[self.shown][1]
        made = section_lines(section, max(40, width), color=look.color, ascii_only=self.kl.ascii_only)
        return lines + [self._spans(line) for line in made]

    def _spans(self, line: Sequence[Segment]) -> list[Span]:
        base = self.look()
        return [(text, base + style if style else base) for text, style, _ in line if text]

    def copied(self) -> str:
        """The section as text."""
        return "\n".join("".join(text for text, _ in line) for line in self._lines(100))

    def csv_rows(self) -> list[list[object]]:
        """The longest list of the section's data, a row each; else its single values."""
        found = self.sections.get(self.shown)
        return rows_of_data(found[1].data) if found else []

    def on_unmount(self) -> None:
        """Ends the process that computes."""
        self.source.end()


def rows_of_data(data: dict[str, object]) -> list[list[object]]:
    """Rows for CSV, titles first, of a section's data: its longest list of records, else its single values.

    >>> rows_of_data({"unit": "nats", "runs": [{"a": 1, "b": [2]}, {"a": 3}]})
    [['a'], [1], [3]]
    """
    lists = [v for v in data.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
    if not lists:
        single: list[list[object]] = [[k, v] for k, v in data.items() if isinstance(v, str | int | float)]
        return [["name", "value"], *single] if single else []
    records = max(lists, key=len)
    titles = [k for k in records[0] if all(_is_single(r.get(k)) for r in records)]
    return [titles, *([r.get(k) for k in titles] for r in records)]


def _is_single(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _number(text: str) -> float | None:
    return float(text) if text.strip() else None


def _complaint(answers: Answers) -> str:
    for name in ("where", "level"):
        try:
            value = _number(answers[name])
        except ValueError:
            return f"{name}: {safe_text(answers[name], 30)} is no number"
        if value is not None and not (math.isfinite(value) and value >= 0):
            return f"{name}: a KL is a number from 0 up"
    return ""


VIEW = ReportView
