"""modelmap's released files (GitHub shimo-lab/modelmap): texts, vectors, layers, matrices, lineage, weight distances."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import Point
from kltui.corpus.load import load_corpus
from kltui.importers.imported import (
    Imported,
    ImportedVector,
    ImportFormatError,
    lineage,
    variants_like_models,
    with_metadata,
)
from kltui.importers.pickles import load_pickle
from kltui.safe import safe_text

Values = NDArray[np.float64]

PYTHIA_STEPS = (0, *(2**k for k in range(10)), *range(1000, 144_000, 1000))
VECTOR_FIELDS = ("raw_log-likelihood-10k", "log-likelihood-10k", "log-likelihood")
SCORE_PREFIX = "score_v1_"
_LAYOUTS = (
    "layouts that are read: {name: vector}, {run: {step: vector}}, {model: {layer: vector}}, a matrix with "
    "model_list.json, a list of records with model_name and log-likelihood-10k"
)

_EIGHT = re.compile(r"8[-_]?bit", re.IGNORECASE)
_FOUR = re.compile(r"4[-_]?bit", re.IGNORECASE)
_DTYPE = re.compile(r"_(float16|float32|bfloat16|float64)$")


def read_vectors_pickle(path: Path, names: Sequence[str] = ()) -> Imported:
    """Vectors of a released pickle, whichever it is.

    {name: vector}, {run: {step: vector}}, {model: {layer: vector}}, a K x N matrix (with `names` of its rows), a list
    of records with "model_name", or one list of numbers. None stands for a model that failed: noted, left out.
    """
    data = load_pickle(path)
    if isinstance(data, np.ndarray):
        return _matrix(path, data, names)
    if isinstance(data, dict) and data:
        values = [v for v in data.values() if v is not None]
        if values and all(isinstance(v, dict) for v in values):
            return _nested(path, data)
        return _by_name(path, data)
    if isinstance(data, list | tuple) and data:
        if all(isinstance(row, dict) for row in data):
            return _records(path, data)
        if names and len(data) == len(names):
            return _by_name(path, dict(zip(names, data, strict=True)))
        return Imported((ImportedVector(lineage(path.stem), _vector(data, path, path.stem)),))
    raise ImportFormatError(f"{safe_text(str(path))} holds no vectors", _LAYOUTS)


def _quantization(path: Path) -> str:
    stem = path.stem
    return "bnb-8bit" if _EIGHT.search(stem) else "bnb-fp4" if _FOUR.search(stem) else "none"


def _by_name(path: Path, data: Mapping[object, object]) -> Imported:
    quantization = _quantization(path)
    found = [
        ImportedVector(lineage(str(name), quantization=quantization), _vector(v, path, name))
        for name, v in data.items()
        if v is not None
    ]
    return Imported(
        tuple(found), notes=_failed(path, [str(k) for k, v in data.items() if v is None])
    ).checked()


def _nested(path: Path, data: Mapping[object, Any]) -> Imported:
    """{run: {step: vector}} or {model: {layer: vector}}: layers are numbered 0, 1, 2, 3 ... without a gap."""
    layers = "layer" in path.stem.lower() or all(_gapless(v) for v in data.values() if v)
    found, failed = [], []
    for run, rows in data.items():
        for number, vector in (rows or {None: None}).items():
            name = str(run) if number is None else f"{run} {number}"
            if vector is None:
                failed.append(name)
                continue
            if type(number) is not int or number < 0:
                raise ImportFormatError(
                    f"{safe_text(str(path))}: {safe_text(name)} is no step or layer",
                    "keys must be whole numbers",
                )
            point = lineage(str(run), layer=number) if layers else lineage(str(run), number)
            found.append(ImportedVector(point, _vector(vector, path, name)))
    return Imported(tuple(found), notes=_failed(path, failed)).checked()


def _gapless(rows: Mapping[object, object]) -> bool:
    return len(rows) > 3 and sorted(k for k in rows if isinstance(k, int)) == list(range(len(rows)))


def _matrix(path: Path, data: NDArray[Any], names: Sequence[str]) -> Imported:
    if data.ndim == 1:
        return Imported((ImportedVector(lineage(path.stem), _vector(data, path, path.stem)),))
    if data.ndim != 2 or len(data) != len(names):
        raise ImportFormatError(
            f"{safe_text(str(path))} is a matrix of shape {data.shape} with {len(names)} names",
            "put model_list.json with one name per row beside it, or in model_info/",
        )
    return _by_name(path, dict(zip(names, data, strict=True)))


def _records(path: Path, data: Sequence[Mapping[object, object]]) -> Imported:
    """A list of records, one per model: its vector, type, benchmark scores, and base model by its tags."""
    found, scores = [], {}
    for i, row in enumerate(data):
        name = row.get("model_name")
        vector = next((row[f] for f in VECTOR_FIELDS if row.get(f) is not None), None)
        if not isinstance(name, str) or vector is None:
            raise ImportFormatError(
                f"{safe_text(str(path))}: record {i} has no model_name, or none of {', '.join(VECTOR_FIELDS)}",
                _LAYOUTS,
            )
        point = replace(lineage(name), parent=_base_model(row.get("tags")))
        if isinstance(row.get("model_type"), str):
            point = replace(point, type=str(row["model_type"]))
        found.append(ImportedVector(point, _vector(vector, path, name)))
        scores[point.name] = {
            str(k)[len(SCORE_PREFIX) :]: float(v)
            for k, v in row.items()
            if str(k).startswith(SCORE_PREFIX) and isinstance(v, int | float)
        }
    return Imported(tuple(found), scores={n: s for n, s in scores.items() if s}).checked()


def _base_model(tags: object) -> str:
    """Parent by hub tags `base_model:NAME`; several (a merge) joined by commas."""
    plain = (
        [t.split(":", 1)[1] for t in tags if isinstance(t, str) and t.startswith("base_model:")]
        if isinstance(tags, list)
        else []
    )
    return ",".join(dict.fromkeys(t for t in plain if ":" not in t))


def _vector(value: object, path: Path, name: object) -> Values:
    """`value` as N float64; infinities become NaN."""
    try:
        v = np.asarray(value)
        if v.ndim != 1 or v.dtype.kind not in "fiu":
            raise ValueError
    except ValueError:
        raise ImportFormatError(
            f"{safe_text(str(path))}: {safe_text(str(name), 80)} is no vector of numbers",
            "each model needs one log-likelihood per text",
        ) from None
    out = v.astype(np.float64)
    out[~np.isfinite(out)] = np.nan
    return out


def _failed(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"{path.name}: {len(names)} without a vector, such as {safe_text(names[0], 80)}",)


def read_weight_distances(path: Path, steps: Sequence[int] = PYTHIA_STEPS) -> Imported:
    """weight_distance.pkl: {run: S x S}, squared distances above the diagonal of a band, zeros elsewhere.

    A row's band ends at its last positive entry; a zero inside it is a true zero (steps 0 and 1 are one model).
    """
    data = load_pickle(path)
    if not isinstance(data, dict):
        raise ImportFormatError(
            f"{safe_text(str(path))} is no {{run: matrix}}", "expected weight_distance.pkl"
        )
    found: dict[tuple[str, int, int], float] = {}
    for run, matrix in data.items():
        if (
            not isinstance(matrix, np.ndarray)
            or matrix.shape != (len(steps), len(steps))
            or matrix.dtype.kind != "f"
        ):
            raise ImportFormatError(
                f"{safe_text(str(path))}: {safe_text(str(run), 80)} is no matrix of {len(steps)} x {len(steps)} numbers",
                f"its rows must be the {len(steps)} saved steps",
            )
        name = lineage(str(run)).run
        for i in range(len(steps)):
            end = np.flatnonzero(matrix[i, i + 1 :] > 0)
            for j in range(i + 1, i + 2 + int(end[-1]) if len(end) else 0):
                found[name, steps[i], steps[j]] = float(matrix[i, j])
    return Imported(weight_sqdist=found)


def read_model_jsonl(path: Path, n_texts: int = 0) -> Imported:
    """One model's JSONL of {"index", "num-tokens", "log-likelihood"}: its vector, unlisted texts unscored.

    The file is named MODEL_DTYPE.jsonl with "/" written as "--". N is `n_texts`, else the largest index + 1. The
    first token was not scored: scored tokens are num-tokens - 1.
    """
    rows: dict[int, tuple[float, int]] = {}
    for number, row in json_lines(path):
        index, value, tokens = row.get("index"), row.get("log-likelihood"), row.get("num-tokens", 0)
        if (
            not (isinstance(index, int) and isinstance(value, int | float) and isinstance(tokens, int))
            or index < 0
            or index in rows
            or (n_texts and index >= n_texts)
        ):
            raise ImportFormatError(
                f"{safe_text(str(path))}, line {number}: no new text with index and log-likelihood",
                'each line should read {"index": 0, "num-tokens": 200, "log-likelihood": -600.0}',
            )
        rows[index] = (float(value), max(tokens - 1, 0))
    if not rows:
        raise ImportFormatError(f"{safe_text(str(path))} is empty", "score the model again")
    n = n_texts or max(rows) + 1
    loglik, scored = np.full(n, np.nan), np.zeros(n, dtype=np.int32)
    for i, (value, tokens) in rows.items():
        loglik[i], scored[i] = (value, tokens) if np.isfinite(value) else (np.nan, 0)
    model = _DTYPE.sub("", path.stem).replace("--", "/")
    missing = n - len(rows)
    notes = (f"{path.name}: {missing} of {n} texts are unscored",) if missing else ()
    return Imported((ImportedVector(lineage(model), loglik, scored),), notes=notes)


def json_lines(path: Path) -> Iterable[tuple[int, dict[str, object]]]:
    """(line number, object) of every line that is not blank."""
    with path.open(encoding="utf-8", errors="replace") as f:
        for number, line in enumerate(f, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise ImportFormatError(f"{safe_text(str(path))}, line {number} is no JSON object", "")
                yield number, row


def read_json(path: Path, kind: type) -> Any:
    """The JSON value of a small file, of the Python type `kind`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ImportFormatError(f"{safe_text(str(path))} is no JSON ({e})", "fetch it again") from e
    if not isinstance(value, kind):
        raise ImportFormatError(
            f"{safe_text(str(path))} should hold a JSON {kind.__name__}", "fetch it again"
        )
    return value


