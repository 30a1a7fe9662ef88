"""Losses as a list shows them: from the means that are stored beside the vectors, which stay on the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredLoss:
    """StoredLoss of one checkpoint in bits/byte, as in the report; `is_exact` is false where texts went unscored.

    Their bytes are then taken to be as many as those of a mean text.
    """

    bits_per_byte: float
    is_exact: bool


def stored_losses(means: Mapping[int, tuple[float, int]], mean_bytes: float) -> dict[int, StoredLoss]:
    """{checkpoint id: loss} from {id: (nats per scored text, texts not scored)} and the mean bytes of a text.

    >>> stored_losses({3: (-8 * math.log(2), 0)}, 8.0)
    {3: StoredLoss(bits_per_byte=1.0, is_exact=True)}
    """
    if not mean_bytes > 0:
        return {}
    nats = mean_bytes * math.log(2.0)
    return {id_: StoredLoss(-mean / nats, gaps == 0) for id_, (mean, gaps) in means.items()}
