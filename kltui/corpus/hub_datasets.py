"""Downloads files of a dataset on the hub into the cache that all Hugging Face tools share."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from kltui.errors import KltuiError, TryAgainError, UsageError
from kltui.registry.names import check_repo, check_revision
from kltui.sanitize import safe_text

_PREFIX = "hf://datasets/"
_REFS = re.compile(r"^(refs/(?:convert|pr)/[^/]+)/(.*)$")


@dataclass(frozen=True, slots=True)
class DatasetAddress:
    """The parts of `hf://datasets/OWNER/NAME[@REV]/PATTERN`; defaults are revision "main" and pattern "*"."""

    repo: str
    revision: str
    pattern: str

    @property
    def patterns(self) -> tuple[str, ...]:
        """The pattern, and the pattern without `**/`, which as in local patterns also matches no folder."""
        return tuple(dict.fromkeys((self.pattern, self.pattern.replace("**/", ""))))

    def matches(self, name: str) -> bool:
        """Whether the pattern matches a file of the dataset."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def parse_address(source: str) -> DatasetAddress:
    """The parts of a dataset's address. Raises UsageError for an invalid one.

    >>> parse_address("hf://datasets/o/n@v1/data/*.parquet")
    DatasetAddress(repo='o/n', revision='v1', pattern='data/*.parquet')
    >>> parse_address("hf://datasets/o/n@refs/convert/parquet/x.parquet").revision
    'refs/convert/parquet'
    """
    owner, _, rest = source.removeprefix(_PREFIX).partition("/")
    named, _, pattern = rest.partition("/")
    name, at, revision = named.partition("@")
    if at and revision == "refs" and (found := _REFS.match(f"refs/{pattern}")):
        revision, pattern = found[1], found[2]
    try:
        check_repo(f"{owner}/{name}")
        if at:
            check_revision(unquote(revision))
    except UsageError:
        raise UsageError(
            f"{safe_text(source, 200)} is not the address of a dataset",
            "Write hf://datasets/OWNER/NAME[@REVISION]/PATTERN, such as hf://datasets/OWNER/NAME/data/*.parquet.",
        ) from None
    return DatasetAddress(f"{owner}/{name}", unquote(revision) or "main", pattern or "*")


def fetch_dataset(source: str, say: Callable[[str], None]) -> tuple[Path, list[Path], str]:
    """(folder, files in it that match the pattern, sorted, commit) of a dataset's address; missing files are downloaded.

    `say` receives lines of progress. Raises TryAgainError if the hub cannot be reached, KltuiError if it has no such
    dataset, revision or file.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from kltui.registry.hub import default_cache

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs addresses, some of them signed
    address = parse_address(source)
    where = safe_text(source, 200)
    say(f"fetching {where}")
    try:
        listed = _listed(address)
        folder = Path(
            snapshot_download(
                address.repo, repo_type="dataset", revision=address.revision, allow_patterns=list(address.patterns),
                tqdm_class=_progress(say, where), cache_dir=default_cache(), local_files_only=listed is None,
                endpoint=_endpoint(),
            )
        )  # fmt: skip
    except HfHubHTTPError as error:
        raise _refused(where, error) from None
    except LocalEntryNotFoundError:
        raise TryAgainError(
            f"{where} is not in the cache, and the hub cannot be reached",
            "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE.",
        ) from None
    except (OSError, ValueError) as error:
        raise TryAgainError(
            f"{where} could not be fetched: {safe_text(str(error), 200)}", "Check the network and the disk."
        ) from None
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    matching = [p for p in files if address.matches(p.relative_to(folder).as_posix())]
    _check_all_here(address, where, folder, matching, listed)
    if not matching:
        raise KltuiError(
            f"no file of {safe_text(address.repo)} at {safe_text(address.revision)} matches "
            f"{safe_text(address.pattern)}",
            "Check the list of files on the dataset's page; a pattern looks like *.parquet.",
        )
    if listed is None:
        say(
            f"{where}: the hub could not be reached; the cache has {len(matching):,} file{'s' * (len(matching) != 1)} of it"
        )
    return folder, matching, folder.name


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _listed(address: DatasetAddress) -> list[str] | None:
    """Names of the dataset's files on the hub that match the pattern; None if offline or if the hub cannot be reached.

    Raises HfHubHTTPError if the hub refuses.
    """
    from huggingface_hub import HfApi

    from kltui.registry.hub import is_offline
    from kltui.registry.hub_client import is_transport

    if is_offline():
        return None
    try:
        info = HfApi(endpoint=_endpoint()).dataset_info(address.repo, revision=address.revision)
    except Exception as error:
        if is_transport(error):
            return None
        raise
    return [s.rfilename for s in info.siblings or [] if address.matches(s.rfilename)]


def _check_all_here(
    address: DatasetAddress, where: str, folder: Path, matching: list[Path], listed: list[str] | None
) -> None:
    """Raises TryAgainError if some files are missing after an interrupted download: part of a corpus is another corpus."""
    if listed is not None:
        lost = set(listed) - {p.relative_to(folder).as_posix() for p in matching}
        if lost:
            raise TryAgainError(
                f"{len(lost)} of {len(listed)} files of {where} could not be fetched", "Run again."
            )
    elif any((folder.parent.parent / "blobs").glob("*.incomplete")):
        raise TryAgainError(
            f"the cache contains only a part of {safe_text(address.repo)}, and the hub cannot be reached for the rest",
            "A download was interrupted. Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and run again.",
        )


def _refused(where: str, error: Exception) -> KltuiError:
    """The error for a request that the hub refused."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return KltuiError(
            f"{where} is gated",
            "Accept its conditions on the hub, then log in: hf auth login (or set HF_TOKEN).",
        )
    if isinstance(error, RepositoryNotFoundError):
        return KltuiError(
            f"the hub has no dataset {where}", "Check OWNER/NAME; a private one needs HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return KltuiError(f"the hub has no such revision: {where}", "Check the revision after the @.")
    return TryAgainError(
        f"{where} could not be fetched: {safe_text(str(error).splitlines()[0], 200)}",
        "The hub may be busy: run again.",
    )


def _progress(say: Callable[[str], None], where: str) -> type:
    """A class of progress bars that instead pass a line to `say` every two seconds."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class DownloadLines(tqdm):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "mininterval": 2.0, "disable": False})  # type: ignore[no-untyped-call]

        def display(self, *args: object, **options: object) -> None:
            if not self.total:
                return
            if str(self.unit).startswith("B"):
                say(f"fetching {where}: {self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB")
            else:
                say(f"fetching {where}: {self.n:,} of {self.total:,} files")

    return DownloadLines
