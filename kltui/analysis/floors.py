"""Noise floors: the KL between two scorings of the same model that is due to rounding alone."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike

from kltui.analysis.kl import LN2

# Bits/byte at l = -2300 nats per text, B = 972, as measured: logits in the dtype, log-softmax in float32, sum in
# float64; "float16 throughout" sums in float16 too, as the reference does.
MEASURED = {"float16": 1e-6, "bfloat16": 5e-5, "float16 throughout": 6.6e-4}
FLOAT32_FLOOR = 1e-9  # of float32, for texts of some hundred bytes, where nothing is known
BATCH_NATS = 1e-4  # batch composition may move a float32 value by this much per text


def noise_floor(dtype: str, mean_bytes: float) -> float:
    """KL in bits/byte below which two vectors scored in `dtype` are indistinguishable; NaN for an unknown dtype, 0 for float64.

    float32: two errors of up to 1e-4 nat per text. Others: as measured, scaled to this corpus' mean bytes (noise
    in nats^2 grows with the number of tokens, and so does the divisor B).
    """
    if dtype == "float32":
        # Var / (2 B ln 2) of two independent errors of BATCH_NATS
        return 2.0 * BATCH_NATS**2 / (2.0 * mean_bytes * LN2)
    if dtype == "float64":
        return 0.0
    return MEASURED.get(dtype, float("nan"))


def coarsest_floor(dtypes: Collection[str], mean_bytes: float) -> float:
    """The largest floor of the dtypes that a map's vectors were scored in; NaN if one of them is unknown or there is none."""
    floors = [noise_floor(dtype, mean_bytes) for dtype in dtypes]
    return float(np.max(floors)) if floors else float("nan")


def rounding_floor(loglik_KN: ArrayLike, mean_bytes: float, dtype: str = "float32") -> float:
    """KL in bits/byte that storing the values themselves in `dtype` adds: two rounding errors of spacing^2 / 12."""
    values = np.abs(np.asarray(loglik_KN, dtype=np.float64))
    spacing = np.spacing(values[np.isfinite(values)].astype(dtype)).astype(np.float64)
    # variance of rounding to a multiple of h: h^2 / 12, of a difference of two such values h^2 / 6
    return float(np.mean(spacing**2) / 6.0) / (2.0 * mean_bytes * LN2) if spacing.size else float("nan")


def storage_dtype(loglik_KN: ArrayLike) -> str:
    """The narrowest of float16, float32, float64 that holds every defined value exactly."""
    values = np.asarray(loglik_KN, dtype=np.float64)
    values = values[np.isfinite(values)]
    for dtype in ("float16", "float32"):
        with np.errstate(over="ignore"):
            if np.array_equal(values.astype(dtype).astype(np.float64), values):
                return dtype
    return "float64"
