"""The location of a checkpoint's tokenizer: its own folder, that of its run, or the one named in its `[[models]]` entry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kltui.errors import KltuiError, UsageError
from kltui.registry.checkpoint import HubSource, LocalSource, Source
from kltui.registry.gguf_file import is_gguf
from kltui.registry.layout import TOKENIZER_JSON, has_tokenizer, readable
from kltui.registry.names import COMMIT, check_repo, check_revision
from kltui.registry.revisions import is_step_name
from kltui.sanitize import safe_text


@dataclass(frozen=True, slots=True)
class TokenizerPlace:
    """The folder of a tokenizer outside the model's own folder, and its source if it is on the hub."""

    folder: Path
    hub: HubSource | None = None


def tokenizer_folder(folder: Path, named: str = "") -> Path | None:
    """Folder of the tokenizer of the model in `folder`, or None. Does not use the network.

    Search order: the folder itself, its run's root (the parent of a folder named after its step), and
    `named`, the entry's `tokenizer`: an absolute path, or a cached repository.
    """
    own = own_tokenizer(folder)
    if own is not None or not named:
        return own
    source = named_source(named)
    return source.path if isinstance(source, LocalSource) else _cached(source)


def own_tokenizer(folder: Path) -> Path | None:
    """The folder itself or its run's root, whichever contains a tokenizer first; None if neither does.

    None for a GGUF file: its own tokenizer is used only if no other is named.
    """
    if is_gguf(folder):
        return None
    if has_tokenizer(folder):
        return folder
    return folder.parent if is_step_name(folder.name) and has_tokenizer(folder.parent) else None


def tokenizer_at_hand(folder: Path, named: str) -> bool:
    """Whether the model in `folder` has a tokenizer: one that is named, its own, or the one in its GGUF file."""
    return bool(named) or own_tokenizer(folder) is not None or has_tokenizer(folder)


def named_source(named: str) -> LocalSource | HubSource:
    """The source named by an entry's `tokenizer`: a folder (absolute path), or OWNER/NAME with or without @REVISION.

    The path of a tokenizer.json means its folder. Raises UsageError for an invalid name, KltuiError for an unreadable path.
    """
    path = Path(named)
    if path.is_absolute():
        with readable(path):
            return LocalSource(path.parent if path.name == TOKENIZER_JSON and path.is_file() else path)
    repo, _, revision = named.partition("@")
    check_repo(repo)
    if revision:
        check_revision(revision)
    return HubSource(repo, revision or "main", revision if COMMIT.fullmatch(revision) else "")


def check_named(named: str) -> None:
    """Raises UsageError unless an entry's `tokenizer` is a folder with one, or a valid name of a repository."""
    try:
        source = named_source(named)
    except UsageError as error:
        raise UsageError(
            f'tokenizer = "{safe_text(named, 100)}" is neither a folder nor a hub repository', error.hint
        ) from None
    if isinstance(source, LocalSource) and not has_tokenizer(source.path):
        raise UsageError(
            f"there is no tokenizer in {safe_text(named)}",
            f"`tokenizer` names a folder with {TOKENIZER_JSON} (or its vocabulary files), or OWNER/NAME on the hub.",
        )


def no_tokenizer(source: Source) -> KltuiError:
    """The error for a checkpoint without a tokenizer."""
    where = safe_text(str(source))
    looked = "" if isinstance(source, HubSource) else " nor in the folder of its run"
    return KltuiError(
        f"there is no tokenizer in {where}{looked}",
        f"Put {TOKENIZER_JSON} (or its vocabulary files) there, or name one in the job's [[models]] entry: "
        'tokenizer = "FOLDER" or "OWNER/NAME".',
    )


def _cached(source: HubSource) -> Path | None:
    from kltui.registry.hub import cached_commit, snapshot_folder

    commit = cached_commit(source)
    folder = snapshot_folder(HubSource(source.repo, source.revision, commit)) if commit else None
    return folder if folder is not None and has_tokenizer(folder) else None
