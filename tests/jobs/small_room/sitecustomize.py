"""On the path of a test's subprocesses: as much memory as KLTUI_TEST_ROOM says, in bytes, to whoever asks psutil or the system.

Python imports a module of this name at start; nothing in kltui knows of it.
"""

from __future__ import annotations

import os
from typing import Any

if "KLTUI_TEST_ROOM" in os.environ:
    import psutil

    _whole = psutil.virtual_memory

    def _small() -> Any:
        return _whole()._replace(available=int(os.environ["KLTUI_TEST_ROOM"]))

    _asked = os.sysconf

    def _few_pages(name: str | int) -> int:
        pages = int(os.environ["KLTUI_TEST_ROOM"]) // _asked("SC_PAGE_SIZE")
        return pages if name == "SC_PHYS_PAGES" else _asked(name)

    psutil.virtual_memory = _small
    os.sysconf = _few_pages
