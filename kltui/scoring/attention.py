"""Causal attention by the native core, for models on a CPU that would use torch's.

torch's flash kernel for the CPU multiplies small blocks at a fraction of the processor's speed, which costs a tenth of a forward pass.
Only plain causal attention without a mask is replaced; every other call goes to transformers' own sdpa. The model
itself is left as it is: some families do other things under another implementation's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from kltui.kernels import native
from kltui.scoring.kernel_choice import TRIAL_ROWS, Candidate, KernelChooser

NAME = "kltui_causal"
REPLACED = "sdpa"
MAX_DEPTH = 512
MIN_WIDTH = 256  # of hidden states: narrower models gain nothing
MAX_SCRATCH = 32 << 20  # bytes of keys and values, converted to float32, per thread
# Options that transformers' sdpa takes into account or rejects; it ignores others, whose effect is in the mask, as does kltui.
SPECIAL = ("softcap", "s_aux", "position_bias")


def is_possible(model: Any) -> bool:
    """Whether modules of the model use transformers' sdpa, and the native core is built (its numpy reference is slow)."""
    configs = (getattr(module, "config", None) for module in model.modules())
    wanted = any(getattr(config, "_attn_implementation", None) == REPLACED for config in configs)
    return wanted and bool(native.info()["extension"]) and attention_functions() is not None


def attention_functions() -> Any | None:
    """transformers' table of attention functions by name; None if this version has none."""
    try:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    except ImportError:
        return None
    return ALL_ATTENTION_FUNCTIONS


def is_faster(config: Any, dtype: torch.dtype, chooser: KernelChooser) -> bool:
    """Whether the core's attention is faster than torch's for the heads of this model; True if nothing can be timed."""
    sizes = _head_sizes(config)
    if sizes is None or dtype not in (torch.float32, torch.bfloat16):
        return True
    heads, groups, depth = sizes
    what = f"attention {str(dtype).removeprefix('torch.')} {heads} heads of {depth}, {groups} of keys"
    return chooser.among(what, _ways(heads, groups, depth, dtype)) == "native"


def _head_sizes(config: Any) -> tuple[int, int, int] | None:
    """(heads of queries, heads of keys, their depth); None if the configuration does not say, and for small models."""
    width, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    if not isinstance(width, int) or not isinstance(heads, int) or width < MIN_WIDTH or heads < 1:
        return None
    groups = getattr(config, "num_key_value_heads", None) or heads
    depth = getattr(config, "head_dim", None) or width // heads
    fits = isinstance(groups, int) and isinstance(depth, int) and 0 < depth <= MAX_DEPTH
    return (heads, groups, depth) if fits and heads % groups == 0 else None


def _ways(heads: int, groups: int, depth: int, dtype: torch.dtype) -> list[Candidate]:
    """The core's attention and torch's, over random queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, n, TRIAL_ROWS, depth, generator=generator).to(dtype) for n in (heads, groups, groups)
    )

    def by_core() -> torch.Tensor:
        out = query.new_empty((1, TRIAL_ROWS, heads, depth))
        native.causal_attention(query, key, value, out, depth**-0.5)
        return out.transpose(1, 2)

    def by_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=depth**-0.5, enable_gqa=groups < heads
        )

    truth = by_torch(query.double(), key.double(), value.double())
    slack = 4.0 * torch.finfo(dtype).eps * float(truth.abs().max()) + 1e-6

    def candidate(name: str, run: Callable[[], torch.Tensor]) -> Candidate:
        return Candidate(name, run, lambda: bool((run().double() - truth).abs().max() <= slack))

    return [candidate("native", by_core), candidate("torch", lambda: by_torch(query, key, value))]


class NativeAttention:
    """An attention function for transformers; `calls` counts the calls that the native core computed."""

    def __init__(self) -> None:
        self.calls = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which models that use sdpa call the core's attention."""
        functions = attention_functions()
        assert functions is not None
        before = functions[REPLACED]
        functions[REPLACED] = self
        try:
            yield
        finally:
            functions[REPLACED] = before

    def __call__(
        self,
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
        """(B, T, H, E) and no weights, as transformers expects of an attention function; inputs are (B, H, T, D)."""
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        plain = causal and attention_mask is None and not dropout
        if (
            not plain
            or any(options.get(name) is not None for name in SPECIAL)
            or not _fits(query, key, value)
        ):
            return _by_torch(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal,
                **options,
            )  # fmt: skip
        self.calls += 1
        B, H, T, D = query.shape
        out = query.new_empty((B, T, H, value.shape[-1]))
        native.causal_attention(query, key, value, out, D**-0.5 if scaling is None else float(scaling))
        return out, None


def _by_torch(*arguments: Any, **options: Any) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(*arguments, **options)
    return attended


def _fits(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the kernel supports these tensors: whole texts, dtype, layout and size."""
    tensors = (query, key, value)
    alike = all(x.device.type == "cpu" and x.dtype == query.dtype and x.stride(-1) == 1 for x in tensors)
    plain = query.dtype in (torch.float32, torch.bfloat16) and not any(x.requires_grad for x in tensors)
    whole = query.shape[2] == key.shape[2] == value.shape[2] and query.shape[2] > 1
    depth, width = query.shape[-1], value.shape[-1]
    small = max(depth, width) <= MAX_DEPTH and 4 * (depth + width) * query.shape[2] <= MAX_SCRATCH
    return alike and plain and whole and small
