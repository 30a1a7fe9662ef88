"""Loss: negative log-likelihood of the corpus in bits per byte, with its standard error over texts.

Loss = - sum_s l(x_s) / (ln 2 sum_s bytes(x_s)), a ratio of two sums over the sampled texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.kl import LN2, MIN_TEXTS, NO_SPREAD
from kltui.analysis.point import grid_of, label_of

if TYPE_CHECKING:
    from kltui.analysis.map import Map


@dataclass(frozen=True)
class Loss:
    """Loss of one checkpoint in bits/byte with its standard error over texts."""

    name: str
    run: str
    step: int | None
    bits_per_byte: float
    se: float


def bits_per_byte(
    loglik_N: NDArray[np.float64],
    text_bytes_N: NDArray[np.int64],
    text_ids_N: NDArray[np.intp] | None = None,
) -> tuple[float, float]:
    """(loss, standard error) in bits/byte: total nats over total bytes of the scored texts, a ratio estimate.

    Equal `text_ids_N` mark equal texts, which count once in the error; it is NaN with fewer than three distinct ones.

    >>> bits_per_byte(np.array([-math.log(2.0) * 8, -math.log(2.0) * 16]), np.array([8, 16]))
    (1.0, nan)
    """
    scored = np.isfinite(loglik_N)
    nats, size = -loglik_N[scored], text_bytes_N[scored].astype(np.float64)
    n = len(nats)
    if n == 0 or size.sum() == 0:
        return math.nan, math.nan
    ratio = float(nats.sum() / size.sum())
    residual = nats - ratio * size  # linearised ratio estimate (Cochran 1977, Sampling Techniques, chapter 6)
    if text_ids_N is not None:
        place = np.unique(text_ids_N[scored], return_inverse=True)[1]
        residual = np.bincount(place, residual).astype(np.float64)
    differing = len(residual)
    if differing < MIN_TEXTS:
        return ratio / LN2, math.nan
    # se = sqrt(n / (n - 1) sum_s (nats_s - r bytes_s)^2) / sum_s bytes_s
    se = math.sqrt(float(residual @ residual) * differing / (differing - 1)) / float(size.sum())
    return ratio / LN2, (se if se > NO_SPREAD * abs(ratio) else math.nan) / LN2


def loss_drop(shown: Map, first: str, last: str) -> tuple[float, float]:
    """(how much lower the loss of `last` is than that of `first`, its standard error) in bits/byte, text by text.

    Over the texts that both scored. Differences are taken text by text, so what is common to both losses adds no error.
    """
    lower_N = shown.loglik_KN[shown.row(first)] - shown.loglik_KN[shown.row(last)]
    return bits_per_byte(lower_N, shown.text_bytes_N, shown.text_ids_N)


def losses(shown: Map) -> list[Loss]:
    """Loss of every model's final vector, in the order of the map; interpolated models are left out."""
    found = []
    for row, point in enumerate(shown.points):
        if point.layer is None and not grid_of(point.tags):
            value, se = bits_per_byte(shown.loglik_KN[row], shown.text_bytes_N, shown.text_ids_N)
            found.append(Loss(point.name, label_of(point), point.step, value, se))
    return found
