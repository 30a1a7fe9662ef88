"""The hub's cache folder on this machine: blobs by content hash, snapshots of commits that link to them.

The layout is that of all Hugging Face tools, so that they and kltui find each other's downloads:
`models--owner--name/{blobs/HASH, snapshots/COMMIT/FILE -> ../../blobs/HASH, refs/REVISION}`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kltui.errors import KltuiError
from kltui.registry.digest import sha256_file
from kltui.registry.gguf_file import part_names
from kltui.registry.layout import CONFIG, tokenizer_names, weight_entry, weight_names
from kltui.registry.names import COMMIT
from kltui.sanitize import safe_text

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git SHA-1 of a small file, SHA-256 of a large one


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a commit as the hub lists it: name, size in bytes, and content hash (the name of its blob)."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class RepoCache:
    """One repository's part of the cache."""

    cache: Path
    repo: str

    @property
    def root(self) -> Path:
        return self.cache / ("models--" + self.repo.replace("/", "--"))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Context in which this thread alone has the lock `name`, as in the hub's own library.

        On a read-only file system or one without locks it has no effect; hashes still detect damage.
        """
        path = self.cache / ".locks" / self.root.name / f"{name}.lock"
        with ExitStack() as stack:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
            yield

    def snapshot(self, commit: str) -> Path:
        return self.root / "snapshots" / commit

    def blob(self, digest: str) -> Path:
        assert is_hash(digest), digest
        return self.root / "blobs" / digest

    def partial(self, file: RemoteFile) -> Path:
        """Path of a file while it is incomplete."""
        return self.blob(file.digest).with_name(f"{file.digest}.incomplete")

    def arrived(self, file: RemoteFile) -> int:
        """Number of bytes of an incomplete file that have been downloaded."""
        try:
            return self.partial(file).stat().st_size
        except OSError:
            return 0

    def commit_of(self, revision: str) -> str:
        """The commit of `revision` at its last download, "" if unknown."""
        if COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self.root / "refs" / revision).read_text().strip()
        except OSError:
            return ""
        return commit if COMMIT.fullmatch(commit) else ""

    def revisions(self) -> list[str]:
        """Branches and tags whose commit is known, sorted by name."""
        folder = self.root / "refs"
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def remember(self, revision: str, commit: str) -> None:
        """Records the commit of `revision` for use offline; does nothing if the cache is not writable."""
        if revision != commit and self.commit_of(revision) != commit:
            with suppress(OSError):
                _replace(self.root / "refs" / revision, lambda path: path.write_text(commit))

    def link(self, commit: str, file: RemoteFile) -> None:
        """Makes the file of the snapshot a link to its blob, or a copy if links are not possible. Raises OSError."""
        pointer = self.snapshot(commit) / file.name
        blob = self.blob(file.digest)
        target = Path(os.path.relpath(blob, pointer.parent))
        if pointer.is_symlink() and pointer.readlink() == target:
            return
        try:
            _replace(pointer, lambda path: path.symlink_to(target))
        except OSError:
            _replace(pointer, lambda path: shutil.copyfile(blob, path))

    def drop(self, file: RemoteFile) -> None:
        """Deletes a damaged blob, so that it is downloaded again."""
        self.blob(file.digest).unlink(missing_ok=True)

    def problems(self, commit: str, allow_bin: bool, file: str = "") -> list[str]:
        """The problems of a cached snapshot (for a GGUF `file`: of its parts), determined without the hub.

        Each file is read and hashed. Weights are downloaded last, so a snapshot with complete weights has all other files.
        """
        folder = self.snapshot(commit)
        if file:
            parts = part_names(file)
            missing = [f"{name} is missing" for name in parts if not (folder / name).is_file()]
            return missing or self.damaged(folder, parts)
        if not (folder / CONFIG).is_file():
            return [f"{CONFIG} is missing"]
        names = [p.name for p in folder.iterdir() if p.is_file()]
        if weight_entry(names, allow_bin) is None:
            return ["the weights are missing"]
        try:
            wanted = [CONFIG, *tokenizer_names(names), *weight_names(folder, allow_bin)]
        except KltuiError as error:
            return [error.message]
        return self.damaged(folder, wanted)

    def tokenizer_damage(self, commit: str) -> list[str]:
        """The problems of the tokenizer in the cached snapshot, determined without the hub."""
        folder = self.snapshot(commit)
        return self.damaged(folder, tokenizer_names([p.name for p in folder.iterdir() if p.is_file()]))

    def damaged(self, folder: Path, names: Sequence[str]) -> list[str]:
        """One message for each of these files of a snapshot that does not match the hash under which it is stored."""
        return [
            f"{name} is damaged" for name in names if not matches(folder / name, linked_hash(folder / name))
        ]


def is_hash(text: str) -> bool:
    """Whether `text` can name a blob: hexadecimal, 40 or 64 digits."""
    return _HASH.fullmatch(text) is not None


def linked_hash(pointer: Path) -> str:
    """The hash that is the name of the link's target, "" for a plain file or another link."""
    name = pointer.readlink().name if pointer.is_symlink() else ""
    return name if is_hash(name) else ""


def matches(path: Path, digest: str) -> bool:
    """Whether the file's contents have this hash; for an empty hash, whether the file is not empty."""
    if not digest:
        return path.stat().st_size > 0
    if len(digest) == 64:
        return sha256_file(path) == digest
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    git.update(data)
    return git.hexdigest() == digest


def check_file(path: Path, file: RemoteFile) -> str:
    """The problem of a downloaded file, or "" if it is complete."""
    try:
        size = path.stat().st_size
    except OSError:
        return f"{safe_text(file.name)} is missing"
    if size != file.size:
        return f"{safe_text(file.name)} is truncated: {size:,} of {file.size:,} bytes"
    return (
        ""
        if matches(path, file.digest)
        else f"{safe_text(file.name)} is damaged: its hash is not the listed one"
    )


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    """Creates a temporary file with `make` and renames it to `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex[:12]}.tmp")
    try:
        make(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
