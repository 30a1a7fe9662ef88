"""Exact next-token KL of two models on a corpus: means with their errors over texts, from sums of each text.

KL(p, q) = mean over positions of sum_v p_v log(p_v / q_v); the sums over v come from `kltui.scoring.pair`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.kl import KL, LN2, MIN_TEXTS, NO_SPREAD

Array = NDArray[np.float64]
NOT_ESTIMATED = KL(math.nan, math.nan, 0, 0)


@dataclass(frozen=True, slots=True)
class Direction:
    """KL one way: per token in nats and per byte in bits, with standard errors over texts (NaN: unknown).

    `median_nats`, `high_nats` (99 % quantile) and `max_nats` are over all scored positions.
    """

    nats_per_token: float
    nats_per_token_se: float
    bits_per_byte: float
    bits_per_byte_se: float
    median_nats: float
    high_nats: float
    max_nats: float


@dataclass(frozen=True, slots=True)
class NextTokenKL:
    """Mean over the positions of the corpus of sum_v p log(p / q), in both directions, and the estimate from the two vectors.

    `top1_agreement` is the share of positions at which both models have the same top token.
    """

    a: str
    b: str
    forward: Direction
    reverse: Direction
    top1_agreement: float
    top1_agreement_se: float
    n_texts: int
    n_tokens: int
    n_bytes: int
    estimate: KL = NOT_ESTIMATED

    @property
    def ratio(self) -> float:
        """The second-order estimate over the mean of both directions, which it is an estimate of; NaN where that is 0."""
        return _ratio(self.estimate.value, (self.forward.bits_per_byte + self.reverse.bits_per_byte) / 2)

    @property
    def ratio_forward(self) -> float:
        """The estimate over KL(a, b)."""
        return _ratio(self.estimate.value, self.forward.bits_per_byte)

    @property
    def ratio_reverse(self) -> float:
        """The estimate over KL(b, a)."""
        return _ratio(self.estimate.value, self.reverse.bits_per_byte)

    def swapped(self) -> NextTokenKL:
        """The same, seen from b."""
        return replace(self, a=self.b, b=self.a, forward=self.reverse, reverse=self.forward)


def _ratio(value: float, by: float) -> float:
    return value / by if by > 0 else math.nan


def direction(
    nats_N: ArrayLike,
    n_scored_N: ArrayLike,
    text_bytes_N: ArrayLike,
    positions: tuple[float, float, float],
    text_ids_N: NDArray[np.intp] | None = None,
) -> Direction:
    """KL one way from each text's sum over positions (nats), scored tokens and bytes; texts without a token are left out.

    `positions`: median, 99 % quantile and maximum over positions. Equal `text_ids_N` mark equal texts.
    """
    nats, n = np.asarray(nats_N, dtype=np.float64), np.asarray(n_scored_N, dtype=np.float64)
    size = np.where(n > 0, np.asarray(text_bytes_N, dtype=np.float64), 0.0)
    per_token, se_token = ratio_of_sums(nats, n, text_ids_N)
    per_byte, se_byte = ratio_of_sums(nats, size, text_ids_N)
    return Direction(per_token, se_token, per_byte / LN2, se_byte / LN2, *positions)  # nats / ln 2 = bits


def ratio_of_sums(
    x_N: ArrayLike, y_N: ArrayLike, text_ids_N: NDArray[np.intp] | None = None
) -> tuple[float, float]:
    """(r, its standard error) of r = sum x / sum y over texts; texts with y = 0 are left out.

    se^2 = sum over differing texts of (sum over its copies of (x - r y))^2 / (sum y)^2 (delta method). NaN with fewer than
    three differing texts, or where all deviate alike.
    """
    x, y = np.asarray(x_N, dtype=np.float64), np.asarray(y_N, dtype=np.float64)
    used = y > 0
    if not used.any():
        return math.nan, math.nan
    x, y = x[used], y[used]
    total = float(y.sum())
    r = float(x.sum()) / total
    deviation: Array = x - r * y
    if text_ids_N is not None:
        _, place = np.unique(text_ids_N[used], return_inverse=True)
        deviation = np.bincount(place, deviation).astype(np.float64)
    se = math.sqrt(float(deviation @ deviation)) / total  # delta method of a ratio of sums
    known = len(deviation) >= MIN_TEXTS and se > NO_SPREAD * abs(r)
    return r, se if known else math.nan
