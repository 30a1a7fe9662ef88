"""Vectors that a map cannot include: without any value, with impossible values, or with few texts in common with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.errors import KltuiError

LEFT_OUT = "left_out"  # of a map's record: {name: why}
MAX_NATS = 1e12  # of a value: no text is so unlikely, and beside larger values those of other vectors are lost in rounding
_MIN_SHARE = 0.5


def all_complete(blocks: Iterable[NDArray[np.float64]]) -> bool:
    """Whether no row of these blocks lacks a text or has an impossible value: `emptying` leaves none of them out."""
    return all(bool((np.abs(block) <= MAX_NATS).all()) for block in blocks)  # false for NaN


def emptying(loglik_KN: ArrayLike) -> dict[int, str]:
    """{row: why} of the vectors that a map over K x N values leaves out.

    A map uses the texts that all its vectors have. Rows with the same texts form a group; the group with the most values
    determines the texts of the map, and a row that has fewer than half of these is left out.
    """
    values = np.asarray(loglik_KN, dtype=np.float64)
    defined = np.isfinite(values)
    beyond = [k for k in range(len(values)) if (np.abs(values[k][defined[k]]) > MAX_NATS).any()]
    if beyond:
        kept = [k for k in range(len(values)) if k not in set(beyond)]
        rest = {kept[k]: why for k, why in emptying(values[kept]).items()} if kept else {}
        return rest | dict.fromkeys(
            beyond, f"it has values beyond {MAX_NATS:g} nats, which cannot be log-likelihoods"
        )
    if defined.all():
        return {}
    counts, n_texts = defined.sum(axis=1), defined.shape[1]
    alike = Counter(row.tobytes() for row in defined)
    usual = defined[max(range(len(defined)), key=lambda k: (alike[defined[k].tobytes()] * counts[k], -k))]
    out = {}
    for k, shared in enumerate((defined & usual).sum(axis=1)):
        if counts[k] == 0:
            out[k] = f"none of its {n_texts} texts has a number"
        elif shared < _MIN_SHARE * int(usual.sum()):
            out[k] = f"scored on {counts[k]} of {n_texts} texts: {shared} would remain for the map"
    return out


def no_bytes() -> KltuiError:
    """The error for a map over texts of which none has a byte."""
    return KltuiError(
        "every text of the corpus is empty, so a KL per byte is undefined", "Score texts that have content."
    )


def all_left_out(left_out: Mapping[str, str]) -> KltuiError:
    """The error where every vector is left out, with the first one's reason."""
    name, why = next(iter(left_out.items()))
    return KltuiError(
        f"no vector can be used on a map: {name} and {len(left_out) - 1} others: {why}"
        if len(left_out) > 1
        else f"no vector can be used on a map: {name}: {why}",
        "Score the checkpoints again. The usual reason is a tokenizer that fits neither model nor texts.",
    )
