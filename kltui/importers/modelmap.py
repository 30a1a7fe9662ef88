"""Reads modelmap's released files (GitHub shimo-lab/modelmap): texts, vectors, layers, lineage, weight distances."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import Point
from kltui.corpus.files import read_lines, read_whole
from kltui.corpus.load import load_corpus
from kltui.importers.imported import (
    Gathering,
    Imported,
    ImportedVector,
    ImportFormatError,
    lineage,
    variants_like_models,
    with_metadata,
)
from kltui.importers.naming import released, side_name
from kltui.importers.numbered import steps_or_layers
from kltui.importers.pickles import load_pickle
from kltui.importers.side_files import (
    SideFileError,
    kind_of,
    read_colours,
    read_parents,
    read_side_pickle,
    read_types,
)
from kltui.registry.layout import unique_keys
from kltui.sanitize import safe_text

Values = NDArray[np.float64]

PYTHIA_STEPS = (0, *(2**k for k in range(10)), *range(1000, 144_000, 1000))
VECTOR_FIELDS = ("raw_log-likelihood-10k", "log-likelihood-10k", "log-likelihood")
SCORE_PREFIX = "score_v1_"
_LAYOUTS = (
    "supported layouts: {name: vector}, {run: {step: vector}}, {model: {layer: vector}}, a matrix with "
    "model_list.json, a list of records with model_name and log-likelihood-10k"
)

_EIGHT = re.compile(r"8[-_]?bit", re.IGNORECASE)
_FOUR = re.compile(r"4[-_]?bit", re.IGNORECASE)
MAX_UNLISTED = (
    1_000_000  # texts that a file may leave unlisted, besides a hundred for each text that it lists
)
_DTYPE = re.compile(r"_(float16|float32|bfloat16|float64)$")
# How the released vectors were scored: with each tokenizer's own special tokens, truncated to the context, in float16.
SCORED = {"bos": "auto", "dtype": "float16", "overlong": "truncate", "tokenizer": "own"}
_OF_RELEASE = ("logp", "log-likelihood")  # folders of released vectors; their files' names may end in _logp


def read_vectors_pickle(path: Path, names: Sequence[str] = (), numbered: str = "") -> Imported:
    """Vectors of a pickle in one of the released layouts; see `read_vectors`."""
    data = load_pickle(path)
    found = read_vectors(path, data, names, numbered)
    return scored_as_released(found) if _is_released(path, data) else found


def _is_released(path: Path, data: object) -> bool:
    """Whether a pickle is one of modelmap's, by the names of its fields, its folder or its own name."""
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return any(field in data[0] for field in VECTOR_FIELDS[:2])
    return path.parent.name in _OF_RELEASE or path.stem.endswith("_logp")


def scored_as_released(found: Imported, dtype: str = "") -> Imported:
    """The import whose vectors have the settings of modelmap's release in their keys; `dtype` if the file states it."""
    key = {**SCORED, "dtype": dtype or SCORED["dtype"]}
    return replace(found, vectors=tuple(v if v.key else replace(v, key=key) for v in found.vectors))


def read_vectors(path: Path, data: object, names: Sequence[str] = (), numbered: str = "") -> Imported:
    """Vectors of plain data in one of the released layouts.

    {name: vector}, {run: {step: vector}}, {model: {layer: vector}}, a K x N matrix (with `names` of its rows), a list
    of records with "model_name", or one list of numbers. A vector None, of a model that failed, is left out with a note.
    `numbered` ("steps" or "layers") is the meaning of inner keys if the file does not state it. Raises ImportFormatError.
    """
    if isinstance(data, np.ndarray):
        return _matrix(path, data, names)
    if isinstance(data, dict) and data:
        values = [v for v in data.values() if v is not None]
        if values and all(isinstance(v, dict) for v in values):
            return _nested(path, data, numbered)
        return _by_name(path, data)
    if isinstance(data, list | tuple) and data:
        if all(isinstance(row, dict) for row in data):
            return _records(path, data)
        if names and len(data) == len(names):
            return _by_name(path, dict(zip(names, data, strict=True)))
        return Imported((ImportedVector(lineage(path.stem), _vector(data, path, path.stem)),))
    raise ImportFormatError(f"{safe_text(str(path))} contains no vectors", _LAYOUTS)


def _quantization(path: Path) -> str:
    stem = path.stem
    return "bnb-8bit" if _EIGHT.search(stem) else "bnb-fp4" if _FOUR.search(stem) else "none"


