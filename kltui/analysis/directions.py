"""Which domains a training moved towards: an update projected on the difference that each domain's texts make.

After arXiv 2603.16622, where models are points in log-likelihood space and a domain of training data is a direction there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.exact import ratio_of_sums
from kltui.analysis.kl import LN2
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]
DRAWS = 400
SEED = 42
_DRAWS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class DomainDirection:
    """A step along the direction of one domain of `n_texts` texts.

    `gain` is the improvement on the domain's texts, `against_rest` that minus the improvement on all others, both in bits/byte with
    standard errors over texts; `cosine` is between the step and the domain's direction, so that its square is the share of
    the step's KL along it. NaN: unknown.
    """

    domain: str
    n_texts: int
    gain: float
    gain_se: float
    against_rest: float
    against_rest_se: float
    cosine: float
    cosine_se: float

    @property
    def z(self) -> float:
        """`against_rest` in standard errors; NaN where these are unknown."""
        return self.against_rest / self.against_rest_se if self.against_rest_se > 0 else math.nan


@one_blas_thread
def domain_directions(
    before_N: ArrayLike,
    after_N: ArrayLike,
    text_bytes_N: ArrayLike,
    domains: Sequence[str],
    text_ids_N: NDArray[np.intp] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> list[DomainDirection]:
    """The step from one vector to another along each domain, by falling `against_rest`; texts that either lacks are left out.

    With step D_s = l_after(s) - l_before(s), b_s the bytes of text s:
    gain_d = sum_{s in d} D_s / (ln 2 sum_{s in d} b_s), and against_rest = gain_d - gain_{not d}.
    Direction e_d(s) = 1 / n_d in d, -1 / n_rest elsewhere; cosine = <D - mean D, e_d> / (|D - mean D| |e_d|).
    Raises KltuiError without two domains, or if some texts have none.
    """
    D = np.asarray(after_N, dtype=np.float64) - np.asarray(before_N, dtype=np.float64)
    if len(domains) != len(D):
        raise KltuiError(
            f"{len(domains)} domains for {len(D)} texts", "the corpus needs a domain for every text, or none"
        )
    used = np.isfinite(D)
    D, size = D[used], np.asarray(text_bytes_N, dtype=np.float64)[used]
    label = np.asarray(domains, dtype=object)[used]
    ids = None if text_ids_N is None else text_ids_N[used]
    names = sorted(set(label.tolist()))
    if len(names) < 2:
        raise KltuiError(
            "a direction needs texts of two domains or more",
            'name the field of the corpus that has them: domain = "..." under [corpus]',
        )
    member_ND = np.array([label == name for name in names], dtype=np.float64).T
    cosine, cosine_se = _cosines(D, member_ND, ids, draws, seed)
    found = []
    for at, name in enumerate(names):
        mine = label == name
        gain, se = _gain(D, size, mine, ids)
        rest, rest_se = _gain(D, size, ~mine, ids)
        found.append(
            DomainDirection(  # against_rest = gain_d - gain_{not d}, errors of disjoint sets of texts
                name, int(mine.sum()), gain, se, gain - rest, math.hypot(se, rest_se),
                float(cosine[at]), float(cosine_se[at]),
            )
        )  # fmt: skip
    return sorted(found, key=lambda d: -d.against_rest)


def _gain(
    D_N: Array, size_N: Array, mine: NDArray[np.bool_], ids_N: NDArray[np.intp] | None
) -> tuple[float, float]:
    """(Gain of a step on some texts in bits/byte, its standard error over these texts)."""
    gain, se = ratio_of_sums(D_N[mine], size_N[mine], None if ids_N is None else ids_N[mine])
    return gain / LN2, se / LN2  # sum D / (ln 2 sum bytes)


def _cosines(
    D_N: Array, member_ND: Array, ids_N: NDArray[np.intp] | None, draws: int, seed: int
) -> tuple[Array, Array]:
    """(cosine of the step with each domain's direction, its spread over draws of the texts), (domains,) each."""
    ids = np.arange(len(D_N)) if ids_N is None else np.unique(ids_N, return_inverse=True)[1]
    n_ids, rng = int(ids.max()) + 1, np.random.default_rng(seed)
    parts = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        some = min(_DRAWS_AT_ONCE, draws - start)
        times = np.array([np.bincount(rng.integers(0, n_ids, n_ids), minlength=n_ids) for _ in range(some)])
        parts.append(_weighted_cosines(times[:, ids].astype(np.float64), D_N, member_ND))
    columns = np.concatenate(parts).T
    known = [column[np.isfinite(column)] for column in columns]
    # bootstrap standard error (Efron 1979): spread over draws of the texts with replacement
    spread = np.array([column.std() if n_ids > 2 and len(column) > 1 else np.nan for column in known])
    return _weighted_cosines(np.ones((1, len(D_N))), D_N, member_ND)[0], spread


def _weighted_cosines(w_BN: Array, D_N: Array, member_ND: Array) -> Array:
    """B x domains cosines over texts counted w times; NaN where a draw has no text of a domain, or none outside it.

    With p = n_d / n: <D - mean, e_d> = m_d - m_rest, |e_d|^2 = n / (n_d n_rest), so that
    cosine = (m_d - mean) sqrt(p / (1 - p)) / sd(D).
    """
    n = w_BN.sum(axis=1, keepdims=True)
    n_BD = w_BN @ member_ND
    mean = w_BN @ D_N[:, None] / n
    variance = w_BN @ np.square(D_N)[:, None] / n - mean**2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_BD = (w_BN * D_N) @ member_ND / n_BD
        p = n_BD / n
        # (m_d - mean) sqrt(p / (1 - p)) / sd(D), after arXiv 2603.16622
        cosine: Array = (mean_BD - mean) * np.sqrt(p / (1.0 - p)) / np.sqrt(np.maximum(variance, 0.0))
    cosine[~np.isfinite(cosine)] = np.nan
    return cosine
