"""Parents of checkpoints by name: which are not there, and which make a checkpoint its own ancestor."""

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
    """The checkpoint without a parent that is itself."""
    own = _owncalled(checkpoint)
    parents = parents_of(checkpoint)
    others = [name for name in parents if name not in own]
    return checkpoint if len(others) == len(parents) else replace(checkpoint, parent=",".join(others))


def parent_mistakes(checkpoints: Sequence[Checkpoint], known: Iterable[Checkpoint] = ()) -> list[str]:
    """What cannot be meant of the parents of `checkpoints`: one that is the checkpoint itself, and circles, also by way of `known`."""
    own = [c for c in checkpoints if without_itself(c) is not c]
    everyone = {c.name: c for c in (*known, *checkpoints)}
    if own:
        more = f" (and so would {len(own) - 1} more)" if len(own) > 1 else ""
        others = [c.name for c in everyone.values() if c.run != own[0].run]
        return [f"{safe_text(own[0].name, 80)} would be its own parent{more}{nearest(own[0].run, others)}"]
    names = called(everyone.values())
    if _has_order(everyone, names):
        return []
    for start in checkpoints:
        circle = _circle(start.name, everyone, names)
        if circle:
            return [f"parents form a cycle: {safe_text(' <- '.join(circle), 300)}"]
    return []


def parents_not_there(checkpoints: Sequence[Checkpoint], known: Iterable[Checkpoint] = ()) -> dict[str, str]:
    """{parent: a child} for the parents of `checkpoints` that do not exist among these and `known`."""
    names = called([*known, *checkpoints])
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
    names = called([*known, *checkpoints])
    parent, child = next(iter(lacking.items()))
    what = "1 parent is" if len(lacking) == 1 else f"{len(lacking)} parents are"
    such = "" if len(lacking) == 1 else "such as "
    return [
        f"{what} no checkpoint or run here: {such}{safe_text(parent, 80)} of {safe_text(child, 80)}{nearest(parent, names)}"
    ]


def _owncalled(c: Checkpoint) -> set[str]:
    """Names that mean the checkpoint itself. Its run's is one of them; a variant's model is another checkpoint."""
    return {c.name, c.base_name, c.run} if c.quantization == "none" else {c.name}


def called(checkpoints: Iterable[Checkpoint]) -> dict[str, str]:
    """{what a parent may be called: the checkpoint that is meant}: its name, or its run for the last of that."""
    named: dict[str, str] = {}
    last: dict[str, tuple[int, str]] = {}
    for c in checkpoints:
        named[c.name] = c.name
        place = (-1 if c.step is None else c.step, c.name)
        if c.quantization == "none":
            last[c.run] = max(last.get(c.run, place), place)
    return {run: name for run, (_, name) in last.items()} | named


def _has_order(everyone: Mapping[str, Checkpoint], names: Mapping[str, str]) -> bool:
    """Whether all can stand behind their parents: then none goes in a circle, which is known without a look from each."""
    parents = {name: [names[p] for p in parents_of(c) if p in names] for name, c in everyone.items()}
    try:
        TopologicalSorter(parents).prepare()
    except CycleError:
        return False
    return True


def _circle(start: str, everyone: Mapping[str, Checkpoint], names: Mapping[str, str]) -> list[str]:
    """The names of a circle of parents through `start`, it first and last; [] where there is none."""
    way: dict[str, str] = {}
    waiting = [start]
    while waiting:
        child = waiting.pop()
        for parent in (names[p] for p in parents_of(everyone[child]) if p in names):
            if parent == start:
                circle = [start, child]
                while circle[-1] != start:
                    circle.append(way[circle[-1]])
                return circle
            if parent not in way:
                way[parent] = child
                waiting.append(parent)
    return []
