"""The device that these tests score on: a GPU, or with KLTUI_GPU_TESTS=cpu the processor, for a dry run."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def device() -> str:
    """ "cuda", skipped where there is none, or "cpu" in a dry run."""
    import torch

    wanted = os.environ.get("KLTUI_GPU_TESTS", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return wanted
