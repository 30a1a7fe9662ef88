"""The KLs at which the colours of a matrix end: above the noise floor, and before single KLs that are far out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

WIDE = 1e4  # ratio of the ends above which outliers are looked for
FENCE = (
    3.0  # quartile distances of ln KL beyond a quartile from which a KL is far out (Tukey 1977, section 2E)
)


@dataclass(frozen=True)
class ColourEnds:
    """What the colours of some KLs stand for, in bits/byte.

    `ends`: the smallest KL not below the noise floor and the largest, at either end without those far out; None if no KL
    is above the floor. `noise`: whether some are positive and below the floor. `smallest`, `largest`: of those above it.
    """

    ends: tuple[float, float] | None
    noise: bool = False
    smallest: float = math.nan
    largest: float = math.nan


def colour_ends(kl: Array, floor: float = 0.0, where: NDArray[np.bool_] | bool = True) -> ColourEnds:
    """The ends of the colours of the KLs in bits/byte (of any shape) that are `where`, given the noise floor.

    KLs of 0 and undefined ones do not matter.
    """
    import numpy as np

    positive = kl[where & np.isfinite(kl) & (kl > 0)]
    clear = positive if len(positive) and positive.min() >= floor else positive[positive >= floor]
    noise = len(clear) < len(positive)
    if not len(clear):
        return ColourEnds(None, noise)
    ends = float(clear.min()), float(clear.max())
    return ColourEnds(_within_fences(clear, *ends), noise, *ends)


def _within_fences(clear: Array, low: float, high: float) -> tuple[float, float]:
    """The ends of these KLs; at either end without those far out, if these would take more than half of the colours."""
    import numpy as np

    if high <= WIDE * low:
        return low, high
    ln = np.log(clear)
    first, third = np.quantile(ln, (0.25, 0.75))
    reach = FENCE * (third - first)
    within = clear[(ln >= first - reach) & (ln <= third + reach)]
    ends, half = (float(within.min()), float(within.max())), 0.5 * math.log(high / low)
    found = (
        ends[0] if math.log(ends[0] / low) > half else low,
        ends[1] if math.log(high / ends[1]) > half else high,
    )
    return found if found[0] < found[1] else (low, high)
