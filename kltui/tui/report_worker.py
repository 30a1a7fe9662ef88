"""Computes sections of the report in a separate process.

Stdin has a pickled `ReportRequest` for each section, stdout gets progress and results. SIGINT cancels the current
section; the map and what else was computed are kept for the next one.
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
from kltui.threads import HELPER_NICENESS
from kltui.tui.basis import Basis

if TYPE_CHECKING:
    from types import FrameType

    from rich.segment import Segment

    from kltui.view.sections.context import Context
    from kltui.view.sections.section import Section

AGAIN_S = 0.005  # after which an interrupted import is looked at again
SAID, MADE, REFUSED, BROKEN_OFF = "said", "made", "refused", "cancelled"


@dataclass(frozen=True)
class Looked:
    """Fields of ReportChoice that the user sets on the Report screen.

    `stored`: results that the workspace stores are only read, not computed.
    """

    pair: tuple[str, str] | None = None
    where: float | None = None
    level: float | None = None
    noise_corrected: bool = False
    stored: bool = False


@dataclass(frozen=True)
class Subject:
    """The subject of a report: a workspace, the map's basis and values, and the user's choices."""

    path: Path
    basis: Basis = field(default_factory=Basis)
    values: str = "conditional"
    looked: Looked = field(default_factory=Looked)
    version: int = 0  # of the vectors: with another version, the workspace is read again


@dataclass(frozen=True)
class Paper:
    """The output format of lines: columns, colour, ASCII only."""

    width: int
    color: bool = True
    ascii_only: bool = False


@dataclass(frozen=True)
class ReportRequest:
    """A request for a section of a report in an output format."""

    subject: Subject
    section: str
    paper: Paper


@dataclass(frozen=True)
class Made:
    """A section: its status ("shown", "missing" or "failed"), one line about it, its lines as in `--report`, also as text
    without colours, rows for CSV (titles first), and its data for JSON.
    """

    status: str
    headline: str
    paper: Paper
    lines: list[list[Segment]]
    text: list[str]
    rows: list[list[object]]
    data: dict[str, object]


def _imports(frame: FrameType | None) -> bool:
    """Whether the frame, or one that called it, is part of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class BrokenOff(BaseException):
    """The current section was cancelled by SIGINT."""


@dataclass
class ReportAnswers:
    """Computes sections of one subject; map and distances are computed once for all of them."""

    out: BinaryIO
    busy: bool = False  # whether a section is being computed, which SIGINT may cancel
    _subject: Subject | None = None
    _context: Context | None = field(default=None, repr=False)
    _sections: dict[str, Section] = field(default_factory=dict)

    def put(self, kind: str, value: object) -> None:
        """Writes one message; SIGINT cannot interrupt it."""
        busy, self.busy = self.busy, False
        pickle.dump((kind, value), self.out)
        self.out.flush()
        self.busy = busy

    def break_off(self, _signal: int = 0, frame: FrameType | None = None) -> None:
        """The handler of SIGINT and SIGALRM: raises BrokenOff while a section is computed.

        An import is completed first: a module of which only a part has run would stay, and fail whatever uses it.
        """
        if not self.busy:
            return
        if _imports(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            return
        self.busy = False
        raise BrokenOff

    def answer(self, asked: ReportRequest) -> None:
        """Writes progress and the section, or an error."""
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
        check_choice(context, with_pair=False)
        self._context, self._subject = context, subject
        return context

    def _say(self, text: str) -> None:
        self.put(SAID, text)


def _laid_out(section: Section, paper: Paper) -> Made:
    from kltui.view.report import headline, plain, section_data, section_lines

    lines = section_lines(section, paper.width, color=paper.color, ascii_only=paper.ascii_only)
    # without colours, runs are told apart by other marks
    style = {"color": False, "ascii_only": paper.ascii_only}
    plain_lines = section_lines(section, paper.width, **style) if paper.color else lines
    text = ["".join(part for part, _, _ in line) for line in plain_lines]
    data = {str(k): plain(v) for k, v in section_data(section).items()}
    rows = rows_of_data({str(k): plain(v) for k, v in section.data.items()})
    return Made(section.status, headline(section), paper, lines, text, rows, data)


def rows_of_data(data: dict[str, object]) -> list[list[object]]:
    """Rows for CSV, titles first: the longest list of records in a section's data, else its single values.

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
    """Answers requests until stdin ends."""
    os.nice(HELPER_NICENESS)
    answers = ReportAnswers(os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, answers.break_off)
    # Output of libraries must not come between the answers.
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
