"""Hub names from job files, checked before they become a path or an address."""

from __future__ import annotations

import re

from kltui.errors import UsageError
from kltui.safe import safe_text

_REPO = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w.+@=-]+(?:/[\w.+@=-]+)*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


def check_repo(repo: str) -> None:
    """Raises UsageError unless `repo` reads `owner/name` or `name`, as the hub spells them."""
    if len(repo) > 200 or not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise UsageError(
            f'repo = "{safe_text(repo, 100)}" is no hub repository',
            'Write owner/name, such as "EleutherAI/pythia-410m".',
        )


def check_revision(revision: str) -> None:
    """Raises UsageError unless `revision` can be a branch, tag or commit, and stays inside its folder as a path."""
    if len(revision) > 200 or not _REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(
            f'"{safe_text(revision, 100)}" is no hub revision',
            "A revision is a branch, a tag or a commit hash.",
        )
