"""Texts to token ids: special-token policies, the tokenizer's fingerprint, and a cache on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.registry.layout import tokenizer_names
from kltui.scoring.batching import Ids

# Beside those that the registry knows as a tokenizer's: whatever else may take part in making one.
_FILES = ("*token*.json", "*.model", "vocab*", "merges*", "chat_template*")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its fingerprint, and the ids that a policy puts in front of every text."""

    backend: Any
    sha256: str
    prefix: tuple[int, ...]
    dropped_suffix: tuple[int, ...] = ()

    @property
    def first_scored(self) -> int:
        """Position of the first scored id: after the prefix, and never the first id of all."""
        return max(1, len(self.prefix))


def load_tokenizer(folder: Path, bos: str) -> Tokenizer:
    """The folder's tokenizer under the BOS policy `bos` (SPEC section 3)."""
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds, down to the tokenizers library's own
        raise KltuiError(
            f"the tokenizer in {folder} cannot be loaded: {_first_line(error)}",
            "the folder needs tokenizer.json (or the vocabulary files of its tokenizer) beside the weights",
        ) from error
    return with_policy(backend, bos)


def files_digest(folder: Path, config: Any) -> str:
    """Hex SHA-256 over what makes a folder's tokenizer: equal digests make equal tokenizers.

    transformers picks some tokenizers by what the model's configuration says, so that counts too.
    """
    said = (config.model_type, getattr(config, "tokenizer_class", None))
    digest = hashlib.sha256(repr(said).encode())
    known = tokenizer_names([p.name for p in folder.iterdir() if p.is_file()])
    for path in sorted({folder / name for name in known} | {p for x in _FILES for p in folder.glob(x)}):
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)} ".encode() + data)
    return digest.hexdigest()


def with_policy(backend: Any, bos: str) -> Tokenizer:
    """Tokenizer whose prefix follows `bos`: its own default, always one BOS, or never any special token."""
    default, suffix = _default_frame(backend)
    prefix = default
    if bos == "never":
        prefix = ()
    elif bos == "always":
        begin = backend.bos_token_id
        if begin is None:
            raise KltuiError(
                'bos = "always", but this tokenizer has no beginning-of-text token',
                'use bos = "auto" or "never"',
            )
        prefix = default if begin in default else (begin, *default)
    return Tokenizer(backend, fingerprint(backend), prefix, suffix)


def _default_frame(backend: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer itself puts before and after a text."""
    bare = backend("a", add_special_tokens=False)["input_ids"]
    framed = backend("a", add_special_tokens=True)["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    raise KltuiError(
        "the tokenizer changes a text's own ids when it adds special tokens",
        'use bos = "never", which adds none',
    )


def fingerprint(backend: Any) -> str:
    """Hex SHA-256 over everything that decides the ids: the tokenizer's pipeline and vocabulary."""
    core = getattr(backend, "backend_tokenizer", None)
    if core is not None:
        pipeline = json.loads(core.to_str())
        # left behind by whoever used the tokenizer last; kltui neither pads nor truncates with it
        described = json.dumps({**pipeline, "padding": None, "truncation": None}, sort_keys=True)
    else:
        described = repr(
            (type(backend).__name__, sorted(backend.get_vocab().items()), _python_parts(backend))
        )
    return hashlib.sha256(described.encode()).hexdigest()


def _python_parts(backend: Any) -> tuple[list[str], list[tuple[str, float]]]:
    """What decides a Python tokenizer's ids beside its vocabulary: its files (merges, say) and its switches."""
    with tempfile.TemporaryDirectory() as folder:
        paths = backend.save_vocabulary(folder) or ()
        files = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]
    switches = [(k, v) for k, v in sorted(backend.init_kwargs.items()) if isinstance(v, bool | int | float)]
    return files, switches


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], corpus_sha256: str, cache_dir: Path | None
) -> list[Ids]:
    """Ids of every text, prefix included; special-token strings in a text are text, and no EOS is added."""
    bare = (
        _cached(tokenizer, texts, corpus_sha256, cache_dir)
        if cache_dir
        else _bare_ids(tokenizer.backend, texts)
    )
    if not tokenizer.prefix:
        return bare
    prefix = np.array(tokenizer.prefix, dtype=np.int64)
    return [np.concatenate((prefix, ids)) for ids in bare]


def check_vocabulary(ids: Sequence[Ids], size: int | None) -> None:
    """An error where a tokenizer gives ids that a model of `size` entries does not have."""
    highest = max((int(row.max()) for row in ids if len(row)), default=0)
    if size is not None and highest >= size:
        raise KltuiError(
            f"the tokenizer gives id {highest}, but the model has {size} entries",
            "tokenizer and model are not of one kind",
        )


def _bare_ids(backend: Any, texts: Sequence[str]) -> list[Ids]:
    """Ids of every text without any special token."""
    if not texts:
        return []
    options: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False}
    try:
        rows = backend(list(texts), split_special_tokens=True, **options)["input_ids"]
    except TypeError as error:
        raise KltuiError(
            f"this tokenizer cannot read special-token strings as text: {_first_line(error)}",
            "convert it to a tokenizer.json, which can",
        ) from error
    return [np.array(row, dtype=np.int64) for row in rows]


def _cached(tokenizer: Tokenizer, texts: Sequence[str], corpus_sha256: str, cache_dir: Path) -> list[Ids]:
    """Bare ids from the cache, or made and put there; a file that does not fit is made anew."""
    name = hashlib.sha256(f"{tokenizer.sha256} {corpus_sha256} {_library()}".encode()).hexdigest()
    path = cache_dir / f"tokens-{name[:32]}.safetensors"
    found = _read_cache(path, len(texts))
    if found is not None:
        return found
    ids = _bare_ids(tokenizer.backend, texts)
    _write_cache(path, ids)
    return ids


def _library() -> str:
    from importlib.metadata import version

    return f"tokenizers {version('tokenizers')} transformers {version('transformers')}"


def _read_cache(path: Path, n_texts: int) -> list[Ids] | None:
    """The ids in a cache file, or None where there is none or it is not whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        file = load(path.read_bytes())
        flat, ends, digest = file["ids"], file["ends"], file["sha256"].tobytes()
    except (OSError, SafetensorError, KeyError):
        return None
    if len(ends) != n_texts or digest != _digest(flat, ends):
        return None
    return [row.astype(np.int64) for row in np.split(flat, ends[:-1])] if n_texts else []


def _write_cache(path: Path, ids: Sequence[Ids]) -> None:
    """Write the ids aside, then rename: a killed process leaves no half file under the real name."""
    from safetensors.numpy import save

    ends = np.cumsum([len(row) for row in ids], dtype=np.int64)
    flat = np.concatenate(ids).astype(np.int32) if ids else np.zeros(0, dtype=np.int32)
    digest = np.frombuffer(_digest(flat, ends), dtype=np.uint8)
    data = save({"ids": flat, "ends": ends, "sha256": digest})
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        logging.getLogger(__name__).warning("the token cache %s cannot be written: %s", path, error)


def _digest(flat: NDArray[np.int32], ends: NDArray[np.int64]) -> bytes:
    return hashlib.sha256(flat.tobytes() + b"|" + ends.tobytes()).digest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
