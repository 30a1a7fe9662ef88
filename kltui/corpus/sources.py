"""The files of a corpus source: a file, a folder, a pattern, or files of a dataset on the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kltui.corpus.rows import READERS, kind_of
from kltui.errors import KltuiError
from kltui.missing_path import missing_path
from kltui.sanitize import safe_text

HUB = "hf://datasets/"
TEXT = ".txt"
# A split in the name of a file, such as train-00000-of-00002.parquet, or of its folder.
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?=$|[-_.\d])")
# Suffixes that are read from a folder. A .json file in a folder is more often a description than a list of texts.
IN_FOLDERS = (TEXT, ".jsonl", ".parquet", ".csv", ".tsv")
FORMATS = (
    "Name a .txt, .jsonl, .csv, .tsv or .parquet file (all except .parquet may be compressed as .gz or .zst), a .json list, a folder "
    'or a pattern such as "data/*.jsonl.zst", hf://datasets/OWNER/NAME/*.parquet, or "demo".'
)


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of a source in order, each with the domain that its folder states (or ""); `format` names their kind.

    `commit` is that of a dataset on the hub, "" for files on this machine. `left_out` are other files of a folder or dataset.
    """

    files: tuple[tuple[Path, str], ...]
    format: str
    commit: str = ""
    left_out: tuple[Path, ...] = ()

    @property
    def splits(self) -> list[str]:
        """The splits of a dataset that the names of these files state, such as train and test, sorted."""
        found = (_SPLIT.match(path.name) or _SPLIT.fullmatch(path.parent.name) for path, _ in self.files)
        return sorted({split[1] for split in found if split})


def source_files(source: Path | str, say: Callable[[str], None] = lambda line: None) -> SourceFiles:
    """The files of `source`; files on the hub are downloaded. Raises KltuiError if there are none."""
    if str(source).startswith(HUB):
        from kltui.corpus.hub_datasets import fetch_dataset

        _, files, commit = fetch_dataset(str(source), say)
        taken = [p for p in files if _takes(p)]
        if not taken:
            raise _nothing(f"file of texts in {safe_text(str(source))}", files)
        others = tuple(p for p in files if p not in set(taken) and not p.name.startswith("."))
        return replace(_several([(p, "") for p in taken]), commit=commit, left_out=others)
    path = Path(source)
    try:
        if path.is_dir():
            return _folder(path)
        if path.exists() or path.is_symlink():
            return _one(path)
    except OSError as error:
        raise KltuiError(
            f"{safe_text(str(path))} cannot be read: {error.strerror}", "Check its permissions."
        ) from error
    if glob.has_magic(str(path)):
        return _pattern(path)
    raise KltuiError(
        f"The corpus {safe_text(str(path))} does not exist",
        f"{missing_path(path.absolute(), patterns=True)} {FORMATS}".lstrip(),
    )


def _takes(path: Path) -> bool:
    kind = kind_of(path)
    return kind == TEXT or (kind in READERS and (kind != ".parquet" or path.suffix.lower() == kind))


def _one(path: Path) -> SourceFiles:
    if not _takes(path):
        raise KltuiError(f"The format of {safe_text(str(path))} is not clear from its name", FORMATS)
    return _several([(path, "")])


def _several(files: list[tuple[Path, str]]) -> SourceFiles:
    kinds = sorted({kind_of(path).removeprefix(".") for path, _ in files})
    return SourceFiles(tuple(files), "text" if kinds == ["txt"] else " ".join(kinds))


def _folder(folder: Path) -> SourceFiles:
    """Every file of texts below `folder`, by relative path; the domain of a .txt file is its sub-folder."""
    files = sorted(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix()
    )
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    taken = [p for p in files if kind_of(p) in IN_FOLDERS and _takes(p)]
    if not taken:
        raise _nothing(f".txt, .jsonl, .csv, .tsv or .parquet file in {safe_text(str(folder))}", files)
    read = _several([(p, _sub_folder(p, folder)) for p in taken])
    return replace(read, format="folder", left_out=tuple(p for p in files if p not in set(taken)))


def _sub_folder(path: Path, folder: Path) -> str:
    parent = path.relative_to(folder).parent.as_posix()
    return "" if parent == "." or kind_of(path) != TEXT else parent


def _pattern(pattern: Path) -> SourceFiles:
    found = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - the pattern is absolute
    # A pattern with `**` may find a file more than once, also through links: use each once.
    once: dict[Path, Path] = {}
    for p in found:
        once.setdefault(p.parent.resolve() / p.name, p)
    files = [p for p in once.values() if p.is_file()]
    taken = [p for p in files if _takes(p)]
    if not taken:
        raise _nothing(f"file of texts matches {safe_text(str(pattern))}", files)
    if len(taken) < len(files):
        odd = next(p for p in files if p not in taken)
        raise KltuiError(
            f"{safe_text(str(pattern))} also matches {safe_text(str(odd))}, whose format is not clear from its name",
            "Write a pattern that matches only files of texts. " + FORMATS,
        )
    return _several([(p, "") for p in taken])


def _nothing(what: str, files: list[Path]) -> KltuiError:
    return KltuiError(f"No {what} (seen: {kinds_seen(files) or 'nothing'})", FORMATS)


def kinds_seen(files: Sequence[Path]) -> str:
    """The suffixes of files, or names without one, for a message."""
    return safe_text(", ".join(sorted({"".join(p.suffixes[-2:]) or p.name for p in files})[:8]), 200)
