"""Which rows of a map form a trajectory: one run in one variant and one layer, ordered by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kltui.analysis.point import Point


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Rows of one run in one variant and layer, by rising step. `label` is the run, plus variant and layer."""

    label: str
    run: str
    rows: tuple[int, ...]
    steps: tuple[int, ...]


def trajectories(points: Sequence[Point], *, layers: bool = False) -> list[Trajectory]:
    """Every trajectory among `points`, in order of first appearance; lens vectors only with `layers`."""
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


def evenly_spaced_from(steps: Sequence[int]) -> int:
    """Step from which a run is saved at one constant interval up to its end (the end of a doubling warm-up).

    >>> evenly_spaced_from([0, 1, 2, 4, 8, 16, 20, 40, 60, 80])
    20
    """
    if len(steps) < 2:
        return steps[0] if steps else 0
    gap = steps[-1] - steps[-2]
    i = len(steps) - 2
    while i > 0 and steps[i] - steps[i - 1] == gap:
        i -= 1
    return steps[i]
