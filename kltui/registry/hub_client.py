"""Requests to the hub over HTTP, with huggingface_hub's session: listing the files of a commit, streaming a file.

Imported only when something is downloaded. Failures that may be temporary are raised as TransientError immediately,
without the library's own waiting; all others as KltuiError, whose message never contains the address, a header or the body
of a request, because those can contain secrets.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, get_token, hf_hub_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from kltui.errors import KltuiError
from kltui.registry.checkpoint import HubSource
from kltui.registry.hub_cache import RemoteFile, is_hash
from kltui.registry.names import COMMIT
from kltui.registry.retry import TransientError, asked_wait_s
from kltui.sanitize import safe_text

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
ANSWER_MAX_BYTES = 64 << 20  # of a response that is not a file; a listing of 100,000 files has 30 MB
XET_MIN_BYTES = 16 << 20  # below this the faster transfer saves nothing

_OF_THE_BODY = (
    "content-encoding",
    "content-length",
    "transfer-encoding",
)  # headers about the body as it was sent

_strict: ContextVar[bool] = ContextVar("kltui_strict_hub_session", default=False)


class HubClient:
    """Requests to the hub about one source."""

    def __init__(self, source: HubSource, cache: Path, endpoint: str = "") -> None:
        self.source = source
        self.cache = cache
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        # The library logs addresses, some of them signed.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def listing(self, revision: str) -> tuple[str, dict[str, RemoteFile]]:
        """(commit of `revision`, {name: file}). Raises TransientError or KltuiError."""
        with self._asking():
            try:
                info = HfApi(endpoint=self.endpoint).model_info(
                    self.source.repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S
                )
            except HfHubHTTPError:  # some are ValueErrors too
                raise
            except (ValueError, KeyError, TypeError):
                raise self._no_hub() from None
        commit = info.sha or ""
        found = [_remote_file(sibling) for sibling in info.siblings or []]
        if not COMMIT.fullmatch(commit) or not found or None in found:
            raise self._no_hub()
        return commit, {file.name: file for file in found if file is not None}

    def revisions(self) -> list[str]:
        """Names of the repository's branches and tags, in the hub's order. Raises TransientError or KltuiError."""
        with self._asking():
            try:
                refs = HfApi(endpoint=self.endpoint).list_repo_refs(self.source.repo)
            except HfHubHTTPError:  # some are ValueErrors too
                raise
            except (ValueError, KeyError, TypeError):
                raise self._no_hub() from None
        return [ref.name for ref in (*refs.branches, *refs.tags)]

    def download(self, commit: str, file: RemoteFile, partial: Path, tick: Callable[[int], None]) -> None:
        """Appends the missing bytes of a file to `partial`; `tick` receives its size in bytes after each block.

        On an error, what was downloaded stays in `partial`. Raises TransientError or KltuiError.
        """
        with partial.open("ab") as out:
            if out.tell() > file.size:
                out.seek(out.truncate(0))
            if out.tell() < file.size:
                with self._asking():
                    self._stream(commit, file, out, tick)

    def _stream(self, commit: str, file: RemoteFile, out: BinaryIO, tick: Callable[[int], None]) -> None:
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        start = out.tell()
        if start:
            headers["Range"] = f"bytes={start}-"
        url = self._url(commit, file.name)
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            if response.status_code == 416:
                out.truncate(0)
                raise TransientError(f"{safe_text(file.name)} could not be resumed")
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                out.seek(out.truncate(0))
            for block in response.iter_raw():
                out.write(block[: file.size - out.tell()])
                tick(out.tell())
                if (
                    out.tell() >= file.size
                ):  # the body may be longer than stated; the hash shows whether the file is right
                    break

    @contextmanager
    def streaming(self, commit: str, file: RemoteFile) -> Iterator[Iterator[bytes]]:
        """Context with a file's bytes, block by block from its start; only requested blocks are transferred."""
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        url = self._url(commit, file.name)
        with (
            self._asking(),
            get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response,
        ):
            hf_raise_for_status(response)
            yield response.iter_raw(1 << 16)

    def download_by_xet(self, commit: str, file: RemoteFile, tick: Callable[[int], None]) -> bool:
        """Downloads a file into the cache by the hub's parallel transfer; returns False if it has to be streamed instead."""
        if file.size < XET_MIN_BYTES or not has_xet():
            return False
        with self._asking():
            metadata = get_hf_file_metadata(self._url(commit, file.name), timeout=TIMEOUT_S)
            if metadata.xet_file_data is None:
                return False
            try:
                hf_hub_download(
                    self.source.repo, file.name, revision=commit, cache_dir=self.cache, endpoint=self.endpoint,
                    etag_timeout=TIMEOUT_S, tqdm_class=_reporter(tick),
                )  # fmt: skip
            except Exception as error:  # whatever that library raises, streaming may still work
                log.info("parallel transfer of %s failed (%s)", safe_text(file.name), type(error).__name__)
                return False
        return True

    def _no_hub(self) -> KltuiError:
        return KltuiError(
            f"The response for {self._where} lacks commit, sizes or hashes",
            "Check HF_ENDPOINT and the proxy settings: the response may come from a log-in page or a partial mirror.",
        )

    def _url(self, commit: str, name: str) -> str:
        return f"{self.endpoint}/{self.source.repo}/resolve/{commit}/{quote(name)}"

    @property
    def _where(self) -> str:
        return safe_text(str(self.source))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Context in which every error of a request is raised as TransientError or KltuiError, except OSErrors of files."""
        _guard_session()
        token = _strict.set(True)
        try:
            yield
        except (KltuiError, TransientError):
            raise
        except HfHubHTTPError as error:
            raise self._refusal(error) from None
        except Exception as error:
            if is_transport(error):
                raise TransientError(f"the connection to the hub broke ({type(error).__name__})") from None
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise KltuiError(
                f"Fetching {self._where} failed ({type(error).__name__})",
                "Check HF_ENDPOINT and the proxy settings.",
            ) from None
        finally:
            _strict.reset(token)

    def _refusal(self, error: HfHubHTTPError) -> KltuiError:
        """The error for a request that the hub refused."""
        repo = safe_text(self.source.repo)
        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            token = "the token in use has no access" if get_token() else "no token is set"
            hint = (
                f"Accept its conditions on the page of {repo}, then set HF_TOKEN to a token of that account."
            )
            return KltuiError(f"{repo} is gated and {token} ({status})", hint)
        if isinstance(error, DisabledRepoError):
            return KltuiError(
                f"{repo} has been disabled on the hub ({status})", "Its owner or the hub removed it."
            )
        if isinstance(error, RevisionNotFoundError):
            return KltuiError(
                f"{repo} has no revision {safe_text(self.source.revision)} ({status})",
                "See the branches and tags on its page; a pattern may include revisions that were never released.",
            )
        if isinstance(error, EntryNotFoundError):
            return KltuiError(
                f"A file of {self._where} is listed but does not exist ({status})", "Try another revision."
            )
        if status == 401 and get_token() and not isinstance(error, RepositoryNotFoundError):
            return KltuiError(
                f"The hub rejects the token in use ({status})",
                "Renew HF_TOKEN, or unset it for public models.",
            )
        if isinstance(error, RepositoryNotFoundError) or status in {401, 404}:
            return KltuiError(
                f"The hub has no repository {repo}, or it is private ({status})",
                "Check the spelling; for a private repository, set HF_TOKEN to a token with access.",
            )
        if status == 403:
            return KltuiError(
                f"The hub forbids access to {repo} ({status})", "Set HF_TOKEN to a token with access."
            )
        return KltuiError(f"The hub refused {self._where} with status {status}", "See the hub's status page.")


def has_xet() -> bool:
    """Whether the hub's parallel transfer (hf_xet) is installed and not switched off."""
    return find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET


