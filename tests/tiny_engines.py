"""Engines of models that are in memory."""

from __future__ import annotations

from typing import Any

import torch

from kltui.scoring.engine import Engine
from kltui.scoring.loading import Loaded
from kltui.scoring.settings import ScoringSettings


def engine_of(model: Any, dtype: torch.dtype = torch.float32) -> Engine:
    """An engine on the CPU for `model`, converted to `dtype` in place."""
    loaded = Loaded(model.to(dtype).requires_grad_(False), model.config, "sdpa", dtype, ())
    with torch.inference_mode():
        return Engine(loaded, ScoringSettings(), torch.device("cpu"), "none")
