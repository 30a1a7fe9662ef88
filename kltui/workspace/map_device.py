"""The device for the matrix products of a map, and the error for a workspace without vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kltui.errors import KltuiError, StoreError

if TYPE_CHECKING:
    from kltui.analysis.kl import CentredGram


def gram_on(device: str) -> CentredGram | None:
    """The function that centres and multiplies a map's vectors on `device` ("cuda", "cuda:1"), or None for the CPU.

    The CPU is used, and torch is not imported, for "cpu", "auto", and "mps", which has no float64. Raises KltuiError if
    torch has no such device.
    """
    if device in ("cpu", "auto", "mps"):
        return None
    from kltui.scoring.centring import device_gram

    return device_gram(device)


def nothing_scored(*, has_layers: bool = False) -> KltuiError:
    """The error for a workspace without final vectors; `has_layers`: it has layer vectors."""
    if has_layers:
        return StoreError(
            "only layer vectors are stored, and maps need the final vectors of checkpoints",
            "Score the checkpoints, or import their final vectors: kltui --import.",
        )
    return StoreError(
        "nothing is scored in this workspace yet",
        "Score something first: kltui --batch job.toml, or start a job in the Jobs screen.",
    )
