"""Tables of reports: numbers with their errors as text, and columns that fit the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from kltui.safe import safe_text

UNDEFINED = "undefined"


def figure(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, never in more characters than it needs; NaN is "undefined".

    >>> figure(0.0123456), figure(1234.5), figure(float("nan")), figure(2.5e-7)
    ('0.0123', '1234', 'undefined', '2.5e-07')
    """
    if math.isnan(value):
        return UNDEFINED
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e6:
        rounded = float(f"{value:.{digits - 1}e}")
        places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
        return f"{value:.{places}f}"
    return f"{value:.{digits}g}"


def with_error(value: float, se: float, digits: int = 3) -> str:
    """`value ± se`, the value to the place where its error begins (two digits of error), "undefined" for NaN.

    An error that is unknown (NaN) stands as "-".

    >>> with_error(0.123456, 0.00456), with_error(float("nan"), 1.0), with_error(0.5, float("nan"))
    ('0.1235 ± 0.0046', 'undefined', '0.500 ± -')
    """
    if math.isnan(value):
        return UNDEFINED
    if math.isnan(se):
        return f"{figure(value, digits)} ± -"
    if not math.isfinite(se) or se <= 0:
        return figure(value, digits)
    if min(abs(value), se) < 1e-4 or abs(value) >= 1e6:
        return f"{value:.{digits}g} ± {se:.2g}"
    places = max(0, 1 - math.floor(math.log10(se)))
    return f"{value:.{places}f} ± {se:.{places}f}"


def spread(median: float, low: float, high: float, digits: int = 3) -> str:
    """`median [low, high]` of a distribution, "undefined" for NaN.

    >>> spread(0.5, 0.25, 0.75)
    '0.500 [0.250, 0.750]'
    """
    if math.isnan(median):
        return UNDEFINED
    return f"{figure(median, digits)} [{figure(low, digits)}, {figure(high, digits)}]"


def count(n: int, noun: str, plural: str = "") -> str:
    """`n noun`, with the plural where it is due.

    >>> count(1, "run"), count(2, "run"), count(0, "vertex", "vertices")
    ('1 run', '2 runs', '0 vertices')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def words(text: str, style: str = "") -> Text:
    """Untrusted or own words as rich Text, printable and without markup."""
    return Text(safe_text(text), style=style)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[int] = (0,),
    tight: bool = False,
    wrap: Sequence[int] = (),
) -> Table:
    """A rich table of strings: columns in `left` hold names, cut where the width ends, the others whole numbers.

    `tight` puts one space between columns instead of two; columns in `wrap` hold words, on more lines where need be.
    """
    padding = (0, 1, 0, 0) if tight else (0, 1)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=False, highlight=False)
    for i, heading in enumerate(headings):
        # Rich narrows only columns that may wrap, so names may, and each name itself is cut instead.
        free = i in left or i in wrap
        made.add_column(_name(heading) if i in left else words(heading), no_wrap=not free)
        made.columns[i].justify = "left" if free else "right"
    for row in rows:
        made.add_row(*(_name(cell) if i in left else words(cell) for i, cell in enumerate(row)))
    return made


def _name(text: str) -> Text:
    return Text(safe_text(text), no_wrap=True, overflow="ellipsis")
