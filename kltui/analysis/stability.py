"""Stabilisation: the step from which a run's consecutive KL stays below a level, with its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.067  # bits/byte: the published median of early pretraining (arXiv 2505.15353, Figure 3)
CONFIDENT = 1.96  # standard errors, for a 95 % range


@dataclass(frozen=True, slots=True)
class Stabilisation:
    """`step`: the step from which every consecutive KL of the run is at most `level`; None if the last one is larger or undefined.

    `earliest` and `latest` are that step with every KL lowered or raised by 1.96 standard errors; both are
    None if a required error is unknown, in which case `range_known` is false.
    """

    run: str
    level: float
    step: int | None
    earliest: int | None
    latest: int | None
    last_kl: float
    last_se: float
    last_step: int
    range_known: bool = True


def stabilisation(
    run: str, steps: Sequence[int], kl: Sequence[float], se: Sequence[float], level: float = LEVEL
) -> Stabilisation:
    """Where the run settles: `kl[i]` (bits/byte) lies between `steps[i]` and `steps[i + 1]`.

    >>> stabilisation("r", [0, 1, 2, 3], [9.0, 0.1, 0.01], [0, 0, 0], level=0.2).step
    1
    """
    assert len(kl) == len(se) == len(steps) - 1
    known = True

    def settled(sign: float) -> int | None:
        nonlocal known
        found = None
        for i in range(len(kl) - 1, -1, -1):
            known = known and (math.isfinite(se[i]) or math.isnan(kl[i]))
            margin = se[i] if sign else 0.0
            # the last KL above v, or its 95 % limit, ends the search
            if not kl[i] + sign * CONFIDENT * margin <= level:
                break
            found = steps[i]
        return found

    middle, earliest, latest = settled(0), settled(-1), settled(1)
    ends = (earliest, latest) if known else (None, None)
    last = (kl[-1], se[-1]) if len(kl) else (math.nan, math.nan)
    return Stabilisation(run, level, middle, *ends, *last, steps[-1], known)
