"""Other formats of an export: tables as Parquet, vectors in the layout of the released files of modelmap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.sanitize import safe_text

if TYPE_CHECKING:
    from kltui.analysis.map import Map

Row = Sequence[object]


def check_parquet() -> None:
    """Raises KltuiError if pyarrow cannot be imported."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise KltuiError(
            f"Parquet needs pyarrow, which cannot be imported ({error})",
            "pip install '.[parquet]', or leave out --also parquet.",
        ) from error


def write_parquet_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Writes rows as one Parquet file of integers, floats and strings; undefined or absent values are null."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
    arrays = [pa.array([_cell(v) for v in column]) for column in values]
    write_table(pa.table(arrays, names=list(columns)), path)


def write_parquet_vectors(path: Path, shown: Map) -> None:
    """Writes one row per vector: name, run, step and `loglik`, a list of N float64 in nats (NaN if unscored)."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    n = len(shown.text_bytes_N)
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("run", pa.string()),
            ("step", pa.int64()),
            ("loglik", pa.list_(pa.float64(), n)),
        ]
    )
    with ParquetWriter(path, schema) as writer:
        for point, loglik_N in zip(shown.points, shown.loglik_KN, strict=True):
            vector = pa.FixedSizeListArray.from_arrays(pa.array(loglik_N), n)
            name, run = safe_text(point.name), safe_text(point.run)
            columns = [pa.array([name]), pa.array([run]), pa.array([point.step], pa.int64()), vector]
            writer.write_table(pa.table(columns, schema=schema))


def _cell(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return safe_text(value) if isinstance(value, str) else value


def modelmap_arrays(shown: Map) -> dict[str, NDArray[Any]]:
    """The vectors in the layout of the released pickles, as arrays for an .npz, which needs no unpickling.

    `RUN` is a model without steps, `RUN/STEP` one checkpoint of {run: {step: vector}}; the run of a variant ends in
    `+VARIANT`. Vectors are float64 in nats.
    """
    found: dict[str, NDArray[Any]] = {}
    for point, loglik_N in zip(shown.points, shown.loglik_KN, strict=True):
        run = point.run if point.quantization == "none" else f"{point.run}+{point.quantization}"
        # These become names in an archive, which must not lead out of the folder that it is unpacked in.
        run = safe_text(run).replace("..", "__").lstrip("/")
        key = run if point.step is None else f"{run}/{point.step}"
        assert key not in found, key
        found[key] = loglik_N
    return found
