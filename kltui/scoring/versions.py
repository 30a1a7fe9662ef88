"""Versions of what computes a value, as a vector's key has them."""

from __future__ import annotations

from functools import cache

import torch

from kltui.scoring import quantize

SCORING_VERSION = "1"


def library_versions(quantization: str) -> dict[str, str]:
    """Versions of what computes a value: torch, transformers, scoring itself, and the quantising library."""
    return {
        "torch": str(torch.__version__),  # as torch has it, whoever unpickles it imports torch
        "transformers": _transformers_version(),
        "scoring": SCORING_VERSION,
        **quantize.versions(quantization),
    }


@cache
def _transformers_version() -> str:
    """As its installation says; that is a file to be read, so it is asked once."""
    from importlib.metadata import version

    return version("transformers")
