"""The changes that an adapter makes to its base, read from its files without building a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.registry.adapters import adapter_config
from kltui.registry.layout import ADAPTER_WEIGHTS, INDEX_SUFFIX, weight_names
from kltui.registry.parameters import is_embedding, names_of_text
from kltui.registry.tensors import FLOATS, read_header
from kltui.sanitize import safe_text

F64 = NDArray[np.float64]

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.*)\.lora_(embedding_)?([AB])(\.weight|\.bias)?")
_MAGNITUDE = re.compile(r"(.*)\.lora_magnitude_vector(\.weight)?")
# Modules around the layers, which transformers nests in another order than files of models of images and text.
_AROUND = re.compile(r"((model|transformer|language_model|text_model|llm)\.)*")


@dataclass(frozen=True)
class Change:
    """The changes of an adapter: `low_rank` {tensor: (s B (out, r), A (r, in))}, `whole` {tensor: new values}.

    `magnitude` {tensor: (out,)} are the norms to which DoRA sets a tensor's rows. Tensors have the base's names.
    """

    low_rank: Mapping[str, tuple[F64, F64]]
    whole: Mapping[str, F64]
    magnitude: Mapping[str, F64]

    @property
    def names(self) -> set[str]:
        """Names of the base's tensors that the adapter changes."""
        return self.low_rank.keys() | self.whole.keys()


def read_change(folder: Path) -> Change:
    """The changes that the adapter in `folder` makes, as float64, without those of encoders of images and sound.

    Raises KltuiError for an unsupported method.
    """
    config, path = adapter_config(folder), folder / ADAPTER_WEIGHTS[0]
    where = safe_text(str(folder))
    if config.get("peft_type") != "LORA" or config.get("target_parameters"):
        what = "target_parameters" if config.get("target_parameters") else str(config.get("peft_type"))
        raise KltuiError(
            f"weight distances of {safe_text(what, 40)} adapters are not computed ({where})",
            "They are supported for LoRA, rsLoRA and DoRA on linear layers and embeddings; merge the adapter to compare its weights.",
        )
    if not path.is_file():
        raise KltuiError(
            f"the adapter in {where} is pickled", "Save it as safetensors to compare its weights."
        )
    factors: dict[str, dict[str, F64]] = {}
    whole: dict[str, F64] = {}
    magnitude: dict[str, F64] = {}
    stored = {name.removeprefix(_PREFIX): values for name, values in read_floats(path).items()}
    for own in names_of_text(stored):
        values = stored[own]
        if found := _MAGNITUDE.fullmatch(own):
            magnitude[f"{found[1]}.weight"] = values.reshape(-1)
        elif found := _FACTOR.fullmatch(own):
            kind = "bias" if found[4] == ".bias" else f"{found[2] or ''}{found[3]}"
            factors.setdefault(found[1], {})[kind] = values
        else:
            whole[own.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = values
    low_rank: dict[str, tuple[F64, F64]] = {}
    for module, parts in factors.items():
        low_rank |= _products(module, parts, config, where)
    return Change(low_rank, whole, magnitude)


def _products(
    module: str, parts: Mapping[str, F64], config: Mapping[str, Any], where: str
) -> dict[str, tuple[F64, F64]]:
    """{tensor: (s B, A)} of one module: the adapter adds s B A to its weight."""
    embedding = "embedding_A" in parts
    A, B = (parts.get(f"embedding_{k}" if embedding else k) for k in "AB")
    if A is None or B is None or A.ndim != 2 or B.ndim != 2 or B.shape[1] != A.shape[0]:
        raise KltuiError(
            f"the change of {safe_text(module, 120)} by the adapter in {where} is not a product of two matrices",
            "Weight distances are supported for linear layers and embeddings; merge the adapter to compare its weights.",
        )
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    scale = alpha / (math.sqrt(len(A)) if config.get("use_rslora") else len(A))
    transposed = embedding or bool(config.get("fan_in_fan_out"))
    pair = (A.T * scale, B.T) if transposed else (B * scale, A)
    found = {f"{module}.weight": pair}
    if "bias" in parts:
        found[f"{module}.bias"] = parts["bias"][:, None] * scale, np.ones((1, 1))
    return found


def _by_pattern(pattern: Any, module: str, default: Any) -> float:
    """The value of the first pattern that matches the end of a module's name, otherwise `default`, as in peft."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return float(default)


def base_tensor(folder: Path, name: str) -> F64:
    """A model's tensor by its name, which files may store with fewer or other modules around it. Raises KltuiError if it is missing."""
    files = [folder / n for n in weight_names(folder, allow_bin=False) if not n.endswith(INDEX_SUFFIX)]
    places = {n: path for path in files for n in read_header(path)[0]}
    found = next((n for n in (name, name.partition(".")[2]) if n in places), None)
    if found is None:
        texts = names_of_text(places)
        alike = [n for n in texts if _within(n) == _within(name)]
        if not alike and is_embedding(name, or_head=True):  # an output head that the files lack is tied
            alike = [n for n in texts if is_embedding(n)]
        if not alike:
            raise KltuiError(
                f"{safe_text(str(folder))} does not contain {safe_text(name, 120)}",
                "Its distance to the adapter cannot be computed from the files.",
            )
        found = alike[0]
    return read_floats(places[found], found)[found]


def _within(name: str) -> str:
    """A tensor's name without the modules around the layers."""
    return _AROUND.sub("", name, count=1)


def read_floats(path: Path, only: str = "") -> dict[str, F64]:
    """The tensors of a safetensors file, or the one called `only`, as float64.

    The file is read, not memory-mapped, because it may be truncated meanwhile. Raises KltuiError if it is.
    """
    header, start = read_header(path)
    found = {}
    with path.open("rb") as file:
        for name, entry in header.items():
            if (only and name != only) or entry["dtype"] not in FLOATS:
                continue
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            raw = file.read(end - begin)
            if len(raw) < end - begin:
                raise KltuiError(f"{safe_text(str(path))} was truncated while it was read", "Copy it again.")
            found[name] = _as_float64(raw, entry["dtype"]).reshape(entry["shape"])
    return found


def _as_float64(raw: bytes, dtype: str) -> F64:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)
