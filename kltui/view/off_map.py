"""Why a checkpoint of the workspace is not on the map that a report or a screen shows."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kltui.store.rows import CheckpointRow


@dataclass(frozen=True)
class OffMap:
    """Why a checkpoint is not on a map, as words that follow its name, and the `way` to bring it there.

    `option` of the command line and `key` of the screens lead that way, where there are such.
    """

    why: str
    way: str
    option: str = ""
    key: str = ""

    def on_screen(self, name: str, mark: str) -> str:
        """A sentence for the screens about a checkpoint whose mark is "a" or "b"."""
        way = f"{self.way} ({self.key})" if self.key else self.way
        return f"{name} {self.why}: mark another with {mark}, or {way}"

    def hint(self) -> str:
        """A sentence on what to do, for reports."""
        where = "; ".join(x for x in (self.option, f"{self.key} on screen" if self.key else "") if x)
        return f"Choose another checkpoint, or {self.way}{f' ({where})' if where else ''}."


STATES = {
    "elsewhere": OffMap("is scored on another corpus only", "select its corpus", "--over HASH", "O"),
    "empty": OffMap("has no value for any text", "score or import it again"),
    "layers": OffMap("has layer vectors only", "score it or import its final vector"),
    "failed": OffMap("is not scored, because it failed", "run it again in the Jobs screen", key="R"),
}
NOT_SCORED = OffMap("is not scored", "score it on this corpus")
EXCLUDED = OffMap("is excluded from this map", "change the exclusions", "--exclude", "f")
NOT_SAVED = OffMap("is not part of the saved map", "select another map", key="f")
OTHER_SETTINGS = OffMap("is scored with other settings", "select its settings", key="f")


def off_map(
    row: CheckpointRow,
    *,
    excluded: Container[str] = (),
    left_out: Mapping[str, str] | None = None,
    saved: bool = False,
) -> OffMap:
    """Why a checkpoint is not on a map, and the way to bring it there.

    `row` is that of the checkpoint over the map's corpus, `left_out` is {name: reason} of the map, and `saved` says whether
    the map was loaded by its name.
    """
    if row.name in excluded:
        return EXCLUDED
    if left_out and row.name in left_out:
        return OffMap(f"is left out of this map: {left_out[row.name]}", "score it again on the map's texts")
    if not row.scored:
        return STATES.get(row.status, NOT_SCORED)
    return NOT_SAVED if saved else OTHER_SETTINGS
