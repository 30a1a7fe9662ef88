"""Arrays that kltui exports, taken back in: loglik.npz, and logp.npz in the layout of modelmap's pickles."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.importers.imported import Imported, ImportedVector, ImportFormatError, lineage
from kltui.safe import safe_text

_STEP = re.compile(r"^(?P<run>.+)[@/](?P<step>\d+)$")
_LAYOUTS = "expected loglik.npz (loglik K x N, names K) or logp.npz (one vector per RUN or RUN/STEP)"


def read_npz(path: Path) -> Imported:
    """Vectors of an .npz, whose names tell run, step and variant; nothing in it is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ImportFormatError(
            f"{safe_text(str(path))} cannot be read as arrays ({safe_text(str(error), 120)})", _LAYOUTS
        ) from None
    if {"loglik", "names"} <= arrays.keys():
        return _matrix(path, arrays)
    found = [_vector(path, name, value, None) for name, value in arrays.items()]
    if not found:
        raise ImportFormatError(f"{safe_text(str(path))} holds no vectors", _LAYOUTS)
    return Imported(tuple(found)).checked()


def _matrix(path: Path, arrays: dict[str, NDArray[Any]]) -> Imported:
    values, names = arrays["loglik"], [str(n) for n in np.atleast_1d(arrays["names"])]
    scored = arrays.get("n_scored")
    if values.ndim != 2 or len(values) != len(names) or (scored is not None and scored.shape != values.shape):
        raise ImportFormatError(
            f"{safe_text(str(path))} has {len(names)} names for values of shape {values.shape}", _LAYOUTS
        )
    counts = [None] * len(names) if scored is None or (scored < 0).any() else list(scored.astype(np.int32))
    rows = zip(names, values, counts, strict=True)
    return Imported(tuple(_vector(path, n, v, c) for n, v, c in rows)).checked()


def _vector(path: Path, name: str, value: NDArray[Any], scored: NDArray[np.int32] | None) -> ImportedVector:
    """One vector by its name: `run@step+variant`, or `run+variant/step` as modelmap's layout has it."""
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "fiu":
        raise ImportFormatError(
            f"{safe_text(str(path))}: {safe_text(name, 80)} is no vector of numbers", _LAYOUTS
        )
    base, _, variant = name.partition("+")
    if "/" in variant:  # run+variant/step
        variant, _, step = variant.rpartition("/")
        base = f"{base}/{step}"
    found = _STEP.match(base)
    run, at = (found["run"], int(found["step"])) if found else (base, None)
    out = value.astype(np.float64)
    out[~np.isfinite(out)] = np.nan
    return ImportedVector(lineage(run, at, quantization=variant or "none"), out, scored)
