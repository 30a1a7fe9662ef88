"""Recently opened workspaces, for starting kltui without an argument."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kltui.sanitize import safe_text

if TYPE_CHECKING:
    from kltui.tui.ui_state import Memory

SHOWN = 8


class Recent(NamedTuple):
    """A workspace that was opened before, and whether it still exists."""

    path: Path
    is_there: bool

    @property
    def words(self) -> str:
        """Its path, marked if it no longer exists."""
        return safe_text(str(self.path), 200) + ("" if self.is_there else "   (missing)")


def recent_in(memory: Memory) -> list[Recent]:
    """The workspaces opened before, the latest first; checks on the disk whether each exists."""
    from kltui.store.file_name import FILE_NAME

    return [Recent(path, _is_file(path / FILE_NAME)) for path in memory.workspaces()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def recent_lines(found: Sequence[Recent], enter: str = "enter") -> list[tuple[str, str]]:
    """(ink, text) lines for the welcome text; the key `enter` opens the list."""
    if not found:
        return []
    lines = [("text", f"{enter}   open a recent workspace:")]
    lines += [("text" if one.is_there else "faint", f"    {one.words}") for one in found[:SHOWN]]
    more = len(found) - SHOWN
    return [*lines, *([("muted", f"    and {more} more")] if more > 0 else []), ("text", "")]
