"""Reads the arrays of an .npz safely: sizes stated by the archive and by each header are checked before memory is allocated."""

from __future__ import annotations

import math
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kltui.corpus.files import UnreadableFileError, memory_bytes, open_regular
from kltui.importers.imported import ImportFormatError
from kltui.sanitize import safe_text

MAX_ARRAYS = 200_000
FREE_BYTES = 64 << 20  # up to this size any compression ratio is allowed
MAX_RATIO = 50  # float64 log-likelihoods are compressed to 0.9 of their size
KINDS = "biufUS"  # numbers and text: no objects, no structures
_HINT = "fetch or export the file again"


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], bytes]:
    """({name: array}, the archive's comment) of an .npz. Raises ImportFormatError that says what is wrong with it."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            _check_archive(archive, path.stat().st_size)
            arrays = {}
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"{safe_text(name, 60)} occurs twice in it")
                arrays[name] = _array(archive, member)
            return arrays, archive.comment
    except UnreadableFileError as error:
        raise ImportFormatError(error.message, error.hint) from error
    except Exception as error:  # a damaged archive can raise nearly anything
        reason = safe_text(str(error) or type(error).__name__, 160)
        raise ImportFormatError(
            f"{safe_text(str(path))} cannot be read as arrays ({reason})", _HINT
        ) from error


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    if len(members) > MAX_ARRAYS:
        raise ValueError(f"it contains {len(members):,} arrays")
    unpacked = sum(member.file_size for member in members)
    maximum = min(FREE_BYTES + MAX_RATIO * size, memory_bytes() // 2)
    if unpacked > maximum:
        raise ValueError(
            f"unpacked it would have {unpacked:,} bytes, and a file of {size:,} may have {maximum:,}"
        )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file)
        if dtype.kind not in KINDS or dtype.hasobject:
            raise ValueError(f"{safe_text(member.filename, 60)} is an array of {safe_text(str(dtype), 40)}")
        if len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"{safe_text(member.filename, 60)} has the shape {safe_text(str(shape), 60)}")
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes > member.file_size:
            raise ValueError(
                f"{safe_text(member.filename, 60)} claims {n_bytes:,} bytes and has {member.file_size:,}"
            )
        data = file.read(n_bytes + 1)
    if len(data) != n_bytes:
        raise ValueError(f"{safe_text(member.filename, 60)} does not fill its shape")
    if dtype.kind == "U":
        # numpy would return invalid strings, on which other code fails.
        codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if codes.size and codes.max() > sys.maxunicode:
            raise ValueError(f"{safe_text(member.filename, 60)} contains invalid text")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise ValueError(f"an array in version {version} of its format, which is for structures")
