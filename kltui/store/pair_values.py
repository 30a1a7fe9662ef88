"""The values of a map of pairs: responses given their prompts, responses alone, or the difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kltui.errors import StoreError, UsageError
from kltui.store import comparable

if TYPE_CHECKING:
    import argparse

    from kltui.store import CheckpointRow, VectorRow

CONDITIONAL, UNCONDITIONAL, PMI = VALUES = ("conditional", "unconditional", "pmi")
WORDS = {
    UNCONDITIONAL: "log p(response) without the prompt",
    PMI: "log p(response | prompt) - log p(response)",
}
LACKING = "its responses were not scored without prompts"


def checked(values: str) -> str:
    """`values` if it is a valid kind of values. Raises UsageError otherwise."""
    if values not in VALUES:
        raise UsageError(f"there are no {values} values", f"There are: {', '.join(VALUES)}.")
    return values


def matched(
    chosen: Sequence[tuple[CheckpointRow, VectorRow]], rows: Iterable[VectorRow], values: str
) -> tuple[list[tuple[CheckpointRow, VectorRow, VectorRow]], dict[str, str]]:
    """([(checkpoint, vector, vector of the same responses without prompts)], {name: reason} for those without).

    Raises KltuiError if no vector has one.
    """
    from kltui.registry.checkpoint import layer_name  # --help needs no checkpoints

    alone = {
        (v.corpus_id, v.checkpoint_id, v.layer, v.weights, v.settings): v
        for v in rows
        if comparable.is_unconditional(v.settings)
    }
    found_pairs: list[tuple[CheckpointRow, VectorRow, VectorRow]] = []
    lacking: dict[str, str] = {}
    for row, v in chosen:
        settings = comparable.unconditional_settings(v.settings)
        found = alone.get((v.corpus_id, v.checkpoint_id, v.layer, v.weights, settings))
        if found is None:
            lacking[layer_name(row.name, v.layer)] = LACKING
        else:
            found_pairs.append((row, v, found))
    if not found_pairs:
        if chosen and "kind" not in comparable.words(chosen[0][1].settings):
            raise UsageError(f"the map is of texts, and {values} values are of pairs", "Omit --values.")
        raise StoreError(
            f"there are no {values} values: no response was scored without its prompt",
            "Score pairs without prompts too: kltui --batch JOB --set scoring.unconditional=true",
        )
    return found_pairs, lacking


def with_next_tokens(
    chosen: Sequence[tuple[CheckpointRow, VectorRow]], rows: Iterable[VectorRow], values: str
) -> list[tuple[CheckpointRow, VectorRow]]:
    """(checkpoint, vector) for the requested values. Raises UsageError for "pmi", which has no next-token distribution."""
    if values == PMI:
        raise UsageError(
            "pointwise mutual information has no next-token distribution: it is a difference of two log-probabilities",
            f"Use one of the two: --values {CONDITIONAL}, or --values {UNCONDITIONAL}.",
        )
    if values == CONDITIONAL:
        return list(chosen)
    return [(row, alone) for row, _, alone in matched(chosen, rows, values)[0]]


def check_kept(values: str) -> None:
    """Raises UsageError if a saved map is requested with other values."""
    if values != CONDITIONAL:
        raise UsageError("a saved map has conditional values", "Omit --values, or --map and --save-map.")


def add_values_option(group: argparse._ArgumentGroup) -> None:
    """Adds --values to a group of options."""
    group.add_argument(
        "--values",
        choices=VALUES,
        default=CONDITIONAL,
        help="values of a map of pairs, also in the terminal interface: log p(response | prompt), log p(response),"
        " or the difference (pointwise mutual information); the latter two need [scoring] unconditional = true",
    )
