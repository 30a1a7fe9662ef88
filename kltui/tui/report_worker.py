"""The report's sections in a process of their own: a pickled `Asked` on stdin for each, on stdout what is said and the section.

The interface stays quick while it computes, and ends it when another section is wanted first.
"""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kltui.errors import KltuiError
from kltui.tui.basis import Basis

if TYPE_CHECKING:
    from kltui.view.sections.context import Choice, Context
    from kltui.view.sections.section import Section

SAID, MADE, REFUSED = "said", "made", "refused"


@dataclass(frozen=True)
class Subject:
    """What a report is made of: a workspace, its map's basis and values, and its reader's choice of all else."""

    path: Path
    basis: Basis = field(default_factory=Basis)
    values: str = "conditional"
    choice: Choice | None = None
    version: int = 0  # of the vectors: the workspace is read anew where it has changed


@dataclass(frozen=True)
class Asked:
    """A section of a report that is wanted."""

    subject: Subject
    section: str


@dataclass
class Answers:
    """Makes sections, the map and distances of one subject once for all of them."""

    out: BinaryIO
    _subject: Subject | None = None
    _context: Context | None = field(default=None, repr=False)

    def put(self, kind: str, value: object) -> None:
        """Writes one message."""
        pickle.dump((kind, value), self.out)
        self.out.flush()

    def answer(self, asked: Asked) -> None:
        """Writes what is said meanwhile and the section, or in words why there is none."""
        try:
            self.put(MADE, self._section(asked))
        except KltuiError as error:
            self.put(REFUSED, (error.message, error.hint))

    def _section(self, asked: Asked) -> Section:
        from kltui.view.report import check_choice, section_on
        from kltui.view.sections.context import Choice, Context
        from kltui.workspace import Workspace

        subject = asked.subject
        if self._context is None or subject != self._subject:
            if self._context is not None:
                self._context.ws.close()
            self._context = None
            workspace = Workspace.open(subject.path, values=subject.values)
            subject.basis.apply(workspace)
            of = subject.basis.choice(workspace)
            choice = replace(subject.choice or Choice(), preparation=of.preparation, saved=of.saved)
            context = Context(workspace, choice, lambda text: self.put(SAID, text))
            check_choice(context)
            self._context, self._subject = context, subject
        return section_on(self._context, asked.section)


def main() -> int:
    """Answers until stdin ends."""
    os.nice(5)
    answers = Answers(os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    # Whatever else writes to standard output must not come between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            asked = pickle.load(sys.stdin.buffer)
        except EOFError:
            return 0
        answers.answer(asked)
