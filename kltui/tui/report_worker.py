"""Computes the report's sections in a separate process: a pickled `ReportRequest` per section on stdin, progress and results on stdout.

The interface stays responsive meanwhile. SIGINT cancels the current section; the map and whatever else was
computed for it are kept for the next one.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kltui.errors import KltuiError
from kltui.tui.basis import Basis

if TYPE_CHECKING:
    from rich.segment import Segment

    from kltui.view.sections.context import Context
    from kltui.view.sections.section import Section

SAID, MADE, REFUSED, BROKEN_OFF = "said", "made", "refused", "cancelled"


@dataclass(frozen=True)
class Looked:
    """What a report's reader looks at, as its `Choice` has it; `stored`: nothing is computed that the workspace would keep."""

    pair: tuple[str, str] | None = None
    where: float | None = None
    level: float | None = None
    noise_corrected: bool = False
    stored: bool = False


@dataclass(frozen=True)
class Subject:
    """What a report is made of: a workspace, its map's basis and values, and what its reader looks at."""

    path: Path
    basis: Basis = field(default_factory=Basis)
    values: str = "conditional"
    looked: Looked = field(default_factory=Looked)
    version: int = 0  # of the vectors: the workspace is read anew where it has changed


@dataclass(frozen=True)
class Paper:
    """The output format of lines: columns, colour, ASCII only."""

    width: int
    color: bool = True
    ascii_only: bool = False


@dataclass(frozen=True)
class ReportRequest:
    """A section of a report that is wanted, laid out for some paper."""

    subject: Subject
    section: str
    paper: Paper


@dataclass(frozen=True)
class Made:
    """A section: "shown", "missing" or "failed", in one line, as `--report` lays it out, as rows for CSV and as data."""

    status: str
    headline: str
    paper: Paper
    lines: list[list[Segment]]
    rows: list[list[object]]
    data: dict[str, object]


class BrokenOff(BaseException):
    """Another section is wanted first."""


@dataclass
class ReportAnswers:
    """Makes sections, the map and distances of one subject once for all of them."""

    out: BinaryIO
    busy: bool = False  # whether what is under way may be cancelled
    _subject: Subject | None = None
    _context: Context | None = field(default=None, repr=False)
    _sections: dict[str, Section] = field(default_factory=dict)

    def put(self, kind: str, value: object) -> None:
        """Writes one message, whole."""
        busy, self.busy = self.busy, False
        pickle.dump((kind, value), self.out)
        self.out.flush()
        self.busy = busy

    def break_off(self, *_: object) -> None:
        """Raises BrokenOff where a section is computed: the handler of SIGINT."""
        if self.busy:
            self.busy = False
            raise BrokenOff

    def answer(self, asked: ReportRequest) -> None:
        """Writes progress and the section, or the reason why there is none."""
        try:
            self.busy = True
            section = self._section(asked)
            self.busy = False
            self.put(MADE, _laid_out(section, asked.paper))
        except KltuiError as error:
            self.busy = False
            self.put(REFUSED, (error.message, error.hint))
        except BrokenOff:
            self.put(BROKEN_OFF, None)

    def _section(self, asked: ReportRequest) -> Section:
        from kltui.view.report import section_on

        context = self._context_of(asked.subject)
        if asked.section not in self._sections:
            self._sections[asked.section] = section_on(context, asked.section)
        return self._sections[asked.section]

    def _context_of(self, subject: Subject) -> Context:
        from kltui.view.report import check_choice
        from kltui.view.sections.context import Context
        from kltui.workspace import Workspace

        if self._context is not None and subject == self._subject:
            return self._context
        if self._context is not None:
            self._context.ws.close()
        self._context, self._sections = None, {}
        workspace = Workspace.open(subject.path, values=subject.values)
        subject.basis.apply(workspace)
        choice = subject.basis.choice(workspace, **asdict(subject.looked))
        context = Context(workspace, choice, self._say)
        check_choice(context)
        self._context, self._subject = context, subject
        return context

    def _say(self, text: str) -> None:
        self.put(SAID, text)


def _laid_out(section: Section, paper: Paper) -> Made:
    from kltui.view.report import headline, plain, section_data, section_lines

    lines = section_lines(section, paper.width, color=paper.color, ascii_only=paper.ascii_only)
    data = {str(k): plain(v) for k, v in section_data(section).items()}
    rows = rows_of_data({str(k): plain(v) for k, v in section.data.items()})
    return Made(section.status, headline(section), paper, lines, rows, data)


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


def main() -> int:
    """Answers until stdin ends."""
    os.nice(5)
    answers = ReportAnswers(os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    signal.signal(signal.SIGINT, answers.break_off)
    # Whatever else writes to standard output must not come between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _answer_all(answers.answer)
    return 0


def _answer_all(answer: Callable[[ReportRequest], None]) -> None:
    while True:
        try:
            asked = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer(asked)
