"""Files that are either complete or absent, whatever happens while they are written."""

from __future__ import annotations

from pathlib import Path

from kltui.atomic_files import replacing
from kltui.store.connection import explained


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` to a temporary file, syncs it, and renames it to `path`; creates the folder. Raises StoreError."""
    with explained(path), replacing(path, durable=True) as file:
        file.write(data)
