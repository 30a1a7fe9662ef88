"""Keeps freed memory in the process while a model runs, because a forward pass allocates the same large buffers repeatedly.

glibc returns large buffers to the system as soon as they are freed, and every page of the next one is then faulted in
and cleared again: measured 5 to 13 % of a forward pass. Other C libraries are not changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import cache

# mallopt's names for its parameters, from malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 2**29  # buffers up to this size come from the heap, and as much may lie free at its end
# where glibc's own sliding thresholds end; once set by hand they no longer slide
USUAL_MMAP_BYTES, USUAL_TRIM_BYTES = 2**25, 2**26


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Within it freed buffers stay with the process; they go back to the system at its end."""
    set_thresholds(KEEP_BYTES, KEEP_BYTES)
    try:
        yield
    finally:
        set_thresholds(USUAL_MMAP_BYTES, USUAL_TRIM_BYTES)
        give_back()


def set_thresholds(mmap_bytes: int, trim_bytes: int) -> None:
    """Buffers from `mmap_bytes` on are mapped one by one; the heap's free end is cut at `trim_bytes`."""
    call = _glibc("mallopt")
    if call is not None:
        call(MMAP_THRESHOLD, mmap_bytes)
        call(TRIM_THRESHOLD, trim_bytes)


def give_back() -> None:
    """Returns free memory to the system."""
    call = _glibc("malloc_trim")
    if call is not None:
        call(0)


@cache
def _glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    found: Callable[..., int] | None = getattr(library, name, None)
    return found if hasattr(library, "gnu_get_libc_version") else None
