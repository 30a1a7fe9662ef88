"""SHA-256 of files, and the fingerprint that identifies the weights in a folder."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from kltui.errors import KltuiError
from kltui.registry.gguf_file import is_gguf
from kltui.registry.layout import (
    ADAPTER_CONFIG,
    CONFIG,
    INDEX_SUFFIX,
    is_adapter_folder,
    tokenizer_names,
    weight_names,
    weight_paths,
)
from kltui.sanitize import safe_text

TOKENIZER_MARK = "+tokenizer:"
SETTLED_AFTER_NS = 2_000_000_000  # the coarsest clock of a file system in use ticks every two seconds

Stamp = tuple[int, int, int, int]

_known: dict[tuple[str, Stamp], str] = {}
_lock = Lock()


def stamp(status: os.stat_result) -> Stamp:
    """(size in bytes, time of last modification in ns, time of last change in ns, inode) of a file; a write changes one of them."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_settled(changed_ns: int, at_ns: int) -> bool:
    """Whether every change after `at_ns` of a file last changed at `changed_ns` shows in its stamp.

    Two writes within one tick of the file system's clock leave the same time. `changed_ns` is the time of last change
    (ctime), which programs cannot set, unlike that of modification.
    """
    return changed_ns < at_ns - SETTLED_AFTER_NS


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's contents; an unchanged file, by path and stamp, is read once per process."""
    at_ns, status = time.time_ns(), path.stat()
    key = (str(path.resolve()), stamp(status))
    with _lock:
        known = _known.get(key)
    if known is None:
        with path.open("rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
        if is_settled(status.st_ctime_ns, at_ns):
            with _lock:
                _known[key] = known
    return known


def hashed_files(folder: Path, tokenizer: Path | None = None) -> dict[str, Path]:
    """The files covered by a folder's fingerprint, sorted by name: everything that can change a log-likelihood.

    `tokenizer` is the tokenizer's folder if it is a different one; its files are listed under
    `tokenizer/`. For a GGUF file they are its parts, independent of their names, and the configuration next to the tokenizer.
    """
    if is_gguf(folder):
        files = {f"model-{k}.gguf": path for k, path in enumerate(weight_paths(folder), 1)}
    else:
        own = tokenizer_names([p.name for p in folder.iterdir()])
        config = ADAPTER_CONFIG if is_adapter_folder(folder) else CONFIG
        files = {name: folder / name for name in sorted({config, *own, *weight_names(folder)})}
    if tokenizer is not None and tokenizer != folder:
        names = tokenizer_names([p.name for p in tokenizer.iterdir()])
        names += [CONFIG] if is_gguf(folder) and (tokenizer / CONFIG).is_file() else []
        files |= {f"tokenizer/{name}": tokenizer / name for name in names}
    return files


def fingerprint(folder: Path, tokenizer: Path | None = None) -> str:
    """Hex SHA-256 over everything that can change a log-likelihood of the model in `folder`.

    Covered: config.json, every tokenizer file, and the full contents of the weight files that transformers would load
    (with their index), each by name, size and SHA-256, sorted by name. Copies in other places agree. `tokenizer` is the
    tokenizer's folder if it is a different one (`registry.tokenizer`). Raises KltuiError if a file cannot be read.
    """
    try:
        lines = _lines(hashed_files(folder, tokenizer))
    except OSError as error:
        where = safe_text(str(error.filename or folder))
        raise KltuiError(
            f"{where} cannot be read: {error.strerror}", "A model folder needs config.json and weights."
        ) from error
    return _digest("kltui fingerprint 1", lines)


def tokenizer_digest(folder: Path) -> str:
    """Hex SHA-256 over the tokenizer files of a folder."""
    names = tokenizer_names([p.name for p in folder.iterdir()])
    return _digest("kltui tokenizer 1", _lines({name: folder / name for name in names}))


def outside_mark(tokenizer: Path, *, with_config: bool = False) -> str:
    """The suffix of the identity of a hub model's weights if its tokenizer is read from the folder `tokenizer` instead.

    `with_config`: the suffix also covers config.json, which a GGUF file reads from there too.
    """
    digest = tokenizer_digest(tokenizer)
    if with_config and (tokenizer / CONFIG).is_file():
        digest = _digest("kltui tokenizer and config 1", [digest, *_lines({CONFIG: tokenizer / CONFIG})])
    return f"{TOKENIZER_MARK}{digest[:32]}"


def _lines(files: Mapping[str, Path]) -> list[str]:
    """One line per file: name, size and SHA-256."""
    return [f"{name}\0{path.stat().st_size}\0{sha256_file(path)}\n" for name, path in files.items()]


def _digest(kind: str, lines: list[str]) -> str:
    return hashlib.sha256(f"{kind}\n{''.join(lines)}".encode(errors="surrogateescape")).hexdigest()


def weight_files_digest(folder: Path) -> str:
    """Hex SHA-256 over the contents of a model folder's weight files only; "" if it has none.

    Equal for two folders with the same bytes, whatever the names of the files and whatever other files they contain. A link to a
    file named by its hash, as in the hub's cache, is trusted: it was verified when it was downloaded.
    """
    try:
        paths = [path for path in weight_paths(folder) if not path.name.endswith(INDEX_SUFFIX)]
        found = sorted(_named_by(path) or sha256_file(path) for path in paths)
    except (KltuiError, OSError):
        return ""
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def _named_by(path: Path) -> str:
    """The SHA-256 that is the name of a link's target, "" for other files."""
    name = path.readlink().name if path.is_symlink() else ""
    return name if len(name) == 64 and not set(name) - set("0123456789abcdef") else ""
