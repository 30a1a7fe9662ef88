"""What an import would bring, as one JSON object: for an interface that must not read large files itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.jobs.import_vectors import ImportRequest, read_all


def preview(paths: Sequence[Path], numbered: str = "") -> dict[str, Any]:
    """Counts of what `paths` hold: vectors, texts, whether the texts are there, runs, distances, scores, notes, what is left."""
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
        "notes": list(found.notes),
        "left": list(found.left),
    }


def main() -> int:
    """Writes the preview of the paths in sys.argv to stdout; 1 with {"error", "hint"} where they cannot be read.

    Before the paths stands "steps", "layers" or "": what numbers count in files that do not say it.
    """
    numbered, *paths = sys.argv[1:]
    try:
        reported = preview([Path(p) for p in paths], numbered)
    except KltuiError as error:
        reported = {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(reported))
    return int("error" in reported)