def _by_name(path: Path, data: Mapping[object, object]) -> Imported:
    quantization = _quantization(path)
    found = [
        ImportedVector(released(str(name), quantization), _vector(v, path, name))
        for name, v in data.items()
        if v is not None
    ]
    notes = _failed(path, [str(k) for k, v in data.items() if v is None])
    if quantization != "none" and not _is_released(path, data):
        notes += (f"{path.name}: by its name, its vectors are of the variant {quantization} (bitsandbytes)",)
    return Imported(tuple(found), notes=notes).checked()


def _nested(path: Path, data: Mapping[object, Any], numbered: str) -> Imported:
    """{run: {step: vector}} or {model: {layer: vector}}."""
    rows = {str(run): _numbered(path, run, of_run) for run, of_run in data.items()}
    layers = steps_or_layers(path, {run: list(r) for run, r in rows.items() if r}, numbered) == "layers"
    found, failed = [], [run for run, of_run in rows.items() if not of_run]
    for run, of_run in rows.items():
        for number, vector in of_run.items():
            name = f"{run} {number}"
            if vector is None:
                failed.append(name)
                continue
            point = lineage(run, layer=number) if layers else lineage(run, number)
            found.append(ImportedVector(point, _vector(vector, path, name)))
    return Imported(tuple(found), notes=_failed(path, failed)).checked()


def _numbered(path: Path, run: object, of_run: object) -> dict[int, object]:
    """{number: vector} of one run; the numbers may be text, as in JSON."""
    rows: dict[int, object] = {}
    for key, vector in of_run.items() if isinstance(of_run, dict) else ():
        number = (
            int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 19 else key
        )
        if type(number) is not int or not 0 <= number < 2**63 or number in rows:
            raise ImportFormatError(
                f"{safe_text(str(path))}: {safe_text(f'{run} {key!r}'[:200])} is not a step or layer",
                "keys must be whole numbers, each once",
            )
        rows[number] = vector
    return rows


def _matrix(path: Path, data: NDArray[Any], names: Sequence[str]) -> Imported:
    if data.ndim == 1:
        return Imported((ImportedVector(lineage(path.stem), _vector(data, path, path.stem)),))
    if data.ndim != 2 or len(data) != len(names):
        raise ImportFormatError(
            f"{safe_text(str(path))} is a matrix of shape {data.shape} with {len(names)} names",
            "put model_list.json with one name per row next to it, or in model_info/",
        )
    return _by_name(path, dict(zip(names, data, strict=True)))


def _records(path: Path, data: Sequence[Mapping[object, object]]) -> Imported:
    """A list of records, one per model, with its vector, type and benchmark scores, and its base model in the tags."""
    found, scores = [], {}
    for i, row in enumerate(data):
        name = row.get("model_name")
        vector = next((row[f] for f in VECTOR_FIELDS if row.get(f) is not None), None)
        if not isinstance(name, str) or vector is None:
            raise ImportFormatError(
                f"{safe_text(str(path))}: record {i} has no model_name, or none of {', '.join(VECTOR_FIELDS)}",
                _LAYOUTS,
            )
        point = replace(released(name), parent=_base_model(row.get("tags")))
        if isinstance(row.get("model_type"), str):
            point = replace(point, type=str(row["model_type"]))
        found.append(ImportedVector(point, _vector(vector, path, name)))
        scores[point.name] = {
            str(k)[len(SCORE_PREFIX) :]: float(v)
            for k, v in row.items()
            if str(k).startswith(SCORE_PREFIX) and isinstance(v, int | float) and abs(v) < math.inf
        }
    return Imported(tuple(found), scores={n: s for n, s in scores.items() if s}).checked()


def _base_model(tags: object) -> str:
    """The parent from hub tags `base_model:NAME`; several (of a merge) are joined by commas."""
    plain = (
        [t.split(":", 1)[1] for t in tags if isinstance(t, str) and t.startswith("base_model:")]
        if isinstance(tags, list)
        else []
    )
    return ",".join(dict.fromkeys(t for t in plain if ":" not in t))


