"""The line of an axis: its tick labels, and its name at one of its ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

APART = 2  # blanks between tick labels and the name of their axis


def beside_name(lines: Iterable[str], name: str) -> tuple[str, str, str]:
    """(name, tick labels, name) of an axis, as long as a line together; at most one of the names is not "".

    The name is at the right end or, if that is free and the right is not, at the left one. Without room at either end, the
    labels in the way at the right are left out: few, where a shorter name leaves more. `lines` have ever more labels; the
    first with three is taken, or else with as many as possible. Only where fewer than two would be left does the name stand
    between labels.

    >>> beside_name(["0  1        100 ", "0  1   10   100 "], "step")
    ('', '0  1   10   ', 'step')
    >>> beside_name(["        1  2    3"], "layer"), beside_name(["      1  2    3"], "layer")
    (('layer', '   1  2    3', ''), ('layer', ' 1  2    3', ''))
    """
    brief = name.replace("log(1 + x)", "log")
    ways = list(dict.fromkeys((name, brief, brief.replace(", log", " log"))) if name else ("",))
    whole: list[tuple[str, str, str]] = []
    cut: list[tuple[str, str, str]] = []
    tried: list[str] = []
    for line in lines:
        tried.append(line)
        made = _at_an_end(line, ways)
        if made is not None:
            whole.append(made)
        elif not whole:
            made = max((("", _before_name(line, said), said) for said in ways), key=_count)
            cut.append(made)
        if made is not None and _count(made) > 2:
            return made
    best = whole[0] if whole else max(cut, key=_count)
    between = (_between(line, ways) for line in tried) if _count(best) < 2 else ()
    return next(filter(None, between), best)


def _at_an_end(line: str, ways: Sequence[str]) -> tuple[str, str, str] | None:
    """The first name of `ways` that an end of a line of tick labels has room for, and that line; None without room."""
    for said in ways:
        if not line[len(line) - len(said) - APART :].strip():
            return "", line[: len(line) - len(said)], said
    for apart in (APART, 1):  # one blank rather than without the last label
        for said in ways:
            if not line[: len(said) + apart].strip():
                return said, line[len(said) :], ""
    return None


def _between(line: str, ways: Sequence[str]) -> tuple[str, str, str] | None:
    """A line of tick labels with the first name of `ways` that its widest gap has room for in it; None without room."""
    gap = max(re.finditer(r"(?<=\S) +(?=\S)", line), key=lambda gap: len(gap[0]), default=None)
    said = next((w for w in ways if gap is not None and w and len(w) + 2 * APART <= len(gap[0])), "")
    if gap is None or not said:
        return None
    at = gap.start() + (len(gap[0]) - len(said)) // 2
    return "", line[:at] + said + line[at + len(said) :], ""


def _count(parts: tuple[str, str, str]) -> int:
    """The number of tick labels in a result of `beside_name`."""
    return len(parts[1].split())


def _before_name(line: str, name: str) -> str:
    """What is left of a line of tick labels for a name at its right end: whole labels only."""
    room = max(0, len(line) - len(name) - APART)
    end = room if not line[room : room + 1].strip() else line[:room].rfind(" ") + 1
    return line[:end].ljust(len(line) - len(name))
