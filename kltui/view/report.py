"""The report of a workspace: sections with tables and text plots, or the same as JSON."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TextIO

import numpy as np
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.text import Text

from kltui.analysis.emptying import LEFT_OUT
from kltui.errors import KltuiError, UsageError
from kltui.json_schema import JSON_SCHEMA
from kltui.sanitize import in_ascii, safe_text
from kltui.store.connection import DamageError
from kltui.store.pair_values import CONDITIONAL
from kltui.store.saved_maps import Preparation
from kltui.threads import one_blas_thread
from kltui.version import __version__
from kltui.view.provenance import versions
from kltui.view.sections.context import Context, ReportChoice, silent
from kltui.view.sections.section import MissingError, Section

if TYPE_CHECKING:
    from kltui.view.sections.catalogue import Builder
    from kltui.workspace import Workspace

log = logging.getLogger(__name__)
_NARROWEST = 40
PREPROCESSINGS = ("none", "clip", "pretraining")


@dataclass(frozen=True)
class Report:
    """Sections of one workspace under one preprocessing."""

    workspace: str
    preprocess: str
    sections: tuple[Section, ...]
    basis: str = ""
    preprocessing: object = "none"
    provenance: dict[str, object] = field(default_factory=dict)

    def renderables(self) -> list[RenderableType]:
        """One rich renderable per section, in order."""
        return [section.renderable() for section in self.sections]

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON; NaN and infinities are None, and names are unchanged."""
        sections = {s.name: section_data(s) for s in self.sections}
        made = {
            "schema": JSON_SCHEMA,
            "kltui": __version__,
            "workspace": self.workspace,
            "preprocess": self.preprocess,
            "vectors": self.basis,
            "preprocessing": self.preprocessing,
            "provenance": self.provenance,
            "sections": sections,
        }
        return {name: plain(value) for name, value in made.items()}


def _sections() -> dict[str, Builder]:
    """Every section by its name; imported late, because the summary of a job does not need it."""
    from kltui.view.sections.catalogue import SECTIONS

    return SECTIONS


def section_names() -> list[str]:
    """The names of all sections, in the order shown."""
    return list(_sections())


def section_on(ctx: Context, name: str) -> Section:
    """One section of a context; an error in it becomes its message. Raises UsageError for an unknown name."""
    (known,) = _chosen([name])
    return _built(known, _sections()[known], ctx)


def headline(section: Section) -> str:
    """One line about a section: why it is missing, or the text that it begins with; "" if it begins with a table or a plot."""
    if section.status != "shown":
        return section.message
    if section.headline is not None:
        return section.headline
    first = section.blocks[0] if section.blocks else None
    return first.plain.split("\n")[0] if isinstance(first, Text) else ""


def report(
    ws: Workspace,
    sections: Sequence[str] | None = None,
    preprocess: str = "none",
    notify: Callable[[str], None] = silent,
    choice: ReportChoice | None = None,
) -> Report:
    """The chosen sections (None: all) of a workspace; an error in one becomes that section's message.

    Missing weight distances are computed if the files are available, with progress reported by `notify`. `choice`, if given,
    takes precedence over `preprocess`. Raises UsageError for unknown names.
    """
    return report_on(Context(ws, choice or ReportChoice(Preparation(checked(preprocess))), notify), sections)


@one_blas_thread
def report_on(ctx: Context, sections: Sequence[str] | None = None) -> Report:
    """The chosen sections of a context, whose map and distances may already be computed."""
    built = tuple(_built(name, _sections()[name], ctx) for name in _chosen(sections))
    try:
        basis, record = ctx.basis, ctx.map.record.get("preprocess", "none")
        provenance = _provenance(ctx)
    except KltuiError:
        basis, record, provenance = "", "none", {"versions": versions()}
    return Report(str(ctx.ws.path), ctx.preprocess, built, basis, record, provenance)


def _provenance(ctx: Context) -> dict[str, object]:
    """The origin of the numbers: library versions, the common key of the vectors, and the stored vector behind every name."""
    record, on_map = ctx.map.record, set(ctx.raw.names)
    return {
        "saved_map": ctx.choice.saved,
        "versions": versions(),
        "key": {k: v for k, v in record.items() if k not in ("preprocess", "map", LEFT_OUT)},
        LEFT_OUT: ctx.map.left_out,
        "vectors": {
            name: {"id": row.id, "weights": row.weights, "created": row.created}
            for name, row in ctx.vectors.items()
            if row.layer is not None or name in on_map
        },
    }


