"""SHA-256 of files, and the fingerprint that says which weights a folder holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Lock

from kltui.errors import KltuiError
from kltui.registry.layout import CONFIG, tokenizer_names, weight_names
from kltui.safe import safe_text

_known: dict[tuple[str, int, int], str] = {}
_lock = Lock()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's contents; an unchanged file (path, size, time) is read once per process."""
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    with _lock:
        known = _known.get(key)
    if known is None:
        with path.open("rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
        with _lock:
            _known[key] = known
    return known


def fingerprint(folder: Path) -> str:
    """Hex SHA-256 over everything in a model folder that can change a log-likelihood.

    Covered: config.json, every tokenizer file, and the whole contents of the weight files that transformers would load
    (with their index), each by name, size and SHA-256, sorted by name. Copies in other places agree.
    """
    try:
        names = sorted({CONFIG, *tokenizer_names([p.name for p in folder.iterdir()]), *weight_names(folder)})
        lines = [
            f"{name}\0{(folder / name).stat().st_size}\0{sha256_file(folder / name)}\n" for name in names
        ]
    except OSError as error:
        where = safe_text(str(error.filename or folder))
        raise KltuiError(
            f"{where} cannot be read: {error.strerror}", "A model folder needs config.json and weights."
        ) from error
    return hashlib.sha256(
        b"kltui fingerprint 1\n" + "".join(lines).encode(errors="surrogateescape")
    ).hexdigest()
