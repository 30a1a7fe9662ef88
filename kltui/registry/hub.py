"""Downloads model files from the hub: each once, checked, resumed after an interruption, and deleted again on request.

A revision is first resolved to its commit. Only config, tokenizer and weights are downloaded, into the cache that all
Hugging Face tools share. Nothing here prompts or prints.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kltui.errors import KltuiError, TryAgainError
from kltui.registry.checkpoint import HubSource
from kltui.registry.formats import formats_of
from kltui.registry.gguf_file import is_gguf, part_names
from kltui.registry.hub_cache import RemoteFile, RepoCache, check_file
from kltui.registry.layout import (
    ADAPTER_CONFIG,
    CONFIG,
    INDEX_SUFFIX,
    has_tokenizer,
    is_checkpoint_folder,
    shard_names,
    tokenizer_names,
    weight_entry,
    weight_names,
    weight_paths,
)
from kltui.registry.names import COMMIT, check_repo, check_revision
from kltui.registry.passed_on import check_no_adapter
from kltui.registry.retry import RetryPolicy, TransientError
from kltui.registry.revisions import parse_step
from kltui.sanitize import safe_text

if TYPE_CHECKING:
    from kltui.registry.hub_client import HubClient

Say = Callable[[str], None]

DAMAGED_TRIES = 2
FREED_TRIES = 3
SAY_EVERY_S = 0.5
FREEING = "kltui"  # name of the lock while blobs are deleted, and while a download checks that all of its blobs exist


def fetch(
    source: HubSource,
    *,
    offline: bool = False,
    allow_bin: bool = False,
    progress: Say | None = None,
    cache_dir: Path | None = None,
    retry: RetryPolicy | None = None,
) -> tuple[Path, HubSource]:
    """Folder with the model's files (for a GGUF file: the file), each checked against the hub's size and hash.

    Also returns `source` with its commit. Offline (or with HF_HUB_OFFLINE=1) the cache is used, and every file is checked
    against its stored hash; the same for a known commit that is completely cached. `progress` receives lines of text. Raises
    TryAgainError if the hub stays busy or unreachable, KltuiError for permanent errors.
    """
    check_repo(source.repo)
    check_revision(source.revision)
    cache = RepoCache(cache_dir or default_cache(), source.repo)
    pinned = source.commit or (source.revision if COMMIT.fullmatch(source.revision) else "")
    with worded_disk_errors(cache):
        if offline or is_offline():
            return _from_cache(cache, source, pinned, allow_bin)
        if pinned and not cache.problems(pinned, allow_bin, source.file):
            return cache.snapshot(pinned) / source.file, replace(source, commit=pinned)
        from kltui.registry.hub_client import HubClient

        client = HubClient(source, cache.cache)
        fetcher = Fetcher(client, cache, retry or RetryPolicy(), progress or (lambda line: None))
        commit = fetcher.fetch(pinned or source.revision, allow_bin)
    return cache.snapshot(commit) / source.file, replace(source, commit=commit)


def fetch_tokenizer(
    source: HubSource,
    *,
    progress: Say | None = None,
    cache_dir: Path | None = None,
    retry: RetryPolicy | None = None,
) -> tuple[Path, HubSource]:
    """As `fetch`, but only config.json and the tokenizer's files, if they exist.

    Raises KltuiError offline if they are not in the cache.
    """
    check_repo(source.repo)
    check_revision(source.revision)
    cache = RepoCache(cache_dir or default_cache(), source.repo)
    pinned = source.commit or (source.revision if COMMIT.fullmatch(source.revision) else "")
    with worded_disk_errors(cache):
        commit = pinned or (cache.commit_of(source.revision) if is_offline() else "")
        if commit and (here := _tokenizer_here(cache, replace(source, commit=commit))):
            return here, replace(source, commit=commit)
        if is_offline():
            raise KltuiError(
                f"the tokenizer of {safe_text(str(source))} is not in the cache, and offline mode is on",
                "Download it once without HF_HUB_OFFLINE; then it is available offline.",
            )
        from kltui.registry.hub_client import HubClient

        client = HubClient(source, cache.cache)
        fetcher = _TokenizerFetcher(client, cache, retry or RetryPolicy(), progress or (lambda line: None))
        commit = fetcher.fetch(pinned or source.revision, allow_bin=False)
    return cache.snapshot(commit), replace(source, commit=commit)


def resolve(
    source: HubSource,
    *,
    progress: Say | None = None,
    cache_dir: Path | None = None,
    retry: RetryPolicy | None = None,
) -> HubSource:
    """`source` with the current commit of its revision; downloads no file.

    Offline the cache is used, with the commit "" if it does not contain the revision. Raises as `fetch`.
    """
    check_repo(source.repo)
    check_revision(source.revision)
    cache = RepoCache(cache_dir or default_cache(), source.repo)
    if source.commit or COMMIT.fullmatch(source.revision):
        return replace(source, commit=source.commit or source.revision)
    if is_offline():
        return replace(source, commit=cache.commit_of(source.revision))
    from kltui.registry.hub_client import HubClient

    client, say = HubClient(source, cache.cache), progress or (lambda line: None)
    where = safe_text(str(source))
    say(f"asking the hub for {where}")
    commit, _ = (retry or RetryPolicy()).run(lambda: client.listing(source.revision), where, say)
    return replace(source, commit=commit)


def revisions(repo: str) -> list[str]:
    """Names of the branches and tags of a repository, by step, those without a step first; one request, not repeated.

    Offline: the downloaded ones. Raises TryAgainError if the hub cannot be reached or, offline, if none was downloaded, and
    KltuiError if there is no such repository.
    """
    check_repo(repo)
    if is_offline():
        names = RepoCache(default_cache(), repo).revisions()
        if not names:
            raise TryAgainError("HF_HUB_OFFLINE is set", "Unset it to look up the revisions.")
        return _by_step(names)
    from kltui.registry.hub_client import HubClient

    client = HubClient(HubSource(repo, "main"), default_cache())
    try:
        names = client.revisions()
    except TransientError as error:
        raise TryAgainError(error.reason, "Check the network and HF_ENDPOINT.") from None
    return _by_step(names)


def _by_step(names: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(names), key=lambda n: -1 if (step := parse_step(n)) is None else step)


def cached_commit(source: HubSource, *, cache_dir: Path | None = None) -> str:
    """Commit of `source`, or that of its revision at the last download; "" if it was never downloaded."""
    cache = RepoCache(cache_dir or default_cache(), source.repo)
    return source.commit or cache.commit_of(source.revision)


def snapshot_folder(source: HubSource, *, cache_dir: Path | None = None) -> Path:
    """Folder of the files of `source.commit` after the download; for a GGUF file its path."""
    return RepoCache(cache_dir or default_cache(), source.repo).snapshot(source.commit) / source.file


def cached_folder(source: HubSource, *, cache_dir: Path | None = None) -> Path | None:
    """Folder with the model's files (or the GGUF file) if all of them are in the cache, else None.

    Makes no request to the hub and reads no weights.
    """
    cache = RepoCache(cache_dir or default_cache(), source.repo)
    commit = source.commit or cache.commit_of(source.revision)
    folder = cache.snapshot(commit)
    try:
        if is_gguf(folder / source.file):
            return folder / source.file if commit and weight_paths(folder / source.file) else None
        folder /= source.file
        whole = bool(commit) and is_checkpoint_folder(folder) and bool(weight_names(folder))
    except (KltuiError, OSError):
        return None
    return folder if whole else None


def free(source: HubSource, *, cache_dir: Path | None = None) -> int:
    """Deletes one revision from the cache, except blobs that other cached revisions use; returns the bytes freed."""
    check_repo(source.repo)
    check_revision(source.revision)
    cache = RepoCache(cache_dir or default_cache(), source.repo)
    commit = source.commit or cache.commit_of(source.revision)
    if not commit or not cache.snapshot(commit).is_dir():
        return 0
    from huggingface_hub import scan_cache_dir

    with worded_disk_errors(cache), cache.locked(FREEING):
        scan = scan_cache_dir(cache.cache)
        revisions = [
            r for repo in scan.repos if repo.repo_path == cache.root.resolve() for r in repo.revisions
        ]
        files = [file for r in revisions if r.commit_hash == commit for file in r.files]
        strategy = scan.delete_files(*files)
        strategy.execute()
        shutil.rmtree(cache.snapshot(commit), ignore_errors=True)
        _forget(cache, commit)
    return int(strategy.expected_freed_size)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set, now or when its library was imported."""
    library = sys.modules.get("huggingface_hub.constants")
    asked = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return asked or bool(library and library.HF_HUB_OFFLINE)


