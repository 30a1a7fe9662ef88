"""Measures several ways of doing the same thing in turn, so that changes in the machine's speed affect all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Way = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Ratio:
    """One operation: its median seconds, and medians of the paired ratios of its time to its floor and of the reference to it."""

    operation: str
    seconds: float
    over_floor: float
    times_faster: float
    floor: str
    reference: str


def measure(
    operation: str,
    ours: Callable[[], object],
    floor: Way,
    reference: Way,
    rounds: int = 7,
    synchronise: Callable[[], None] | None = None,
    share: float = 1.0,
    before: Callable[[], None] | None = None,
) -> Ratio:
    """The ratios of `ours` to its floor and of the reference to `ours`; the first round is not counted.

    `share` is the fraction of the work that the reference does here; `before` runs, untimed, before each measurement.
    """
    ways = {"ours": ours, "floor": floor[1], "reference": reference[1]}
    seconds = paired_seconds(ways, rounds + 1, synchronise, before)
    mine = seconds["ours"][1:]
    return Ratio(
        operation,
        statistics.median(mine),
        statistics.median(a / b for a, b in zip(mine, seconds["floor"][1:], strict=True)),
        statistics.median(b / a for a, b in zip(mine, seconds["reference"][1:], strict=True)) / share,
        floor[0],
        reference[0],
    )


def paired_seconds(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    synchronise: Callable[[], None] | None,
    before: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """{way: its seconds in every round}; within a round the ways run one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            if before:
                before()
            if synchronise:
                synchronise()
            start = time.perf_counter()
            way()
            if synchronise:
                synchronise()
            seconds[name].append(time.perf_counter() - start)
    return seconds
