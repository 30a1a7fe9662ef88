"""Numbers with their errors as text, in as many digits as they are known to."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def aligned(texts: Sequence[str]) -> list[str]:
    """The texts in one width, their decimal points below each other, and what follows a ± (or a bracket) likewise.

    >>> aligned(["0.1235 ± 0.0046", "12.3 ± 1.1", "undefined"])
    [' 0.1235 ± 0.0046', '12.3    ± 1.1   ', 'undefined       ']
    """
    parts = [_parts(text) for text in texts]
    numbers = [p for p in parts if p[0][:1].isdigit() or p[0][:1] in "+-"]
    wide = [max((len(p[i]) for p in numbers), default=0) for i in range(4)]
    made = []
    for text, p in zip(texts, parts, strict=True):
        if not any(p is number for number in numbers):
            made.append(text)
            continue
        made.append(f"{p[0]:>{wide[0]}}{p[1]:<{wide[1]}}{p[2]:>{wide[2]}}{p[3]:<{wide[3]}}")
    width = max(map(len, made), default=0)
    return [text.ljust(width) for text in made]


def _parts(text: str) -> tuple[str, str, str, str]:
    """A number before and after its point, and the same of its error or its quartiles."""
    value, sign, error = text.partition(" [" if " [" in text else " ± ")
    whole, point, digits = value.partition(".")
    error_whole, error_point, error_digits = error.partition(".")
    return whole, point + digits, sign + error_whole, error_point + error_digits


def spread(median: float, low: float, high: float, digits: int = 3) -> str:
    """`median [low, high]` of a distribution, "undefined" for NaN.

    >>> spread(0.5, 0.25, 0.75)
    '0.500 [0.250, 0.750]'
    """
    if math.isnan(median):
        return UNDEFINED
    return f"{figure(median, digits)} [{figure(low, digits)}, {figure(high, digits)}]"
