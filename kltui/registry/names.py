"""Checks names: of hub repositories and revisions before they become a path or an address, and of runs."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from typing import Literal, get_args
from urllib.parse import quote

from kltui.errors import UsageError
from kltui.sanitize import safe_text

_REPO = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w.+@=-]+(?:/[\w.+@=-]+)*", re.ASCII)
_HUB_PAGE = re.compile(
    r"(?:https?:/{1,2})?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[^/?#]+/[^/?#]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?(?:[/?#].*)?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")

Quantization = Literal["none", "bnb-8bit", "bnb-fp4", "bnb-nf4", "torchao-int8", "torchao-int4"]
NUMBERED_BY_STEP = b"kltui: RUN/STEP"  # comment of an .npz whose arrays have names of this form
MARKS = "@#+,"  # separators in names: run@step+variant#layer; parents are joined by commas
MAX_RUN_BYTES = 200
_VARIANTS = "|".join([*(re.escape(name) for name in get_args(Quantization)[1:]), r"gguf-[a-z0-9_]{1,20}"])
_MADE = re.compile(
    rf"(?P<run>[^@#+,]+)(?:@(?P<step>\d{{1,18}}))?(?:\+(?P<variant>{_VARIANTS}))?(?:#(?P<layer>\d{{1,6}}))?",
    re.ASCII,
)
_ENCODED = re.compile(r"%(?:[0-9A-F]{2}|-)")  # looks like an encoded character


def check_repo(repo: str) -> None:
    """Raises UsageError unless `repo` has the form `owner/name` or `name` of a hub repository."""
    if not _is_repo(repo):
        name, at, revision = hub_name(repo).partition("@")
        known = f'"{name}"' + (f' and revisions = ["{revision}"]' if at else "")
        raise UsageError(
            f'repo = "{safe_text(repo, 100)}" is not a hub repository',
            f"Write repo = {known}." if name else 'Write owner/name, such as "EleutherAI/pythia-410m".',
        )


def _is_repo(repo: str) -> bool:
    return len(repo) <= 200 and bool(_REPO.fullmatch(repo)) and ".." not in repo and "--" not in repo


def hub_name(address: str) -> str:
    """OWNER/NAME[@REVISION] of the web address of a model on the hub; "" for any other address.

    >>> hub_name("https://huggingface.co/EleutherAI/pythia-70m/tree/step1000")
    'EleutherAI/pythia-70m@step1000'
    >>> hub_name("https://huggingface.co/datasets/allenai/c4"), hub_name("pythia-70m")
    ('', '')
    """
    found = _HUB_PAGE.fullmatch(address)
    if (
        not found
        or not _is_repo(found["repo"])
        or found["repo"].startswith(("datasets/", "spaces/", "docs/"))
    ):
        return ""
    return found["repo"] + (f"@{found['revision']}" if found["revision"] else "")


def check_revision(revision: str) -> None:
    """Raises UsageError unless `revision` can be a branch, tag or commit, and is safe as a relative path."""
    if len(revision) > 200 or not _REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(
            f'"{safe_text(revision, 100)}" is not a hub revision',
            "A revision is a branch, a tag or a commit hash.",
        )


def run_problem(run: str) -> str:
    """Why `run` is not a valid name of a run, in words; "" if it is valid.

    Names are composed from it (`run@step+variant#layer`) and must be unambiguous.

    >>> run_problem("tiny"), run_problem("a+b"), run_problem(" a")
    ('', 'it contains +', 'it begins or ends with a space')
    """
    if not run:
        return "it is empty"
    found = [mark for mark in MARKS if mark in run]
    if found:
        return f"it contains {' and '.join(found)}".replace(",", "a comma")
    if run != run.strip():
        return "it begins or ends with a space"
    if safe_text(run) != run:
        return "it contains control or invisible characters"
    n = len(run.encode())
    return f"it has {n} bytes, and at most {MAX_RUN_BYTES} are allowed" if n > MAX_RUN_BYTES else ""


def check_run(run: str, what: str) -> None:
    """Raises UsageError that suggests a valid name unless `run` is one; `what` begins the message, such as "run ="."""
    problem = run_problem(run)
    if problem:
        better = re.sub(r"[@#+,\s\x00-\x1f]+", "-", safe_text(run, 60)).strip("-") or "model"
        raise UsageError(
            f"{what} {safe_text(run, 80)!r} cannot be a run: {problem}",
            f"Run names are used in names such as run@step+variant#layer. Choose another, such as run = {better!r}",
        )


def plain_run(name: str) -> str:
    """`name` as a valid run name: invalid characters are percent-encoded, and a long name ends in its hash.

    Different names stay different: % itself is encoded whenever anything is.

    >>> plain_run("my+model@3"), plain_run("org/model"), plain_run("50%")
    ('my%2Bmodel%403', 'org/model', '50%')
    """
    if not run_problem(name) and not _ENCODED.search(name):
        return name
    inner = name.strip()
    start, end = len(name) - len(name.lstrip()), len(name.rstrip())
    whole = "".join(
        char if start <= i < end and char not in MARKS + "%" and safe_text(char) == char else _encoded(char)
        for i, char in enumerate(name)
    )
    if inner and len(whole.encode()) <= MAX_RUN_BYTES:
        return whole
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{whole.encode()[: MAX_RUN_BYTES - 20].decode(errors='ignore')}%-{digest}"


def _encoded(char: str) -> str:
    return quote(char.encode(errors="surrogatepass"), safe="")


def made_name(name: str) -> tuple[str, int | None, str, int | None] | None:
    """(run, step, variant, layer) of a name of the form `run@step+variant#layer`; None for any other name."""
    found = _MADE.fullmatch(name)
    if found is None:
        return None
    step, layer = found["step"], found["layer"]
    return (
        found["run"],
        None if step is None else int(step),
        found["variant"] or "none",
        None if layer is None else int(layer),
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; the nearest is X" for the name among `known` most similar to `name`, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest is {safe_text(close[0], 80)}" if close else ""


def is_map_source(source: str) -> bool:
    """Whether `[corpus] source` refers to a corpus of the workspace: "map", that of its map, or "map:HASH"."""
    return source == "map" or source.startswith("map:")
