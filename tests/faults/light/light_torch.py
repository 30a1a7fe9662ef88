"""Stands where torch is asked for its devices: a version without CUDA, or with GPUs as KLTUI_LIGHT_GPUS counts."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

_COUNT = int(os.environ.get("KLTUI_LIGHT_GPUS", "0"))

__version__ = "0.0+light"
version = SimpleNamespace(cuda="12.8" if _COUNT else None, hip=None)
backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False))


def _properties(index: int) -> Any:
    return SimpleNamespace(name=f"Light GPU {index}", total_memory=24 << 30, major=9, minor=0)


cuda = SimpleNamespace(
    is_available=lambda: _COUNT > 0,
    device_count=lambda: _COUNT,
    get_device_properties=_properties,
    get_arch_list=lambda: ["sm_90"],
    init=lambda: None,
)