def read_release(folder: Path) -> Imported:
    """A release folder as modelmap lays it out, everything in it joined.

    texts.json or texts*.jsonl; logp/*.pkl or log-likelihood/*.pkl or *.pkl; model_info/{model_list, modelname2type,
    sibling_info}.json; weight_distance/weight_distance.pkl. What is absent is skipped, other pickles are noted.
    """
    info = [folder / "model_info", folder]
    names = _first(info, "model_list.json", list) or []
    types = _first(info, "modelname2type.json", dict) or {}
    parents = _first(info, "sibling_info.json", dict) or {}
    result = Imported(corpus=_release_corpus(folder))
    for path in _pickles(folder):
        if path.name == "weight_distance.pkl":
            result = result.joined(read_weight_distances(path))
        elif "tsne" not in path.as_posix().removeprefix(folder.as_posix()):
            result = result.joined(read_vectors_pickle(path, [str(n) for n in names]))
    if not result.vectors and result.corpus is None:
        raise ImportFormatError(
            f"nothing to import in {safe_text(str(folder))}", "give the folder that holds texts.json"
        )
    vectors = variants_like_models(with_metadata(result.vectors, types, parents))
    return replace(result, vectors=vectors).checked()


def _first(folders: Sequence[Path], name: str, kind: type) -> Any:
    return next((read_json(f / name, kind) for f in folders if (f / name).is_file()), None)


def _release_corpus(folder: Path) -> Any:
    candidates = [
        folder / "texts.json",
        *sorted(folder.glob("texts*.jsonl")),
        *sorted(folder.glob("text/*.jsonl")),
    ]
    return next((load_corpus(p) for p in candidates if p.is_file()), None)


def _pickles(folder: Path) -> list[Path]:
    return sorted(p for pattern in ("*.pkl", "*/*.pkl") for p in folder.glob(pattern) if p.is_file())


def points(imported: Imported) -> list[Point]:
    """The points of an import, in order."""
    return [v.point for v in imported.vectors]
