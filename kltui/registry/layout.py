"""The files of a transformers model folder, on this machine or on the hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.registry.gguf_file import gguf_has_tokenizer, is_gguf, part_paths
from kltui.sanitize import safe_text

CONFIG = "config.json"
# In the order in which transformers looks for them.
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
INDEX_SUFFIX = ".index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZER_PATTERNS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "bpe.codes",
    "spiece.model", "sentencepiece*.model", "spm.model", "*.tiktoken", "tekken.json", "chat_template.jinja",
)  # fmt: skip
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Of the above, those with a vocabulary: settings and added tokens alone are no tokenizer.
_VOCABULARIES = (
    TOKENIZER_JSON, "tokenizer.model*", "vocab.*", "bpe.codes", "spiece.model", "sentencepiece*.model", "spm.model",
    "*.tiktoken", "tekken.json",
)  # fmt: skip
_CLASSES_WITHOUT_FILES = {"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"}  # bytes or code points

SETTINGS_MAX_BYTES = (
    1 << 28
)  # of a JSON file that is read; tokenizers with the largest vocabularies have 40 MB


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Context in which an error of the file system is raised as a KltuiError that names the file, or `path`, and the reason."""
    try:
        yield
    except OSError as error:
        where = safe_text(str(error.filename or path))
        raise KltuiError(
            f"{where} cannot be read: {error.strerror}", "Check the path and its permissions."
        ) from error


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` has a config and weights that transformers can load."""
    return (folder / CONFIG).is_file() and weight_entry(_file_names(folder)) is not None


def is_adapter_folder(folder: Path) -> bool:
    """Whether `folder` contains an adapter (PEFT) and no full model."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    names = _file_names(folder)
    return weight_entry(names) is None and any(name in names for name in ADAPTER_WEIGHTS)


def is_checkpoint_folder(folder: Path) -> bool:
    """Whether `folder` contains a model or an adapter."""
    return is_model_folder(folder) or is_adapter_folder(folder)


def weight_entry(names: Collection[str], allow_bin: bool = True) -> str | None:
    """The weight file or weight index among `names` to load, or None."""
    wanted = SAFETENSORS + (PICKLED if allow_bin else ())
    return next((name for name in wanted if name in names), None)


def tokenizer_names(names: Collection[str]) -> list[str]:
    """Tokenizer files among `names`, sorted; files in sub-folders are none."""
    return sorted(
        name for name in names if "/" not in name and any(fnmatchcase(name, p) for p in TOKENIZER_PATTERNS)
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether `folder` (or a GGUF file) contains a tokenizer's vocabulary, or names a class that needs none."""
    if is_gguf(folder):
        return gguf_has_tokenizer(folder)
    try:
        names = _file_names(folder)
    except OSError:
        return False
    if any(fnmatchcase(name, pattern) for name in names for pattern in _VOCABULARIES):
        return True
    stated = read_json_object(folder / TOKENIZER_CONFIG).get("tokenizer_class")
    return isinstance(stated, str) and stated in _CLASSES_WITHOUT_FILES


def shard_names(index: Path) -> list[str]:
    """The files that a weight index (`*.index.json`) names, sorted.

    Raises KltuiError if it cannot be read or names anything but weight files of its own folder and format.
    """
    where = safe_text(str(index))
    try:
        weight_map = json.loads(index.read_bytes(), object_pairs_hook=unique_keys)["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise KltuiError(
            f"The weight index {where} cannot be read ({type(error).__name__})",
            "Fetch or save the model again.",
        ) from error
    for shard in shards:
        if not isinstance(shard, str) or not shard or "/" in shard or "\\" in shard or shard.startswith("."):
            raise KltuiError(
                f"The weight index {where} names {safe_text(repr(shard), 80)}, which is not a file of its folder",
                "kltui reads no weights outside the model's own folder.",
            )
    if not shards:
        raise KltuiError(f"The weight index {where} names no file", "Fetch or save the model again.")
    kind = ".safetensors" if index.name in SAFETENSORS else ".bin"
    strange = next((shard for shard in shards if not shard.endswith(kind)), None)
    if strange is not None:
        raise KltuiError(
            f"The weight index {where} names {safe_text(strange, 80)}, which is not a {kind} file",
            "An index may refer only to files of its own format.",
        )
    return shards


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that appears twice: readers differ in which one they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} appears twice")
    return found


def pickled_error(folder: Path, entry: str) -> KltuiError:
    """The error for a folder with only pickled weights, if pickles are not allowed."""
    return KltuiError(
        f"{safe_text(str(folder))} contains only pickled weights ({safe_text(entry, 80)}), which can run code when they are opened",
        "convert it to safetensors, or set allow_bin = true in [scoring] if you trust it",
    )


def weight_names(folder: Path, allow_bin: bool = True) -> list[str]:
    """Weight files of a model or adapter folder, sorted, including its index. Raises KltuiError if one is missing."""
    names = _file_names(folder)
    entry = weight_entry(names, allow_bin)
    if entry is None and ADAPTER_CONFIG in names:
        entry = next((name for name in ADAPTER_WEIGHTS[: 1 + allow_bin] if name in names), None)
    if entry is None and (pickled := weight_entry(names)) is not None:
        raise pickled_error(folder, pickled)
    if entry is None:
        raise KltuiError(
            f"No weights in {safe_text(str(folder))}", f"Expected one of {', '.join(SAFETENSORS + PICKLED)}."
        )
    if not entry.endswith(INDEX_SUFFIX):
        return [entry]
    shards = shard_names(folder / entry)
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise KltuiError(
            f"{len(missing)} of {len(shards)} weight files are missing in {safe_text(str(folder))}: "
            + safe_text(", ".join(missing[:3]), 200),
            "Copy or download them again; the index lists all files of the model.",
        )
    return sorted([entry, *shards])


def weight_paths(folder: Path, allow_bin: bool = True) -> list[Path]:
    """The weight files of a model folder, including its index, or the parts of a GGUF file, in order. Raises KltuiError."""
    if is_gguf(folder):
        return part_paths(folder)
    return [folder / name for name in weight_names(folder, allow_bin)]


def model_type(folder: Path) -> str:
    """`model_type` of the folder's config.json, "" if it cannot be read."""
    found = read_json_object(folder / CONFIG).get("model_type", "")
    return found if isinstance(found, str) else ""


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if it is not a regular file or contains no object."""
    try:
        if not path.is_file() or path.stat().st_size > SETTINGS_MAX_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}
