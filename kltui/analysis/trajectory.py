"""Which rows of a map form a trajectory: one run in one variant and one layer, ordered by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kltui.analysis.point import Point


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Rows of one run in one variant and layer, by rising step. `label` is the run, plus variant and layer."""

    label: str
    run: str
    rows: tuple[int, ...]
    steps: tuple[int, ...]


def trajectories(points: Sequence[Point], *, layers: bool = False) -> list[Trajectory]:
    """Every trajectory among `points`, in order of first appearance; layer vectors only with `layers`."""
    groups: dict[tuple[str, str, int | None], list[int]] = {}
    for row, p in enumerate(points):
        if p.step is not None and (layers or p.layer is None):
            groups.setdefault((p.run, p.quantization, p.layer), []).append(row)
    return [_trajectory(points, rows) for rows in groups.values()]


def _trajectory(points: Sequence[Point], rows: list[int]) -> Trajectory:
    rows = sorted(rows, key=lambda r: points[r].step or 0)
    p = points[rows[0]]
    label = p.run
    if p.quantization != "none":
        label += f"+{p.quantization}"
    if p.layer is not None:
        label += f"#{p.layer}"
    return Trajectory(label, p.run, tuple(rows), tuple(points[r].step or 0 for r in rows))


def even_interval(steps: Sequence[int]) -> tuple[int, int]:
    """(step from which a run is saved evenly, interval): the most frequent interval, the larger of equals.

    Intervals that double at the start, and a missing or extra checkpoint, do not change the result.

    >>> even_interval([0, 1, 2, 4, 8, 16, 20, 40, 60, 100, 120, 133])
    (20, 20)
    """
    gaps = [b - a for a, b in pairwise(steps)]
    if not gaps:
        return (steps[0] if steps else 0), 0
    counts = Counter(gaps)
    gap = max(counts, key=lambda g: (counts[g], g))
    return steps[gaps.index(gap)], gap


def saved_steps(checkpoints: Iterable[tuple[str, int | None, str]]) -> dict[str, list[int]]:
    """{run: every step at which it was saved} of (run, step, quantisation), variants and stepless models left out."""
    found: dict[str, list[int]] = {}
    for run, step, quantization in checkpoints:
        if step is not None and quantization == "none":
            found.setdefault(run, []).append(step)
    return found