def check_choice(ctx: Context, *, with_pair: bool = True) -> None:
    """Raises KltuiError, before anything is computed, for a choice that no section can show.

    That is an invalid KL, a checkpoint or run that is not on the map, or values that the map does not have. With
    `with_pair` False, a pair that is not on the map is left to the sections that use it.
    """
    for name, value in (("--where", ctx.choice.where), ("--level", ctx.choice.level)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise UsageError(
                f"{name} {value}: a KL must be a number of at least 0", f"For example {name} 0.05"
            )
    if ctx.ws.values != CONDITIONAL:
        _ = ctx.map
    if ctx.choice.preparation.exclude:
        _ = ctx.excluded
    if with_pair:
        ctx.check_pair()


def checked(preprocess: str) -> str:
    """`preprocess` itself. Raises UsageError if it is unknown."""
    if preprocess not in PREPROCESSINGS:
        raise UsageError(f"unknown preprocessing {preprocess!r}", f"known: {', '.join(PREPROCESSINGS)}")
    return preprocess


def _chosen(sections: Sequence[str] | None) -> list[str]:
    if not sections:
        return section_names()
    unknown = [name for name in sections if name not in _sections()]
    if unknown:
        raise UsageError(f"no section {', '.join(map(repr, unknown))}", f"known: {', '.join(_sections())}")
    return list(dict.fromkeys(sections))


def _built(name: str, builder: Builder, ctx: Context) -> Section:
    """The section, or one with the reason why it is missing or failed. Raises DamageError for a damaged workspace."""
    title = "KL" if name == "kl" else name.capitalize()
    try:
        return builder(ctx)
    except MissingError as lack:
        return Section(name, title, status="missing", message=lack.message, hint=lack.hint)
    except DamageError:
        raise
    except KltuiError as error:
        return Section(name, title, status="failed", message=error.message, hint=error.hint)
    except Exception as error:
        # an error in one section must not prevent the others; the log has the traceback
        log.exception("section %s failed", name)
        message = f"internal error: {type(error).__name__}: {error}"
        return Section(
            name, title, status="failed", message=message, hint="please report this together with the log"
        )


def print_report(
    ws: Workspace,
    sections: Sequence[str] | None = None,
    as_json: bool = False,
    width: int | None = None,
    stream: TextIO | None = None,
    *,
    preprocess: str = "none",
    choice: ReportChoice | None = None,
    ascii_only: bool = False,
    notices: TextIO | None = None,
) -> Report:
    """Writes the report to `stream` (standard output) at `width` columns (the terminal's, else 80), and returns it.

    Progress of long computations goes to `notices` (standard error), one line each.
    """
    data, said = stream or sys.stdout, notices or sys.stderr

    def notify(message: str) -> None:
        said.write(f"{safe_text(message)}\n")
        said.flush()

    ctx = Context(ws, choice or ReportChoice(Preparation(checked(preprocess))), notify)
    if choice:
        check_choice(ctx)
    made = report_on(ctx, sections)
    if as_json:
        write_json(made, data)
    else:
        write_text(made, data, width, ascii_only)
    data.flush()
    return made


def write_json(made: Report, stream: TextIO) -> None:
    """Writes a report as one JSON object."""
    json.dump(made.as_dict(), stream, indent=1, allow_nan=False)
    stream.write("\n")


def write_text(made: Report, stream: TextIO, width: int | None = None, ascii_only: bool = False) -> None:
    """Writes a report as tables and plots, section by section, in colour if the stream is a terminal."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
    buffer = _Buffer("ascii" if ascii_only or not encoding.startswith("utf") else encoding)
    on_terminal = stream.isatty()
    console = _console(buffer, "auto" if on_terminal else None, width or _columns(stream))
    for renderable in made.renderables():
        console.print(renderable)
        stream.write(buffer.taken())


def section_lines(
    section: Section, width: int, *, color: bool = True, ascii_only: bool = False
) -> list[list[Segment]]:
    """The lines that `write_text` writes for a section at `width` columns, as rich segments without trailing spaces."""
    encoding = "ascii" if ascii_only else "utf-8"
    console = _console(_Buffer(encoding), "256" if color else None, width)
    found = console.render_lines(section.renderable(), pad=False)
    return [_without_trailing_spaces(line, encoding) for line in found]


def _without_trailing_spaces(line: list[Segment], encoding: str) -> list[Segment]:
    kept = [Segment(in_encoding(text, encoding), style) for text, style, control in line if not control]
    while kept and not kept[-1].text.rstrip():
        kept.pop()
    if kept:
        text, style, _ = kept[-1]
        kept[-1] = Segment(text.rstrip(), style)
    return kept


def _console(file: TextIO, color_system: Literal["auto", "256"] | None, width: int) -> Console:
    return Console(
        file=file,
        force_terminal=color_system is not None,
        color_system=color_system,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def _columns(stream: TextIO) -> int:
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    try:
        return max(_NARROWEST, os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError):
        return 80


def in_encoding(text: str, encoding: str) -> str:
    """`text` with characters that the encoding lacks replaced, for ASCII by similar ones if known, otherwise by "?"."""
    if encoding == "ascii":
        return in_ascii(text)
    return text.encode(encoding, "replace").decode(encoding)


class _Buffer(io.StringIO):
    """A text buffer with the encoding of the final stream, in which unsupported characters are replaced."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property is what StringIO has at run time too
        return self._encoding

    def taken(self) -> str:
        """The text written since the last call, without trailing spaces, in characters that the encoding has."""
        rows = (row.rstrip() for row in self.getvalue().split("\n"))
        text = "\n".join(rows)
        self.seek(0)
        self.truncate()
        return in_encoding(text, self._encoding)


def section_data(section: Section) -> dict[str, object]:
    """A section as data: title, status, why it is missing, notes, and all its numbers."""
    head: dict[str, object] = {"title": section.title, "status": section.status}
    if section.message:
        head |= {"message": section.message, "hint": section.hint}
    return {**head, "notes": list(section.notes), **section.data}


def plain(value: object) -> object:
    """`value` with only JSON's types: arrays become lists, non-finite numbers None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)
