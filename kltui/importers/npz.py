"""Imports arrays that kltui has exported: loglik.npz, and logp.npz in the layout of modelmap's pickles."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.point import Point
from kltui.errors import UsageError
from kltui.importers.arrays import read_arrays
from kltui.importers.imported import Imported, ImportedVector, ImportFormatError, Texts, lineage
from kltui.importers.numbered import steps_or_layers
from kltui.registry.names import NUMBERED_BY_STEP, made_name, run_problem
from kltui.sanitize import safe_text

MAX_FIELDS, MAX_WORD = 100, 400  # of a key

_NUMBERED = re.compile(r"(?P<run>.+)/(?P<number>\d{1,18})", re.ASCII | re.DOTALL)
_LAYOUTS = "expected loglik.npz (loglik K x N, names K) or logp.npz (one vector per RUN or RUN/STEP)"


def read_npz(path: Path, numbered: str = "") -> Imported:
    """Vectors of an .npz; run, step and variant are read from their names, and nothing is unpickled.

    `numbered` ("steps" or "layers") is the meaning of numbers in names like RUN/3 if the file does not state it. Raises
    UsageError if it is unknown, ImportFormatError for an invalid file.
    """
    arrays, comment = read_arrays(path)
    if {"loglik", "names"} <= arrays.keys():
        return _matrix(path, arrays)
    if not arrays:
        raise ImportFormatError(f"{safe_text(str(path))} contains no vectors", _LAYOUTS)
    return _by_name(path, arrays, "steps" if comment == NUMBERED_BY_STEP else numbered)


def _matrix(path: Path, arrays: dict[str, NDArray[Any]]) -> Imported:
    values, names = arrays["loglik"], [str(n) for n in np.atleast_1d(arrays["names"])]
    scored = arrays.get("n_scored")
    if values.ndim != 2 or len(values) != len(names) or (scored is not None and scored.shape != values.shape):
        raise ImportFormatError(
            f"{safe_text(str(path))} has {len(names)} names for values of shape {values.shape}", _LAYOUTS
        )
    if scored is not None and scored.dtype.kind not in "iu":
        raise ImportFormatError(f"{safe_text(str(path))}: n_scored does not contain whole numbers", _LAYOUTS)
    known = scored is not None and bool(((scored >= 0) & (scored < 2**31)).all())
    counts = list(scored.astype(np.int32)) if scored is not None and known else [None] * len(names)
    texts = _texts(path, arrays, values.shape[1])
    rows = zip(names, values, counts, _keys(path, arrays, len(names)), strict=True)
    done = safe_text(str(arrays.get("preprocess", "none")), 40)
    source = "imported" if done == "none" else f"imported-{re.sub(r'[^a-z]+', '-', done.lower())}"
    made = [
        ImportedVector(
            _point(n), _vector(path, n, v), c, source, texts, named_here=True, key=key, settings=settings
        )
        for n, v, c, (key, settings) in rows
    ]
    notes = (f"{path.name}: its vectors are already preprocessed ({done}), so they share no map with others",)
    return Imported(tuple(made), notes=() if done == "none" else notes).checked()


def _keys(path: Path, arrays: dict[str, NDArray[Any]], n: int) -> list[tuple[dict[str, str], str]]:
    """(key, settings) of each of n vectors, which say how it was scored; ({}, "") if the file has none."""
    keys, settings = arrays.get("keys"), arrays.get("settings")
    if keys is None or settings is None:
        return [({}, "")] * n
    if keys.shape != (n,) or settings.shape != (n,) or {keys.dtype.kind, settings.dtype.kind} != {"U"}:
        raise ImportFormatError(
            f"{safe_text(str(path))}: keys and settings are not one for each of {n} vectors", _LAYOUTS
        )
    if any(" values=" in said for said in settings.tolist()):
        raise UsageError(
            f"{safe_text(str(path))} contains values of pairs other than log p(response | prompt)",
            "Import an export made without --values.",
        )
    return [
        (_key(path, text), safe_text(said, MAX_WORD))
        for text, said in zip(keys.tolist(), settings.tolist(), strict=True)
    ]


def _key(path: Path, text: str) -> dict[str, str]:
    try:
        key = json.loads(text)
    except (ValueError, RecursionError):
        key = None
    if (
        not isinstance(key, dict)
        or len(key) > MAX_FIELDS
        or not all(isinstance(v, str) for v in key.values())
    ):
        raise ImportFormatError(
            f"{safe_text(str(path))}: {safe_text(text, 60)} is not a key of a vector", _LAYOUTS
        )
    return {safe_text(name, MAX_WORD): safe_text(value, MAX_WORD) for name, value in key.items()}


def _texts(path: Path, arrays: dict[str, NDArray[Any]], n: int) -> Texts | None:
    """The SHA-256 and length in bytes of every text, as far as the file states them; None if it states neither."""
    digests, lengths = arrays.get("text_sha256"), arrays.get("text_bytes")
    if digests is not None and (digests.shape != (n,) or digests.dtype.kind not in "SU"):
        raise ImportFormatError(
            f"{safe_text(str(path))}: text_sha256 is not one for each of {n} texts", _LAYOUTS
        )
    if lengths is not None and (lengths.shape != (n,) or lengths.dtype.kind not in "iu"):
        raise ImportFormatError(
            f"{safe_text(str(path))}: text_bytes is not one for each of {n} texts", _LAYOUTS
        )
    if digests is None and lengths is None:
        return None
    known = (
        ()
        if digests is None
        else tuple(bytes.fromhex(str(d, "ascii") if isinstance(d, bytes) else d) for d in digests.tolist())
    )
    return Texts(digests=known, text_bytes=() if lengths is None else tuple(lengths.tolist()))


def _by_name(path: Path, arrays: dict[str, NDArray[Any]], numbered: str) -> Imported:
    """One vector per array; the array's name is RUN, RUN+VARIANT, or one of these followed by /NUMBER."""
    runs: dict[str, list[int]] = {}
    for name in arrays:
        if found := _NUMBERED.fullmatch(name):
            runs.setdefault(found["run"], []).append(int(found["number"]))
    layers = bool(runs) and steps_or_layers(path, runs, numbered) == "layers"
    made = [
        ImportedVector(_numbered_point(name, layers), _vector(path, name, v), named_here=True)
        for name, v in arrays.items()
    ]
    return Imported(tuple(made)).checked()


