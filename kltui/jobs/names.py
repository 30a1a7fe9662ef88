"""Checkpoints that were renamed by hand: a job that runs again finds them under their present names in the workspace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kltui.registry.checkpoint import Checkpoint, HubSource
from kltui.store import CheckpointRow, Store

KIND = "renamed"


def remember(store: Store, before: str, checkpoint_id: int) -> None:
    """Records, within a transaction, that this checkpoint had the name `before`."""
    store.records.put(KIND, before, {"checkpoint": checkpoint_id})


def given_names(store: Store) -> dict[str, CheckpointRow]:
    """{former name: checkpoint} for all names that were changed by hand and are not in use now."""
    given = store.records.all(KIND)
    if not given:
        return {}
    rows = {row.id: row for row in store.checkpoints.all()}
    in_use = {row.name for row in rows.values()}
    return {name: rows[id_] for name, r in given.items() if name not in in_use and (id_ := _id(r)) in rows}


def as_called_here(checkpoints: Sequence[Checkpoint], store: Store) -> list[Checkpoint]:
    """The checkpoints of a job in order, those that were renamed by hand with their present run, step and parents.

    A checkpoint is recognised by its source and variant. Names that are in use, or that the job gives to another
    checkpoint, are not changed.
    """
    now = given_names(store)
    asked = {c.name for c in checkpoints}
    taken: set[int] = set()
    called = []
    for checkpoint in checkpoints:
        called.append(checkpoint)
        row = now.get(checkpoint.name)
        if row and row.name not in asked and row.id not in taken and _is_same(row, checkpoint):
            taken.add(row.id)
            called[-1] = replace(checkpoint, run=row.checkpoint.run, step=row.checkpoint.step)
    own = {c.name for c in called}
    renamed = {name: row.name for name, row in now.items() if name not in own}
    return [replace(c, parent=renamed_parents(c.parent, renamed)) for c in called]


def renamed_runs(now: Mapping[str, CheckpointRow], rows: Sequence[CheckpointRow]) -> dict[str, str]:
    """{former run: its run} among `rows`, from `given_names`, for runs that were renamed completely, without merging or splitting."""
    members: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        members[row.checkpoint.run].add(row.id)
    before: dict[str, list[CheckpointRow]] = defaultdict(list)
    for name, row in now.items():
        before[_run_of(name, row.checkpoint)].append(row)
    return {
        run: here[0].checkpoint.run
        for run, here in before.items()
        if run not in members and {row.id for row in here} == members[here[0].checkpoint.run]
    }


def _run_of(name: str, checkpoint: Checkpoint) -> str:
    """The run in `name`, a former name of this checkpoint."""
    run, at, step = name.removesuffix(f"+{checkpoint.quantization}").rpartition("@")
    return run if at and step.isdecimal() else run + at + step


def renamed_parents(parents: str, renamed: Mapping[str, str]) -> str:
    """The parents of a checkpoint, separated by commas, with those in `renamed` replaced by their new names."""
    names = [p.strip() for p in parents.split(",")]
    if renamed.keys().isdisjoint(names):
        return parents
    return ",".join(renamed.get(name, name) for name in names)


def _id(record: Mapping[str, object]) -> int:
    found = record.get("checkpoint")
    return found if isinstance(found, int) else -1


def _is_same(row: CheckpointRow, asked: Checkpoint) -> bool:
    """Whether a row has the same source and variant as `asked` (weights are compared later, once they are known)."""
    here, there = row.checkpoint.source, asked.source
    if row.weights.startswith("import:") or row.checkpoint.quantization != asked.quantization:
        return False
    if isinstance(here, HubSource) and isinstance(there, HubSource):
        commits = {here.commit, there.commit} - {""}
        same = (here.repo, here.revision, here.file) == (there.repo, there.revision, there.file)
        return same and len(commits) < 2
    return here == there
