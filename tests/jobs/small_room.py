"""As much memory as KLTUI_TEST_ROOM says, in bytes, to whoever asks psutil or the system: run first by a test's processes."""

from __future__ import annotations

import os
from typing import Any

import psutil

_whole = psutil.virtual_memory
_asked = os.sysconf


def _small() -> Any:
    return _whole()._replace(available=int(os.environ["KLTUI_TEST_ROOM"]))


def _few_pages(name: str | int) -> int:
    pages = int(os.environ["KLTUI_TEST_ROOM"]) // _asked("SC_PAGE_SIZE")
    return pages if name == "SC_PHYS_PAGES" else _asked(name)


psutil.virtual_memory = _small
os.sysconf = _few_pages
