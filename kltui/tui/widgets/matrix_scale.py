"""The colours of a matrix of KL: which values they stand for, and the legend that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kltui.analysis.colour_ends import colour_ends
from kltui.analysis.number_text import figure
from kltui.tui.widgets.canvas import Span
from kltui.view.palette import HEAT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kltui.tui.theme import Theme

    Array = NDArray[np.float64]


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
    zero, undefined = bool((kl_KK == 0)[off].any()), bool(np.isnan(kl_KK)[off].any())
    found = colour_ends(kl_KK, floor, off)
    return KLScale(found.ends, zero, undefined, found.noise, floor, found.smallest, found.largest)


def shade(place: float) -> str:
    """A character whose darkness corresponds to `place` (0 to 1), for terminals without colour."""
    return " .:-=+*#%@"[max(0, min(9, int(place * 10)))]
