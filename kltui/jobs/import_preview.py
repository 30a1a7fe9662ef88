"""What an import would add, as one JSON object, read in a separate process so that the interface need not read large files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.jobs.import_vectors import ImportRequest, read_all, tasks_text


def preview(paths: Sequence[Path], numbered: str = "") -> dict[str, Any]:
    """Summary of the contents of `paths`: numbers of vectors and texts, whether the texts are included, [run, vectors, first
    step, last step] of each run, numbers of weight distances and scores, notes, and why files (`left`) cannot be imported."""
    found = read_all(paths, ImportRequest(numbered))
    runs: dict[str, list[int]] = {}
    for vector in found.vectors:
        runs.setdefault(vector.point.run, []).append(vector.point.step or 0)
    return {
        "vectors": len(found.vectors),
        "texts": found.n_texts,
        "has_texts": bool(found.corpora) or all(v.texts and v.texts.known for v in found.vectors),
        "runs": [[run, len(steps), min(steps), max(steps)] for run, steps in runs.items()],
        "weight_distances": len(found.weight_sqdist),
        "scores": len(found.scores),
        "tasks": tasks_text(found.tasks),
        "notes": list(found.notes),
        "left": list(found.left),
    }


def main() -> int:
    """Writes the preview of the paths in sys.argv to stdout as JSON and returns 0; {"error", "hint"} and 1 if they cannot be read.

    The first argument, before the paths, is "steps", "layers" or "": what numbers count in files that do not say it.
    """
    numbered, *paths = sys.argv[1:]
    try:
        reported = preview([Path(p) for p in paths], numbered)
    except KltuiError as error:
        reported = {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(reported))
    return int("error" in reported)
