"""Keeps freed memory in the process while a model runs, because a forward pass allocates the same large buffers repeatedly.

glibc returns large buffers to the system as soon as they are freed, and the pages of the next buffer must then be mapped and
cleared again, which takes 5 to 13 % of a forward pass as measured. Other C libraries are not changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import cache

# mallopt's names for its parameters, from malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEEP_BYTES = (
    2**29
)  # buffers up to this size are allocated on the heap, of which as much may be free at its end
# the maxima of glibc's dynamic thresholds, which are no longer dynamic once they have been set
USUAL_MMAP_BYTES, USUAL_TRIM_BYTES = 2**25, 2**26


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Context in which freed buffers stay in the process; they are returned to the system at its end."""
    set_thresholds(KEEP_BYTES, KEEP_BYTES)
    try:
        yield
    finally:
        set_thresholds(USUAL_MMAP_BYTES, USUAL_TRIM_BYTES)
        give_back()


def set_thresholds(mmap_bytes: int, trim_bytes: int) -> None:
    """Sets the size from which buffers are mapped separately, and the free bytes at the end of the heap that are returned."""
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
