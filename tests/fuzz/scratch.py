"""Files of one input, in memory where the system has room for them there, and what a reader may answer."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kltui.errors import KltuiError

T = TypeVar("T")

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
FOLDER = Path(tempfile.mkdtemp(prefix="kltui-fuzz-", dir=os.environ.get("KLTUI_FUZZ_SCRATCH", _MEMORY)))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

MAX_ANSWER = 1 << 16


def put(name: str, data: bytes) -> Path:
    """The path of a file with that name and content."""
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def answer(read: Callable[[], T]) -> T | None:
    """What `read` returns, None where it refuses by a KltuiError that says something; all else is a fault."""
    try:
        return read()
    except KltuiError as error:
        assert error.message.strip(), "a refusal without a word"
        assert len(str(error)) < MAX_ANSWER, "a refusal that nobody can read"
        return None
