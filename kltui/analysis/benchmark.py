"""Benchmarks from maps: scores predicted from coordinates, and models whose likelihood is too good for them.

Source: arXiv 2502.16173, Section 5: ridge regression on Q, folds grouped by model type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.embed import rotate
from kltui.errors import KltuiError

Array = NDArray[np.float64]

ALPHAS = tuple(10.0**i for i in range(1, 10))
MEAN_ALPHAS = tuple(10.0**i for i in range(-4, 5))
FOLDS = 5
SEEDS = (0, 1, 2, 3, 4)
MEAN = "mean of tasks"
SUSPICIOUS = 3.0  # robust deviations above the trend
PUBLISHED = {
    "Q": (0.953, 0.960),
    "mean": (0.395, 0.400),
}  # Pearson, Spearman of the six-task mean, 1,018 models


@dataclass(frozen=True, eq=False)
class Prediction:
    """Scores predicted out of fold, seeds x K, and their correlation with the truth (mean over seeds).

    `pearson_mean` and `spearman_mean` are those of the mean log-likelihood alone, the baseline.
    """

    predicted: Array
    pearson: float
    spearman: float
    pearson_mean: float
    spearman_mean: float
    n_models: int
    n_groups: int


@dataclass(frozen=True, slots=True)
class Leakage:
    """A model's mean log-likelihood (nats per text) beside what its benchmark score lets expect.

    `z` is the excess over the trend in robust standard deviations: far above 0, the model has likely seen the corpus.
    """

    name: str
    mean_loglik: float
    benchmark: float
    expected: float
    z: float


def predict(
    Q_KN: ArrayLike,
    mean_loglik_K: ArrayLike,
    score_K: ArrayLike,
    groups: Sequence[str],
    *,
    seeds: Sequence[int] = SEEDS,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Scores (0 to 100) predicted by ridge regression on Q (unscaled, in nats), never from a model of the same group.

    Models without a score are left out; their predictions stay NaN. The penalty is chosen among 10^1 .. 10^9.
    """
    score = np.asarray(score_K, dtype=np.float64)
    known = np.isfinite(score)
    group = np.asarray(groups, dtype=object)[known]
    n_groups = len(set(group))
    if n_groups < FOLDS:
        raise KltuiError(
            f"{int(known.sum())} models of {n_groups} type{'s' * (n_groups != 1)} have a score",
            f"folds are grouped by type: give scores for models of {FOLDS} or more types",
        )
    x, y = rotate(np.asarray(Q_KN, dtype=np.float64)[known]), score[known]
    mean = np.asarray(mean_loglik_K, dtype=np.float64)[known][:, None]
    predicted: Array = np.full((len(seeds), len(score)), np.nan)
    by_mean: Array = np.empty((len(seeds), len(y)))
    for i, seed in enumerate(seeds):
        predicted[i, known] = _out_of_fold(x, y, group, seed, ALPHAS)
        by_mean[i] = _out_of_fold(mean, y, group, seed, MEAN_ALPHAS)
        if progress:
            progress(i + 1, len(seeds))
    r, rho = _correlations(predicted[:, known], y)
    r_mean, rho_mean = _correlations(by_mean, y)
    return Prediction(predicted, r, rho, r_mean, rho_mean, len(y), n_groups)


def predict_for(
    x_KD: Array, score_K: Sequence[float], groups: Sequence[str], row: int, seed: int = SEEDS[0]
) -> tuple[float, float, int]:
    """(score of `row`, root mean square error, number of models) by ridge regression on the models with a score.

    `x` are rotated coordinates in nats. The penalty is the best of 10^1 .. 10^9; the error is that of models of other
    groups, one of five parts predicted from the others with that penalty, and NaN for fewer groups.
    """
    y = np.asarray(score_K, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(y) & (np.arange(len(y)) != row))
    if len(known) < FOLDS:
        raise KltuiError(
            f"{len(known)} models of the map have a score", f"a prediction needs {FOLDS} or more: give scores"
        )
    alpha = _best_alpha(x_KD, y, known, ALPHAS)
    score = float(np.clip(_ridge(x_KD, y, known, np.array([row]), [alpha])[0, 0], 0.0, 100.0))
    group = np.asarray(groups, dtype=object)[known]
    if len(set(group)) < FOLDS:
        return score, math.nan, len(known)
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    error = 0.0
    for train, test in folds.split(known, known, groups=group):
        out = np.clip(_ridge(x_KD, y, known[train], known[test], [alpha])[0], 0.0, 100.0)
        error += float(((out - y[known[test]]) ** 2).sum())
    return score, math.sqrt(error / len(known)), len(known)


