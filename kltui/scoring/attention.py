"""Causal attention by the native core, for models on a CPU that would use torch's.

torch's flash kernel for the CPU multiplies small blocks at a fraction of the processor's pace: a tenth of a forward pass.
Only plain causal attention without a mask is taken over; every other call goes on to transformers' own sdpa.
"""

from __future__ import annotations

from typing import Any

import torch

from kltui import native

NAME = "kltui_causal"
LARGEST_DEPTH = 512
# What may change attention beyond query, key and value; any of them set means torch's way.
SPECIAL = ("softcap", "s_aux", "position_bias", "cache", "head_mask", "sliding_window")


def use_native(model: Any) -> bool:
    """Whether attention modules that would have used sdpa now come to the native core; undone by `use_library`."""
    configs = _configs(model, "sdpa")
    if not configs or not native.info()["extension"] or not _registered():
        return False  # the numpy twin is exact but slow
    for config in configs:
        config._attn_implementation = NAME
    return True


def use_library(model: Any) -> None:
    """Attention is torch's again."""
    for config in _configs(model, NAME):
        config._attn_implementation = "sdpa"


def _configs(model: Any, name: str) -> list[Any]:
    """The configurations, each once, of the model's modules whose attention is `name`."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [c for c in found.values() if getattr(c, "_attn_implementation", None) == name]


def _registered() -> bool:
    """Whether transformers takes implementations from outside and knows this one."""
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError:
        return False
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return True


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """(B, T, H, E) and no weights, as transformers asks of an attention function; heads come as (B, H, T, D)."""
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    plain = causal and attention_mask is None and not dropout
    if not plain or any(options.get(name) is not None for name in SPECIAL) or not _fits(query, key, value):
        return _by_torch(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal,
            **options,
        )  # fmt: skip
    B, H, T, D = query.shape
    out = query.new_empty((B, T, H, value.shape[-1]))
    native.causal_attention(query, key, value, out, D**-0.5 if scaling is None else float(scaling))
    return out, None


def _by_torch(*arguments: Any, **options: Any) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(*arguments, **options)


def _fits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether these are heads of whole texts that the kernel takes."""
    tensors = (query, key, value)
    alike = all(x.device.type == "cpu" and x.dtype == query.dtype and x.stride(-1) == 1 for x in tensors)
    plain = query.dtype in (torch.float32, torch.bfloat16) and not any(x.requires_grad for x in tensors)
    whole = query.shape[2] == key.shape[2] == value.shape[2] and query.shape[2] > 1
    return alike and plain and whole and max(query.shape[-1], value.shape[-1]) <= LARGEST_DEPTH
