"""Makes sure that the files that are loaded are those that were hashed, by comparing their stamps.

A stamp is the size, times and inode of a file (`digest.stamp`). It changes whenever the file is written or replaced, except
within one tick of the file system's clock after the previous change; a file that was changed so recently is hashed again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kltui.errors import KltuiError
from kltui.registry.digest import TOKENIZER_MARK, fingerprint, hashed_files, is_settled, outside_mark, stamp
from kltui.registry.gguf_file import is_gguf
from kltui.registry.hub_cache import linked_hash, matches
from kltui.registry.layout import weight_paths
from kltui.sanitize import safe_text


class ChangedError(KltuiError):
    """Raised if files have changed since they were hashed."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """A model's files as hashed.

    `weights` identifies them in a vector's key, `stamps` is the result of `stamps()` just before hashing, and `settled` is whether
    every later change shows in the stamps. `tokenizer` is the tokenizer's folder if it is a different one.
    """

    folder: Path
    weights: str
    stamps: str = ""
    settled: bool = False
    tokenizer: Path | None = None


def stamps(folder: Path, tokenizer: Path | None = None) -> str:
    """Names and stamps of all files covered by the fingerprint, as JSON text, which is the same while no file changes.

    Raises KltuiError if a file cannot be read.
    """
    try:
        return json.dumps([[n, *stamp(p.stat())] for n, p in hashed_files(folder, tokenizer).items()])
    except OSError as error:
        where = safe_text(str(error.filename or folder))
        raise KltuiError(
            f"{where} cannot be read: {error.strerror}", "A model folder needs config.json and weights."
        ) from error


def are_settled(stamped: str, at_ns: int) -> bool:
    """Whether stamps taken at `at_ns` (nanoseconds since the epoch) are old enough to reveal every later change."""
    return all(is_settled(changed_ns, at_ns) for _, _, _, changed_ns, _ in json.loads(stamped))


def hash_files(folder: Path, tokenizer: Path | None = None) -> Hashed:
    """Hashes a model's files. Raises ChangedError if they change during hashing."""
    at_ns, before = time.time_ns(), stamps(folder, tokenizer)
    weights = fingerprint(folder, tokenizer)
    _check_same(folder, before, stamps(folder, tokenizer), "while they were hashed")
    return Hashed(folder, weights, before, are_settled(before, at_ns), tokenizer)


def still_holds(folder: Path, weights: str, tokenizer: Path | None = None) -> bool:
    """Whether a model's files, read again, still match `weights`.

    Files of the hub's cache are compared with the hash in their link, all others by fingerprint.
    """
    if "@" not in weights:
        return fingerprint(folder, tokenizer) == weights
    if TOKENIZER_MARK in weights:
        mark = outside_mark(tokenizer, with_config=is_gguf(folder)) if tokenizer else ""
        if not mark or not weights.endswith(mark):
            return False
    return all(matches(path, linked_hash(path)) for path in hashed_files(folder, tokenizer).values())


def has_moved(hashed: Hashed) -> bool:
    """Whether a model's files have changed since they were hashed."""
    now = stamps(hashed.folder, hashed.tokenizer)
    if hashed.settled and now == hashed.stamps:
        return False
    return not still_holds(hashed.folder, hashed.weights, hashed.tokenizer)


class Reading:
    """Guards a model's files from before they are read until scoring ends.

    Raises ChangedError immediately if they differ from what was hashed.
    """

    def __init__(self, hashed: Hashed) -> None:
        self._hashed, self._folder = hashed, hashed.folder
        at_ns, self._before = time.time_ns(), self._now()
        self._settled = are_settled(self._before, at_ns)
        # On another machine, or another mount, the same bytes may have other stamps: then the bytes decide.
        if not (hashed.settled and self._before == hashed.stamps):
            self._check_bytes(hashed.stamps, "after they were hashed")
        self._files = ExitStack()
        self._weights = [(file, os.fstat(file.fileno())) for file in self._opened()]

    @property
    def hashed(self) -> Hashed:
        """The files as they were hashed."""
        return self._hashed

    @property
    def tokenizer(self) -> Path | None:
        """Folder of the tokenizer; None if it is the model's own."""
        return self._hashed.tokenizer

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def check(self) -> None:
        """Call this when everything is loaded. Raises ChangedError if a file has changed."""
        _check_same(self._folder, self._before, self._now(), "while they were loaded")
        if not self._settled:
            self._check_bytes(self._before, "while they were loaded")

    def check_used(self, *, by_name: bool = False) -> None:
        """Call this after the last forward pass, because weights may be memory-mapped until then.

        Raises ChangedError if a file was written to. A file that was removed or replaced after loading does no harm, unless
        parts of the model are read again `by_name`.
        """
        if by_name:
            _check_same(self._folder, self._before, self._now(), "while they were in use")
        mapped = _mapped_files()
        for file, before in self._weights:
            now, path = os.fstat(file.fileno()), Path(file.name)
            seen = {str(now.st_ino), os.path.realpath(path)}
            if (mapped is None or mapped & seen) and _was_written(before, now):
                raise _changed(self._folder, [path.name], "while they were in use")

    def _now(self) -> str:
        return stamps(self._folder, self._hashed.tokenizer)

    def _opened(self) -> Iterator[BinaryIO]:
        for path in weight_paths(self._folder):
            yield self._files.enter_context(path.open("rb"))

    def _check_bytes(self, stamped: str, when: str) -> None:
        """Raises ChangedError unless the files' contents are those that were hashed; does nothing without a hash."""
        weights = self._hashed.weights
        if weights and not still_holds(self._folder, weights, self._hashed.tokenizer):
            raise _changed(self._folder, _differing(stamped, self._now()), when)


def _check_same(folder: Path, before: str, now: str, when: str) -> None:
    if before != now:
        raise _changed(folder, _differing(before, now), when)


def _differing(before: str, now: str) -> list[str]:
    """Names of files whose stamps differ, or that only one of the two has."""
    left, right = ({name: rest for name, *rest in json.loads(text or "[]")} for text in (before, now))
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def _changed(folder: Path, names: list[str], when: str) -> ChangedError:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return ChangedError(
        f"files in {safe_text(str(folder))} changed {when}: {safe_text(shown, 200) or 'their contents'}",
        "Nothing was stored. When no program writes to the folder any more, run the job again to score its contents.",
    )


def _was_written(before: os.stat_result, now: os.stat_result) -> bool:
    """Whether a file's contents may have changed. A hard link added or removed changes only the time of last change."""
    if (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
        return True
    return before.st_nlink == now.st_nlink and before.st_ctime_ns != now.st_ctime_ns


def _mapped_files() -> set[str] | None:
    """Inodes and paths of the files mapped into this process; None if the system does not report them."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return {word for line in lines if len(fields := line.split(maxsplit=5)) > 5 for word in fields[4:]}
