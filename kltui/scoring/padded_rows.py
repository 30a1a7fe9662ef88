"""Matrix products whose rows are padded to a multiple of `STEP`, so that few different shapes occur.

oneDNN compiles code for each shape and caches the last 1,024. Compiling takes 20 to 50 ms for the bfloat16 tiles of AMX, longer
than the product of a small layer itself, and some milliseconds otherwise. The batches of a corpus have hundreds of different
numbers of tokens, each with four or more shapes of layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

STEP = 32  # rows; a multiple of AMX's tiles and of float32's blocks, at most 2 % of a batch of 1,500 tokens

Product = Callable[[torch.Tensor], torch.Tensor]


def over_padded_rows(product: Product) -> Product:
    """`product` (..., K) -> (..., D), which treats rows separately, called with a number of rows that is a multiple of STEP.

    The added rows are whatever follows x in its memory, or zeros; their results are dropped.
    """

    def padded(x: torch.Tensor) -> torch.Tensor:
        K = x.shape[-1]
        M = x.numel() // K if K else 0
        if M % STEP == 0:
            return product(x)
        result: torch.Tensor = product(_extended(x, M, _padded(M)))[:M]
        return result.view(*x.shape[:-1], result.shape[-1])

    return padded


def as_dtype(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x (..., K) copied to another dtype and followed in memory by zero rows, so that `over_padded_rows` need not copy it."""
    K = x.shape[-1]
    M = x.numel() // K if K else 0
    result = x.new_empty((_padded(M), K), dtype=dtype)
    result[M:] = 0
    return result[:M].view(x.shape).copy_(x)


def _padded(M: int) -> int:
    return -(-M // STEP) * STEP


def _extended(x: torch.Tensor, M: int, wanted: int) -> torch.Tensor:
    """x as (wanted, K), its M rows first: a view if x is contiguous and its storage is that long, else a copy with zeros."""
    K = x.shape[-1]
    end = (x.storage_offset() + wanted * K) * x.element_size()
    if x.is_contiguous() and end <= x.untyped_storage().nbytes():
        return x.as_strided((wanted, K), (K, 1))
    longer = x.new_zeros((wanted, K))
    longer[:M] = x.reshape(M, K)
    return longer
