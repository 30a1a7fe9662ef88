"""SHA-256 of files, and the fingerprint that says which weights a folder holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Lock

from kltui.errors import KltuiError
from kltui.registry.layout import CONFIG, INDEX_SUFFIX, tokenizer_names, weight_names
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


def fingerprint(folder: Path, tokenizer: Path | None = None) -> str:
    """Hex SHA-256 over everything that can change a log-likelihood of the model in `folder`.

    Covered: config.json, every tokenizer file, and the whole contents of the weight files that transformers would load
    (with their index), each by name, size and SHA-256, sorted by name. Copies in other places agree. `tokenizer` is the
    folder that its tokenizer is read from where that is another one (`registry.tokenizer`).
    """
    try:
        own = tokenizer_names([p.name for p in folder.iterdir()])
        lines = _lines(folder, {CONFIG, *own, *weight_names(folder)})
        if tokenizer is not None and tokenizer != folder:
            lines += _lines(
                tokenizer, set(tokenizer_names([p.name for p in tokenizer.iterdir()])), "tokenizer/"
            )
    except OSError as error:
        where = safe_text(str(error.filename or folder))
        raise KltuiError(
            f"{where} cannot be read: {error.strerror}", "A model folder needs config.json and weights."
        ) from error
    return _digest("kltui fingerprint 1", lines)


def tokenizer_digest(folder: Path) -> str:
    """Hex SHA-256 over the tokenizer files of a folder."""
    names = set(tokenizer_names([p.name for p in folder.iterdir()]))
    return _digest("kltui tokenizer 1", _lines(folder, names))


def _lines(folder: Path, names: set[str], prefix: str = "") -> list[str]:
    """One line a file, sorted by name: name, size and SHA-256."""
    return [
        f"{prefix}{name}\0{(folder / name).stat().st_size}\0{sha256_file(folder / name)}\n"
        for name in sorted(names)
    ]


def _digest(kind: str, lines: list[str]) -> str:
    return hashlib.sha256(f"{kind}\n{''.join(lines)}".encode(errors="surrogateescape")).hexdigest()


def weight_files_digest(folder: Path) -> str:
    """Hex SHA-256 over the contents of a model folder's weight files alone, "" where it has none to load.

    Equal where two folders hold the same bytes, whatever the files are called and whatever lies beside them. A link to a
    file that is named by its hash, as in the hub's cache, is taken at its word: it was checked when it was fetched.
    """
    try:
        names = [name for name in weight_names(folder) if not name.endswith(INDEX_SUFFIX)]
        found = sorted(_named_by(folder / name) or sha256_file(folder / name) for name in names)
    except (KltuiError, OSError):
        return ""
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def _named_by(path: Path) -> str:
    """The SHA-256 that a link's target is named by, "" for other files."""
    name = path.readlink().name if path.is_symlink() else ""
    return name if len(name) == 64 and not set(name) - set("0123456789abcdef") else ""