def _numbered_point(name: str, layers: bool) -> Point:
    found = _NUMBERED.fullmatch(name)
    if found is None:
        return _point(name)
    number, whole = int(found["number"]), _point(found["run"])
    if whole.step is not None or whole.layer is not None:
        return lineage(name, own_name=True)
    step, layer = (None, number) if layers else (number, None)
    return lineage(whole.run, step, quantization=whole.quantization, layer=layer, own_name=True)


def _point(name: str) -> Point:
    """The point of a vector called `run@step+variant#layer`, as kltui names them; any other name is that of a run."""
    parts = made_name(name)
    if parts is None or run_problem(parts[0]):
        return lineage(name, own_name=True)
    run, step, variant, layer = parts
    return lineage(run, step, quantization=variant, layer=layer, own_name=True)


def _vector(path: Path, name: str, value: NDArray[Any]) -> NDArray[np.float64]:
    """`value` as N float64; infinities become NaN. Raises ImportFormatError if it is not a vector of numbers."""
    if value.ndim != 1 or value.dtype.kind not in "fiu":
        raise ImportFormatError(
            f"{safe_text(str(path))}: {safe_text(name, 80)} is not a vector of numbers", _LAYOUTS
        )
    out = value.astype(np.float64)
    out[~np.isfinite(out)] = np.nan
    return out