def _remote_file(sibling: Any) -> RemoteFile | None:
    """A file of the hub's listing; None if its size or hash is missing or invalid."""
    digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if type(sibling.size) is not int or sibling.size < 0 or not is_hash(digest or ""):
        return None
    return RemoteFile(sibling.rfilename, sibling.size, digest)


def _guard_session() -> None:
    """Makes the library's session raise TransientError inside `_asking` instead of waiting and retrying by itself."""
    session: Any = get_session()
    if getattr(session, "kltui_guarded", False):
        return
    send = session.send

    def guarded(request: Any, **options: Any) -> Any:
        if not _strict.get():
            return send(request, **options)
        try:
            response = send(request, **(options | {"stream": True}))
            if response.status_code not in TRANSIENT_STATUS:
                whole = not options.get("stream") or response.status_code >= 400
                return _read_within(response) if whole else response
        except Exception as error:
            if is_transport(error):
                raise TransientError(f"the hub cannot be reached ({type(error).__name__})") from None
            raise
        response.close()
        what = "asks for fewer requests" if response.status_code == 429 else "is not available"
        raise TransientError(f"the hub {what} ({response.status_code})", asked_wait_s(response.headers))

    session.send = guarded
    session.kltui_guarded = True


def _read_within(response: Any) -> Any:
    """The response with its body read. Raises KltuiError if it has more than ANSWER_MAX_BYTES."""
    body = bytearray()
    try:
        for block in response.iter_bytes(1 << 16):
            body += block
            if len(body) > ANSWER_MAX_BYTES:
                raise KltuiError(
                    f"A response of the hub has more than {ANSWER_MAX_BYTES >> 20} MiB",
                    "Check HF_ENDPOINT and the proxy settings: the response is not a file list.",
                )
    finally:
        response.close()
    headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in _OF_THE_BODY]
    return type(response)(
        response.status_code,
        headers=headers,
        content=bytes(body),
        request=response.request,
        history=response.history,
    )


def is_transport(error: Exception) -> bool:
    """Whether an exception of the HTTP library is a connection failure; its name differs between versions."""
    for cls in type(get_session()).__mro__:
        library = sys.modules[cls.__module__.partition(".")[0]]
        if hasattr(library, "TransportError"):
            return isinstance(error, library.TransportError)
    return False


def _reporter(tick: Callable[[int], None]) -> Any:
    """A stand-in for a tqdm class that passes the bytes so far to `tick` and draws nothing."""

    class DownloadReporter:
        def __init__(self, *args: object, initial: int = 0, **options: object) -> None:
            self.n = initial

        def __enter__(self) -> DownloadReporter:
            return self

        def __exit__(self, *exc: object) -> None:
            return None

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            tick(self.n)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args, **options: None

    return DownloadReporter