def default_cache() -> Path:
    """The cache folder of this machine's Hugging Face tools (HF_HUB_CACHE, HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _from_cache(cache: RepoCache, source: HubSource, pinned: str, allow_bin: bool) -> tuple[Path, HubSource]:
    where = safe_text(str(source))
    hint = "Download it once without HF_HUB_OFFLINE; then it is available offline."
    commit = pinned or cache.commit_of(source.revision)
    if not commit or not cache.snapshot(commit).is_dir():
        raise KltuiError(f"{where} is not in the cache, and offline mode is on", hint)
    problems = cache.problems(commit, allow_bin, source.file)
    if problems:
        raise KltuiError(f"{where} is incomplete in the cache: {problems[0]}", hint)
    return cache.snapshot(commit) / source.file, replace(source, commit=commit)


def _forget(cache: RepoCache, commit: str) -> None:
    """Removes the records of revisions with a commit that was deleted."""
    for ref in (cache.root / "refs").rglob("*"):
        if ref.is_file() and ref.read_text(errors="replace").strip() == commit:
            ref.unlink()


@dataclass
class Fetcher:
    """A download in progress."""

    client: HubClient
    cache: RepoCache
    retry: RetryPolicy
    say: Say
    said_at: float = 0.0

    def fetch(self, revision: str, allow_bin: bool) -> str:
        """Downloads the missing files of a revision and returns its commit. Raises TryAgainError or KltuiError."""
        where = safe_text(str(self.client.source))
        self.say(f"asking the hub for {where}")
        commit, listed = self.retry.run(lambda: self.client.listing(revision), where, self.say)
        for _ in range(FREED_TRIES):
            files = self.wanted(commit, listed, allow_bin)
            self._check_space(files)
            for number, file in enumerate(files, 1):
                self.get(commit, file, f"{number} of {len(files)}")
            if self._all_there(commit, files):
                self.cache.remember(self.client.source.revision, commit)
                return commit
        raise KltuiError(
            f"Files of {where} disappear from the cache during the download",
            "Check whether another program clears the cache.",
        )

    def wanted(self, commit: str, listed: dict[str, RemoteFile], allow_bin: bool) -> list[RemoteFile]:
        """The files of the model, weights last; a weight index is downloaded here, because it names the shards.

        Raises KltuiError if the repository contains no complete model.
        """
        where = safe_text(str(self.client.source))
        if self.client.source.file:
            return _gguf_parts(self.client.source, listed)
        if ADAPTER_CONFIG in listed and weight_entry(listed) is None:
            raise _only_adapter(self.client.source)
        if CONFIG not in listed:
            contents, hint = _other_formats(listed)
            raise KltuiError(
                f"{where} has no {CONFIG}{contents}",
                hint or "It is not a transformers model, or this revision has other contents.",
            )
        check_no_adapter(where, set(listed))
        entry = weight_entry(listed, allow_bin)
        if entry is None:
            raise _no_weights(where, weight_entry(listed), listed)
        names = [CONFIG, *tokenizer_names(listed), entry]
        if entry.endswith(INDEX_SUFFIX):
            self.get(commit, listed[entry], "the weight index")
            names += shard_names(self.cache.snapshot(commit) / entry)
        missing = [name for name in names if name not in listed]
        if missing:
            raise KltuiError(
                f"{where} lacks {len(missing)} of its weight files: {safe_text(', '.join(missing[:3]), 200)}",
                "The upload is incomplete: ask its owner, or try another revision.",
            )
        return [listed[name] for name in names]

    def get(self, commit: str, file: RemoteFile, place: str) -> None:
        """Downloads one file into the snapshot and checks it; a damaged one is downloaded once more.

        Raises KltuiError after DAMAGED_TRIES.
        """
        what = f"{safe_text(str(self.client.source))}, {safe_text(file.name)}"
        problem = ""
        for _ in range(DAMAGED_TRIES):
            blob = self.cache.blob(file.digest)
            if not blob.is_file():
                self.retry.run(
                    lambda: self._download(commit, file, place),
                    what,
                    self.say,
                    lambda: self.cache.arrived(file),
                )
            problem = check_file(blob, file)
            if not problem:
                self.cache.link(commit, file)
                return
            self.say(f"{problem}: fetching it again")
            self.cache.drop(file)
        raise KltuiError(
            f"{safe_text(str(self.client.source))}: {problem}, {DAMAGED_TRIES} times",
            "The hub or a proxy sends a damaged file: try again later or without the proxy.",
        )

    def _download(self, commit: str, file: RemoteFile, place: str) -> None:
        def tick(done: int) -> None:
            if time.monotonic() - self.said_at > SAY_EVERY_S:
                self.said_at = time.monotonic()
                self.say(f"{safe_text(file.name)} ({place}): {done / 1e6:,.0f} of {file.size / 1e6:,.0f} MB")

        blob = self.cache.blob(file.digest)
        if self.client.download_by_xet(commit, file, tick) and blob.is_file():
            return
        partial = self.cache.partial(file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self.cache.locked(file.digest):
            if not blob.is_file():  # another process may have downloaded it in the meantime
                self.client.download(commit, file, partial, tick)
                partial.replace(blob)

    def _all_there(self, commit: str, files: list[RemoteFile]) -> bool:
        """Whether all files exist; another process may have deleted a blob that was present."""
        with self.cache.locked(FREEING):
            return all((self.cache.snapshot(commit) / file.name).is_file() for file in files)

    def _check_space(self, files: list[RemoteFile]) -> None:
        missing = [file for file in files if not self.cache.blob(file.digest).exists()]
        needed = sum(max(0, file.size - self.cache.arrived(file)) for file in missing)
        self.cache.root.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(self.cache.root).free
        if needed > free_bytes:
            raise KltuiError(
                f"{safe_text(str(self.client.source))} needs {needed / 1e9:,.1f} GB, but {safe_text(str(self.cache.cache))} "
                f"has {free_bytes / 1e9:,.1f} GB free",
                "Free space there, move the cache (HF_HOME), or delete each revision after use (keep_cache = false).",
            )


def _tokenizer_here(cache: RepoCache, source: HubSource) -> Path | None:
    """The cached snapshot if its tokenizer is complete, else None. Whether files are missing is known only if the model is
    complete, because weights are downloaded last; offline, any tokenizer in the snapshot is accepted.
    """
    whole = cached_folder(source, cache_dir=cache.cache) is not None
    folder = cache.snapshot(source.commit)
    enough = whole or (is_offline() and has_tokenizer(folder))
    return folder if enough and not cache.tokenizer_damage(source.commit) else None


class _TokenizerFetcher(Fetcher):
    """The download of a tokenizer only."""

    def wanted(self, commit: str, listed: dict[str, RemoteFile], allow_bin: bool) -> list[RemoteFile]:
        """The tokenizer's files, and config.json if there is one."""
        names = tokenizer_names(listed)
        return [listed[name] for name in ([CONFIG] if CONFIG in listed else []) + names]


