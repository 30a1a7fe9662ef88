"""The one gate for strings that come from outside: names, texts, error bodies."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

# Bidirectional controls, zero-width joiners aside, reorder a whole terminal line.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

# What makes a spreadsheet read a cell as a formula, full-width forms too (OWASP, "CSV injection").
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

# What stands for the signs that kltui writes, and for usual ones of texts, where only ASCII may be shown.
_IN_ASCII = str.maketrans(
    {"±": "+-", "→": "->", "≤": "<=", "≥": ">=", "α": "alpha", "τ": "tau", "ρ": "rho", "°": " deg", "√": "sqrt",
     "←": "left", "↑": "up", "↓": "down"}
    | dict(zip("…−²⏎—–·‘’“”├└│─", "~-2$--.''\"\"|`|-", strict=True))
)  # fmt: skip


def in_ascii(text: str) -> str:
    """`text` in ASCII: known signs spelled, letters without accents, a question mark for each cell of anything else.

    >>> in_ascii("“é” 0.4 ± 0.1 模")
    '"e" 0.4 +- 0.1 ??'
    """
    return text if text.isascii() else ascii_cells(text.translate(_IN_ASCII))


def ascii_cells(text: str) -> str:
    """`text` in ASCII and as many cells as it has: what `in_ascii` spells in more is a question mark.

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


def expanded(path: str | Path) -> Path:
    """`path` with the home folder that its ~ stands for; as it is where there is no such user.

    >>> expanded("~no-such-user/x").as_posix()
    '~no-such-user/x'
    """
    found = Path(path)
    with suppress(RuntimeError):
        return found.expanduser()
    return found


def safe_text(text: str, limit: int = 0) -> str:
    """Printable one-line form of `text`: nothing in it can reach the terminal as a command.

    Newlines and tabs show as visible symbols, every other control, format, surrogate or
    unassigned character as U+FFFD. With `limit` > 0 the result has at most that many
    characters and ends in an ellipsis where something was cut.

    >>> safe_text("a\\x1b[31mb\\nc")
    'a\\ufffd[31mb\\u23cec'
    """
    if limit > 0 and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(c) for c in text)


def short_name(name: str, limit: int) -> str:
    """The name from safe_text, shortened in the middle, because runs often differ at the end of their names.

    >>> short_name("family-410m-seed4@1000", 15), short_name("tiny@4", 15)
    ('family-…d4@1000', 'tiny@4')
    """
    if limit < 3 or len(name) <= limit:
        return safe_text(name, limit)
    return safe_text(f"{name[: (limit - 1) // 2]}…{name[-(limit // 2) :]}")


def csv_text(text: str) -> str:
    """Printable form of `text` for a cell of a CSV file, with an apostrophe before what a spreadsheet would compute.

    Text that begins with apostrophes before such a character gets one more, so that taking one off gives it back.

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