def scores_by_task(
    names: Sequence[str], last: Mapping[str, str], given: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """{task: {vector: score}} of the vectors `names`, and before them the mean over tasks of those that have them all.

    A score given for a run is that of its `last` vector.
    """
    held = set(names)
    by_task: dict[str, dict[str, float]] = {}
    for name, tasks in given.items():
        vector = name if name in held else last.get(name)
        for task, score in tasks.items() if vector else ():
            by_task.setdefault(task, {})[str(vector)] = score
    if len(by_task) > 1:
        complete = set.intersection(*(set(s) for s in by_task.values()))
        mean = {n: float(np.mean([s[n] for s in by_task.values()])) for n in names if n in complete}
        by_task = {MEAN: mean, **by_task}
    return {task: scores for task, scores in by_task.items() if scores}


def _out_of_fold(x: Array, y: Array, group: NDArray[np.object_], seed: int, alphas: Sequence[float]) -> Array:
    """K predictions, each from models of other groups, clipped to [0, 100]."""
    from sklearn.model_selection import GroupKFold

    out: Array = np.empty(len(y))
    folds = GroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(y, y, groups=group):
        alpha = _best_alpha(x, y, train, alphas)
        out[test] = np.clip(_ridge(x, y, train, test, [alpha])[0], 0.0, 100.0)
    return out


def _best_alpha(x: Array, y: Array, rows: NDArray[np.intp], alphas: Sequence[float]) -> float:
    """The penalty with the best mean R^2 over five consecutive parts of `rows`."""
    score = np.zeros(len(alphas))
    for part in np.array_split(np.arange(len(rows)), min(FOLDS, len(rows))):
        train, test = np.delete(rows, part), rows[part]
        spread = float(((y[test] - y[test].mean()) ** 2).sum())
        error = ((_ridge(x, y, train, test, alphas) - y[test]) ** 2).sum(axis=1)
        score += 1.0 - error / spread if spread > 0 else -error
    return alphas[int(np.argmax(score))]


def _ridge(
    x: Array, y: Array, train: NDArray[np.intp], test: NDArray[np.intp], alphas: Sequence[float]
) -> Array:
    """Predictions for `test` by ridge regression with an intercept on `train`, one row per penalty.

    One decomposition, of the smaller of the two product matrices, serves every penalty.
    """
    centre, middle = x[train].mean(axis=0), y[train].mean()
    a, b, t = x[train] - centre, x[test] - centre, y[train] - middle
    if x.shape[1] < len(train):
        values, vectors = np.linalg.eigh(a.T @ a)
        across, target = b @ vectors, vectors.T @ (a.T @ t)
    else:
        values, vectors = np.linalg.eigh(a @ a.T)
        across, target = (b @ a.T) @ vectors, vectors.T @ t
    predicted: Array = target / (np.maximum(values, 0.0) + np.asarray(alphas)[:, None]) @ across.T + middle
    return predicted


def _correlations(predicted_SK: Array, y: Array) -> tuple[float, float]:
    """Mean over seeds of Pearson's and Spearman's correlation; NaN where a prediction does not vary."""
    ranks = _ranks(y)
    pearson = [_pearson(p, y) for p in predicted_SK]
    spearman = [_pearson(_ranks(p), ranks) for p in predicted_SK]
    return float(np.mean(pearson)), float(np.mean(spearman))


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else math.nan


def _ranks(v: Array) -> Array:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, count = np.unique(v, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean: Array = last - (count - 1) / 2.0
    return mean[inverse]


def leakage(names: Sequence[str], mean_loglik_K: ArrayLike, benchmark_K: ArrayLike) -> list[Leakage]:
    """Models by falling excess of mean log-likelihood over a robust line (Theil and Sen) through the benchmark."""
    mean, score = np.asarray(mean_loglik_K, dtype=np.float64), np.asarray(benchmark_K, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(mean) & np.isfinite(score))
    if len(known) < 3:
        raise KltuiError(
            f"{len(known)} models have a benchmark score", "a trend needs three or more: give more scores"
        )
    x, y = score[known], mean[known]
    i, j = np.triu_indices(len(known), 1)
    apart = x[i] != x[j]
    slope = float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0
    expected = slope * x + float(np.median(y - slope * x))
    residual = y - expected
    spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    z = residual / spread if spread > 0 else np.where(residual == 0, 0.0, np.copysign(np.inf, residual))
    own = [names[int(k)] for k in known]
    rows = [
        Leakage(name, float(y[n]), float(x[n]), float(expected[n]), float(z[n])) for n, name in enumerate(own)
    ]
    return sorted(rows, key=lambda r: -r.z)
