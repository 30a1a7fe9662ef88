"""A folder of released files as one map, with the lineage, scores, weight distances and coordinates in the files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.analysis.preprocess import PYTHIA_EXCLUDED
from kltui.corpus.corpus import Corpus, text_ids
from kltui.errors import KltuiError, UsageError
from kltui.importers.imported import Imported, lineage
from kltui.importers.modelmap import read_json, read_release
from kltui.importers.naming import released
from kltui.importers.side_files import ReleasedPicture
from kltui.sanitize import safe_text
from kltui.view.sections.section import MissingError

Array = NDArray[np.float64]

PICTURES = {
    "pretraining": "pretraining_tsne_2d",
    "quantisation": "8bit_quantization_tsne",
    "fine-tuning": "ft_tsne",
    "layer": "layer_tsne",
}
# Folders with the files, relative to the given one: itself, its data folder, or those of a copy of the repository.
PLACES = ("", "data", "kl-scale/data", "1000models/data", "kl-scale", "1000models")
MARKS = ("texts.json", "texts*.jsonl", "text/*.jsonl")


@dataclass(frozen=True, eq=False)
class Release:
    """The content of one folder of released files.

    `whole` has every vector, including layer vectors, without preprocessing. `order` are the models of model_list.json, and
    `siblings` is {child: parents} in the order of sibling_info.json, both with the names in the files.
    """

    folder: Path
    whole: Map
    texts: Corpus
    scores: Mapping[str, Mapping[str, float]]
    weight_sqdist: Mapping[tuple[str, str], float]
    order: Sequence[str]
    types: Mapping[str, str]
    siblings: Mapping[str, Sequence[str]]
    pictures: Mapping[str, ReleasedPicture]
    notes: tuple[str, ...] = ()

    @cached_property
    def models(self) -> Map:
        """The downloaded models (without steps, not quantised), in the order of the files. Raises MissingError if there are none."""
        rows = self._rows_where(lambda p: p.step is None and p.quantization == "none")
        return self._part(
            rows, "vectors of single models (a list of records, or a matrix with model_list.json)"
        )

    @cached_property
    def main(self) -> Map:
        """The main pretraining runs (no seed runs), preprocessed as published: clipped, without outlier texts."""
        return self._prepared(self._rows_where(lambda p: p.step is not None and p.seed is None))

    @cached_property
    def pretraining(self) -> Map:
        """All pretraining runs, including seed runs, preprocessed together as published."""
        return self._prepared(self._rows_where(lambda p: p.step is not None))

    def _prepared(self, rows: Sequence[int]) -> Map:
        part = self._part(rows, "pretraining runs (logp/pretraining_logp.pkl)")
        return part.preprocessed("pretraining", exclude=PYTHIA_EXCLUDED)

    def _part(self, rows: Sequence[int], what: str) -> Map:
        if not rows:
            raise MissingError(f"no {what}", f"{safe_text(str(self.folder))} has none")
        return self.whole.select(rows)

    def _rows_where(self, wanted: Callable[[Point], bool]) -> list[int]:
        """Rows of the vectors that are not layer vectors and for which `wanted` is true."""
        return [k for k, p in enumerate(self.whole.points) if p.layer is None and wanted(p)]

    def row(self, name: str) -> int | None:
        """The row of a model with that name in the files; None if it has no vector."""
        return self._rows.get(released(name).name)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {p.name: k for k, p in enumerate(self.whole.points)}

    def coordinates(self, picture: str, shown: Map) -> Array | None:
        """Released t-SNE coordinates of a map's vectors, K x 2, NaN for vectors without any; None if no vector has any."""
        found = self.pictures.get(PICTURES[picture])
        if found is None:
            return None
        places: dict[str, Sequence[float]] = dict(found.points)
        lines = {t.run: t for t in shown.trajectories()}
        for run, xy_nd in found.runs.items():
            line = lines.get(lineage(run).run)
            if line is not None and len(line.rows) == len(xy_nd):
                places |= {shown.names[k]: place for k, place in zip(line.rows, xy_nd, strict=True)}
        xy = np.array([places.get(name, (math.nan, math.nan))[:2] for name in shown.names], dtype=np.float64)
        return xy if np.isfinite(xy).any() else None


def read_releases(folder: Path) -> list[Release]:
    """The releases in a folder, or in a copy of the whole repository. Raises UsageError if there is none."""
    if not folder.is_dir():
        raise UsageError(
            f"--reproduce {safe_text(str(folder))}: the folder does not exist",
            "Name the folder of the released files.",
        )
    found, problems = [], []
    for place in PLACES:
        inside = folder / place
        if inside.is_dir() and any(path.is_file() for mark in MARKS for path in inside.glob(mark)):
            try:
                found.append(_release(inside))
            except KltuiError as error:
                problems.append(error)
    if not found:
        if problems:
            raise problems[0]
        raise UsageError(
            f"{safe_text(str(folder))} contains no released files",
            "Give the folder with texts.json and logp/, such as kl-scale/data of shimo-lab/modelmap.",
        )
    return found


def _release(folder: Path) -> Release:
    found = read_release(folder)
    if not found.vectors:
        raise KltuiError(
            f"{safe_text(str(folder))} has texts and no vectors",
            "Large files may still be Git LFS pointers: download them completely.",
        )
    if found.corpus is None:
        raise KltuiError(
            f"{safe_text(str(folder))} does not have exactly one corpus",
            "texts.json next to the vectors is needed for the bytes per text.",
        )
    whole = _map(found, found.corpus)
    names = _json(folder, "model_list.json", list)
    types = _json(folder, "modelname2type.json", dict)
    siblings = _json(folder, "sibling_info.json", dict)
    plain = [p for p in whole.points if p.layer is None and p.step is None and p.quantization == "none"]
    parents = {str(k): [v] if isinstance(v, str) else list(v or ()) for k, v in siblings.items()}
    return Release(
        folder,
        whole,
        found.corpus,
        found.scores,
        {(f"{run}@{a}", f"{run}@{b}"): d for (run, a, b), d in found.weight_sqdist.items()},
        [str(n) for n in names] or [p.name for p in plain],
        {str(k): str(v) for k, v in types.items()} or {p.name: p.type for p in plain if p.type},
        parents or {p.name: p.parent.split(",") for p in plain if p.parent},
        found.side.pictures,
        found.notes + found.left,
    )


def _map(found: Imported, corpus: Corpus) -> Map:
    n = len(corpus)
    used = [v for v in found.vectors if len(v.loglik) == n]
    return Map(
        points=tuple(v.point for v in used),
        loglik_KN=np.array([v.loglik for v in used]),
        text_bytes_N=np.asarray(corpus.text_bytes, dtype=np.int64),
        record={"corpus": corpus.sha256, "preprocess": "none"},
        text_ids_N=text_ids(corpus.texts),
    )


def _json(folder: Path, name: str, kind: type) -> Any:
    """The value in the JSON file model_info/NAME or NAME; an empty `kind` if there is no such file."""
    for path in (folder / "model_info" / name, folder / name):
        if path.is_file():
            return read_json(path, kind)
    return kind()
