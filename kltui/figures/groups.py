"""The colours and markers of a map's points, by their run, type, size, tag, or a benchmark score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kltui.analysis.map import Map
from kltui.analysis.point import Point, grid_of, label_of
from kltui.errors import UsageError
from kltui.sanitize import safe_text

BY = ("run", "type", "size", "tag", "score")
NONE = "not stated"
FEW = 12  # maximum number of models without steps that a legend names one by one

_GROUP: dict[str, Callable[[Point], str]] = {
    "run": lambda p: label_of(p),
    "type": lambda p: p.type or NONE,
    "size": lambda p: p.size or NONE,
    "tag": lambda p: next((t for t in p.tags if not t.startswith("of=")), "no tag"),
}


@dataclass(frozen=True)
class Colouring:
    """The assignment of the points of a map to series, which have a colour and a marker, or to scores.

    `slots` is {series: its number}. With a `task`, points are coloured by `scores`, {vector: score in `unit`}.
    """

    by: str = "run"
    slots: Mapping[str, int] = field(default_factory=dict)
    task: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    unit: str = "score"
    merged: bool = False  # models without steps are coloured by type, because there are too many to name

    def label(self, point: Point) -> str:
        """The name of a point's series in the legend."""
        if self.by == "run" and self.merged and point.step is None:
            kind = grid_of(point.tags) or point.type or "other models"
            return kind if point.quantization == "none" else f"{kind}+{point.quantization}"
        return _GROUP[self.by if self.by != "score" else "run"](point)

    def slot(self, label: str) -> int:
        """The number of a series, which determines its colour and marker."""
        return self.slots.get(label, max(self.slots.values(), default=-1) + 1)

    def score(self, point: Point) -> float:
        """The score of a point, NaN if it has none."""
        return self.scores.get(point.name, math.nan)


def by_name(labels: Iterable[str]) -> list[str]:
    """The distinct labels sorted by name, "not stated" last: the same order, and so the same colours, in every figure."""
    return sorted(set(labels), key=lambda label: (label == NONE, label))


def colouring(
    shown: Map,
    by: str = "run",
    slots: Mapping[str, int] | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> Colouring:
    """The colouring of `shown` by run, type, size, tag, score (the first of `scores`, which is the mean over tasks), or a task's name.

    `slots` is {run: its number} on other screens and figures; `scores` is {task: {vector: score}}. Raises UsageError for any
    other `by`.
    """
    if by in _GROUP:
        single = {label_of(p) for p in shown.points if p.step is None and p.layer is None}
        made = Colouring(by, slots or {}, merged=by == "run" and len(single) > FEW)
        labels = list(dict.fromkeys(made.label(p) for p in shown.points))
        labels = by_name(labels) if made.merged or by in ("type", "tag") else labels
        known = {label: n for label, n in (slots or {}).items() if by == "run" and label in labels}
        if made.merged or not known:
            known = {}
        free = (n for n in range(len(labels) + len(known)) if n not in known.values())
        numbered = {label: known[label] if label in known else next(free) for label in labels}
        return Colouring(by, numbered, merged=made.merged)
    tasks = dict(scores or {})
    task = by if by in tasks else next(iter(tasks), "") if by == "score" else ""
    if not task:
        have = [*BY[:-1], *(["score", *tasks] if tasks else [])]
        why = (
            ""
            if tasks or by != "score"
            else " (the workspace has no benchmark scores: kltui --import scores.csv)"
        )
        raise UsageError(
            f"--colour {safe_text(by, 60)}: points have no such property{why}",
            f"Known: {', '.join(safe_text(h, 40) for h in have)}.",
        )
    return Colouring("score", {}, task, tasks[task])
