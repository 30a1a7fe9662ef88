"""Merges the parts of a split GGUF file, as llama.cpp's own tool does, without decoding tensors."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import BinaryIO

from kltui.errors import KltuiError
from kltui.registry.gguf_file import TYPES, GGUFHeader, GGUFModel, GGUFTensor
from kltui.sanitize import safe_text

ALIGNMENT = 32
_NUMBER_OF_TYPE = {name: number for number, (name, _, _) in TYPES.items()}
_BLOCK_BYTES = 1 << 24


def merge(model: GGUFModel, out: Path) -> None:
    """Writes the file `out` with the keys of the model's first part and the tensors of all parts.

    Raises KltuiError if there is too little space or a part is truncated.
    """
    _check_space(model, out)
    first, tensors = model.first, model.tensors
    alignment = first.number("general.alignment") or ALIGNMENT
    with first.path.open("rb") as file, out.open("wb") as made:
        made.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), first.n_keys))
        file.seek(first.keys_start)
        made.write(file.read(first.keys_end - first.keys_start))
        at = 0
        for t in tensors:
            made.write(_described(t, at))
            at += _padded(t.n_bytes, alignment)
        made.write(bytes(-made.tell() % alignment))
        for part in model.parts:
            _copy_tensors(part, made, alignment)


def _described(t: GGUFTensor, offset: int) -> bytes:
    name = t.name.encode()
    axes = struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *reversed(t.shape))
    return struct.pack("<Q", len(name)) + name + axes + struct.pack("<IQ", _NUMBER_OF_TYPE[t.type], offset)


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _copy_tensors(part: GGUFHeader, out: BinaryIO, alignment: int) -> None:
    with part.path.open("rb") as file:
        for t in part.tensors:
            file.seek(t.start)
            left = t.n_bytes
            while left:
                block = file.read(min(left, _BLOCK_BYTES))
                if not block:
                    raise KltuiError(f"{safe_text(part.path.name)} was truncated", "Copy or fetch it again.")
                out.write(block)
                left -= len(block)
            out.write(bytes(_padded(t.n_bytes, alignment) - t.n_bytes))


def _check_space(model: GGUFModel, out: Path) -> None:
    needed, free = sum(part.n_bytes for part in model.parts), shutil.disk_usage(out.parent).free
    if needed > free:
        raise KltuiError(
            f"the {len(model.parts)} parts of {safe_text(model.first.path.name)} are merged in"
            f" {safe_text(str(out.parent))}, which has {free / 1e9:,.1f} of {needed / 1e9:,.1f} GB free",
            "Free space there, or set another temporary folder: TMPDIR=/path kltui ...",
        )
