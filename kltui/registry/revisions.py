"""Reads steps from names of folders and revisions, and expands patterns of revisions."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from kltui.errors import UsageError
from kltui.sanitize import safe_text

MAX_REVISIONS = 100_000
ALL = "all"

# A word for the step, then its number; "step" takes precedence over "checkpoint".
_STEP_WORDS = ("steps?", "iteration|iter", "checkpoint|ckpt")
_STEP_PATTERNS = [
    re.compile(rf"(?:^|[^a-z]|global)(?:{words})[-_ =]?([0-9]{{1,18}})(?![0-9a-z]|\.[0-9])")
    for words in _STEP_WORDS
]
_ONLY_STEP = re.compile(rf"(?:(?:global[-_]?)?(?:{'|'.join(_STEP_WORDS)})[-_ =]?)?[0-9]{{1,18}}")
# Words in the names that trainers and people give to copies and to incomplete checkpoints.
_ASIDE = re.compile(
    r"(?:^|[^a-z])(?:tmp|temp|temporary|old|bak|backup|bkp|copy|orig|prev|previous|incomplete|partial|unfinished|broken"
    r"|failed|corrupt|corrupted|damaged|deleted|removed|trash|wip)[0-9]*(?![0-9a-z])"
)
_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})(?:\.\.([0-9]{1,18}))?")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE_HINT = (
    'Write lists and ranges as "step{0,1,2,4,8}" and "step{1000..143000..1000}" (first..last..stride).'
)


def parse_step(name: str) -> int | None:
    """The training step in the name of a folder or revision, None if it states none.

    >>> [parse_step(n) for n in ("checkpoint-500", "step500", "iter_0001000", "500", "stage1-step1000-tokens5B")]
    [500, 500, 1000, 500, 1000]
    >>> [parse_step(n) for n in ("main", "pythia-410m", "Llama-2-7b")]
    [None, None, None]
    >>> [parse_step(n) for n in ("tmp-checkpoint-500", "checkpoint-500-old", "step5.bak", ".step5", "step5 (2)")]
    [None, None, None, None, None]
    """
    if is_set_aside(name):
        return None
    if _NUMBER.fullmatch(name):
        return int(name)
    for pattern in _STEP_PATTERNS:
        found = pattern.search(name.lower())
        if found:
            return int(found[1])
    return None


def is_set_aside(name: str) -> bool:
    """Whether `name` belongs to a copy, or to a hidden or incomplete checkpoint, which have no step."""
    lower = name.lower()
    return name.startswith(".") or name.endswith(("~", ")")) or _ASIDE.search(lower) is not None


def is_step_name(name: str) -> bool:
    """Whether `name` states a step and nothing else, such as `checkpoint-500` or `500`."""
    return _ONLY_STEP.fullmatch(name.lower()) is not None


def step_label(name: str) -> str:
    """The part of a revision's name before its step ("" if none, or for main), which distinguishes branches with the same step.

    >>> [step_label(n) for n in ("stage1-step1000-tokens5B", "step5", "500", "main", "dev", "a/checkpoint_5")]
    ['stage1', '', '', '', 'dev', 'a']
    """
    if parse_step(name) is None:
        return "" if name == "main" else name.strip("-_/.")
    for pattern in _STEP_PATTERNS:
        if found := pattern.search(name.lower()):
            return name[: found.start()].strip("-_/.")
    return ""


def is_pattern(revision: str) -> bool:
    """Whether a revision is a pattern that only the hub can expand: "all", or a name with a wildcard."""
    return revision == ALL or any(mark in revision for mark in "*?[")


def matching_revisions(patterns: Sequence[str], listed: Sequence[str]) -> list[str]:
    """The revisions of `listed` that match `patterns`, in the order of the patterns, each once.

    Names that are not patterns are kept. Raises UsageError for a pattern without a match.

    >>> matching_revisions(["main", "step1*"], ["main", "step0", "step1", "step10"]), matching_revisions(["all"], ["a"])
    (['main', 'step1', 'step10'], ['a'])
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if not is_pattern(pattern):
            found.update(dict.fromkeys(expand_revisions([pattern])))
            continue
        meant = [name for name in listed if pattern == ALL or fnmatchcase(name, pattern)]
        if not meant:
            near = ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
            raise UsageError(
                f'no revision matches "{safe_text(pattern, 120)}"',
                f"Available: {safe_text(near, 300) or 'none'}.",
            )
        found.update(dict.fromkeys(meant))
    return list(found)


def expand_revisions(patterns: Sequence[str]) -> list[str]:
    """Revisions that `patterns` name, in their order, each once.

    Braces contain a list, a range with both ends included, or both: `{0,1,2}`, `{10..50..20}`, `{0,4..6}`. A leading
    zero pads to that width. Several braces combine. Raises UsageError for an invalid pattern.

    >>> expand_revisions(["step{0,1,2}", "step{1000..3000..1000}", "ckpt_{08..10}"])
    ['step0', 'step1', 'step2', 'step1000', 'step2000', 'step3000', 'ckpt_08', 'ckpt_09', 'ckpt_10']
    """
    revisions: dict[str, None] = {}
    for pattern in patterns:
        for revision in _expand(pattern):
            revisions[revision] = None
            if len(revisions) > MAX_REVISIONS:
                raise _wrong(pattern, f"the patterns match more than {MAX_REVISIONS} revisions")
    return list(revisions)


def _expand(pattern: str) -> Iterator[str]:
    pieces = _BRACES.split(pattern)  # text, inside, text, inside, ..., text
    if not pattern.strip() or any(c.isspace() for c in "".join(pieces[::2])):
        raise _wrong(pattern, "a revision is empty or contains a space")
    if any("{" in text or "}" in text for text in pieces[::2]):
        raise _wrong(pattern, "its braces are nested or unbalanced")
    choices = [[piece] if k % 2 == 0 else _alternatives(piece, pattern) for k, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > MAX_REVISIONS:
        raise _wrong(pattern, f"the pattern matches more than {MAX_REVISIONS} revisions")
    return map("".join, itertools.product(*choices))


def _alternatives(inside: str, pattern: str) -> list[str]:
    """The alternatives that the text inside a pair of braces stands for."""
    found: list[str] = []
    for part in (part.strip() for part in inside.split(",")):
        if not part:
            raise _wrong(pattern, f"{{{inside}}} has an empty entry")
        found += _range(part, pattern) if ".." in part else [part]
    return found


def _range(part: str, pattern: str) -> list[str]:
    match = _RANGE.fullmatch(part)
    if not match:
        raise _wrong(pattern, f"{part} is not a range of whole numbers")
    first, last, stride = int(match[1]), int(match[2]), int(match[3] or 1)
    if stride == 0:
        raise _wrong(pattern, f"the range {part} has stride 0")
    if last < first:
        raise _wrong(pattern, f"the range {part} runs backwards")
    if (last - first) // stride >= MAX_REVISIONS:
        raise _wrong(pattern, f"the range {part} has more than {MAX_REVISIONS} entries")
    padded = any(len(end) > 1 and end.startswith("0") for end in (match[1], match[2]))
    width = max(len(match[1]), len(match[2])) if padded else 0
    return [str(number).zfill(width) for number in range(first, last + 1, stride)]


def _wrong(pattern: str, why: str) -> UsageError:
    return UsageError(f'Revision pattern "{safe_text(pattern, 120)}": {safe_text(why, 200)}', _RANGE_HINT)
