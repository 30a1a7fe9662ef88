"""The colours of the map's points: by run, type, size or tag, or by a benchmark score on a ramp."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import label_of
from kltui.view.palette import RAMPS

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.analysis.point import Point
    from kltui.figures.groups import Colouring

# Series that are not runs: the box in three dimensions, lines of descent, points without a score.
BOX, PARENT, VARIANT, UNSCORED = 8000, 8001, 8002, 8003
RAMP = 8010  # the first of LEVELS series by rising score
LEVELS = 8
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Colours:
    """The series of each of a map's points, by one of their properties.

    `groups` are the labels with their series; () for runs, and for scores on a ramp from `low` to `high`.
    """

    by: str = "run"
    series_n: NDArray[np.int16] | None = None
    groups: tuple[tuple[str, int, int], ...] = ()  # (label, series, how many points)
    low: float = math.nan
    high: float = math.nan

    def series(self, row: int) -> int:
        """The series of a row of the map."""
        return int(self.series_n[row]) if self.series_n is not None and row < len(self.series_n) else 0


@dataclass(frozen=True, eq=False)
class PointLabels:
    """The labels of the curves that n points are on, each point's index in them, and which properties points have.

    `stated` are those of type, size and tag that at least one point has.
    """

    labels: list[str]
    label_n: NDArray[np.intp]
    stated: list[str]

    def properties(self, scores: Scores) -> list[str]:
        """The possible properties: run, the stated ones, and every benchmark."""
        return ["run", *self.stated, *scores]


def labels_of(points: Sequence[Point]) -> PointLabels:
    """The labels of these points."""
    labels: dict[str, int] = {}
    label_n = np.array([labels.setdefault(label_of(p), len(labels)) for p in points], dtype=np.intp)
    found = {
        "type": any(p.type for p in points),
        "size": any(p.size for p in points),
        "tag": any(p.tags for p in points),
    }
    return PointLabels(list(labels), label_n, [name for name, is_stated in found.items() if is_stated])


def colours(
    shown: Map, by: str, run_number: Mapping[str, int], scores: Scores, labels: PointLabels | None = None
) -> Colours:
    """The series of every point of `shown`; `run_number` is {label: number}, which is the same on every screen.

    With `labels`, those of its points, the series of runs are computed without a loop over the points.
    """
    points = shown.points
    labels = labels or labels_of(points)
    if by == "run" or by not in labels.properties(scores):
        numbers = np.array([run_number.get(label, 0) for label in labels.labels], dtype=np.int16)
        return Colours("run", numbers[labels.label_n])
    from kltui.figures.groups import colouring

    found = colouring(shown, by, scores=scores)
    if not found.task:
        return _grouped(points, by, found)
    values = np.array([found.score(p) for p in points])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)
    share = (values - low) / (high - low) if high > low else np.where(np.isfinite(values), 1.0, math.nan)
    level = np.clip(np.nan_to_num(share) * LEVELS, 0, LEVELS - 1).astype(np.int16)
    return Colours(by, np.where(np.isfinite(values), RAMP + level, UNSCORED).astype(np.int16), (), low, high)


def _grouped(points: Sequence[Point], by: str, found: Colouring) -> Colours:
    labels = [found.label(p) for p in points]
    counted = Counter(labels)
    series = {label: found.slot(label) for label in counted}
    groups = tuple((label, series[label], n) for label, n in counted.items())
    return Colours(by, np.array([series[label] for label in labels], dtype=np.int16), groups)


def ramp_ink(level: int, *, dark: bool) -> int:
    """The xterm-256 index of a level of the ramp, which always differs from the background.

    >>> ramp_ink(0, dark=True), ramp_ink(7, dark=True), ramp_ink(0, dark=False), ramp_ink(7, dark=False)
    (161, 230, 168, 17)
    """
    return RAMPS["dark" if dark else "light"][level]
