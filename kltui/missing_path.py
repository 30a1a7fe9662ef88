"""What to say of a path in a job file that does not exist: a variable, a pattern, a name of the hub, or a misspelt name."""

from __future__ import annotations

import difflib
import glob
import json
import re
from itertools import islice
from pathlib import Path

from kltui.sanitize import safe_text

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_REPO_PART = re.compile(r"[\w-][\w.-]{0,95}")
_LOOKED_AT = 2000  # names in a folder that are compared


def missing_path(path: Path, *, patterns: bool) -> str:
    """What to do about the absolute `path`, which does not exist; "" if nothing is known. `patterns`: its key takes patterns.

    A hub's OWNER/NAME that was written as a path is recognised by two missing parts.
    """
    text = str(path)
    if variable := _VARIABLE.search(text):
        return (
            f"{variable[0]} is not replaced in a job file: write the path itself, or set the key on the command line,"
            " where the shell replaces it (--set KEY=VALUE)."
        )
    if not patterns and glob.has_magic(text):
        return (
            "Patterns are not replaced here: a folder that contains checkpoints takes all of them; other folders need a"
            " [[models]] table each."
        )
    near = next((p for p in path.parents if p.is_dir()), Path("/"))
    first, *more = path.relative_to(near).parts
    if close := _similar(first, near):
        return f"Did you mean {safe_text(str(near.joinpath(close, *more)), 300)}?"
    if not patterns and len(more) == 1 and all(map(_REPO_PART.fullmatch, (first, *more))):
        return f"For a model on the hub, write repo = {json.dumps(f'{first}/{more[0]}')} instead."
    return ""


def _similar(name: str, folder: Path) -> str:
    """The name in `folder` that is most similar to `name`, or ""."""
    try:
        inside = [p.name for p in islice(folder.iterdir(), _LOOKED_AT) if p.name != name]
    except OSError:
        return ""
    return next(iter(difflib.get_close_matches(name, inside, n=1)), "")
