"""The tensors of a GGUF file under their names in the original model, dequantised one at a time when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.registry.gguf_file import GGUFHeader, GGUFModel, GGUFTensor, read_model
from kltui.registry.tensors import Bytes, TensorFile
from kltui.sanitize import safe_text

Array = NDArray[np.float32]

# Families whose tensors have transformers' layout in the file, apart from what `_layout` undoes.
_PLAIN = ("qwen2", "qwen3", "starcoder2", "stablelm")
_NORM_PLUS_ONE = ("gemma2", "gemma3")
_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")  # of gpt2
_SUPPORTED = (*_PLAIN, *_NORM_PLUS_ONE, "llama", "gpt2")


def open_gguf(path: Path, names: Collection[str]) -> dict[str, TensorFile]:
    """{name: tensor} for those of `names`, names of the original model, that a GGUF file contains, as float32.

    Raises KltuiError if the layout of the family is not supported, or the file has layers that `names` lacks.
    """
    model = read_model(path)
    family = model.first.architecture
    if find_spec("gguf") is None:
        raise KltuiError("weights of GGUF files need gguf, not installed here", "pip install '.[gguf]'")
    if family not in _SUPPORTED:
        raise KltuiError(
            f"{safe_text(path.name)} is of the family {safe_text(family, 40)}, whose tensors have another layout in GGUF files",
            f"Weight distances of GGUF files are supported for {', '.join(sorted(_SUPPORTED))}.",
        )
    by_name = {t.name: (part, t) for part in model.parts for t in part.tensors}
    places = _places(model, names)
    lost = sorted(n for n in by_name if n not in places.values() and n.startswith("blk."))
    if lost:
        raise KltuiError(
            f"{safe_text(path.name)} contains {len(lost)} tensors that its original lacks, first {safe_text(lost[0], 80)}",
            "Weight distances need models of one architecture: check its parent.",
        )
    return {
        name: _tensor(name, *by_name[there], *_layout(model.first, by_name[there][1]))
        for name, there in places.items()
        if there in by_name
    }


def _places(model: GGUFModel, names: Collection[str]) -> dict[str, str]:
    """{name in the original: name in the file} for the names that llama.cpp translates."""
    import gguf

    architecture = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == model.first.architecture)
    blocks = model.first.number(f"{model.first.architecture}.block_count") or 0
    known = gguf.get_tensor_name_map(architecture, min(blocks, 10_000))
    found = {}
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        there = known.get_name(stem) or known.get_name(f"model.{stem}")
        if there is not None and suffix in ("weight", "bias"):
            found[name] = f"{there}{dot}{suffix}"
    return found


def _layout(header: GGUFHeader, t: GGUFTensor) -> tuple[tuple[int, ...], Callable[[Array], Array]]:
    """(shape in the original, function that converts the file's tensor to it)."""
    if header.architecture == "gpt2" and t.name.endswith(_TRANSPOSED):
        return t.shape[::-1], lambda w: w.T
    return t.shape, _undo(header, t.name)


def _undo(header: GGUFHeader, name: str) -> Callable[[Array], Array]:
    """The function that undoes what llama.cpp changed in the values or rows of a tensor."""
    family = header.architecture
    if family in _NORM_PLUS_ONE and name.endswith("norm.weight"):
        return lambda w: w - np.float32(1)
    if family == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = header.number(f"{family}.attention.head_count") or 1
        if ".attn_k." in name:
            heads = header.number(f"{family}.attention.head_count_kv") or heads
        return lambda w: _halves(w, heads)
    return lambda w: w


def _halves(w: Array, heads: int) -> Array:
    """Reorders the rows of each head to transformers' order: first one half of the rotary pairs, then the other.

    In the file they alternate.
    """
    if len(w) % (2 * heads):
        raise KltuiError(
            f"{len(w)} rows are not {heads} heads of pairs",
            "The header of the file may belong to another model.",
        )
    return w.reshape(heads, -1, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def _tensor(
    name: str, part: GGUFHeader, t: GGUFTensor, shape: tuple[int, ...], undo: Callable[[Array], Array]
) -> TensorFile:
    data = _Dequantised(part.path, t, undo)
    return TensorFile(name, part.path, "F32", shape, cast(Bytes, data))


class _Dequantised:
    """A tensor's float32 values as bytes, dequantised on access; only one tensor's values are in memory at a time."""

    _last: tuple[_Dequantised | None, Bytes] = (None, np.zeros(0, np.uint8))

    def __init__(self, path: Path, tensor: GGUFTensor, undo: Callable[[Array], Array]) -> None:
        self._path, self._tensor, self._undo = path, tensor, undo
        self.nbytes = 4 * math.prod(tensor.shape)

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, piece: slice) -> Bytes:
        if _Dequantised._last[0] is not self:
            _Dequantised._last = self, self._values()
        return _Dequantised._last[1][piece]

    def _values(self) -> Bytes:
        import gguf

        t = self._tensor
        kind: Any = gguf.GGMLQuantizationType[t.type]
        with self._path.open("rb") as file:
            file.seek(t.start)
            raw = np.frombuffer(file.read(t.n_bytes), np.uint8)
        if len(raw) != t.n_bytes:
            raise KltuiError(f"{safe_text(str(self._path))} was truncated", "Copy or fetch it again.")
        if t.type in ("F32", "F16"):
            values = raw.view(np.float32 if t.type == "F32" else np.float16).astype(np.float32)
        else:
            values = gguf.quants.dequantize(raw, kind)
        made = np.ascontiguousarray(self._undo(values.reshape(t.shape)), dtype=np.float32)
        return made.reshape(-1).view(np.uint8)
