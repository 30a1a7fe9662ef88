"""The lineage of one row of a map: the properties of a vector that analyses need besides its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FILES = "files:"


@dataclass(frozen=True, slots=True)
class Point:
    """One vector on a map. `base` is the checkpoint's name without variant and layer.

    `weights` says which weights it was made with, where that is known: equal for equal weights.
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
    """What a checkpoint is drawn as part of: its run, or the grid of interpolated models that it is a point of."""
    return grid_of(tags) or run


def label_of(point: Point) -> str:
    """The run, with its variant, or the grid of a point between models: what a curve is called."""
    if grid := grid_of(point.tags):
        return grid
    return point.run if point.quantization == "none" else f"{point.run}+{point.quantization}"
