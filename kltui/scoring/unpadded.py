"""Batches as one row of concatenated texts without padding, if torch has attention for variable-length sequences.

The models are unchanged: they get one long text, each token's position in its own text, and an attention function that
knows where the texts begin. This works only for plain causal attention: a model that uses more than the earlier
tokens of its own text (a window, a soft cap, a bias, a state along the row) is detected on a small batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.scoring.attention import REPLACED, SPECIAL, attention_functions
from kltui.scoring.batching import Batch, Ids, cut_pieces, fill_batch

NAME = "torch_varlen"
Kernel = Callable[..., Any]


class UnsuitedError(TypeError):
    """Raised for a model that needs more than plain causal attention."""


class UnpaddedRow(NamedTuple):
    """A batch in one row of T tokens: ids, positions in their texts, flat positions to score, and offsets of the texts.

    `starts` has one entry more than there are texts; `longest` is the length of the longest text.
    """

    ids_1T: Ids
    places_1T: Ids
    positions_n: Ids
    starts: NDArray[np.int32]
    longest: int


def in_one_row(batch: Batch) -> UnpaddedRow:
    """The batch's texts concatenated, without the padding."""
    B, width = batch.ids_BT.shape
    rows_n, columns_n = np.divmod(batch.positions_n, width)
    lengths_B = np.zeros(B, np.int64)
    np.maximum.at(lengths_B, rows_n, columns_n + 1)  # a text is read up to its last scored position
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_B)])
    columns_BT = np.broadcast_to(np.arange(width), (B, width))
    read_BT = columns_BT < lengths_B[:, None]
    return UnpaddedRow(
        batch.ids_BT[read_BT][None],
        columns_BT[read_BT][None],
        starts[rows_n] + columns_n,
        starts.astype(np.int32),
        int(lengths_B.max()),
    )


def kernel_for(device: torch.device, dtype: torch.dtype) -> Kernel | None:
    """torch's attention for variable-length sequences, for half precision on GPUs; None if it is not available."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # older than torch 2.10
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= known.keys() else None


def takes_positions(model: Any) -> bool:
    """Whether the model accepts position ids and uses the attention interface of transformers that is replaced."""
    configs = (getattr(module, "config", None) for module in model.modules())
    asks = any(getattr(config, "_attn_implementation", None) == REPLACED for config in configs)
    named = "position_ids" in inspect.signature(type(model).forward).parameters
    return asks and named and attention_functions() is not None


@dataclass(frozen=True)
class _Texts:
    """Offsets of the texts in a row, on the device, and the length of the longest."""

    starts: torch.Tensor
    longest: int


class RowAttention:
    """An attention function for transformers, causal within each text of a row; `calls` counts its calls."""

    def __init__(self, kernel: Kernel) -> None:
        self.calls = 0
        self._kernel = kernel
        self._texts: _Texts | None = None

    @contextmanager
    def over(self, starts: torch.Tensor, longest: int) -> Iterator[None]:
        """Context in which models attend within the texts of one row, whose offsets are `starts`."""
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        functions, masks = attention_functions(), ALL_MASK_ATTENTION_FUNCTIONS
        assert functions is not None
        before, mask_before = functions[REPLACED], masks[REPLACED]
        functions[REPLACED], masks[REPLACED] = self, _no_mask
        self._texts = _Texts(starts, longest)
        try:
            yield
        finally:
            self._texts = None
            functions[REPLACED], masks[REPLACED] = before, mask_before

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
        """(1, T, H, E) and no weights, as transformers expects of an attention function; inputs are (1, H, T, D).

        Raises UnsuitedError if the model asks for more than plain causal attention.
        """
        assert self._texts is not None
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        special = any(options.get(name) is not None for name in SPECIAL)
        if not causal or attention_mask is not None or dropout or special or len(query) != 1:
            raise UnsuitedError(f"{type(module).__name__} does more than plain causal attention")
        if not query.shape[2] == key.shape[2] == value.shape[2]:
            raise UnsuitedError(f"{type(module).__name__} attends to more or less than the row")
        self.calls += 1
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        starts, longest = self._texts.starts.to(query.device), self._texts.longest
        attended = self._kernel(
            q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0),
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        return attended[None], None


def _no_mask(*, mask_function: Any = None, attention_mask: Any = None, **_options: Any) -> None:
    """Replaces transformers' creation of masks, because a row's mask would have an entry for every pair of tokens.

    Raises UnsuitedError for any other mask than the causal one.
    """
    from transformers.masking_utils import causal_mask_function

    if mask_function is not causal_mask_function or attention_mask is not None:
        raise UnsuitedError("the model asks for another mask than the plain causal one")


def probe_batch(ids_n: Ids, *, first_changed: bool = False) -> Batch:
    """A batch of texts of very different lengths, made from the ids; the first and longest has all of them.

    With `first_changed`, the first text is reversed: a change in the others then shows that texts influence each other.
    """
    n = len(ids_n)
    first = ids_n[::-1].copy() if first_changed else ids_n
    others = [
        ids_n[i : i + length] for i, length in enumerate((n // 2, n // 2, n // 3, 5, 3, 2)) if length >= 2
    ]
    texts = [first, *others]
    return fill_batch(cut_pieces([len(text) for text in texts], 1, None, "error"), texts)


def leaks(hidden_nD: torch.Tensor, changed_nD: torch.Tensor, n_first: int) -> bool:
    """Whether the hidden states after the first text (`n_first` positions) change with that text.

    Checked at each position, because a short convolution affects only a few of them.
    """
    a, b = hidden_nD[n_first:].float(), changed_nD[n_first:].float()
    limit = max(8 * torch.finfo(hidden_nD.dtype).eps, 1e-5)
    return bool(((a - b).norm(dim=1) > limit * a.norm(dim=1)).any())
