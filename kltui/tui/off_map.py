"""Sentences on marked checkpoints that are not on the map of the screens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kltui.sanitize import safe_text
from kltui.view.off_map import off_map

if TYPE_CHECKING:
    from kltui.analysis.map import Map
    from kltui.tui.session import Session


def marks_off_map(kl: Session, found: Map, marks: str = "ab") -> list[str]:
    """For each of the `marks` A and B that is set but not on the map: why, and what to press."""
    said = []
    for mark in marks:
        name: str = getattr(kl.selection, mark)
        row = kl.snapshot.by_name.get(name)
        if row is not None and not found.rows_of([name]):
            excluded, saved = kl.map_cache.excluded, bool(kl.reader.basis.saved)
            why = off_map(row, excluded=excluded, left_out=found.left_out, saved=saved)
            said.append(why.on_screen(safe_text(name), mark))
    return said
