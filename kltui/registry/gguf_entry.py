"""The GGUF files that a `[[models]]` entry selects; each is a checkpoint in the variant that its header states."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kltui.errors import KltuiError, UsageError
from kltui.missing_path import missing_path
from kltui.registry.checkpoint import HubSource, LocalSource
from kltui.registry.discover import models_inside
from kltui.registry.gguf_file import (
    SUFFIX,
    GGUFModel,
    NoModelError,
    first_names,
    is_gguf,
    model_stem,
    part_names,
    part_paths,
    read_model,
)
from kltui.registry.layout import is_model_folder, readable
from kltui.registry.revisions import parse_step
from kltui.sanitize import safe_text

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundGGUF:
    """A model among the files: its location, its file name without the quantisation, its variant and architecture.

    `original` is the folder next to it with the model from which it was made, if there is one.
    """

    source: LocalSource | HubSource
    stem: str
    variant: str
    architecture: str
    original: Path | None = None


def names_ggufs(path: Path, files: Sequence[str]) -> bool:
    """Whether a local entry is for GGUF files: it has `files`, or `path` is such a file, or a folder that contains no other models.

    Raises KltuiError if `path` cannot be read.
    """
    if files:
        return True
    with readable(path):
        if is_gguf(path) and path.exists():
            return True
        if not path.is_dir() or is_model_folder(path) or _holds_models(path):
            return False
        names = _ggufs_in(path)
        return any("/" not in name for name in names) or (bool(names) and not _other_models(path, names))


def local_ggufs(path: Path, files: Sequence[str]) -> list[FoundGGUF]:
    """The model of a GGUF file, or the models of the files in a folder whose names match a pattern of `files` (all if empty).

    Raises KltuiError if there are none, or a file is damaged, and UsageError for a pattern that matches none.
    """
    with readable(path):
        if is_gguf(path):
            if files:
                raise UsageError(
                    f"`files` was given for the file {safe_text(str(path))}",
                    "`files` selects from a folder: name the folder.",
                )
            return [_local(part_paths(path)[0])]
        if not path.is_dir():
            raise KltuiError(
                f"The folder {safe_text(str(path))} does not exist",
                missing_path(path, patterns=False) or "Check the path.",
            )
        wanted = chosen(dict.fromkeys(_ggufs_in(path)), files, safe_text(str(path)))
        return models_of(wanted, lambda name: _local(part_paths(path / name)[0]))


def hub_ggufs(source: HubSource, files: Sequence[str]) -> list[FoundGGUF]:
    """The models among a repository's GGUF files whose names match one of `files`; only headers are downloaded.

    Raises KltuiError if there are none, or the hub cannot be reached.
    """
    from kltui.registry.gguf_hub import RepoHeaders

    headers = RepoHeaders(source)
    wanted = chosen(headers.sizes, files, safe_text(str(source)))

    def found(name: str) -> FoundGGUF:
        file = part_names(name)[0]
        model = headers.model(file)
        place = HubSource(source.repo, source.revision, source.commit, file)
        return _found(place, file.rpartition("/")[2], model, None)

    return models_of(wanted, found)


def chosen(names: Mapping[str, object], patterns: Sequence[str], where: str) -> list[str]:
    """Those of the GGUF files `names` that match a pattern, each model once. Raises UsageError for a pattern without a match."""
    ggufs = first_names(list(names))
    shown = safe_text(", ".join(ggufs[:8]), 300) + (f" and {len(ggufs) - 8} more" if len(ggufs) > 8 else "")
    if not ggufs:
        raise UsageError(
            f"{where} contains no {SUFFIX} file", "Check the path, or the name of the repository."
        )
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in ggufs):
            raise UsageError(
                f"no GGUF file in {where} matches {safe_text(pattern, 80)!r}", f"Available: {shown}."
            )
    return [name for name in ggufs if not patterns or any(_matches(name, p) for p in patterns)]


def models_of(names: Iterable[str], read: Callable[[str], FoundGGUF]) -> list[FoundGGUF]:
    """The models that `read` finds; files without a language model (a projector, an importance matrix) are skipped with a log message.

    Raises the first NoModelError if no model is left.
    """
    found, refused = [], []
    for name in names:
        try:
            found.append(read(name))
        except NoModelError as error:
            refused.append(error)
            log.warning("%s: left out", error.message)
    if not found:
        raise refused[0]
    return found


def _matches(name: str, pattern: str) -> bool:
    """Whether a file's name, with or without its folders, matches a pattern; case is ignored."""
    return any(fnmatchcase(n.lower(), pattern.lower()) for n in (name, name.rpartition("/")[2]))


def _ggufs_in(folder: Path) -> list[str]:
    """Relative paths of the GGUF files in a folder and in its sub-folders, sorted."""
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(str(p.relative_to(folder)) for p in paths if is_gguf(p) and p.is_file())


def _holds_models(folder: Path) -> bool:
    return any(parse_step(p.name) is not None and is_model_folder(p) for p in folder.iterdir() if p.is_dir())


def _other_models(folder: Path, names: Iterable[str]) -> set[Path]:
    """Models and runs in `folder` from which none of these GGUF files was made."""
    return set(models_inside(folder)) - {original_beside(folder / name) for name in names}


def _local(path: Path) -> FoundGGUF:
    return _found(LocalSource(path), path.name, read_model(path), original_beside(path))


def _found(source: LocalSource | HubSource, name: str, model: GGUFModel, original: Path | None) -> FoundGGUF:
    return FoundGGUF(source, model_stem(name), model.variant, model.first.architecture, original)


def original_beside(path: Path) -> Path | None:
    """The model folder that contains the GGUF file `path` or is next to it: the one with its name, otherwise the only one.

    Search order: the file's own folder, the folders next to the file and, only by name, those next to its folder.
    """
    folder, stem = path.parent, model_stem(path.name)
    if is_model_folder(folder):
        return folder
    beside = [p for p in sorted(folder.iterdir()) if p.is_dir() and is_model_folder(p)]
    named = [p for p in beside if p.name == stem]
    if named or len(beside) == 1:
        return (named or beside)[0]
    outer = folder.parent / stem
    return outer if outer != folder and outer.is_dir() and is_model_folder(outer) else None
