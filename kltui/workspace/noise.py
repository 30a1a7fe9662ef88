"""The noise floor of a map, by what its record and its values say of their precision."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from kltui.analysis.floors import coarsest_floor, rounding_floor, storage_dtype
from kltui.store.comparable import dtypes_of

LOOKED_AT = 64  # vectors by whose values the stored precision is determined


def map_floor(record: Mapping[str, object], loglik_KN: ArrayLike, mean_bytes: float) -> float:
    """KL in bits/byte that rounding alone causes between K vectors over N texts (nats) of a map with that record.

    Of the coarsest dtype in which they were scored or, if one is not on record, of the precision that holds their values;
    NaN if that is float64.
    """
    floor = coarsest_floor(dtypes_of(record), mean_bytes)
    if not math.isnan(floor):
        return floor
    some = np.asarray(loglik_KN)[:LOOKED_AT]
    stored = storage_dtype(some)
    return rounding_floor(some, mean_bytes, stored) if stored != "float64" else math.nan
