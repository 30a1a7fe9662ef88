"""Reads the files of a release other than vectors: t-SNE pictures, resampled texts with weights, types, colours, parents.

Layouts of GitHub shimo-lab/modelmap: tsne/*.pkl and tsne_Q.pkl, *-uniq-idx-weight.pkl, type2color.json and pickles of names,
types and colours, modelname2type.json, sibling_info.json. Models get the names that they have in a workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.sanitize import safe_text

MAX_WORD = 200
_VARIANTS = ("original", "quantized")

Name = Callable[[str, str, int | None], str]  # (released name, variant, layer) -> name in a workspace


class SideFileError(ValueError):
    """Raised for a side file whose layout is unknown."""


@dataclass(frozen=True, eq=False)
class ReleasedPicture:
    """A released picture: {name: 2 or 3 coordinates}, and {run: coordinates of its steps, in order} if steps are not stated."""

    points: Mapping[str, tuple[float, ...]]
    runs: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Samples:
    """Resampled texts: {(seed, number of draws): (indices of the different texts, their weights)}."""

    sets: Mapping[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.float64]]]


@dataclass(frozen=True, eq=False)
class ReleaseSideFiles:
    """The side files of a release: pictures and samples by file name, types and parents by model, colours by type."""

    pictures: Mapping[str, ReleasedPicture] = field(default_factory=dict)
    samples: Mapping[str, Samples] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)

    def joined(self, other: ReleaseSideFiles) -> ReleaseSideFiles:
        """Both together; on a conflict, the entry of this one is kept."""
        return ReleaseSideFiles(
            *(
                {**getattr(other, f), **getattr(self, f)}
                for f in ("pictures", "samples", "colours", "types", "parents")
            )
        )

    def __bool__(self) -> bool:
        return any((self.pictures, self.samples, self.colours, self.types, self.parents))


def kind_of(path: Path) -> str:
    """ "picture", "samples" or "colours", by a pickle's name and folder; "" for any other file."""
    whole = f"{path.parent.name}/{path.stem}".lower()
    if "uniq-idx-weight" in whole:
        return "samples"
    return "picture" if "tsne" in whole else "colours" if "color" in whole else ""


def read_side_pickle(path: Path, data: object, name: Name) -> ReleaseSideFiles:
    """The side files in the data of a pickle whose `kind_of` is known. Raises SideFileError."""
    if kind_of(path) == "picture":
        return ReleaseSideFiles(pictures={safe_text(path.stem, MAX_WORD): _picture(data, path, name)})
    if kind_of(path) == "samples":
        return ReleaseSideFiles(samples={safe_text(path.stem, MAX_WORD): _samples(data)})
    return _names_types_colours(data, name)


def _picture(data: Any, path: Path, name: Name) -> ReleasedPicture:
    if not isinstance(data, Mapping) or not data:
        raise SideFileError("it contains no {name: coordinates}")
    if "embedding" in data and isinstance(data.get("metadata"), Mapping):
        return _of_runs(_matrix(data["embedding"]), data["metadata"])
    if set(data) == {"name", "tsne"}:  # the picture from the largest number of drawn texts
        data = data["tsne"][max(data["tsne"], key=lambda n: int(str(n)))]
    variant = "bnb-8bit" if "8bit" in path.stem else "bnb-fp4" if "4bit" in path.stem else "none"
    points: dict[str, tuple[float, ...]] = {}
    for model, value in data.items():
        if isinstance(value, Mapping) and set(value) <= set(_VARIANTS):
            for which, place in value.items():
                points[name(str(model), variant if which == "quantized" else "none", None)] = _point(place)
        elif np.ndim(value) == 2:
            for layer, place in enumerate(_matrix(value)):
                points[name(str(model), "none", layer)] = _point(place)
        else:
            points[name(str(model), "none", None)] = _point(value)
    return ReleasedPicture(points)


def _of_runs(rows: NDArray[np.float64], metadata: Mapping[object, Any]) -> ReleasedPicture:
    names, lengths = metadata.get("model_names"), metadata.get("model_lengths")
    if not isinstance(names, list) or not isinstance(lengths, Mapping):
        raise SideFileError("its metadata has no model_names with model_lengths")
    counts = [int(lengths[n]) for n in names]
    if min(counts, default=0) < 0 or sum(counts) != len(rows):
        raise SideFileError(f"its runs have {sum(counts)} checkpoints for {len(rows)} rows")
    parts = np.split(rows, np.cumsum(counts)[:-1])
    return ReleasedPicture({}, dict(zip(map(str, names), parts, strict=True)))


def _matrix(value: object) -> NDArray[np.float64]:
    rows = np.asarray(value, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] not in (2, 3) or not np.isfinite(rows).all():
        raise SideFileError(f"coordinates of shape {rows.shape}")
    return rows


