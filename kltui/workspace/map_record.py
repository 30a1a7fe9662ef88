"""The record of a map: what its vectors have in common, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence

from kltui.store import comparable
from kltui.store.rows import VectorRow

# Fields of a vector's key that identify it, as opposed to those that say how it was scored.
_OF_ONE_VECTOR = {
    "weights",
    "base",
    "adapter",
    "adapter_config",
    "peft",
    "of_weights",
    "layer",
    "layers",
    "quantization",
    "values",
}


def record_of(
    vectors: Sequence[VectorRow], *, corpus: str, settings: str, values: str = ""
) -> dict[str, object]:
    """The record of the map of `vectors`: corpus, settings, and how they were scored; of pairs, also which `values` they are.

    A field of the vectors' keys has its value, or the list of all values if there are several.
    """
    keys = [v.key_fields for v in vectors]
    record: dict[str, object] = {"corpus": corpus, "settings": settings, "preprocess": "none"}
    if values:
        record["values"] = values
    for field in sorted({f for key in keys for f in key} - _OF_ONE_VECTOR - record.keys()):
        said = sorted({key.get(field, "") for key in keys})
        record[field] = said[0] if len(said) == 1 else said
    n_imported = sum(v.is_imported for v in vectors)
    if 0 < n_imported < len(vectors):
        record[comparable.FROM_ELSEWHERE] = {"imported": n_imported, "scored_here": len(vectors) - n_imported}
    return record
