"""The lineage of one row of a map: the properties of a vector that analyses need besides its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

FILES = "files:"


@dataclass(frozen=True, slots=True)
class Point:
    """One vector on a map. `base` is the checkpoint's name without variant and layer.

    `weights` identifies the weights that it was computed with (equal for equal weights), or is "" if these are unknown.
    """

    name: str
    run: str
    step: int | None = None
    quantization: str = "none"
    layer: int | None = None
    seed: int | None = None
    size: str = ""
    type: str = ""
    parent: str = ""
    tags: tuple[str, ...] = ()
    weights: str = ""

    @property
    def has_files_digest(self) -> bool:
        """Whether `weights` is a digest of the weight files only, so that different digests mean different weights."""
        return self.weights.startswith(FILES)

    @property
    def base(self) -> str:
        """The unquantised checkpoint's name: `run@step`, or `run`."""
        return self.run if self.step is None else f"{self.run}@{self.step}"


def grid_of(tags: Sequence[str]) -> str:
    """The interpolation grid to which a checkpoint with these tags belongs, or ""."""
    if "interpolation" not in tags:
        return ""
    return next((t.removeprefix("of=") for t in tags if t.startswith("of=")), "interpolation")


def trajectory_of(run: str, tags: Sequence[str]) -> str:
    """The name of the curve or grid that a checkpoint is drawn in: its run, or its grid of interpolated models."""
    return grid_of(tags) or run


def line_label(run: str, quantization: str, tags: Sequence[str]) -> str:
    """The name of a curve: its run, plus the variant if any, or the grid of interpolated models.

    >>> line_label("tiny", "none", ()), line_label("tiny", "bnb-8bit", ())
    ('tiny', 'tiny+bnb-8bit')
    """
    if grid := grid_of(tags):
        return grid
    return run if quantization == "none" else f"{run}+{quantization}"


def label_of(point: Point) -> str:
    """The label of the curve that a point is on."""
    return line_label(point.run, point.quantization, point.tags)


def numbered(known: Mapping[str, int], runs: Iterable[str], labels: Iterable[str]) -> dict[str, int]:
    """{run or label of a curve: the number of its colour and marker}. Known names keep theirs; then come runs in order, then labels by name.

    >>> numbered({"a": 0, "b": 2}, ["a", "c"], ["b+4bit", "a+8bit"])
    {'a': 0, 'b': 2, 'c': 3, 'a+8bit': 4, 'b+4bit': 5}
    """
    numbers = dict(known)
    free = count(max(numbers.values(), default=-1) + 1)
    for name in (*runs, *sorted(set(labels))):
        if name not in numbers:
            numbers[name] = next(free)
    return numbers