def _point(value: object) -> tuple[float, ...]:
    (row,) = _matrix([value])
    return tuple(float(x) for x in row)


def _samples(data: Any) -> Samples:
    """{seed: {n: {"unique_index", "weights"}}}."""
    if not isinstance(data, Mapping):
        raise SideFileError("it contains no {seed: {n: {unique_index, weights}}}")
    sets = {}
    for seed, by_n in data.items():
        for n, one in dict(by_n).items():
            index = np.asarray(one["unique_index"], dtype=np.int64)
            weight = np.asarray(one["weights"], dtype=np.float64)
            sound = index.ndim == 1 and index.shape == weight.shape and len(set(index.tolist())) == len(index)
            if not sound or not (np.isfinite(weight).all() and (weight > 0).all() and (index >= 0).all()):
                raise SideFileError(f"the {n} texts of seed {seed} are not distinct places with weights")
            sets[int(str(seed)), int(str(n))] = (index, weight)
    return Samples(sets)


def read_colours(data: Mapping[str, object]) -> ReleaseSideFiles:
    """type2color.json: {type: red, green, blue from 0 to 1, or a word that names a colour}."""
    return ReleaseSideFiles(colours={safe_text(kind, MAX_WORD): _hex(value) for kind, value in data.items()})


def read_types(data: Mapping[str, Any], name: Name) -> ReleaseSideFiles:
    """modelname2type.json: {model: type}."""
    return ReleaseSideFiles(
        types={name(m, "none", None): safe_text(str(kind), MAX_WORD) for m, kind in data.items()}
    )


def read_parents(data: Mapping[str, Any], name: Name) -> ReleaseSideFiles:
    """sibling_info.json: {model: its parent, a list of those of a merge, or null}.

    Raises SideFileError for other contents.
    """
    listed = {m: [p] if isinstance(p, str) else p for m, p in data.items() if p}
    if not all(isinstance(p, list) and all(isinstance(x, str) for x in p) for p in listed.values()):
        raise SideFileError("it is not {model: parent or list of parents}")
    return ReleaseSideFiles(
        parents={
            name(m, "none", None): ",".join(name(p, "none", None) for p in of) for m, of in listed.items()
        }
    )


def _names_types_colours(data: object, name: Name) -> ReleaseSideFiles:
    """(model, type, colour) rows: a list of them, {model: (type, colour)}, or {"name": [...], "type": [...], "color": [...]}."""
    types: dict[str, str] = {}
    colours: dict[str, str] = {}
    for model, kind, colour in _triples(data):
        types[name(model, "none", None)] = safe_text(kind, MAX_WORD)
        if colour is not None:
            colours.setdefault(safe_text(kind, MAX_WORD), _hex(colour))
    if not types:
        raise SideFileError("it contains no models with types")
    return ReleaseSideFiles(colours=colours, types=types)


def _triples(data: object) -> list[tuple[str, str, object]]:
    if isinstance(data, Mapping):
        columns = {str(k).lower().removeprefix("model_").removeprefix("model"): v for k, v in data.items()}
        if {"name", "type"} <= columns.keys() and isinstance(columns["name"], Sequence | np.ndarray):
            colour = columns.get("color", columns.get("colour", [None] * len(columns["name"])))
            return [
                (str(m), str(k), c) for m, k, c in zip(columns["name"], columns["type"], colour, strict=True)
            ]
        rows: list[object] = [
            {"name": m, **v} if isinstance(v, Mapping) else (m, *([v] if isinstance(v, str) else v))
            for m, v in data.items()
        ]
    elif isinstance(data, list):
        rows = data
    else:
        raise SideFileError("it contains no models with types")
    return [_triple(row) for row in rows]


def _triple(row: object) -> tuple[str, str, object]:
    if isinstance(row, Mapping):
        named = {str(k).lower().removeprefix("model_").removeprefix("model"): v for k, v in row.items()}
        return str(named["name"]), str(named["type"]), named.get("color", named.get("colour"))
    if isinstance(row, list | tuple) and len(row) in (2, 3):
        return str(row[0]), str(row[1]), row[2] if len(row) == 3 else None
    raise SideFileError("a row is not a model with a type and a colour")


def _hex(value: object) -> str:
    """A colour as #rrggbb if it is three or four numbers from 0 to 1; a string is returned unchanged, printable."""
    if isinstance(value, str):
        return safe_text(value, 40)
    parts = np.asarray(value, dtype=np.float64)
    if parts.shape not in ((3,), (4,)) or not ((parts >= 0) & (parts <= 1)).all():
        raise SideFileError(f"{safe_text(str(value), 60)} is not a colour")
    return "#" + "".join(f"{round(float(x) * 255):02x}" for x in parts[:3])
