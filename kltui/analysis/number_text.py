"""Numbers with their errors as text, with the digits that the error justifies."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNDEFINED = "undefined"
ROUNDING = 1e-14  # relative to a value: smaller errors are those of float64
MAX_PLACES = 7  # decimal places; smaller errors are written with a power of ten


def figure(value: float, digits: int = 3) -> str:
    """`value` rounded to `digits` significant digits, or to an integer if that has more of them; NaN is "undefined".

    >>> figure(0.0123456), figure(1234.5), figure(float("nan")), figure(2.5e-7)
    ('0.0123', '1234', 'undefined', '2.50e-07')
    """
    if math.isnan(value):
        return UNDEFINED
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e6:
        rounded = float(f"{value:.{digits - 1}e}")
        places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
        return f"{value:.{places}f}"
    if abs(value) < 1:
        return f"{value:.{digits - 1}e}"  # as many digits as 0.220 has, so 2.20e-05
    return f"{value:.{digits}g}"


def with_error(value: float, se: float, digits: int = 3) -> str:
    """`value ± se`: two digits of the error, the value to the same place; "undefined" for NaN.

    An unknown error (NaN) is shown as "-"; an error below the rounding of the value counts as none, as does that of 0.

    >>> with_error(0.123456, 0.00456), with_error(0.5, 0.0996), with_error(0.5, 2e-5), with_error(2.534e-9, 1.2e-10)
    ('0.1235 ± 0.0046', '0.50 ± 0.10', '0.500000 ± 0.000020', '2.53e-09 ± 1.2e-10')
    >>> with_error(float("nan"), 1.0), with_error(0.5, float("nan"))
    ('undefined', '0.500 ± -')
    """
    if math.isnan(value):
        return UNDEFINED
    if math.isnan(se) and value:
        return f"{figure(value, digits)} ± -"
    if not math.isfinite(se) or se <= ROUNDING * abs(value):
        return figure(value, digits)
    places = 1 - math.floor(math.log10(float(f"{se:.1e}")))  # of the second digit of the error, once rounded
    if places <= MAX_PLACES and abs(value) < 1e6:
        return f"{value:.{max(0, places)}f} ± {se:.{max(0, places)}f}"
    after_point = math.floor(math.log10(max(abs(value), se))) + places
    return f"{value:.{max(0, after_point)}e} ± {se:.1e}"


def from_to(first: object, last: object) -> str:
    """A range of steps, or the one step that it has.

    >>> from_to(0, 416), from_to(64, 64)
    ('0 to 416', '64')
    """
    return str(first) if first == last else f"{first} to {last}"


def fixed(value: float, places: int, sign: str = "-") -> str:
    """`value` with so many decimal places, or with a power of ten if it is longer than a million or would be written as 0.

    >>> fixed(-94.6888, 1), fixed(0.0, 2), fixed(-3.2e-4, 2), fixed(3.582e27, 2, "+")
    ('-94.7', '0.00', '-3.2e-04', '+3.6e+27')
    """
    is_short = value == 0 or 0.5 * 10.0**-places <= abs(value) < 1e6 or not math.isfinite(value)
    return f"{value:{sign}.{places}f}" if is_short else f"{value:{sign}.1e}"


def aligned(texts: Sequence[str]) -> list[str]:
    """The texts padded to one width, aligned at their decimal points and at the ± (or bracket).

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
