"""Checks of the parents that checkpoints name: missing ones, and cycles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from kltui.registry.checkpoint import Checkpoint
from kltui.registry.names import nearest
from kltui.sanitize import safe_text


def parents_of(checkpoint: Checkpoint) -> list[str]:
    """The names of a checkpoint's parents; a merge has several, joined by commas."""
    return [name for part in checkpoint.parent.split(",") if (name := part.strip())]


def without_itself(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without those of its parents that are the checkpoint itself; the same object if there are none."""
    own = _own_names(checkpoint)
    parents = parents_of(checkpoint)
    others = [name for name in parents if name not in own]
    return checkpoint if len(others) == len(parents) else replace(checkpoint, parent=",".join(others))


def parent_mistakes(checkpoints: Sequence[Checkpoint], known: Iterable[Checkpoint] = ()) -> list[str]:
    """Errors in the parents of `checkpoints`: a checkpoint that is its own parent, or a cycle, also through `known`."""
    own = [c for c in checkpoints if without_itself(c) is not c]
    everyone = {c.name: c for c in (*known, *checkpoints)}
    if own:
        more = f" (and so would {len(own) - 1} more)" if len(own) > 1 else ""
        others = [c.name for c in everyone.values() if c.run != own[0].run]
        return [f"{safe_text(own[0].name, 80)} would be its own parent{more}{nearest(own[0].run, others)}"]
    names = checkpoints_by_name(everyone.values())
    if _has_order(everyone, names):
        return []
    for start in checkpoints:
        cycle = _cycle(start.name, everyone, names)
        if cycle:
            return [f"parents form a cycle: {safe_text(' <- '.join(cycle), 300)}"]
    return []


def parents_not_there(checkpoints: Sequence[Checkpoint], known: Iterable[Checkpoint] = ()) -> dict[str, str]:
    """{parent: a child} for the parents of `checkpoints` that do not exist among these and `known`."""
    names = checkpoints_by_name([*known, *checkpoints])
    return {name: c.name for c in checkpoints for name in parents_of(c) if name not in names}


def parent_notes(
    checkpoints: Sequence[Checkpoint], known: Iterable[Checkpoint], also: Collection[str] = ()
) -> list[str]:
    """A note on the parents of `checkpoints` that do not exist among these, `known` and `also`."""
    lacking = {
        parent: child for parent, child in parents_not_there(checkpoints, known).items() if parent not in also
    }
    if not lacking:
        return []
    names = checkpoints_by_name([*known, *checkpoints])
    parent, child = next(iter(lacking.items()))
    what = "1 parent is" if len(lacking) == 1 else f"{len(lacking)} parents are"
    such = "" if len(lacking) == 1 else "such as "
    return [
        f"{what} no checkpoint or run here: {such}{safe_text(parent, 80)} of {safe_text(child, 80)}{nearest(parent, names)}"
    ]


def _own_names(c: Checkpoint) -> set[str]:
    """Names that refer to the checkpoint itself: also that of its run, unless it is a variant."""
    return {c.name, c.base_name, c.run} if c.quantization == "none" else {c.name}


def checkpoints_by_name(checkpoints: Iterable[Checkpoint]) -> dict[str, str]:
    """{name of a parent: name of the checkpoint that it refers to}; a run refers to its last checkpoint."""
    named: dict[str, str] = {}
    last: dict[str, tuple[int, str]] = {}
    for c in checkpoints:
        named[c.name] = c.name
        place = (-1 if c.step is None else c.step, c.name)
        if c.quantization == "none":
            last[c.run] = max(last.get(c.run, place), place)
    return {run: name for run, (_, name) in last.items()} | named


def _has_order(everyone: Mapping[str, Checkpoint], names: Mapping[str, str]) -> bool:
    """Whether all can be ordered after their parents, which excludes cycles and is faster than a search from each."""
    parents = {name: [names[p] for p in parents_of(c) if p in names] for name, c in everyone.items()}
    try:
        TopologicalSorter(parents).prepare()
    except CycleError:
        return False
    return True


def _cycle(start: str, everyone: Mapping[str, Checkpoint], names: Mapping[str, str]) -> list[str]:
    """The names in a cycle of parents through `start`, which is first and last; [] if there is none."""
    way: dict[str, str] = {}
    waiting = [start]
    while waiting:
        child = waiting.pop()
        for parent in (names[p] for p in parents_of(everyone[child]) if p in names):
            if parent == start:
                cycle = [start, child]
                while cycle[-1] != start:
                    cycle.append(way[cycle[-1]])
                return cycle
            if parent not in way:
                way[parent] = child
                waiting.append(parent)
    return []