def _other_formats(listed: Iterable[str]) -> tuple[str, str]:
    """(what a repository contains instead of a model, what to do about it); ("", "") if unknown."""
    formats = formats_of({name.partition("/")[0] + "/" * ("/" in name) for name in listed})
    if not formats:
        return "", ""
    return (
        f"; it contains {' and '.join(f.name for f in formats[:3])}",
        f"It cannot be scored in this form: {formats[0].way_out}.",
    )


def _only_adapter(source: HubSource) -> KltuiError:
    return KltuiError(
        f"{safe_text(str(source))} contains an adapter (PEFT) and not its base model",
        "As repo in a [[models]] entry it is scored on its base; if the hub did not respond at first, run the job again.",
    )


def _gguf_parts(source: HubSource, listed: dict[str, RemoteFile]) -> list[RemoteFile]:
    names = part_names(source.file)
    missing = [name for name in names if name not in listed]
    if missing:
        raise KltuiError(
            f"{safe_text(str(source))} has changed: {safe_text(missing[0])} is not listed",
            "Its owner has renamed or removed the file: run the job again.",
        )
    return [listed[name] for name in names]


def _no_weights(where: str, pickled: str | None, listed: Iterable[str]) -> KltuiError:
    if pickled is None:
        contents, hint = _other_formats(listed)
        return KltuiError(
            f"{where} has no weights that transformers can load{contents}",
            hint or "Expected model.safetensors or its index.",
        )
    return KltuiError(
        f"{where} has only pickled weights ({pickled}), which can run code when loaded",
        "If you trust its owner, set scoring.allow_bin = true.",
    )


@contextmanager
def worded_disk_errors(cache: RepoCache) -> Iterator[None]:
    """Context in which an error of the file system is raised as a KltuiError that names the cache."""
    try:
        yield
    except OSError as error:
        where = safe_text(str(error.filename or cache.root))
        raise KltuiError(
            f"The cache failed at {where}: {error.strerror or error}",
            "Check its space and permissions, or move it (HF_HOME).",
        ) from error
