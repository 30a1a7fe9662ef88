"""The choice of a pair to compare, for key `c` without two marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kltui.sanitize import short_name
from kltui.tui.dialogs.prompts import ChoiceDialog, aligned
from kltui.tui.suggested_pairs import SuggestedPair, suggested_pairs

if TYPE_CHECKING:
    from kltui.tui.session import Session

NAME_CELLS = 28


def ask_pair(app: Session) -> None:
    """Lists the pairs suggested by lineage, those with the marked checkpoint first; the chosen one becomes A and B."""
    marked = app.selection.a or app.selection.b
    pairs = sorted(_pairs_on_map(app), key=lambda p: marked not in (p.a, p.b))
    if not pairs:
        several = app.snapshot.n_scored > 1
        app.say(
            f"mark two checkpoints first: {app.key('mark_a')} marks A, {app.key('mark_b')} marks B"
            if several
            else f"two scored checkpoints are needed: press {app.key('screen_registry')}, then {app.key('start')} to score more",
            "warning",
        )
        return
    names = [(short_name(pair.a, NAME_CELLS), short_name(pair.b, NAME_CELLS)) for pair in pairs]
    options = list(zip((pair.kind for pair in pairs), aligned(names, app.look), strict=True))

    def chosen(index: int | None) -> None:
        if index is not None:
            app.selection.a, app.selection.b = pairs[index].a, pairs[index].b
            app.selection_changed()
            app.show_screen("compare")

    question = f"Compare which pair? ({app.key('mark_a')} and {app.key('mark_b')} mark any other)"
    app.push_screen(ChoiceDialog(question, options), chosen)


def _pairs_on_map(app: Session) -> list[SuggestedPair]:
    """The suggested pairs of checkpoints that are not excluded from the map."""
    if not (excluded := app.map_cache.excluded):
        return app.snapshot.suggested_pairs
    return suggested_pairs([row for row in app.snapshot.rows if row.name not in excluded])
