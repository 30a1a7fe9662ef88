"""Editing the lineage of stored checkpoints: run, step, parent, seed, size, type and tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kltui.errors import UsageError
from kltui.jobs import names as names_given
from kltui.registry.checkpoint import Checkpoint
from kltui.registry.names import run_problem
from kltui.registry.parents import parent_mistakes, parent_notes, without_itself
from kltui.sanitize import safe_text
from kltui.store import Store, saved_maps

FIELDS = ("run", "step", "parent", "seed", "size", "type", "tags")
_LIMIT = 2**63


def edit_lineage(
    workspace: Path,
    names: Sequence[str],
    changes: Mapping[str, str],
    tell: Callable[[str], None] = lambda note: None,
) -> int:
    """Applies `changes` ({field: text}, "" clears) to the checkpoints `names` in one transaction; returns their number.

    `tell` receives a line if a new parent is not a checkpoint here, or is the checkpoint itself.
    Raises UsageError for an invalid value, StoreError while another process writes to the workspace, if
    a name already exists, or if a checkpoint does not exist.
    """
    values = parse_changes(changes, len(names))
    store = Store.write(workspace)
    try:
        by_name = {row.name: row for row in store.checkpoints.all()}
        edited = {store.checkpoints.id_of(name): by_name[name].checkpoint for name in names}
        lineage = {name: (row.checkpoint, row.checkpoint) for name, row in by_name.items()}
        lineage |= _changed(list(edited.values()), values)
        notes = _parents_checked(lineage, list(edited.values())) if "parent" in values else []
        with store.atomic():
            for id_, old in edited.items():
                new = lineage[old.name][1]
                store.checkpoints.relabel(id_, new)
                if new.name != old.name:
                    names_given.remember(store, old.name, id_)
            for before, now in _renamed_runs(list(lineage.values())).items():
                store.benchmark_scores.follow(before, now)
            saved_maps.follow(store, lineage)
    finally:
        store.close()
    for note in notes:
        tell(note)
    return len(names)


def _parents_checked(
    lineage: dict[str, tuple[Checkpoint, Checkpoint]], edited: Sequence[Checkpoint]
) -> list[str]:
    """Notes on the new parents of the `edited` checkpoints. Raises UsageError if these are impossible, such as a circle.

    If several checkpoints get a parent that is one of them, that one does not become its own parent.
    """
    now = [lineage[old.name][1] for old in edited]
    others = [without_itself(c) for c in now]
    own = [c.name for c, without in zip(now, others, strict=True) if without is not c]
    if own and len(own) < len(now):
        for old, without in zip(edited, others, strict=True):
            lineage[old.name] = (old, without)
        now = others
    everyone = [new for _, new in lineage.values()]
    if mistakes := parent_mistakes(now, everyone):
        raise UsageError(f"parent: {mistakes[0]}", "Name the checkpoint from which it was fine-tuned.")
    kept = [f"{safe_text(own[0], 80)} cannot be its own parent"] if own else []
    return kept + parent_notes(now, everyone)


def _changed(
    checkpoints: Sequence[Checkpoint], values: Mapping[str, Any]
) -> dict[str, tuple[Checkpoint, Checkpoint]]:
    """{name: (before, after)} of checkpoints that get `values`; parents among them are referred to by their new names."""
    pairs = [(old, replace(old, **values)) for old in checkpoints]
    renamed = {old.name: new.name for old, new in pairs if old.name != new.name}
    return {
        old.name: (old, replace(new, parent=names_given.renamed_parents(new.parent, renamed)))
        for old, new in pairs
    }


def _renamed_runs(pairs: Sequence[tuple[Checkpoint, Checkpoint]]) -> dict[str, str]:
    """{run: its new name} of the runs that were renamed completely, without merging or splitting."""
    runs = {(was.run, now.run) for was, now in pairs}
    sources, targets = Counter(was for was, _ in runs), Counter(now for _, now in runs)
    return {
        was: now for was, now in runs if was != now and sources[was] == targets[now] == 1 and not sources[now]
    }


def parse_changes(changes: Mapping[str, str], count: int = 1) -> dict[str, Any]:
    """{field of `Checkpoint`: value} from the texts of a form, for `count` checkpoints at once. Raises UsageError.

    >>> parse_changes({"step": "500", "seed": "", "tags": "base, early"})
    {'step': 500, 'seed': None, 'tags': ('base', 'early')}
    """
    values: dict[str, Any] = {}
    for field, text in changes.items():
        assert field in FIELDS, field
        text = text.strip()
        if safe_text(text, len(text) + 1) != text:
            raise UsageError(f"{field}: control characters are not allowed", "Use plain text.")
        values[field] = _value(field, text)
    if "run" in values and not values["run"]:
        raise UsageError("run: a checkpoint needs a run", "A single model is also a run.")
    if problem := run_problem(values.get("run", "run")):
        raise UsageError(
            f"run: {problem}",
            "These characters are reserved for names such as run@step+variant#layer. Use - or _ instead.",
        )
    if "step" in values and count > 1:
        raise UsageError(f"step: {count} checkpoints cannot all have the same step", "Edit them one by one.")
    return values


def _value(field: str, text: str) -> object:
    if field == "tags":
        return tuple(text.replace(",", " ").split())
    if field not in ("step", "seed"):
        return text
    if not text:
        return None
    digits = text.replace(",", "").replace("_", "")
    try:
        number = int(digits)
    except ValueError:
        raise UsageError(f"{field}: {safe_text(text, 40)} is not a whole number") from None
    if not (0 if field == "step" else -_LIMIT) <= number < _LIMIT:
        raise UsageError(f"{field}: {number} is out of range")
    return number


def common(checkpoints: Sequence[Checkpoint]) -> dict[str, str | None]:
    """{field: its text if all checkpoints agree on it, otherwise None}."""
    texts = [{f: _text(getattr(c, f)) for f in FIELDS} for c in checkpoints]
    return {f: texts[0][f] if len({t[f] for t in texts}) == 1 else None for f in FIELDS}


def _text(value: object) -> str:
    if value is None:
        return ""
    return " ".join(value) if isinstance(value, tuple) else str(value)
