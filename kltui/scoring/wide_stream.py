"""A bfloat16 model on a CPU with products in bfloat16 and everything between them in float32.

Rounding the sums along the layers, norms and rotary embeddings to bfloat16 is most of what such a model is off beyond its
rounded weights: of 24 texts on Pythia's 70m shape 0.22 nat a text at most in transformers, and 0.12 so. Embeddings come out as float32, layer norms and the products of
linear layers too, and torch carries that on. What a linear layer reads is rounded to its weights' dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from kltui.scoring.prepacked_linear import Packing, take_over, widened_product

Forward = Callable[..., Any]


def is_possible(model: Any) -> bool:
    """Whether all of the model's parameters are bfloat16 on the CPU, and no layer's forward belongs to another library."""
    parameters = list(model.parameters())
    return (
        all(p.dtype == torch.bfloat16 and p.device.type == "cpu" for p in parameters)
        and all(type(p.data) is torch.Tensor for p in parameters)
        and not any("forward" in m.__dict__ and "_kltui_packed" not in m.__dict__ for m in model.modules())
    )


def apply(model: Any, head: Any, packing: Packing | None) -> None:
    """Has the model's modules hand on float32, the `head` as it does; layers stay packed as they are.

    Undone, with the packing, by `prepacked_linear.unpack`.
    """
    fused = {} if packing is None else {layer: a for layer, a in packing.follows.items() if a is not None}
    widened = set() if packing is None else set(packing.widened)
    rounded = _Rounded()
    for module in model.modules():
        if module is head:
            take_over(module, _from_rounded(module.forward, rounded))
        elif module in widened:
            take_over(module, _from_rounded(widened_product(module), rounded))
        elif type(module) in (torch.nn.Linear, Conv1D):
            product = _from_rounded(module.forward, rounded)
            # with its activation done, the next layer reads it as it is
            take_over(module, product if module in fused else _widening(product))
        elif isinstance(module, torch.nn.Embedding):
            take_over(module, _widening(module.forward))
        elif type(module) is torch.nn.LayerNorm:
            take_over(module, _wide_norm(module))


class _Rounded:
    """Tensors in bfloat16; the last one is kept, as several layers read one tensor one after another."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            return x
        if self._last is None or self._last[0] is not x:
            self._last = x, x.to(torch.bfloat16)
        return self._last[1]


def _from_rounded(forward: Forward, rounded: _Rounded) -> Forward:
    return lambda x: forward(rounded(x))


def _widening(forward: Forward) -> Forward:
    return lambda *args, **kwargs: forward(*args, **kwargs).float()


def _wide_norm(norm: Any) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        weight, bias = (None if p is None else p.float() for p in (norm.weight, norm.bias))
        return torch.nn.functional.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps)

    return forward
