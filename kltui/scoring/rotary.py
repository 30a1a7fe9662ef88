"""Rotary position embeddings by the native core, for models on a CPU that would use transformers' own function.

That function allocates six tensors for each of query and key to rotate a part of their entries: a tenth of a forward pass of small
models. The core rotates them in place, bit for bit the same. It replaces the function with that name and those
arguments in a model's module, while the model runs; every unusual call goes to the original function.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch

from kltui.kernels import native

REPLACED = "apply_rotary_pos_emb"
ARGUMENTS = ["q", "k", "cos", "sin", "unsqueeze_dim"]
Rotated = tuple[torch.Tensor, torch.Tensor]
Rotation = Callable[..., Rotated]


class NativeRotary:
    """Rotates queries and keys of one model; `calls` counts the calls that the native core computed."""

    def __init__(self, model: Any) -> None:
        self.calls = 0
        self._modules = _modules_with_rotation(model)

    @property
    def is_possible(self) -> bool:
        """Whether the model has such a function, and the core is built."""
        return bool(self._modules) and native.has_rotation()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which models of these classes use this rotation."""
        with ExitStack() as stack:
            for module in self._modules:
                own = getattr(module, REPLACED)
                stack.callback(setattr, module, REPLACED, own)
                setattr(module, REPLACED, partial(self._rotate, own))
            yield

    def _rotate(
        self,
        own: Rotation,
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unsqueeze_dim: int = 1,
    ) -> Rotated:
        """Query and key, (B, H, T, D) each, rotated by the angles (B, T, R) in their first R entries."""
        if unsqueeze_dim != 1 or not _fits(q, k, cos, sin):
            return own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        self.calls += 1
        for heads in (q, k):
            native.rotate(heads, cos, sin)
        return q, k


def _modules_with_rotation(model: Any) -> list[ModuleType]:
    """The Python modules of the model's classes that define the function with the expected arguments."""
    names = dict.fromkeys(type(part).__module__ for part in model.modules())
    modules = [sys.modules[name] for name in names if name in sys.modules]
    return [
        m for m in modules if callable(own := getattr(m, REPLACED, None)) and _arguments(own) == ARGUMENTS
    ]


def _arguments(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _fits(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether the core supports these tensors: float32 on the CPU, separate in memory, with an angle for each position."""
    every = (q, k, cos, sin)
    plain = all(x.device.type == "cpu" and x.dtype == torch.float32 and not x.requires_grad for x in every)
    rows = (
        all(x.stride(-1) == 1 for x in every)
        and cos.stride() == sin.stride()
        and q.data_ptr() != k.data_ptr()
    )
    if not (plain and rows and q.ndim == k.ndim == 4 and cos.ndim == 3 and cos.shape == sin.shape):
        return False
    whole = all(
        x.shape[2] == cos.shape[1] and cos.shape[0] in (1, len(x)) and cos.shape[2] <= x.shape[3]
        for x in (q, k)
    )
    own = all(step > 0 for x in (q, k) for n, step in zip(x.shape, x.stride(), strict=True) if n > 1)
    return whole and own and cos.shape[2] % 2 == 0 and q.numel() > 0 and k.numel() > 0
