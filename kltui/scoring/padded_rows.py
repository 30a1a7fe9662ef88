"""Products over few different numbers of rows.

oneDNN makes code for every shape that it multiplies and keeps the last 1,024 of them. With the bfloat16 tiles of AMX that takes
20 to 50 ms, longer than the product of a small layer itself, and otherwise some milliseconds. The batches of a corpus have
hundreds of different numbers of tokens, each with four or more shapes of layers: so rows are padded to a multiple of `STEP`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

STEP = 32  # rows; a multiple of AMX's tiles and of float32's blocks, at most 2 % of a batch of 1,500 tokens

Product = Callable[[torch.Tensor], torch.Tensor]


def over_padded_rows(product: Product) -> Product:
    """`product` of rows (..., K) -> (..., D), each by itself, which is called with (M, K), M a multiple of STEP.

    The further rows are whatever lies behind x in its memory, or zeros; nothing reads what becomes of them.
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
    """x (..., K) in another dtype, in memory with room for the rows that `over_padded_rows` adds."""
    K = x.shape[-1]
    M = x.numel() // K if K else 0
    result = x.new_empty((_padded(M), K), dtype=dtype)
    result[M:] = 0
    return result[:M].view(x.shape).copy_(x)


def _padded(M: int) -> int:
    return -(-M // STEP) * STEP


def _extended(x: torch.Tensor, M: int, wanted: int) -> torch.Tensor:
    """x as (wanted, K), its M rows first: where it lies, if its memory goes on for so long, else copied."""
    K = x.shape[-1]
    end = (x.storage_offset() + wanted * K) * x.element_size()
    if x.is_contiguous() and end <= x.untyped_storage().nbytes():
        return x.as_strided((wanted, K), (K, 1))
    longer = x.new_zeros((wanted, K))
    longer[:M] = x.reshape(M, K)
    return longer
