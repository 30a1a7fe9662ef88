"""Saved maps: the vectors of a map with their keys, and their preprocessing.

A saved map is restored exactly; otherwise an error says what has changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kltui.errors import UsageError
from kltui.registry.checkpoint import Checkpoint
from kltui.store import Store, VectorRow
from kltui.store.damage import decoded
from kltui.version import __version__

KIND = "map"


@dataclass(frozen=True, slots=True)
class Preparation:
    """The preprocessing of vectors before anything is computed from them.

    `separate`: the scale's main and seed runs are preprocessed separately, as published; embeddings always use all together.
    """

    mode: str = "none"
    exclude: tuple[str, ...] = ()
    separate: bool = False


@dataclass(frozen=True)
class SavedMap:
    """A saved map. `corpus` is its SHA-256, `keys` each vector's full key by name, `applied` the record of the preprocessing."""

    name: str
    corpus: str
    settings: str
    preparation: Preparation
    keys: Mapping[str, Mapping[str, str]]
    applied: object = "none"
    made_by: str = field(default=__version__)

    def check(self, rows: Mapping[str, VectorRow]) -> None:
        """Raises UsageError naming the key in which one of `rows`, by name, is not the vector that was saved."""
        missing = [name for name in self.keys if name not in rows]
        if missing:
            raise UsageError(
                f"the map {self.name!r} has {len(self.keys)} vectors, but {len(missing)} of them"
                f" {'is' if len(missing) == 1 else 'are'} missing, such as {missing[0]}",
                f"Score them again with {self.settings}, or save the map again: --save-map {self.name}",
            )
        for name, key in self.keys.items():
            now = rows[name].key_fields
            differing = sorted(f for f in {*key, *now} if key.get(f, "") != now.get(f, ""))
            if differing:
                what = ", ".join(f"{f} was {key.get(f) or '-'}, is {now.get(f) or '-'}" for f in differing)
                raise UsageError(
                    f"the vector of {name} has changed since the map {self.name!r} was saved: {what}",
                    f"Restore that checkpoint and score it again, or save the map again: --save-map {self.name}",
                )

    def renamed(self, lineage: Mapping[str, tuple[Checkpoint, Checkpoint]]) -> SavedMap | None:
        """The same map after renaming, {old name: (old checkpoint, new checkpoint)}.

        None if a vector is not in `lineage`, or if the preprocessing would have another effect.
        """
        if not self.keys.keys() <= lineage.keys():
            return None
        pairs = [lineage[name] for name in self.keys]
        p = self.preparation
        runs = {(was.run, now.run) for was, now in pairs}
        as_runs = len(runs) == len({was for was, _ in runs}) == len({now for _, now in runs})
        alike = as_runs and all(was.step == now.step for was, now in pairs)
        if not alike and (p.exclude or p.mode == "pretraining"):
            return None
        named = dict(runs) | {
            word: new for pair in pairs for word, new in zip(*map(_names, pair), strict=True)
        }
        exclude = tuple(named.get(word, word) for word in p.exclude)
        if any(_is_left_out(was, p.exclude) != _is_left_out(now, exclude) for was, now in pairs):
            return None
        keys = {now.name: self.keys[was.name] for was, now in pairs}
        return replace(self, keys=keys, preparation=replace(p, exclude=exclude))


def _names(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.base_name, checkpoint.name


def _is_left_out(checkpoint: Checkpoint, exclude: Collection[str]) -> bool:
    return not {checkpoint.run, *_names(checkpoint)}.isdisjoint(exclude)


def save(folder: Path, saved: SavedMap) -> None:
    """Saves a map in the workspace in `folder`, replacing one with its name.

    Raises UsageError for an invalid name, StoreError if another process writes to the workspace.
    """
    if not saved.name.strip() or not saved.name.isprintable():
        raise UsageError(f"{saved.name!r} is not a valid map name", "Use letters and digits.")
    store = Store.write(folder)
    try:
        with store.atomic():
            store.records.put(KIND, saved.name, _as_record(saved))
    finally:
        store.close()


def several_words(excluded: str) -> str:
    """A sentence on how several names are excluded, if `excluded`, which matches nothing, looks like several; otherwise ""."""
    return " Each name has an --exclude of its own." if "," in excluded else ""


def follow(store: Store, lineage: Mapping[str, tuple[Checkpoint, Checkpoint]]) -> None:
    """Updates the saved maps of a workspace after renaming, {name: (old, new)}, within a transaction.

    A map whose preprocessing could change, because runs were merged or split or steps changed, is left unchanged
    and refused when it is opened.
    """
    for saved in listed(store.records.all(KIND)):
        now = saved.renamed(lineage)
        if now is not None and now != saved:
            store.records.replace(KIND, now.name, _as_record(now))


def _as_record(saved: SavedMap) -> dict[str, object]:
    """The map as JSON data; what all keys have in common is stored once."""
    keys = list(saved.keys.values())
    shared = {f: v for f, v in keys[0].items() if all(k.get(f) == v for k in keys)} if keys else {}
    own = {name: {f: v for f, v in k.items() if f not in shared} for name, k in saved.keys.items()}
    return {
        "kltui": saved.made_by,
        "corpus": saved.corpus,
        "settings": saved.settings,
        "preparation": asdict(saved.preparation),
        "applied": _finite(saved.applied),
        "shared_key": shared,
        "vectors": own,
    }


def _finite(value: object) -> object:
    """`value` as JSON data, with None for NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def listed(records: Mapping[str, Mapping[str, Any]]) -> list[SavedMap]:
    """The saved maps among a workspace's records, oldest first."""
    return [_parsed(name, record) for name, record in records.items()]


def find(maps: Sequence[SavedMap], name: str) -> SavedMap:
    """The map called `name`. If there is none, raises UsageError that lists the existing ones."""
    for saved in maps:
        if saved.name == name:
            return saved
    known = ", ".join(m.name for m in maps)
    hint = f"Saved maps: {known}." if known else "No map is saved yet: --save-map NAME saves one."
    raise UsageError(f"no map {name!r} in this workspace", hint)


@decoded
def _parsed(name: str, r: Mapping[str, Any]) -> SavedMap:
    p = r["preparation"]
    preparation = Preparation(str(p["mode"]), tuple(map(str, p["exclude"])), bool(p["separate"]))
    keys = {str(n): {**r["shared_key"], **own} for n, own in r["vectors"].items()}
    return SavedMap(
        name, str(r["corpus"]), str(r["settings"]), preparation, keys, r["applied"], str(r["kltui"])
    )
