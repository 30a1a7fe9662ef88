"""Where a checkpoint's tokenizer is: in its folder, in its run's, or where its `[[models]]` entry says."""

from __future__ import annotations

from pathlib import Path

from kltui.registry.checkpoint import HubSource, LocalSource, Source
from kltui.registry.layout import has_tokenizer
from kltui.registry.names import COMMIT, check_repo, check_revision
from kltui.registry.revisions import is_step_name


def tokenizer_folder(folder: Path, named: str = "") -> Path | None:
    """Folder that the tokenizer of the model in `folder` is read from, None where none is at hand. Asks no network.

    Looked at in this order: the folder itself, its run's root (the folder around one that is named by its step), and
    `named`, the entry's `tokenizer`: an absolute path, or a repository that is in the cache.
    """
    own = own_tokenizer(folder)
    if own is not None or not named:
        return own
    source = named_source(named)
    return source.path if isinstance(source, LocalSource) else _cached(source)


def own_tokenizer(folder: Path) -> Path | None:
    """The folder itself or its run's root, whichever holds a tokenizer first; None where neither does."""
    if has_tokenizer(folder):
        return folder
    return folder.parent if is_step_name(folder.name) and has_tokenizer(folder.parent) else None


def named_source(named: str) -> Source:
    """What an entry's `tokenizer` names: a folder (an absolute path), or OWNER/NAME with @REVISION or without."""
    if Path(named).is_absolute():
        return LocalSource(Path(named))
    repo, _, revision = named.partition("@")
    check_repo(repo)
    if revision:
        check_revision(revision)
    return HubSource(repo, revision or "main", revision if COMMIT.fullmatch(revision) else "")


def _cached(source: HubSource) -> Path | None:
    from kltui.registry.hub import cached_commit, snapshot_folder

    commit = cached_commit(source)
    folder = snapshot_folder(HubSource(source.repo, source.revision, commit)) if commit else None
    return folder if folder is not None and has_tokenizer(folder) else None
