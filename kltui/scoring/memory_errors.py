"""Recognises errors that mean that memory ran out. This module does not import torch."""

from __future__ import annotations

import sys

# Parts of messages of out-of-memory errors without a type of their own: CPU allocator, CUDA runtime and MPS, cuBLAS.
_RAN_OUT = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of the CPU or of a device. Then it says nothing about what was tried."""
    torch = sys.modules.get("torch")
    typed = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return typed or isinstance(error, MemoryError) or any(words in str(error) for words in _RAN_OUT)
