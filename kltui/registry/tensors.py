"""Opens weight files as raw bytes, without building a model and without copying.

A safetensors file is 8 bytes of header length (little endian), a JSON header naming each tensor's dtype, shape and
byte range, then the bytes. Its whole header is checked before any data is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui import lfs_pointer
from kltui.atomic_files import replacing
from kltui.errors import KltuiError
from kltui.registry.layout import unique_keys

Bytes = NDArray[np.uint8]

MAX_HEADER = 100_000_000
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
    "C64": 64, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
# What formats of quantised weights store beside the codes: scales, zero points, orders, tables.
BESIDE_CODES = re.compile(
    r"(^|\.)(SCB|weight_format|(weight_|input_|output_)?scales?(_inv|_2|_weight|_input)?|(weight_)?global_scale"
    r"|(weight_|input_)?zero_points?|qzeros|qweight|g_idx|weight_packed|weight_shape|scaled_fp8"
    r"|\w+_(blocks|scales)|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))$"
)
CODES = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")

# Tensors that some families store besides parameters: rotary tables, causal masks, fixed position tables, statistics.
_BUFFER = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|cos_cached|sin_cached|masked_bias|causal_mask|running_mean|running_var"
    r"|num_batches_tracked|embed_positions\.weights|position_ids|balancing_biases|diagonal_decay|key_decay|query_decay"
    r"|slope_rate|e_score_correction_bias|expert_bias|final_logits_bias|global_invstd|global_mean|input_max|input_min"
    r"|output_max|output_min|layer_multipliers|layer_scalar|ngram_heads_offsets|ngram_heads_vocab_sizes|std_bias"
    r"|std_scale|tid2eid|token_ordering)$"
)
_MASK = re.compile(r"(^|\.)(attn|attention|self_attention|self_attn)\.bias$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer|head)\.weight$")


class TensorFileError(KltuiError):
    """Raised for an invalid weight file."""


@dataclass(frozen=True, eq=False)
class TensorFile:
    """One tensor as stored in its file: raw bytes (1-D, read-only), safetensors dtype, shape."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    data: Bytes = field(repr=False)

    @property
    def n_elements(self) -> int:
        """Number of elements, 1 for a scalar."""
        return math.prod(self.shape)


def open_tensors(folder: Path, allow_bin: bool = False, *, as_indexed: bool = True) -> dict[str, TensorFile]:
    """Every tensor of the weight files in `folder`, by name, memory-mapped. Raises TensorFileError for an invalid file.

    `pytorch_model.bin` is a pickle: it is read (tensors only) if there are no safetensors and `allow_bin` is true.
    With `as_indexed`, it is an error if the index of several safetensors names a tensor that its file lacks, or two files
    have one of the same name; otherwise the last file's counts, as for transformers.
    """
    found = _open_safetensors(folder, as_indexed)
    if found is None:
        found = _open_bin(folder, allow_bin)
    return found


def parameters(tensors: Mapping[str, TensorFile]) -> dict[str, TensorFile]:
    """The trained parameters among `tensors`, by sorted name; tied weights may occur twice (`registry.parameters`).

    Left out as buffers: integer and boolean tensors, rotary tables, causal masks (`attention.bias` with three or
    more axes), masked_bias, running statistics. Raises TensorFileError for quantised weights, whose distances are meaningless.
    """
    kept = {}
    for name in sorted(tensors):
        t = tensors[name]
        if name.endswith(("weight", "qweight")) and t.dtype not in FLOATS:
            raise TensorFileError(
                f"{t.path.name}: {name} is stored as {t.dtype}",
                "weight distances need checkpoints saved in float32, float16, bfloat16 or float64",
            )
        if t.dtype in FLOATS and not is_buffer(name, t.shape):
            kept[name] = t
    return kept


