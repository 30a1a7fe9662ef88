"""One model beside a map: its KLs with their errors, its place in the map's picture, scores that its place lets expect.

The model is known on all texts of the map or on a draw of them (arXiv 2505.15428); all of them are the draw of every text
once, with weight 1. Shapes: K vectors of the map, u texts, N texts drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis import embed
from kltui.analysis.benchmark import Leakage, leakage, predict_for
from kltui.analysis.kl import LEAST_TEXTS, LN2
from kltui.analysis.resample import Draw, KLToMap, kl_to_map, resampled_coordinates
from kltui.analysis.uncertainty import Ellipse, aligned, ellipses
from kltui.errors import KltuiError

Array = NDArray[np.float64]
DRAWS = 20
POINTS_MOST = 300  # of the map in pictures that tell an error


@dataclass(frozen=True, eq=False)
class Drawn:
    """The map at the texts on which a model is known: `map_Ku`, `new_u` in nats, how the texts were drawn.

    `count_u` says how often each was drawn; `mean_bytes` is that of the N texts drawn from.
    """

    map_Ku: Array
    new_u: Array
    draw: Draw
    count_u: NDArray[np.int64]
    mean_bytes: float

    @classmethod
    def whole(cls, map_KN: Array, new_N: Array, text_bytes_N: ArrayLike) -> Drawn:
        """A model known on all texts, without those that one of the vectors lacks."""
        used = embed.complete_texts(np.vstack([map_KN, new_N]))
        n = len(used)
        every = Draw(np.arange(n), np.ones(n), n, n, "all", 0)
        mean_bytes = float(np.asarray(text_bytes_N, np.float64)[used].mean())
        return cls(map_KN[:, used], new_N[used], every, np.ones(n, np.int64), mean_bytes)

    @property
    def unit(self) -> float:
        """2 B ln 2: nats^2 of a variance per bit/byte."""
        return 2.0 * self.mean_bytes * LN2

    def kl(self) -> KLToMap:
        """KL of the model to every vector of the map, 1 x K, with the error that drawing the texts makes."""
        return kl_to_map(self.map_Ku, self.new_u[None], self.draw, self.count_u, self.mean_bytes)

    def kl_errors_of_whole(self) -> Array:
        """Standard errors (K, bits/byte) that the KLs over all N texts have, estimated from the drawn ones.

        se^2 = (m4 - m2^2) / N, moments of l_i - l over all N texts; a text's share of a mean is weight^2 / N.
        """
        share = self.draw.weight**2 / self.draw.n_texts
        share = share / share.sum()
        d = self.map_Ku - self.new_u
        square = (d - (d @ share)[:, None]) ** 2
        m2, m4 = square @ share, (square * square) @ share
        se: Array = np.sqrt(np.maximum(m4 - m2 * m2, 0.0) / self.draw.n_texts) / self.unit
        return se

    def mean_loglik(self) -> float:
        """Mean log-likelihood (nats per text) that the drawn texts let expect over all N."""
        square = self.draw.weight**2
        return float(self.new_u @ square / square.sum())

    def coordinates(self) -> Array:
        """(K + 1) x u scaled Q, the model's last: squared distances are KL in bits/byte."""
        both = np.vstack([self.map_Ku, self.new_u])
        return resampled_coordinates(both, self.draw, self.mean_bytes)


def position(known: Drawn, picture_K2: Array, near: Sequence[int], seed: int = 42) -> Ellipse:
    """Where the model stands in the map's PCA picture, and the ellipse (one standard deviation) of where it may stand.

    The place is that of the PCA of map and model laid over the map's own. The ellipse is from texts drawn anew
    `DRAWS` times, on the map's vectors `near` and others evenly thinned.
    """
    Q = known.coordinates()
    x, y = aligned(embed.pca(Q, 2), picture_K2)[-1]
    rows = _thinned(len(picture_K2), near)
    few = replace(known, map_Ku=known.map_Ku[rows])
    if len(known.count_u) < LEAST_TEXTS or len(rows) < LEAST_TEXTS:
        return Ellipse("", float(x), float(y), math.nan, math.nan, 0.0)
    rng = np.random.default_rng(seed)
    places = np.array([_redrawn(few, picture_K2[rows], rng) for _ in range(DRAWS)])
    (spread,) = ellipses(places[:, None], [""])
    return replace(spread, x=float(x), y=float(y))


def _thinned(n: int, near: Sequence[int]) -> list[int]:
    others = np.linspace(0, n - 1, min(n, POINTS_MOST - min(len(near), POINTS_MOST // 2))).astype(int)
    return sorted({*near[: POINTS_MOST // 2], *others.tolist()})


def _redrawn(known: Drawn, picture_K2: Array, rng: np.random.Generator) -> Array:
    """The model's place by as many texts drawn anew from those drawn, each as often as it was."""
    n = int(known.count_u.sum())
    count = rng.multinomial(n, known.count_u / n)
    used = np.flatnonzero(count)
    weight = known.draw.weight[used] * np.sqrt(count[used] / known.count_u[used])
    d = replace(known.draw, index=known.draw.index[used], weight=weight)
    Q = resampled_coordinates(np.vstack([known.map_Ku, known.new_u])[:, used], d, known.mean_bytes)
    place: Array = aligned(embed.pca(Q, 2), picture_K2)[-1]
    return place


@dataclass(frozen=True, slots=True)
class Expected:
    """A benchmark score (0 to 100) that a place on the map lets expect.

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
    """(what is expected of the model in each task, why nothing is in others); `scores` holds K values a task, NaN unknown."""
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
    """The model's mean log-likelihood beside what its score (its own, else the expected) lets expect; None for too few scores."""
    score = expected.score if math.isnan(expected.given) else expected.given
    names = [*map(str, range(len(means_K))), "new"]
    try:
        found = leakage(names, [*means_K, mean_loglik], [*scores_K, score])
    except KltuiError:
        return None
    return next((row for row in found if row.name == "new"), None)
