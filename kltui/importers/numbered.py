"""Whether the numbers of the vectors in a file are training steps or layers of one model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kltui.errors import UsageError
from kltui.sanitize import safe_text

KINDS = ("steps", "layers")
MAX_LAYERS = 200  # the deepest models have about 130
_STEPS = re.compile(r"step|pre-?train|checkpoint|trajector", re.IGNORECASE)


def steps_or_layers(path: Path, numbers: Mapping[str, Sequence[int]], asked: str) -> str:
    """ "steps" or "layers", by the numbers {run: numbers} or the file's name, otherwise `asked`. Raises UsageError if unknown.

    Numbers from MAX_LAYERS are steps. 0, 1, 2, 3 may be either; a wrong guess would not raise an error but give wrong results.
    """
    if not numbers or max(n for of_run in numbers.values() for n in of_run) >= MAX_LAYERS:
        return "steps"
    if "layer" in path.stem.lower():
        return "layers"
    if _STEPS.search(path.stem):
        return "steps"
    if asked:
        return asked
    run, of_run = next(iter(numbers.items()))
    shown = ", ".join(map(str, sorted(of_run)[:4])) + (" ..." if len(of_run) > 4 else "")
    raise UsageError(
        f"{safe_text(str(path))}: the vectors of {safe_text(run, 80)} are numbered {shown}, which could be steps or"
        " layers",
        "Add --as steps or --as layers to kltui --import.",
    )
