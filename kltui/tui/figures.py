"""KL values with their errors, as every screen writes them."""

from __future__ import annotations

import math


def with_error(value: float, se: float) -> str:
    """A KL in bits/byte with its standard error, to the place where the error begins: as reports write it.

    >>> with_error(0.12345, 0.0021)
    '0.1235 ± 0.0021 bits/byte'
    """
    from kltui.view import tables

    said = tables.with_error(value, se)
    return said if said == tables.UNDEFINED else f"{said} bits/byte"


def briefly(value: float, se: float) -> str:
    """The same for lists, without the unit and with one digit of error.

    >>> briefly(0.12345, 0.0021), briefly(0.5, math.nan), briefly(math.nan, 0.1)
    ('0.123 ± 0.002', '0.5', 'undefined')
    """
    if math.isnan(value):
        return "undefined"
    return f"{value:.3g} ± {se:.1g}" if math.isfinite(se) else f"{value:.3g}"
