"""Which texts drive a KL: each text's part of Var(l_i - l_j), and the parts summed by domain.

The parts are the terms of KL = sum_s (d_s - mean d)^2 / n / (2 B ln 2) with d = l_i - l_j (arXiv 2502.16173).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.kl import KL, LN2, kl_pair
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DomainPart:
    """A domain's part of a KL: bits/byte and share, its share of the texts, its mean of l_i - l_j against the rest.

    `shift` is in nats per text, relative to the mean over all texts: above 0, the first model does better here
    than elsewhere.
    """

    domain: str
    n_texts: int
    bits_per_byte: float
    share: float
    share_of_texts: float
    shift: float


@dataclass(frozen=True, eq=False)
class Drivers:
    """A KL split by text. `bits_per_byte` (N) sums to the KL; NaN for texts that either vector lacks.

    `difference` (N) is l_i - l_j minus its mean, in nats; `order` lists the texts by decreasing part.
    """

    kl: KL
    bits_per_byte: Array
    difference: Array
    order: NDArray[np.intp]
    domains: tuple[DomainPart, ...]

    def top(self, n: int = 10) -> list[tuple[int, float, float]]:
        """(text, share of the KL, difference in nats) of the n texts that drive it most."""
        total = self.kl.value
        return [
            (
                int(s),
                float(self.bits_per_byte[s] / total) if total > 0 else math.nan,
                float(self.difference[s]),
            )
            for s in self.order[:n]
        ]

    def texts_for_share(self, share: float = 0.5) -> int:
        """The number of texts with the largest parts that make up `share` of the KL; 0 if the KL is 0 or undefined."""
        if not self.kl.value > 0:
            return 0
        grown = np.cumsum(self.bits_per_byte[self.order]) / self.kl.value
        return int(np.searchsorted(grown, share - 1e-12) + 1)


@one_blas_thread
def drivers(
    l_i: ArrayLike,
    l_j: ArrayLike,
    text_bytes_N: ArrayLike,
    domains: Sequence[str] = (),
    text_ids_N: NDArray[np.intp] | None = None,
) -> Drivers:
    """The parts of KL(i, j) = sum_s (d_s - mean d)^2 / n / (2 B ln 2), d = l_i - l_j, by text and by domain.

    Raises KltuiError if some texts have no domain.
    """
    kl = kl_pair(l_i, l_j, text_bytes_N, text_ids_N)
    d = np.asarray(l_i, dtype=np.float64) - np.asarray(l_j, dtype=np.float64)
    if domains and len(domains) != len(d):
        raise KltuiError(
            f"{len(domains)} domains for {len(d)} texts", "the corpus needs a domain for every text, or none"
        )
    used = np.isfinite(d)
    d = np.where(used, d - (d[used].mean() if used.any() else 0.0), np.nan)
    part = d**2 / max(kl.n_texts, 1) / (2.0 * kl.mean_bytes * LN2)  # one term of the module's equation
    order = np.argsort(np.where(np.isnan(part), -1.0, part) * -1.0, kind="stable")[: int(used.sum())]
    return Drivers(kl, part, d, order, _by_domain(part, d, used, domains, kl.value))


def _by_domain(
    part: Array, d: Array, used: NDArray[np.bool_], domains: Sequence[str], total: float
) -> tuple[DomainPart, ...]:
    rows = []
    label = np.asarray(domains, dtype=object)
    for domain in sorted(set(domains)):
        mine = used & (label == domain)
        n = int(mine.sum())
        if n:
            bits = float(part[mine].sum())
            share = bits / total if total > 0 else math.nan
            rows.append(DomainPart(domain, n, bits, share, n / int(used.sum()), float(d[mine].mean())))
    return tuple(sorted(rows, key=lambda r: -r.bits_per_byte))
