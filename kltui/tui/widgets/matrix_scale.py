"""The colours of a matrix of KL: which values they stand for, and the legend that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kltui.analysis.number_text import figure
from kltui.tui.widgets.canvas import Span
from kltui.view.palette import HEAT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.tui.theme import Theme

    Array = NDArray[np.float64]

WIDE = 1e4  # ratio of the ends above which outliers are looked for
FENCE = (
    3.0  # quartile distances of ln KL beyond a quartile from which a KL is far out (Tukey 1977, section 2E)
)


@dataclass(frozen=True)
class KLScale:
    """The KLs of a matrix off its diagonal, in bits/byte: the ends of the colours, and what is beyond them.

    `ends`: the smallest KL not below the noise floor, which is the brightest, and the largest, both without those far out
    that would take most of the colours; None if no KL is above the floor. `zero`, `undefined`: whether some are 0 or
    undefined; `noise`: whether some are positive and below `floor`. `smallest`, `largest`: the KLs of all above the floor.
    """

    ends: tuple[float, float] | None
    zero: bool = False
    undefined: bool = False
    noise: bool = False
    floor: float = 0.0
    smallest: float = math.nan
    largest: float = math.nan

    @property
    def has_colours(self) -> bool:
        """Whether there are two KLs with different colours."""
        return self.ends is not None and self.ends[0] < self.ends[1]

    @property
    def drawn(self) -> tuple[float, float]:
        """The ends of the colours; equal if all KLs have one colour, the brightest."""
        return self.ends or (1.0, 1.0)

    def place(self, value: float) -> float:
        """The position of a KL between the ends, 0 to 1, on a logarithmic scale; 0 for 0 and for noise."""
        low, high = self.drawn
        if value <= low or not low < high:
            return 0.0
        return min(1.0, (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)))

    def is_noise(self, value: float) -> bool:
        """Whether a KL is positive and below the noise floor."""
        return 0 < value < self.floor

    def legend(self, look: Theme, undefined: str, *, ranges: bool = True) -> list[Span]:
        """The colours with the KLs of their ends and what else has the colour of an end; `undefined`: what looks so.

        Without `ranges`, the KLs beyond an end are left out.
        """
        below = ["0"] * self.zero + ["noise"] * self.noise
        after = f"  {undefined}" * self.undefined
        if not self.has_colours:
            return [(self._in_words(below), look("faint"))]
        low, high = self.drawn
        inks: Sequence[Span] = [
            (" ", look("text", color)) if look.color else (shade(1 - i / 9), look())
            for i, color in enumerate(reversed(HEAT))
        ]
        said = "".join(f"{word}, " for word in below)
        first = "" if self.smallest >= low or not ranges else f"{figure(self.smallest, 2)} to "
        last = "" if self.largest <= high or not ranges else f" to {figure(self.largest, 2)}"
        return [
            (f"{said}log {first}{figure(low, 2)} ", look("faint")),
            *inks,
            (f" {figure(high, 2)}{last}{after}", look("faint")),
        ]

    def _in_words(self, below: list[str]) -> str:
        """Words in place of the colours, where all KLs have the same."""
        every = "every defined KL" if self.undefined else "every KL"
        if self.ends is not None:
            return f"{every} is {' or '.join([*below, figure(self.ends[0], 2)])}"
        if not below:
            return "every KL is undefined"
        if not self.noise:
            return f"{every} is 0"
        return f"{every} is below the noise floor of {figure(self.floor, 2)}"


def scale_of(kl_KK: Array, floor: float = 0.0) -> KLScale:
    """The scale of a square matrix of KLs in bits/byte, with the noise floor in the same unit."""
    import numpy as np

    off = ~np.eye(len(kl_KK), dtype=bool)
    positive = kl_KK[off & np.isfinite(kl_KK) & (kl_KK > 0)]
    clear = positive if len(positive) and positive.min() >= floor else positive[positive >= floor]
    zero, undefined = bool((kl_KK == 0)[off].any()), bool(np.isnan(kl_KK)[off].any())
    noise = len(clear) < len(positive)
    if not len(clear):
        return KLScale(None, zero, undefined, noise, floor)
    ends = float(clear.min()), float(clear.max())
    return KLScale(_within_fences(clear, *ends), zero, undefined, noise, floor, *ends)


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


def shade(place: float) -> str:
    """A character whose darkness corresponds to `place` (0 to 1), for terminals without colour."""
    return " .:-=+*#%@"[max(0, min(9, int(place * 10)))]
