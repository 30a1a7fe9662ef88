"""Which checkpoints and vectors a map is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from kltui.errors import UsageError
from kltui.store import CheckpointRow, VectorRow, comparable


def listing(names: Iterable[str], limit: int = 8) -> str:
    """A hint with the first of the names that there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"Known: {', '.join(names[:limit])}{more}." if names else "There are none."


def wanted(
    rows: Iterable[CheckpointRow], runs: Sequence[str] | None, names: Sequence[str] | None
) -> set[int]:
    """The ids of the rows of these runs and names (None: all). Raises UsageError for one that is not in the workspace."""
    rows = list(rows)
    known_runs, known_names = {r.checkpoint.run for r in rows}, {r.name for r in rows}
    for kind, asked, known in (("run", runs, known_runs), ("checkpoint", names, known_names)):
        missing = [a for a in asked or () if a not in known]
        if missing:
            raise UsageError(
                f"no {kind} {', '.join(map(repr, missing))} in this workspace", listing(sorted(known))
            )
    of_runs, of_names = (None if asked is None else set(asked) for asked in (runs, names))
    return {
        r.id
        for r in rows
        if (of_runs is None or r.checkpoint.run in of_runs) and (of_names is None or r.name in of_names)
    }


def one_group(rows: Sequence[VectorRow], of: Mapping[int, str], strict: bool) -> str:
    """The settings of the map that has most of the checkpoints; `of` is {vector id: settings of its map}.

    With `strict`, raises UsageError unless all of them can share it.
    """
    by_group: dict[str, set[int]] = defaultdict(set)
    newest: dict[str, int] = {}
    for row in rows:
        by_group[of[row.id]].add(row.checkpoint_id)
        newest[of[row.id]] = row.id
    best = max(by_group, key=lambda g: (len(by_group[g]), newest[g]))
    everyone = {row.checkpoint_id for row in rows}
    if strict and by_group[best] != everyone:
        # The hint names the settings of imported vectors, because these cannot be scored again.
        kept = next((of[row.id] for row in rows if row.is_imported), best)
        other = next(g for g in by_group if g != kept)
        raise UsageError(
            f"these checkpoints cannot share a map: {comparable.settings_apart(kept, other)}",
            comparable.remedy(kept, other),
        )
    return best
