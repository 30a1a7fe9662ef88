"""Handles strings from outside: names, texts and messages that are printed, and paths that the user names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import dropwhile, takewhile
from os import PathLike
from pathlib import Path

# Unicode categories of characters that are not shown. Some of them control the terminal or reorder a whole line.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

# Variation selectors and the modifiers of emoji: terminals disagree about the cells that a character has with one of them.
_PRESENTATION = re.compile("[\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0100-\U000e01ef]")

# First characters of a cell that a spreadsheet evaluates, full-width forms included (OWASP, "CSV injection").
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

# ASCII replacements for the symbols that kltui writes, and for common ones in texts.
_IN_ASCII = str.maketrans(
    {"±": "+-", "→": "->", "≤": "<=", "≥": ">=", "α": "alpha", "τ": "tau", "ρ": "rho", "°": " deg", "√": "sqrt",
     "←": "left", "↑": "up", "↓": "down"}
    | dict(zip("…−²⏎—–·‘’“”├└│─", "~-2$--.''\"\"|`|-", strict=True))
)  # fmt: skip


def in_ascii(text: str) -> str:
    """`text` in ASCII: known symbols spelled out, letters without accents, a question mark for each terminal cell of the rest.

    >>> in_ascii("“é” 0.4 ± 0.1 模")
    '"e" 0.4 +- 0.1 ??'
    """
    return text if text.isascii() else ascii_cells(text.translate(_IN_ASCII))


def ascii_cells(text: str) -> str:
    """`text` in ASCII with the same width in terminal cells; a symbol that `in_ascii` writes wider becomes question marks.

    >>> ascii_cells("…é±模")
    '~e???'
    """
    return text if text.isascii() else "".join(map(_ascii_cell, text))


@lru_cache(maxsize=4096)
def _ascii_cell(char: str) -> str:
    from rich.cells import cell_len

    cells = cell_len(char)
    ways = (char.translate(_IN_ASCII), unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode())
    return next((way for way in ways if way.isascii() and len(way) == cells), "?" * cells)


def expanded(path: str | PathLike[str]) -> Path:
    """`path` with a leading ~ replaced by the home folder; unchanged if there is no such user.

    >>> expanded("~no-such-user/x").as_posix()
    '~no-such-user/x'
    """
    found = Path(path)
    with suppress(RuntimeError):
        return found.expanduser()
    return found


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; False also if the system refuses to look, for lack of permission or a name too long."""
    try:
        return path.exists()
    except OSError:
        return False


def safe_text(text: str, limit: int = 0) -> str:
    """Printable one-line form of `text`, without any control sequence for the terminal.

    Newlines and tabs show as visible symbols, every other control, format, surrogate or
    unassigned character as U+FFFD; what only changes the look of the character before it is left out. With `limit` > 0 the result has at most that many
    characters and ends in an ellipsis if it was shortened.

    >>> safe_text("a\\x1b[31mb\\nc")
    'a\\ufffd[31mb\\u23cec'
    """
    if limit > 0 and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(c) for c in _PRESENTATION.sub("", text))


def short_name(name: str, limit: int) -> str:
    """Printable form of `name`, shortened in the middle to `limit` cells, because names often differ at the end.

    >>> short_name("family-410m-seed4@1000", 15), short_name("tiny@4", 15), short_name("日本語の模型の名@1000", 14)
    ('family-…d4@1000', 'tiny@4', '日本語…名@1000')
    """
    if name.isascii():
        if limit < 3 or len(name) <= limit:
            return safe_text(name, limit)
        return safe_text(f"{name[: (limit - 1) // 2]}…{name[-(limit // 2) :]}")
    from rich.cells import cell_len

    shown = safe_text(name)
    if cell_len(shown) <= limit:  # a name with combining marks has more characters than cells
        return safe_text(name, 4 * limit)
    if limit < 3:
        return safe_text(name, limit)
    head = _as_many_as_fit(shown, (limit - 1) // 2)
    tail = _as_many_as_fit(shown[::-1], limit // 2)[::-1]
    # a combining mark at the beginning of the tail belongs to a character that was cut off
    return f"{head}…{''.join(dropwhile(unicodedata.combining, tail))}"


def short_names(names: Sequence[str], limit: int) -> list[str]:
    """Printable forms of `names` of `limit` cells; those that would look the same keep what tells them apart.

    >>> short_names(["a-long-family-seed1-of-2026@1000", "a-long-family-seed2-of-2026@1000", "tiny"], 18)
    ['a-lo…seed1-of…1000', 'a-lo…seed2-of…1000', 'tiny']
    """
    shown = {name: short_name(name, limit) for name in names}
    _tell_apart(shown, limit)
    return [shown[name] for name in names]


def _tell_apart(shown: dict[str, str], limit: int) -> None:
    """Gives names with equal short forms a form with their beginning, the first place at which they differ, and their end."""
    alike: dict[str, list[str]] = {}
    for name, short in shown.items():
        alike.setdefault(short, []).append(name)
    for names in alike.values():
        if len(names) < 2:
            continue
        first, ends = _equal_beginning(names), max(1, (limit - 2) // 4)
        middle = max(1, limit - 2 - 2 * ends)
        parts = {name: safe_text(_around(name, first, middle, ends)) for name in names}
        if len(set(parts.values())) > 1:
            _tell_apart(parts, limit)
        shown |= parts


def _around(name: str, at: int, middle: int, ends: int) -> str:
    """The first and last `ends` characters of `name`, and `middle` of them around position `at`."""
    start = max(ends, at - middle // 2)
    stop, tail = start + middle, max(ends, len(name) - ends)
    if stop >= tail:
        start, stop = max(ends, tail - middle), tail
    return name[:ends] + "…" * (start > ends) + name[start:stop] + "…" * (stop < tail) + name[tail:]


def _equal_beginning(names: Sequence[str]) -> int:
    """The number of first characters in which all names are equal."""
    return sum(1 for _ in takewhile(lambda chars: len(set(chars)) == 1, zip(*names, strict=False)))


def _as_many_as_fit(text: str, cells: int) -> str:
    """The first characters of `text` that fit into so many cells."""
    from rich.cells import cell_len

    at = used = 0
    while at < len(text) and (used := used + cell_len(text[at])) <= cells:
        at += 1
    return text[:at]


def csv_text(text: str) -> str:
    """Printable form of `text` for a cell of a CSV file, with an apostrophe before text that a spreadsheet would evaluate.

    Text that has such apostrophes already gets one more, so that removing one restores it.

    >>> csv_text("=1+1"), csv_text("a-b"), csv_text("'=x")
    ("'=1+1", 'a-b', "''=x")
    """
    shown = safe_text(text)
    return f"'{shown}" if shown.lstrip("'").startswith(_FORMULA) else shown


def _shown(char: str) -> str:
    if char == "\n":
        return "⏎"
    if char == "\t":
        return "→"
    if char == "\r":
        return "␍"
    if unicodedata.category(char) in _INVISIBLE:
        return "\ufffd"
    return char
