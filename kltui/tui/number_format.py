"""KL values with their errors, as every screen writes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kltui.analysis import number_text

if TYPE_CHECKING:
    from kltui.analysis.map import Map


def with_error(value: float, se: float) -> str:
    """A KL in bits/byte with its standard error, rounded by it as in reports.

    >>> with_error(0.12345, 0.0021)
    '0.1235 ± 0.0021 bits/byte'
    """
    said = number_text.with_error(value, se)
    return said if said == number_text.UNDEFINED else f"{said} bits/byte"


def briefly(value: float, se: float) -> str:
    """`with_error` without the unit, for lists; an unknown error (NaN) is left out.

    >>> briefly(0.12345, 0.0021), briefly(0.5, math.nan), briefly(math.nan, 0.1)
    ('0.1235 ± 0.0021', '0.500', 'undefined')
    """
    return number_text.with_error(value, se) if math.isfinite(se) else number_text.figure(value)


def mean_of(found: Map, row: int) -> float:
    """Mean log-likelihood of one vector over its scored texts, nats per text; NaN without scored texts."""
    import numpy as np

    values = found.loglik_KN[row]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def mean_gap(found: Map, a: int, b: int) -> str:
    """Which of two rows has the higher mean log-likelihood over the texts that both have, and by how many nats per text.

    "A" is row `a`, "B" row `b`; "" if they are equal or the difference is undefined.
    """
    import numpy as np

    from kltui.analysis.kl import LN2
    from kltui.analysis.loss import bits_per_byte

    each = np.ones(
        found.loglik_KN.shape[1], dtype=np.int64
    )  # a mean over texts is a loss over texts of one byte
    gap, se = bits_per_byte(found.loglik_KN[b] - found.loglik_KN[a], each, found.text_ids_N)
    higher = "A" if gap > 0 else "B"
    return f"{higher} higher by {briefly(abs(gap) * LN2, se * LN2)}" if gap == gap and gap else ""


def means_said(found: Map, a: int, b: int, width: int) -> str:
    """The mean log-likelihoods of two rows and their difference, or the difference alone if both do not fit in `width`."""
    mean_a, mean_b = (number_text.fixed(mean_of(found, row), 1) for row in (a, b))
    means = f"mean A {mean_a}, B {mean_b} nats/text"
    gap = mean_gap(found, a, b)
    both = f"{means}; {gap}" if gap else means
    return both if len(both) <= width or not gap else f"mean: {gap} nats/text"


def loss_of(found: Map, row: int) -> str:
    """The loss of one vector in bits/byte with its standard error, without the unit."""
    from kltui.analysis.loss import bits_per_byte

    loss = bits_per_byte(found.loglik_KN[row], found.text_bytes_N, found.text_ids_N)
    return number_text.with_error(*loss, 4)


def noise_floor_of(found: Map) -> float:
    """The noise floor of a map in bits/byte; if it is not known, that of float32."""
    from kltui.analysis.floors import FLOAT32_FLOOR
    from kltui.workspace.noise import map_floor

    floor = map_floor(found.record, found.loglik_KN, found.mean_bytes)
    return FLOAT32_FLOOR if math.isnan(floor) else floor


def position(found: Map, kl: float) -> str:
    """The position of a KL in bits/byte of a map among the published settings, or that it is below the noise floor."""
    from kltui.analysis.scale import locate

    floor = noise_floor_of(found)
    if kl < floor:
        return f"below the noise floor of {number_text.figure(floor, 2)}: rounding alone may cause it"
    place = locate(kl)
    return among_published(place.below, place.above)


def among_published(below: str, above: str) -> str:
    """The position of a KL among the published settings; `below` is the next lower one ("": none), `above` the next higher one.

    >>> among_published("seed", "size")
    'published: seed < KL < size'
    >>> among_published("adjacent layers", "")
    'published: above all, adjacent layers is the largest'
    """
    if below and above:
        return f"published: {below} < KL < {above}"
    return (
        f"published: above all, {below} is the largest"
        if below
        else f"published: below all, {above} is the smallest"
    )
