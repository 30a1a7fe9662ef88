"""Reads the headers of a hub repository's GGUF files without downloading the files: each stream ends after the header."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.registry.checkpoint import HubSource
from kltui.registry.gguf_file import (
    SUFFIX,
    GGUFError,
    GGUFHeader,
    GGUFModel,
    checked_model,
    parse_header,
    part_names,
    read_header,
)
from kltui.registry.hub_cache import RemoteFile, RepoCache
from kltui.registry.names import COMMIT, check_repo, check_revision
from kltui.registry.retry import RetryPolicy
from kltui.sanitize import safe_text

if TYPE_CHECKING:
    from kltui.registry.hub_client import HubClient


class RepoHeaders:
    """The GGUF files of one revision, offline those in the cache: `sizes` {name: bytes}, and their headers."""

    def __init__(self, source: HubSource) -> None:
        from kltui.registry.hub import default_cache, is_offline

        check_repo(source.repo)
        check_revision(source.revision)
        self._source = source
        self._cache = RepoCache(default_cache(), source.repo)
        self._client: HubClient | None = None
        self._listed: dict[str, RemoteFile] = {}
        if is_offline():
            self._commit, self.sizes = self._cached()
            return
        from kltui.registry.hub_client import HubClient

        self._client = client = HubClient(source, self._cache.cache)
        asked = source.commit or source.revision
        self._commit, self._listed = RetryPolicy().run(
            lambda: client.listing(asked), safe_text(str(source)), lambda line: None
        )
        self.sizes = {n: f.size for n, f in self._listed.items() if n.lower().endswith(SUFFIX)}

    def model(self, file: str) -> GGUFModel:
        """The model in a file of the repository, and in its other parts. Raises GGUFError that names a missing part."""
        names = part_names(file)
        missing = [name for name in names if name not in self.sizes]
        if missing:
            raise GGUFError(
                f"{safe_text(str(self._source))} lacks {safe_text(missing[0])}, one of {len(names)} parts",
                "The upload is incomplete: ask its owner, or choose another file.",
            )
        return checked_model(tuple(self._header(name) for name in names))

    def _cached(self) -> tuple[str, dict[str, int]]:
        source = self._source
        pinned = source.commit or (source.revision if COMMIT.fullmatch(source.revision) else "")
        commit = pinned or self._cache.commit_of(source.revision)
        folder = self._cache.snapshot(commit)
        if not commit or not folder.is_dir():
            raise KltuiError(
                f"{safe_text(str(source))} is not in the cache, and offline mode is on",
                "Download it once without HF_HUB_OFFLINE; then it is available offline.",
            )
        files = [p for p in folder.rglob("*") if p.suffix.lower() == SUFFIX and p.is_file()]
        return commit, {str(p.relative_to(folder)): p.stat().st_size for p in files}

    def _header(self, name: str) -> GGUFHeader:
        here = self._cache.snapshot(self._commit) / name
        if self._client is None or here.is_file():
            return read_header(here)
        file, client = self._listed[name], self._client
        return RetryPolicy().run(lambda: self._streamed(client, file), safe_text(name), lambda line: None)

    def _streamed(self, client: HubClient, file: RemoteFile) -> GGUFHeader:
        where = Path(safe_text(f"{replace(self._source, file=file.name)}"))
        with client.streaming(self._commit, file) as blocks:
            return parse_header(io.BufferedReader(_Blocks(blocks), 1 << 16), file.size, where)


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file that can only be read forwards."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        into = memoryview(buffer)
        self._rest = self._rest or next(self._blocks, b"")
        n = min(len(into), len(self._rest))
        into[:n], self._rest = self._rest[:n], self._rest[n:]
        return n
