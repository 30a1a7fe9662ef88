"""The lineage of one row of a map: what the analyses need to know of a vector beside its numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """One vector on a map. `base` is the checkpoint's name without variant and layer."""

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

    @property
    def base(self) -> str:
        """The unquantised checkpoint's name: `run@step`, or `run`."""
        return self.run if self.step is None else f"{self.run}@{self.step}"
