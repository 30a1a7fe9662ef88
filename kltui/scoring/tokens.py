"""Converts texts to token ids: choice of the tokenizer, special-token policies, and a cache on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.atomic_files import replacing
from kltui.errors import KltuiError
from kltui.registry.checkpoint import LocalSource
from kltui.registry.gguf_file import is_gguf
from kltui.registry.layout import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    has_tokenizer,
    read_json_object,
    tokenizer_names,
)
from kltui.registry.tokenizer import no_tokenizer
from kltui.registry.tokenizer_json import read_tokenizer_json
from kltui.scoring import gguf
from kltui.scoring import tokenizer_checks as checks
from kltui.scoring.batching import Ids
from kltui.scoring.tokenizer_backends import Backend, FileBackend, check_files, load_class

# Further files that may belong to a tokenizer, besides those that the registry knows.
_FILES = ("*token*.json", "*.model", "vocab*", "merges*", "chat_template*")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its digest, and the ids (`prefix`) that the BOS policy puts before every text."""

    backend: Backend
    sha256: str
    prefix: tuple[int, ...]
    dropped_suffix: tuple[int, ...] = ()

    @property
    def first_scored(self) -> int:
        """Position of the first scored id: after the prefix, and at least 1."""
        return max(1, len(self.prefix))

    def key(self) -> dict[str, str]:
        """Fields of a vector's key that determine the ids: the tokenizer, what read it, and in which version."""
        from importlib.metadata import version

        return {"tokenizer": self.sha256, "ids": self.backend.source, "tokenizers": version("tokenizers")}


@dataclass(frozen=True)
class Tokenized:
    """A corpus in a tokenizer's ids, including the prefix, with notes."""

    tokenizer: Tokenizer
    ids: list[Ids]
    notes: tuple[str, ...]


def tokenize(
    folder: Path,
    config: Any,
    bos: str,
    texts: Sequence[str],
    corpus_sha256: str,
    cache_dir: Path | None,
) -> Tokenized:
    """The texts tokenised by the tokenizer in `folder`, which is checked against the model's `config` and the texts.

    Raises KltuiError if it does not fit.
    """
    tokenizer = load_tokenizer(folder, bos, config)
    size = getattr(config.get_text_config(), "vocab_size", None)
    with _naming(folder):
        checks.check_size(tokenizer.backend, size)
        bare = _bare(tokenizer.backend, texts, corpus_sha256, cache_dir)
        ids = _with_prefix(tokenizer, bare)
        checks.check_vocabulary(ids, size)
        notes = (*tokenizer.backend.notes, *checks.check_known(tokenizer.backend, bare, texts))
    if isinstance(tokenizer.backend, FileBackend) and not is_gguf(folder):
        notes += _against_class(tokenizer, folder, config, texts, corpus_sha256, cache_dir)
    if len(set(tokenizer.prefix)) < len(tokenizer.prefix):
        notes += ('the tokenizer puts a token twice before a text, as is done here; bos = "always" puts one',)
    if tokenizer.dropped_suffix:
        notes += ("the tokenizer's end-of-text token was omitted",)
    return Tokenized(tokenizer, ids, notes)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Context that adds the tokenizer's folder to errors, because it may not be the model's."""
    try:
        yield
    except KltuiError as error:
        raise KltuiError(f"{error.message} (the tokenizer in {folder})", error.hint) from error


def load_tokenizer(folder: Path, bos: str, config: Any = None) -> Tokenizer:
    """The folder's tokenizer under the BOS policy `bos`. Raises KltuiError if there is none or it is unusable.

    Its tokenizer.json determines the ids; a transformers class is used only without such a file.
    """
    backend: Backend
    if is_gguf(folder):
        backend = gguf.load_backend(folder)
    elif (folder / TOKENIZER_JSON).is_file():
        backend = FileBackend(read_tokenizer_json(folder), folder)
        if bos == "always" and backend.bos is None:
            backend.bos = _bos_of_class(backend, folder, config)
    elif has_tokenizer(folder):
        backend = load_class(folder, config)
        check_files(backend, folder)
    else:
        raise no_tokenizer(LocalSource(folder))
    checks.check_repeatable(backend)
    return with_policy(backend, bos)


def _bos_of_class(backend: FileBackend, folder: Path, config: Any) -> int | None:
    """Id of the default BOS token of transformers' class, if the folder names none."""
    try:
        token = load_class(folder, config).tokenizer.bos_token
    except KltuiError:
        return None
    return None if token is None else backend.core.token_to_id(str(token))


