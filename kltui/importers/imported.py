"""What an import yields: vectors with their lineage, a corpus, weight distances, benchmark scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import Point
from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError

_PYTHIA = re.compile(r"pythia-(?P<size>\d+(?:\.\d+)?[mb])(?:-seed(?P<seed>\d+))?$", re.IGNORECASE)
_PLAIN_SIZE = re.compile(r"^\d+(?:\.\d+)?[mb](?=$|[-_])", re.IGNORECASE)


class ImportFormatError(KltuiError):
    """A file that is in none of the formats that can be imported, or is damaged."""


@dataclass(frozen=True, eq=False)
class ImportedVector:
    """One vector: `loglik` (N float64, nats, NaN where unscored) and, where known, scored tokens (N int32).

    `source` tells who scored it: vectors of different sources share no map, for their first tokens may differ.
    """

    point: Point
    loglik: NDArray[np.float64]
    n_scored: NDArray[np.int32] | None = None
    source: str = "imported"


@dataclass(frozen=True, eq=False)
class Imported:
    """Everything found: vectors, corpus (None: not in the files), distances and scores, and notes of what was odd.

    `weight_sqdist` is {(run, earlier step, later step): squared distance}; `scores` is {name: {benchmark: score}}.
    """

    vectors: tuple[ImportedVector, ...] = ()
    corpus: Corpus | None = None
    weight_sqdist: Mapping[tuple[str, int, int], float] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n_texts(self) -> int:
        """N of the vectors, else of the corpus, else 0."""
        if self.vectors:
            return len(self.vectors[0].loglik)
        return len(self.corpus) if self.corpus else 0

    def joined(self, other: Imported) -> Imported:
        """Both imports as one; the first corpus stays, a vector of a name that is there already is left out."""
        names = {v.point.name for v in self.vectors}
        twice = [v.point.name for v in other.vectors if v.point.name in names]
        notes = [*self.notes, *other.notes]
        if twice:
            notes.append(f"{len(twice)} vectors were there already and are left out, such as {twice[0]}")
        return Imported(
            self.vectors + tuple(v for v in other.vectors if v.point.name not in names),
            self.corpus or other.corpus,
            {**other.weight_sqdist, **self.weight_sqdist},
            {**other.scores, **self.scores},
            tuple(notes),
        )

    def checked(self) -> Imported:
        """Itself, when every vector has one value per text; else KltuiError naming the first that has not."""
        n = len(self.corpus) if self.corpus else self.n_texts
        for v in self.vectors:
            if len(v.loglik) != n:
                whose = "the corpus" if self.corpus else self.vectors[0].point.name
                raise ImportFormatError(
                    f"{v.point.name} has {len(v.loglik)} values, {whose} has {n}",
                    "vectors of one map must be over the same texts, in the same order",
                )
        return self


def lineage(
    run: str, step: int | None = None, *, quantization: str = "none", layer: int | None = None
) -> Point:
    """The point of a released vector; `pythia-` is put before a bare size, size and seed read from a Pythia name.

    >>> p = lineage("410m-seed3", 1000)
    >>> p.name, p.size, p.seed, p.type
    ('pythia-410m-seed3@1000', '410m', 3, 'gpt_neox')
    """
    if _PLAIN_SIZE.match(run):
        run = f"pythia-{run}"
    pythia = _PYTHIA.match(run)
    name = run if step is None else f"{run}@{step}"
    name += "" if quantization == "none" else f"+{quantization}"
    name += "" if layer is None else f"#{layer}"
    if pythia is None:
        return Point(name, run, step, quantization, layer)
    seed = int(pythia["seed"]) if pythia["seed"] else None
    return Point(name, run, step, quantization, layer, seed, pythia["size"], "gpt_neox")


def with_metadata(
    vectors: tuple[ImportedVector, ...], types: Mapping[str, object], parents: Mapping[str, object]
) -> tuple[ImportedVector, ...]:
    """Vectors with the type of `types` and the parent of `parents` by run; several parents (a merge) are joined by commas."""
    out = []
    for v in vectors:
        kind, parent = types.get(v.point.run), parents.get(v.point.run)
        changed = v.point
        if isinstance(kind, str):
            changed = replace(changed, type=kind)
        if isinstance(parent, str):
            changed = replace(changed, parent=parent)
        elif isinstance(parent, list) and all(isinstance(p, str) for p in parent):
            changed = replace(changed, parent=",".join(parent))
        out.append(replace(v, point=changed))
    return tuple(out)


def variants_like_models(vectors: tuple[ImportedVector, ...]) -> tuple[ImportedVector, ...]:
    """Vectors whose variants and layers have type, size, seed and parent of their model, where they state none."""
    plain = {v.point.base: v.point for v in vectors if v.point.name == v.point.base}
    out = []
    for v in vectors:
        p, model = v.point, plain.get(v.point.base)
        if model is not None and p is not model:
            like = replace(
                p,
                type=p.type or model.type,
                size=p.size or model.size,
                parent=p.parent or model.parent,
                seed=model.seed if p.seed is None else p.seed,
            )
            v = replace(v, point=like)
        out.append(v)
    return tuple(out)
