"""Versions of the software that computes values, for a vector's key."""

from __future__ import annotations

from functools import cache

import torch

from kltui.scoring import quantize

SCORING_VERSION = "1"


def library_versions(quantization: str) -> dict[str, str]:
    """{name: version} of torch, transformers, kltui's scoring and the quantising library."""
    return {
        "torch": str(torch.__version__),  # a plain string: unpickling torch's own type would import torch
        "transformers": _transformers_version(),
        "scoring": SCORING_VERSION,
        **quantize.versions(quantization),
    }


@cache
def _transformers_version() -> str:
    """Its installed version; cached, because a file is read for it."""
    from importlib.metadata import version

    return version("transformers")