def holds_codes(tensors: Mapping[str, TensorFile]) -> bool:
    """Whether any of the tensors is stored in fewer bits than a dtype for computing, or belongs to such a one."""
    return any(
        t.dtype.startswith(("F8", "F6", "F4"))
        or (t.dtype in CODES and len(t.shape) >= 2)
        or BESIDE_CODES.search(name)
        for name, t in tensors.items()
    )


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this name and shape is a table, mask or statistic that some families store beside their parameters."""
    return _BUFFER.search(name) is not None or (_MASK.search(name) is not None and len(shape) >= 3)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """({name: {dtype, shape, data_offsets}}, byte at which the data begin) of a safetensors file, from its checked header.

    Raises TensorFileError for an invalid file.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        first = f.read(8)
        if len(first) < 8:
            raise _bad(path, f"has {size} bytes, too few for a header")
        length = int.from_bytes(first, "little")
        if lfs_pointer.BEGIN.startswith(first):
            raise TensorFileError(f"{path} {lfs_pointer.WORDS}", lfs_pointer.HINT)
        if length > MAX_HEADER or length > size - 8:
            raise _bad(path, f"says its header has {length} bytes; the file has {size}")
        raw = f.read(length)
    try:
        header = json.loads(raw.decode(), object_pairs_hook=unique_keys)
        # Only Python's parser accepts NaN and lone surrogates.
        json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as e:
        raise _bad(path, f"has a header that is not a JSON object ({e})") from e
    if not isinstance(header, dict):
        raise _bad(path, "has a header that is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad(path, "has metadata that is not text")
    _check_entries(path, header, size - 8 - length)
    return header, 8 + length


def _open_safetensors(folder: Path, as_indexed: bool) -> dict[str, TensorFile] | None:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return _open_file(single)
    if index.is_file():
        return _open_shards(folder, index, _open_file, as_indexed)
    return None


def _open_file(path: Path) -> dict[str, TensorFile]:
    header, start = read_header(path)
    data: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
    out = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        piece = data[start + begin : start + end]
        out[name] = TensorFile(name, path, entry["dtype"], tuple(entry["shape"]), piece)
    return out


def _open_shards(folder: Path, index: Path, opener: Any, as_indexed: bool = True) -> dict[str, TensorFile]:
    """All tensors in the files that an index names. Raises TensorFileError for a missing file and, with `as_indexed`, tensor."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(k), str(v)) for k, v in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise _bad(index, "is not an index with a weight_map") from e
    shards: dict[str, dict[str, TensorFile]] = {}
    for shard in sorted({v for _, v in pairs}):
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise _bad(index, f"names a shard outside its folder: {shard!r}")
        if not (folder / shard).is_file():
            raise TensorFileError(f"{folder}: shard {shard} is missing", "download the checkpoint again")
        shards[shard] = opener(folder / shard)
    for name, shard in pairs:
        if as_indexed and name not in shards[shard]:
            raise _bad(index, f"says {name} is in {shard}, which does not contain it")
    found: dict[str, TensorFile] = {}
    for opened in shards.values():
        twice = next((name for name in opened if name in found), None)
        if as_indexed and twice is not None:
            raise _bad(index, f"is invalid: {twice} is in two of its files")
        found |= opened
    return found


def _check_entries(path: Path, header: dict[str, Any], n_bytes: int) -> None:
    """Raises TensorFileError unless every entry is valid, and the byte ranges cover the data without gaps or overlaps."""
    spans = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise _bad(path, f"describes {name!r} without dtype, shape and data_offsets")
        shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
        if not isinstance(dtype, str) or dtype not in BITS:
            raise _bad(path, f"gives {name!r} the unknown dtype {dtype!r}")
        if not _naturals(shape):
            raise _bad(path, f"gives {name!r} the shape {shape!r}")
        if not _naturals(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= n_bytes:
            raise _bad(path, f"places {name!r} at {offsets!r} of {n_bytes} bytes of data")
        if (offsets[1] - offsets[0]) * 8 != math.prod(shape) * BITS[dtype]:
            raise _bad(path, f"gives {name!r} {offsets[1] - offsets[0]} bytes for shape {shape} of {dtype}")
        spans.append((offsets[0], offsets[1], name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise _bad(path, f"has {'overlapping' if begin < at else 'unclaimed'} bytes before {name!r}")
        at = end
    if at != n_bytes:
        raise _bad(path, f"has {n_bytes - at} bytes of data that belong to no tensor")


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _bad(path: Path, what: str) -> TensorFileError:
    return TensorFileError(
        f"{path} {what}", "the file is damaged or not a safetensors file: download or save it again"
    )


def write_tensors(
    path: Path, tensors: Sequence[tuple[str, str, tuple[int, ...], Callable[[], Bytes]]]
) -> None:
    """Writes (name, dtype, shape, function that returns its raw bytes) as one safetensors file, atomically.

    Tensors are created one at a time, so that only one is in memory.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape, _ in tensors:
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with replacing(path) as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for name, dtype, shape, make in tensors:
            data = np.ascontiguousarray(make())
            assert data.nbytes * 8 == math.prod(shape) * BITS[dtype], name
            f.write(data.data)


# ---- pickled weights


def _open_bin(folder: Path, allow_bin: bool) -> dict[str, TensorFile]:
    single, index = folder / "pytorch_model.bin", folder / "pytorch_model.bin.index.json"
    if not single.is_file() and not index.is_file():
        raise TensorFileError(
            f"{folder} contains no weights",
            "it needs model.safetensors, or shards with model.safetensors.index.json",
        )
    if not allow_bin:
        raise TensorFileError(
            f"{folder} contains its weights only as pytorch_model.bin, a pickle",
            "set allow_bin = true to read it (tensors only), or convert it to safetensors",
        )
    if single.is_file():
        return _drop_shared(_open_pickle(single))
    return _drop_shared(_open_shards(folder, index, _open_pickle))


def _open_pickle(path: Path) -> dict[str, TensorFile]:
    """The tensors of a torch file as bytes, read by torch's own unpickler for tensors only. Raises TensorFileError."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as e:  # torch raises several types for a refused or damaged pickle
        raise TensorFileError(
            f"{path} could not be read as tensors only: {e}", "convert it to safetensors"
        ) from e
    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
        torch.bool: "BOOL",
    }  # fmt: skip
    out = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in names:
            continue
        flat = tensor.detach().contiguous().reshape(-1)
        data: Bytes = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
        out[str(name)] = TensorFile(str(name), path, names[tensor.dtype], tuple(tensor.shape), data)
    return out


def _is_zip(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(2) == b"PK"


def _drop_shared(tensors: Mapping[str, TensorFile]) -> dict[str, TensorFile]:
    """The tensors without those that share their memory with another one; an output head is dropped before an embedding."""
    kept: dict[tuple[int, int], str] = {}
    for name in _heads_last(tensors):
        t = tensors[name]
        where = (t.data.ctypes.data, t.data.nbytes)
        if t.data.nbytes:
            kept.setdefault(where, name)
    names = {*kept.values(), *(n for n, t in tensors.items() if not t.data.nbytes)}
    return {n: t for n, t in tensors.items() if n in names}


def _heads_last(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda n: (_HEAD.search(n) is not None, n))
