"""One model relative to a map: its KLs with errors, its position in the map's PCA, and scores predicted from its position.

The model was scored on all texts of the map or on a sample of them (arXiv 2505.15428); all texts count as a sample with every text
once, of weight 1. Shapes: K vectors of the map, u distinct texts of the sample, N texts of the map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis import embed
from kltui.analysis.benchmark import Leakage, leakage, predict_for
from kltui.analysis.kl import LN2, MIN_TEXTS
from kltui.analysis.resample import KLToMap, TextSample, kl_to_map, resampled_coordinates
from kltui.analysis.uncertainty import Ellipse, ellipse_of
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]
ALL = "all"  # the method of a sample that is every text once


@dataclass(frozen=True, eq=False)
class Drawn:
    """The vectors of a map and of a new model, on the texts that the model was scored on: `map_Ku`, `new_u` in nats.

    `draw` describes the sample of texts and `count_u` how often each was drawn; `mean_bytes` is that of all N texts.
    """

    map_Ku: Array
    new_u: Array
    draw: TextSample
    count_u: NDArray[np.int64]
    mean_bytes: float

    @classmethod
    def whole(cls, map_KN: Array, new_N: Array, text_bytes_N: ArrayLike) -> Drawn:
        """A model scored on all texts; texts that any of the vectors lacks are left out."""
        used = embed.complete_texts(np.vstack([map_KN, new_N]))
        n = len(used)
        every = TextSample(np.arange(n), np.ones(n), n, n, ALL, 0)
        mean_bytes = float(np.asarray(text_bytes_N, np.float64)[used].mean())
        return cls(map_KN[:, used], new_N[used], every, np.ones(n, np.int64), mean_bytes)

    @property
    def unit(self) -> float:
        """2 B ln 2: nats^2 of a variance per bit/byte."""
        return 2.0 * self.mean_bytes * LN2

    def kl(self) -> KLToMap:
        """KL of the model to every vector of the map, 1 x K in bits/byte, with its error from the sampling of texts."""
        found = kl_to_map(self.map_Ku, self.new_u[None], self.draw, self.count_u, self.mean_bytes)
        if self.draw.method != ALL:
            return found
        # On all texts the error is that of a pair of the map, as everywhere else.
        return KLToMap(found.value, np.where(np.isnan(found.se), np.nan, self.kl_errors_of_whole()))

    def kl_errors_of_whole(self) -> Array:
        """Standard errors (K, bits/byte) that the KLs over all N texts have, estimated from the drawn ones.

        se^2 = (m4 - m2^2) / N, moments of l_i - l over all N texts; a text's share of a mean is weight^2 / N.
        """
        share = self.draw.weight**2 / self.draw.n_texts
        share = share / share.sum()
        d = self.map_Ku - self.new_u
        square = (d - (d @ share)[:, None]) ** 2
        m2, m4 = square @ share, (square * square) @ share
        # error of a variance
        se: Array = np.sqrt(np.maximum(m4 - m2 * m2, 0.0) / self.draw.n_texts) / self.unit
        return se

    def mean_loglik(self, row: int, mean: float) -> float:
        """Estimated mean log-likelihood (nats per text) over all N texts, given the mean `mean` of the map's vector `row`.

        The drawn texts give the difference between the two, which varies less than either.
        """
        square = self.draw.weight**2
        # difference estimator: known mean + weighted mean of l_new - l_row
        return mean + float((self.new_u - self.map_Ku[row]) @ square / square.sum())

    def coordinates(self) -> Array:
        """(K + 1) x u scaled Q, the model's last: squared distances are KL in bits/byte."""
        both = np.vstack([self.map_Ku, self.new_u])
        return resampled_coordinates(both, self.draw, self.mean_bytes)


@one_blas_thread
def position(known: Drawn, picture_K2: Array) -> Ellipse:
    """The model's position in the map's PCA, with its error ellipse over texts (one standard deviation).

    x_j = sum_k <q, q_k> picture_kj / |picture_j|^2: the projection on the map's own axes, so that a copy of a vector
    has the same position. The products are sums over texts, and the scatter of their terms is the error.
    """
    square, n = known.draw.weight**2, float(known.count_u.sum())
    old = known.map_Ku - (known.map_Ku @ square / square.sum())[:, None]
    column = old.mean(axis=0)
    new_u = known.new_u - known.new_u @ square / square.sum() - column
    spread = (picture_K2**2).sum(axis=0)
    axes_K2 = np.divide(picture_K2, spread, out=np.zeros_like(picture_K2), where=spread > 0)
    # text s: w_s^2 q(s) sum_k q_k(s) picture_kj / |picture_j|^2, scaled by 1 / (2 N B ln 2)
    part_u2 = (square * new_u)[:, None] * ((old - column).T @ axes_K2) / (known.draw.n_texts * known.unit)
    place = part_u2.sum(axis=0)
    x, y = place.tolist()
    if len(part_u2) < MIN_TEXTS:
        return Ellipse("", x, y, math.nan, math.nan, 0.0)
    off = part_u2 * (n / known.count_u)[:, None] - place
    # covariance of a sum as n times a mean of n independent draws
    return ellipse_of("", x, y, (off * known.count_u[:, None]).T @ off / (n * (n - 1.0)))


@dataclass(frozen=True, slots=True)
class Expected:
    """A benchmark score (0 to 100) predicted from a position on the map.

    `error` is the root mean square error of such predictions for models of other types, NaN where fewer than five
    types have scores; `given` is the model's own score where that is known.
    """

    task: str
    score: float
    error: float
    n_models: int
    given: float = math.nan


def expected_scores(
    known: Drawn, types: Sequence[str], scores: Mapping[str, Sequence[float]], given: Mapping[str, float]
) -> tuple[list[Expected], list[str]]:
    """(the model's expected score in each task, why other tasks have none); `scores` has K values per task, NaN: unknown."""
    if not scores:
        return [], []
    nats = math.sqrt(known.draw.n_texts * known.unit)
    x = embed.rotate(known.coordinates() * nats)
    found, problems = [], []
    for task, of_map in scores.items():
        try:
            score, error, n = predict_for(x, [*of_map, math.nan], [*types, ""], len(of_map))
        except KltuiError as e:
            problems.append(f"{task}: {e.message}")
            continue
        found.append(Expected(task, score, error, n, given.get(task, math.nan)))
    return found, problems


def suspected_leakage(
    mean_loglik: float, expected: Expected, means_K: Sequence[float], scores_K: Sequence[float]
) -> Leakage | None:
    """The model's mean log-likelihood and the value expected from its benchmark score (its own, otherwise the predicted one); None with too few scores."""
    score = expected.score if math.isnan(expected.given) else expected.given
    names = [*map(str, range(len(means_K))), "new"]
    try:
        found = leakage(names, [*means_K, mean_loglik], [*scores_K, score])
    except KltuiError:
        return None
    return next((row for row in found if row.name == "new"), None)
