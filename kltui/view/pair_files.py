"""Writes the KL of all pairs of a large map to one file that can be read in seconds: Parquet, or .npz without pyarrow.

Pairs are computed and written for some rows of the map at a time, so that neither a K x K matrix nor the table is in memory.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.products import blocks
from kltui.sanitize import safe_text
from kltui.threads import in_parallel

if TYPE_CHECKING:
    from kltui.analysis.kl import KLPairs
    from kltui.analysis.map import Map

Array = NDArray[np.float64]
Progress = Callable[[float], None]
_ROWS_AT_ONCE = 128  # rows written at once: with 20,000 vectors, 2.6 million pairs
MAX_IN_CSV = 2_000_000  # pairs: some 160 MB of text
MAX_PAIRS = 200_000_000  # of 20,000 vectors; 4 GB
PARQUET, NPZ = "kl.parquet", "kl.npz"
FORMS = ("kl.csv", PARQUET, NPZ)
_READ = {
    PARQUET: "pandas.read_parquet('kl.parquet') reads it, with the columns of kl.csv",
    NPZ: "numpy.load('kl.npz') opens it: kl_bits_per_byte and se of each pair of names once,"
    " which scipy.spatial.distance.squareform makes a matrix of",
}


def are_many(shown: Map) -> bool:
    """Whether a map has too many pairs for a CSV file."""
    return _count(shown) > MAX_IN_CSV


def _count(shown: Map) -> int:
    return len(shown) * (len(shown) - 1) // 2


def form() -> str:
    """The name of the file for pairs that are too many for a CSV."""
    return PARQUET if importlib.util.find_spec("pyarrow") is not None else NPZ


def form_words(shown: Map, name: str) -> str:
    """Why there is no kl.csv, and how to open the file that replaces it."""
    return (
        f"{_count(shown):,} pairs are too many for a CSV: {name} is written instead of kl.csv; {_READ[name]}"
    )


def are_too_many(shown: Map) -> bool:
    """Whether a map has too many pairs for any file."""
    return _count(shown) > MAX_PAIRS


def none_words(shown: Map) -> str:
    """Why there is no file of pairs, and where some of them can be found."""
    return (
        f"{_count(shown):,} pairs are too many for a file (at most {MAX_PAIRS:,}): none is written. --exclude leaves runs"
        " out; consecutive.csv has the pairs along runs, report.json the neighbours of each run's last model"
    )


def write(shown: Map, path: Path, progress: Progress = lambda share: None) -> None:
    """Writes every pair once, in the map's order, as Parquet or .npz by the name of `path`; calls `progress` with the share that is done."""
    (_write_parquet if path.name == PARQUET else _write_npz)(shown, path, progress)


@dataclass(frozen=True, eq=False)
class Band:
    """KL and errors (rows x columns, bits/byte) of rows from `first` on to themselves and all later rows of the map."""

    first: int
    kl: Array
    se: Array

    @property
    def parts(self) -> list[Band]:
        """The band divided into bands of few rows, whose pairs make small tables."""
        cut = blocks(len(self.kl), _ROWS_AT_ONCE)
        return [Band(self.first + r.start, self.kl[r, r.start :], self.se[r, r.start :]) for r in cut]

    def pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(rows, columns) within the band of its pairs, in the order of rows."""
        return np.triu_indices(len(self.kl), 1, self.kl.shape[1])


def bands(pairs: KLPairs, progress: Progress) -> Iterator[Band]:
    """Yields all pairs, for some rows at a time; the tiles of a band are computed in parallel."""
    K = pairs.n_rows
    progress(0.0)
    for rows in blocks(K):
        shape = (rows.stop - rows.start, K - rows.start)
        kl, se = np.empty(shape), np.empty(shape)

        def fill(rows: slice, kl: Array, se: Array, columns: slice) -> None:
            place = slice(columns.start - rows.start, columns.stop - rows.start)
            kl[:, place] = pairs.kl(rows, columns)
            se[:, place] = pairs.standard_errors(rows, columns)

        later = [columns for columns in blocks(K) if columns.start >= rows.start]
        in_parallel([partial(fill, rows, kl, se, columns) for columns in later])
        yield from Band(rows.start, kl, se).parts
        progress(1.0 - ((K - rows.stop) / K) ** 2)


def _write_parquet(shown: Map, path: Path, progress: Progress) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    names = pa.array([safe_text(name) for name in shown.names])
    named = pa.dictionary(pa.int32(), pa.string())
    columns = [("a", named), ("b", named), ("kl_bits_per_byte", pa.float64()), ("se", pa.float64())]
    schema = pa.schema(columns)

    def called(rows: NDArray[np.intp]) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), names)

    # Distinct numbers gain nothing from a dictionary or from compression.
    packed = {"a": "snappy", "b": "snappy", "kl_bits_per_byte": "none", "se": "none"}
    with ParquetWriter(path, schema, use_dictionary=["a", "b"], compression=packed) as writer:
        for band in bands(shown.pairs(), progress):
            a, b = band.pairs()
            values = [pa.array(v[a, b], from_pandas=True) for v in (band.kl, band.se)]
            writer.write_table(
                pa.table([called(a + band.first), called(b + band.first), *values], schema=schema)
            )
    _sync(path)


def _write_npz(shown: Map, path: Path, progress: Progress) -> None:
    """Writes `names` (K), `kl_bits_per_byte` and `se`: each pair once, as condensed matrices of scipy, NaN where undefined."""
    n = _count(shown)
    aside = path.with_name(".se.npy")
    se = np.lib.format.open_memmap(aside, "w+", np.float64, (n,))
    at = 0
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        with archive.open("names.npy", "w") as member:
            names = np.array([safe_text(name) for name in shown.names], dtype=np.str_)
            np.lib.format.write_array(member, names, allow_pickle=False)
        with archive.open("kl_bits_per_byte.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f8", "fortran_order": False, "shape": (n,)}
            np.lib.format.write_array_header_1_0(member, header)
            for band in bands(shown.pairs(), progress):
                pairs = band.pairs()
                member.write(band.kl[pairs].astype("<f8").tobytes())
                se[at : at + len(pairs[0])] = band.se[pairs]
                at += len(pairs[0])
        se.flush()
        archive.write(aside, "se.npy")
    aside.unlink()
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as written:
        os.fsync(written.fileno())