def _against_class(
    tokenizer: Tokenizer,
    folder: Path,
    config: Any,
    texts: Sequence[str],
    corpus_sha256: str,
    cache_dir: Path | None,
) -> tuple[str, ...]:
    """Notes on differences to transformers' class, or to a setting next to the file."""
    stated = read_json_object(folder / TOKENIZER_CONFIG).get("add_bos_token")
    frame = tokenizer.backend.frame()[0]
    notes: tuple[str, ...] = ()
    if isinstance(stated, bool) and stated != bool(frame):
        does = "adds one before a text" if frame else "adds none before a text"
        notes = (
            f"{TOKENIZER_CONFIG} says add_bos_token = {str(stated).lower()}, but {TOKENIZER_JSON} {does}: "
            'bos = "auto" uses the latter',
        )
    try:
        other = load_class(folder, config)
        return notes + checks.difference_notes(
            tokenizer.backend, other, lambda b: _bare(b, texts, corpus_sha256, cache_dir)
        )
    except Exception as error:  # scoring does not depend on this comparison
        logging.getLogger(__name__).debug("no comparison with transformers' class for %s: %s", folder, error)
        return notes


def files_digest(folder: Path, config: Any) -> str:
    """Hex SHA-256 over everything that determines a folder's tokenizer.

    This includes fields of the model's configuration by which transformers selects some tokenizers.
    """
    if is_gguf(folder):
        return gguf.keys_digest(folder)
    said = (config.model_type, getattr(config, "tokenizer_class", None))
    digest = hashlib.sha256(repr(said).encode())
    known = tokenizer_names([p.name for p in folder.iterdir() if p.is_file()])
    for path in sorted({folder / name for name in known} | {p for x in _FILES for p in folder.glob(x)}):
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)} ".encode() + data)
    return digest.hexdigest()


def with_policy(backend: Backend, bos: str) -> Tokenizer:
    """The tokenizer with the prefix for `bos`: its own default ("auto"), always one BOS, or never any special token.

    The default of a tokenizer.json is what its post-processor puts before a text; `add_bos_token` next to it has no
    effect, as in transformers 5. Raises KltuiError for "always" if it has no BOS token.
    """
    default, suffix = backend.frame()
    prefix = default
    if bos == "never":
        prefix = ()
    elif bos == "always":
        begin = backend.bos
        if begin is None:
            raise KltuiError(
                'bos = "always", but this tokenizer has no beginning-of-text token',
                'use bos = "auto" or "never"',
            )
        prefix = (
            (begin, *(token for token in default if token != begin)) if default.count(begin) != 1 else default
        )
    return Tokenizer(backend, backend.sha256, prefix, suffix)


def encode_checked(
    tokenizer: Tokenizer, texts: Sequence[str], corpus_sha256: str, cache_dir: Path | None
) -> tuple[list[Ids], tuple[str, ...]]:
    """(ids as of `encode`, notes). Raises KltuiError if the tokenizer does not cover most of the corpus."""
    bare = _bare(tokenizer.backend, texts, corpus_sha256, cache_dir)
    known = checks.check_known(tokenizer.backend, bare, texts)
    return _with_prefix(tokenizer, bare), (*tokenizer.backend.notes, *known)


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], corpus_sha256: str, cache_dir: Path | None
) -> list[Ids]:
    """Ids of every text with the prefix; special-token strings in a text are treated as text, and no EOS is added."""
    return _with_prefix(tokenizer, _bare(tokenizer.backend, texts, corpus_sha256, cache_dir))


def _with_prefix(tokenizer: Tokenizer, bare: list[Ids]) -> list[Ids]:
    if not tokenizer.prefix:
        return bare
    prefix = np.array(tokenizer.prefix, dtype=np.int64)
    return [np.concatenate((prefix, ids)) for ids in bare]


def _bare(backend: Backend, texts: Sequence[str], corpus_sha256: str, cache_dir: Path | None) -> list[Ids]:
    """Ids of every text without any special token, from the cache, to which they are written if it has none or is damaged."""
    if cache_dir is None:
        return _made(backend, texts)
    described = f"{backend.sha256} {backend.source} {corpus_sha256} {_library()}"
    path = cache_dir / f"tokens-{hashlib.sha256(described.encode()).hexdigest()[:32]}.safetensors"
    found = _read_cache(path, len(texts))
    if found is not None:
        return found
    ids = _made(backend, texts)
    _write_cache(path, ids)
    return ids


def _made(backend: Backend, texts: Sequence[str]) -> list[Ids]:
    return [np.array(row, dtype=np.int64) for row in backend.ids(texts)]


def _library() -> str:
    from importlib.metadata import version

    return f"tokenizers {version('tokenizers')} transformers {version('transformers')}"


def _read_cache(path: Path, n_texts: int) -> list[Ids] | None:
    """The ids in a cache file; None if it is missing or damaged."""
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
    """Writes the ids atomically, so that a killed process leaves no incomplete file."""
    from safetensors.numpy import save

    ends = np.cumsum([len(row) for row in ids], dtype=np.int64)
    flat = np.concatenate(ids).astype(np.int32) if ids else np.zeros(0, dtype=np.int32)
    digest = np.frombuffer(_digest(flat, ends), dtype=np.uint8)
    data = save({"ids": flat, "ends": ends, "sha256": digest})
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        logging.getLogger(__name__).warning("the token cache %s cannot be written: %s", path, error)


def _digest(flat: NDArray[np.int32], ends: NDArray[np.int64]) -> bytes:
    return hashlib.sha256(flat.tobytes() + b"|" + ends.tobytes()).digest()