def _vector(value: object, path: Path, name: object) -> Values:
    """`value` as N float64; infinities and None become NaN. Raises ImportFormatError if it is not a vector of numbers."""
    if isinstance(value, list) and None in value:
        value = [math.nan if x is None else x for x in value]
    try:
        v = np.asarray(value)
        if v.ndim != 1 or v.dtype.kind not in "fiu":
            raise ValueError
    except ValueError:
        raise ImportFormatError(
            f"{safe_text(str(path))}: {safe_text(str(name), 80)} is not a vector of numbers",
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
    """weight_distance.pkl: {run: S x S matrix} of squared distances in a band above the diagonal, zeros elsewhere.

    A row's band ends at its last positive entry; a zero inside it is a distance of 0 (steps 0 and 1 are one model).
    Raises ImportFormatError for other contents.
    """
    data = load_pickle(path)
    if not isinstance(data, dict):
        raise ImportFormatError(
            f"{safe_text(str(path))} is not {{run: matrix}}", "expected weight_distance.pkl"
        )
    found: dict[tuple[str, int, int], float] = {}
    odd = 0
    for run, matrix in data.items():
        if (
            not isinstance(matrix, np.ndarray)
            or matrix.shape != (len(steps), len(steps))
            or matrix.dtype.kind != "f"
        ):
            raise ImportFormatError(
                f"{safe_text(str(path))}: {safe_text(str(run), 80)} is not a matrix of {len(steps)} x {len(steps)} numbers",
                f"its rows must be the {len(steps)} saved steps",
            )
        name = lineage(str(run)).run
        for i in range(len(steps)):
            end = np.flatnonzero(matrix[i, i + 1 :] > 0)
            for j in range(i + 1, i + 2 + int(end[-1]) if len(end) else 0):
                if 0 <= matrix[i, j] < math.inf:
                    found[name, steps[i], steps[j]] = float(matrix[i, j])
                else:
                    odd += 1
    notes = (f"{path.name}: {odd} distances are negative or not numbers, and were skipped",) if odd else ()
    return Imported(weight_sqdist=found, notes=notes)


def read_model_jsonl(path: Path, n_texts: int = 0, places: Mapping[int, int] | None = None) -> Imported:
    """One model's JSONL of {"index", "num-tokens", "log-likelihood"}: its vector, NaN for texts that are not listed.

    The file is named MODEL_DTYPE.jsonl with "/" written as "--". N is `n_texts`, otherwise the largest index + 1. The
    first token was not scored: the number of scored tokens is num-tokens - 1, unknown if a line lacks it. `places` is {index: position in the corpus},
    if the corpus has its texts in another order. Raises ImportFormatError.
    """
    rows: dict[int, tuple[float, int]] = {}
    counted = True
    for number, row in json_lines(path):
        index, value, tokens = row.get("index"), row.get("log-likelihood"), row.get("num-tokens", 0)
        place = places.get(index, -1) if places is not None and type(index) is int else index
        if (
            not (type(place) is int and type(value) in (int, float) and type(tokens) is int)
            or not 0 <= place < (n_texts or 2**63)
            or place in rows
            or not -1 < tokens < 2**31
        ):
            raise ImportFormatError(
                f"{safe_text(str(path))}, line {number}: no new text with index and log-likelihood",
                'each line should read {"index": 0, "num-tokens": 200, "log-likelihood": -600.0}',
            )
        rows[place] = (_as_float(value), max(tokens - 1, 0))
        counted = counted and "num-tokens" in row
    if not rows:
        raise ImportFormatError(f"{safe_text(str(path))} is empty", "score the model again")
    n = n_texts or max(rows) + 1
    if not n_texts and n > MAX_UNLISTED + 100 * len(rows):
        raise ImportFormatError(
            f"{safe_text(str(path))} lists {len(rows)} texts, and one of index {n - 1}",
            "name its texts",
        )
    loglik, scored = np.full(n, np.nan), np.zeros(n, dtype=np.int32)
    for i, (value, tokens) in rows.items():
        loglik[i], scored[i] = (value, tokens) if np.isfinite(value) else (np.nan, 0)
    model, dtype = _DTYPE.sub("", path.stem).replace("--", "/"), _DTYPE.search(path.stem)
    missing = n - len(rows)
    notes = (f"{path.name}: {missing} of {n} texts are unscored",) if missing else ()
    found = Imported((ImportedVector(released(model), loglik, scored if counted else None),), notes=notes)
    return scored_as_released(found, dtype[1]) if dtype else found


def _as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond all floats
        return math.inf


def places_of(path: Path) -> dict[int, int] | None:
    """{index: position} of a JSONL corpus whose rows state an index; None if not all do, or if all indices are positions."""
    places: dict[int, int] = {}
    for place, (_, row) in enumerate(json_lines(path)):
        index = row.get("index")
        if type(index) is not int or index in places:
            return None
        places[index] = place
    return None if all(index == place for index, place in places.items()) else places


def json_lines(path: Path) -> Iterable[tuple[int, dict[str, object]]]:
    """(line number, object) of every line that is not blank. Raises ImportFormatError for a line that is no JSON object."""
    for number, line in read_lines(path):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")
        if text.strip():
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise ImportFormatError(f"{safe_text(str(path))}, line {number} is not a JSON object", "")
            yield number, row


def read_json(path: Path, kind: type) -> Any:
    """The JSON value of a file. Raises ImportFormatError unless it has the Python type `kind` and no key occurs twice."""
    try:
        value = json.loads(read_whole(path).decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as e:
        reason = "nested too deep" if isinstance(e, RecursionError) else safe_text(str(e), 120)
        raise ImportFormatError(f"{safe_text(str(path))} is not JSON ({reason})", "fetch it again") from e
    if not isinstance(value, kind):
        raise ImportFormatError(
            f"{safe_text(str(path))} should contain a JSON {kind.__name__}", "fetch it again"
        )
    return value


def read_release(folder: Path, numbered: str = "") -> Imported:
    """Everything in a folder with the layout of modelmap's release.

    texts.json or texts*.jsonl; logp/*.pkl or log-likelihood/*.pkl or *.pkl; model_info/{model_list, modelname2type,
    sibling_info}.json; weight_distance/weight_distance.pkl. All are optional; files that cannot be read are listed in
    `left`. Raises ImportFormatError if nothing can be imported.
    """
    parts = Gathering()
    info = [folder / "model_info", folder]
    names = _first(parts, info, "model_list.json", list) or []
    types = _first(parts, info, "modelname2type.json", dict) or {}
    parents = _first(parts, info, "sibling_info.json", dict) or {}
    texts = _release_texts(folder)
    if texts:
        parts.take(texts, lambda: Imported(named=(load_corpus(texts),)))
    for name in ("modelname2type.json", "sibling_info.json", "type2color.json"):
        for path in [f / name for f in info if (f / name).is_file()][:1]:
            parts.take(path, partial(read_side_json, path))
    for path in _pickles(folder):
        if kind_of(path):
            parts.take(path, partial(read_side_file, path))
        elif path.name == "weight_distance.pkl":
            parts.take(path, partial(read_weight_distances, path))
        else:
            parts.take(path, partial(read_vectors_pickle, path, [str(n) for n in names], numbered))
    result = parts.result()
    if not result.vectors and not result.named and not result.weight_sqdist and not result.side:
        raise ImportFormatError(
            f"nothing to import in {safe_text(str(folder))}", "give the folder that contains texts.json"
        )
    vectors = variants_like_models(with_metadata(result.vectors, types, parents))
    return replace(result, vectors=vectors).checked()


def read_side_file(path: Path) -> Imported:
    """A pickle of a release that contains no vectors; see `kltui.importers.side_files`."""
    data = load_pickle(path)
    try:
        return Imported(side=read_side_pickle(path, data, side_name))
    except (SideFileError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_side_file(path, error) from None


def read_side_json(path: Path) -> Imported:
    """modelname2type.json, sibling_info.json or type2color.json."""
    data = read_json(path, dict)
    try:
        if path.stem == "type2color":
            return Imported(side=read_colours(data))
        reader = read_types if path.stem == "modelname2type" else read_parents
        return Imported(side=reader(data, side_name))
    except (SideFileError, ValueError, TypeError) as error:
        raise _no_side_file(path, error) from None


def _no_side_file(path: Path, error: Exception) -> ImportFormatError:
    why = safe_text(str(error), 160)
    return ImportFormatError(
        f"{safe_text(str(path))} does not have a released layout ({why})", "fetch it again, or leave it out"
    )


def _first(parts: Gathering, folders: Sequence[Path], name: str, kind: type) -> Any:
    """The value of the first file called `name` in `folders`; None if there is none or it cannot be read."""
    found: list[Any] = []

    def read(path: Path) -> Imported:
        found.append(read_json(path, kind))
        return Imported()

    for path in [f / name for f in folders if (f / name).is_file()][:1]:
        parts.take(path, partial(read, path))
    return found[0] if found else None


def _release_texts(folder: Path) -> Path | None:
    candidates = [
        folder / "texts.json",
        *sorted(folder.glob("texts*.jsonl")),
        *sorted(folder.glob("text/*.jsonl")),
    ]
    return next((p for p in candidates if p.is_file()), None)


def _pickles(folder: Path) -> list[Path]:
    found = (p for pattern in ("*.pkl", "*/*.pkl") for p in folder.glob(pattern) if p.is_file())
    # If two files contain the same vectors, those with types, tags and scores are kept.
    return sorted(found, key=lambda path: ("metadata" not in path.parent.name, path))


def points(imported: Imported) -> list[Point]:
    """The points of an import, in order."""
    return [v.point for v in imported.vectors]
