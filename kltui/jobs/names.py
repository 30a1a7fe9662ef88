"""Names given by hand: a job that runs again finds its checkpoints under what they are called in the workspace now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kltui.registry.checkpoint import Checkpoint, HubSource
from kltui.store import CheckpointRow, Store

KIND = "renamed"


def remember(store: Store, before: str, checkpoint_id: int) -> None:
    """Notes, within a transaction, that this checkpoint was called `before`."""
    store.records.put(KIND, before, {"checkpoint": checkpoint_id})


def as_called_here(checkpoints: Sequence[Checkpoint], store: Store) -> list[Checkpoint]:
    """The checkpoints of a job in order, those that were given another run or step by hand with these, parents too.

    One is the same as before where its source and variant are; a name that is in use, or that the job itself gives to
    another checkpoint, is left to that.
    """
    given = store.records.all(KIND)
    if not given:
        return list(checkpoints)
    rows = {row.id: row for row in store.checkpoints.all()}
    in_use = {row.name for row in rows.values()}
    now = {name: rows[id_] for name, r in given.items() if name not in in_use and (id_ := _id(r)) in rows}
    asked = {c.name for c in checkpoints}
    taken: set[int] = set()
    called = []
    for checkpoint in checkpoints:
        row = now.get(checkpoint.name)
        called.append(_with_parents(checkpoint, now))
        if row and row.name not in asked and row.id not in taken and _is_same(row, checkpoint):
            taken.add(row.id)
            called[-1] = replace(called[-1], run=row.checkpoint.run, step=row.checkpoint.step)
    return called


def _id(record: Mapping[str, object]) -> int:
    found = record.get("checkpoint")
    return found if isinstance(found, int) else -1


def _with_parents(checkpoint: Checkpoint, now: Mapping[str, CheckpointRow]) -> Checkpoint:
    parents = [p.strip() for p in checkpoint.parent.split(",")]
    if not now.keys() & set(parents):
        return checkpoint
    return replace(checkpoint, parent=",".join(now[p].name if p in now else p for p in parents))


def _is_same(row: CheckpointRow, asked: Checkpoint) -> bool:
    """Whether a row was made for the source and variant asked for (its weights are compared once they are known)."""
    here, there = row.checkpoint.source, asked.source
    if row.weights.startswith("import:") or row.checkpoint.quantization != asked.quantization:
        return False
    if isinstance(here, HubSource) and isinstance(there, HubSource):
        commits = {here.commit, there.commit} - {""}
        return (here.repo, here.revision) == (there.repo, there.revision) and len(commits) < 2
    return here == there
