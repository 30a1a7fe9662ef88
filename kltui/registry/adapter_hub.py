"""Finds and downloads adapters (PEFT) in repositories of the hub."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from kltui.errors import KltuiError
from kltui.registry.adapters import base_source
from kltui.registry.checkpoint import HubSource, LocalSource
from kltui.registry.hub import Fetcher, Say, default_cache, is_offline, worded_disk_errors
from kltui.registry.hub_cache import RemoteFile, RepoCache
from kltui.registry.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, tokenizer_names, weight_entry
from kltui.registry.names import COMMIT, check_repo, check_revision
from kltui.registry.retry import RetryPolicy
from kltui.registry.revisions import parse_step
from kltui.sanitize import safe_text

PLANNING = RetryPolicy(attempts=2)


@dataclass(frozen=True, slots=True)
class HubAdapter:
    """An adapter at a commit, in the repository's root or in a folder named after its step, and its base.

    `base` is OWNER/NAME@REVISION or a path; "" if it was not looked up.
    """

    source: HubSource
    step: int | None
    base: str


def hub_adapters(source: HubSource, files: Sequence[str], with_base: bool) -> list[HubAdapter]:
    """The adapters of one revision; empty if it contains something else, or if its contents cannot be determined.

    Folders named after their step form a run, as on disk; `files` selects among them. Otherwise it is the one in
    the root. Raises KltuiError if an adapter's own configuration cannot be used.
    """
    check_repo(source.repo)
    check_revision(source.revision)
    cache = RepoCache(default_cache(), source.repo)
    try:
        commit, listed, fetcher = _listed(source, cache)
    except KltuiError:
        return []  # the download will report why
    found = []
    for folder in _adapter_folders(listed, files):
        name = f"{folder}/{ADAPTER_CONFIG}" if folder else ADAPTER_CONFIG
        base = ""
        if with_base:
            if fetcher is not None:
                with worded_disk_errors(cache):
                    fetcher.get(commit, listed[name], "1 of 1")
            here = (cache.snapshot(commit) / name).parent
            named = base_source(here, here)
            base = str(named.path) if isinstance(named, LocalSource) else f"{named.repo}@{named.revision}"
        place = replace(source, commit=commit, file=folder)
        found.append(HubAdapter(place, parse_step(folder or source.revision), base))
    return sorted(found, key=lambda a: -1 if a.step is None else a.step)


def fetch_adapter(
    source: HubSource, *, allow_bin: bool = False, progress: Say | None = None
) -> tuple[Path, HubSource]:
    """Folder with an adapter's files, each checked against the hub's size and hash, and `source` with its commit.

    Offline, or for a known commit that is completely cached, the cache is used. Raises TryAgainError if the hub stays
    busy or unreachable, KltuiError for permanent errors.
    """
    check_repo(source.repo)
    check_revision(source.revision)
    cache = RepoCache(default_cache(), source.repo)
    pinned = source.commit or (source.revision if COMMIT.fullmatch(source.revision) else "")
    with worded_disk_errors(cache):
        commit = pinned or (cache.commit_of(source.revision) if is_offline() else "")
        problem = _problem(cache.snapshot(commit) / source.file, cache, allow_bin) if commit else "no commit"
        if problem and is_offline():
            raise KltuiError(
                f"{safe_text(str(source))} is incomplete in the cache ({problem}), and offline mode is on",
                "Download it once without HF_HUB_OFFLINE; then it is available offline.",
            )
        if problem:
            from kltui.registry.hub_client import HubClient

            client = HubClient(source, cache.cache)
            fetcher = _AdapterFetcher(client, cache, RetryPolicy(), progress or (lambda line: None))
            commit = fetcher.fetch(pinned or source.revision, allow_bin)
    return cache.snapshot(commit) / source.file, replace(source, commit=commit)


def _listed(source: HubSource, cache: RepoCache) -> tuple[str, dict[str, RemoteFile], Fetcher | None]:
    """(commit, {name: file}, fetcher for them); offline the files in the cache, and None instead of a fetcher."""
    if is_offline():
        commit = source.commit or cache.commit_of(source.revision)
        here = cache.snapshot(commit)
        names = [p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()] if commit else []
        return commit, {name: RemoteFile(name, 0, "") for name in names}, None
    from kltui.registry.hub_client import HubClient

    client, asked = HubClient(source, cache.cache), source.commit or source.revision
    commit, listed = PLANNING.run(lambda: client.listing(asked), safe_text(str(source)), lambda line: None)
    return commit, listed, Fetcher(client, cache, PLANNING, lambda line: None)


def _adapter_folders(names: Collection[str], files: Sequence[str]) -> list[str]:
    """Folders of a repository that contain an adapter: those named after a step that `files` selects, otherwise "", its root."""
    tops = sorted({name.partition("/")[0] for name in names if name.count("/") == 1})
    inside = [top for top in tops if parse_step(top) is not None and _is_adapter(_within(names, top))]
    chosen = [top for top in inside if not files or any(fnmatchcase(top, pattern) for pattern in files)]
    if chosen or files:
        return chosen
    return [""] if _is_adapter(_within(names, "")) else []


def _within(names: Collection[str], folder: str) -> dict[str, str]:
    """{name in the folder: name in the repository} of the files directly in a folder of it."""
    start = f"{folder}/" if folder else ""
    inside = {name.removeprefix(start): name for name in names if name.startswith(start)}
    return {short: name for short, name in inside.items() if "/" not in short}


def _is_adapter(names: Collection[str]) -> bool:
    whole = weight_entry(names) is not None
    return ADAPTER_CONFIG in names and not whole and any(name in names for name in ADAPTER_WEIGHTS)


def _adapter_weights(names: Collection[str], allow_bin: bool) -> str | None:
    return next((name for name in ADAPTER_WEIGHTS[: 1 + allow_bin] if name in names), None)


class _AdapterFetcher(Fetcher):
    """The download of one adapter: its configuration, the tokenizer next to it or in the root, and its weights."""

    def wanted(self, commit: str, listed: dict[str, RemoteFile], allow_bin: bool) -> list[RemoteFile]:
        """The files to download, weights last. Raises KltuiError if the repository has no such adapter."""
        source = self.client.source
        where, inside = safe_text(str(source)), _within(listed, source.file)
        weights = _adapter_weights(inside, allow_bin)
        if ADAPTER_CONFIG not in inside:
            raise KltuiError(
                f"{where} contains no adapter (PEFT)", "`base` is only for adapters: omit it for a model."
            )
        if weights is None:
            pickled = _adapter_weights(inside, allow_bin=True)
            raise KltuiError(
                f"{where} has only a pickled adapter ({pickled}), which can run code when it is opened"
                if pickled
                else f"{where} has no weights next to its {ADAPTER_CONFIG}",
                "If you trust its owner, set scoring.allow_bin = true."
                if pickled
                else "The upload is incomplete.",
            )
        own = [inside[name] for name in tokenizer_names(inside)]
        return [
            listed[name]
            for name in (inside[ADAPTER_CONFIG], *(own or tokenizer_names(listed)), inside[weights])
        ]


def _problem(folder: Path, cache: RepoCache, allow_bin: bool) -> str:
    """Why an adapter in the cache is incomplete, "" if it is complete. Weights are downloaded last."""
    names = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    weights = _adapter_weights(names, allow_bin)
    if ADAPTER_CONFIG not in names or weights is None:
        return "files are missing"
    return next(iter(cache.damaged(folder, [ADAPTER_CONFIG, *tokenizer_names(names), weights])), "")
