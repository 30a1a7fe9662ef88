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
from kltui.threads import one_blas_thread

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

    `pearson_mean` and `spearman_mean` are the correlations of the baseline, the mean log-likelihood alone.
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
    """A model's mean log-likelihood (nats per text) and the value expected from its benchmark score.

    `z` is the excess over the trend in robust standard deviations: far above 0, the model has probably seen the corpus.
    """

    name: str
    mean_loglik: float
    benchmark: float
    expected: float
    z: float


@one_blas_thread
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
    Raises KltuiError if models of fewer than FOLDS groups have a score.
    """
    score = np.asarray(score_K, dtype=np.float64)
    known = np.isfinite(score)
    group = np.asarray(groups, dtype=object)[known]
    n_groups = len(set(group))
    if n_groups < FOLDS:
        raise KltuiError(
            f"{int(known.sum())} models of {n_groups} type{'s' * (n_groups != 1)} have a score",
            f"folds are grouped by model type: import scores for models of {FOLDS} or more types",
        )
    x, y = rotate(np.asarray(Q_KN, dtype=np.float64)[known]), score[known]
    mean = np.asarray(mean_loglik_K, dtype=np.float64)[known][:, None]
    predicted: Array = np.full((len(seeds), len(score)), np.nan)
    by_mean: Array = np.empty((len(seeds), len(y)))
    for i, seed in enumerate(seeds):
        fold = fold_numbers(len(y), seed, list(group))
        # ridge on Q (arXiv 2502.16173, Section 5)
        predicted[i, known] = out_of_fold(x, y[:, None], fold)[:, 0]
        by_mean[i] = out_of_fold(mean, y[:, None], fold, MEAN_ALPHAS)[:, 0]
        if progress:
            progress(i + 1, len(seeds))
    r, rho = correlations(predicted[:, known], y)
    r_mean, rho_mean = correlations(by_mean, y)
    return Prediction(predicted, r, rho, r_mean, rho_mean, len(y), n_groups)


@one_blas_thread
def predict_for(
    x_KD: Array, score_K: Sequence[float], groups: Sequence[str], row: int, seed: int = SEEDS[0]
) -> tuple[float, float, int]:
    """(score of `row`, root mean square error, number of models) by ridge regression on the models with a score.

    `x` are rotated coordinates in nats. The penalty is the best of 10^1 .. 10^9; the error is that of models of other
    groups, one of five parts predicted from the others with that penalty, and NaN for fewer groups.
    Raises KltuiError if fewer than FOLDS models have a score.
    """
    y = np.asarray(score_K, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(y) & (np.arange(len(y)) != row))
    if len(known) < FOLDS:
        raise KltuiError(
            f"{len(known)} models of the map have a score",
            f"a prediction needs {FOLDS} or more: import scores",
        )
    alpha = ALPHAS[int(_best_alphas(x_KD, y[:, None], known, ALPHAS)[0])]

    def predicted(train: NDArray[np.intp], test: NDArray[np.intp]) -> Array:
        return np.clip(_ridge(x_KD, y[:, None], train, test, [alpha])[0, :, 0], 0.0, 100.0)

    score = float(predicted(known, np.array([row]))[0])
    group = [groups[int(k)] for k in known]
    if len(set(group)) < FOLDS:
        return score, math.nan, len(known)
    fold = fold_numbers(len(known), seed, group)
    error = 0.0
    for number in range(FOLDS):
        train, test = known[fold != number], known[fold == number]
        error += float(((predicted(train, test) - y[test]) ** 2).sum())
    return score, math.sqrt(error / len(known)), len(known)  # root mean square error


def scores_by_task(
    names: Sequence[str], last: Mapping[str, str], given: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """{task: {vector: score}} for the vectors `names`. With several tasks, their mean comes first, for vectors that have all of them.

    A score given for a run is assigned to the run's `last` vector.
    """
    known = set(names)
    by_task: dict[str, dict[str, float]] = {}
    for name, tasks in given.items():
        vector = name if name in known else last.get(name)
        for task, score in tasks.items() if vector else ():
            by_task.setdefault(task, {})[str(vector)] = score
    if len(by_task) > 1:
        complete = set.intersection(*(set(s) for s in by_task.values()))
        mean = {n: float(np.mean([s[n] for s in by_task.values()])) for n in names if n in complete}
        by_task = {MEAN: mean, **by_task}
    return {task: scores for task, scores in by_task.items() if scores}


def fold_numbers(n: int, seed: int, groups: Sequence[str] | None = None) -> NDArray[np.intp]:
    """Fold index (0 to 4) of each model, (n,); models of one group share a fold (`None`: no groups)."""
    from sklearn.model_selection import GroupKFold, KFold

    kind = KFold if groups is None else GroupKFold
    folds = kind(n_splits=FOLDS, shuffle=True, random_state=seed)
    label = None if groups is None else np.asarray(groups, dtype=object)
    out = np.empty(n, dtype=np.intp)
    for number, (_, test) in enumerate(folds.split(np.zeros(n), groups=label)):
        out[test] = number
    return out


@one_blas_thread
def out_of_fold(
    x_KD: Array, y_KT: Array, fold_K: NDArray[np.intp], alphas: Sequence[float] = ALPHAS
) -> Array:
    """K x T scores, each predicted from the models of other folds and clipped to [0, 100].

    The penalty of each of the T tasks is its own; the decompositions serve all of them.
    """
    out: Array = np.empty(y_KT.shape)
    for number in range(int(fold_K.max()) + 1):
        train, test = np.flatnonzero(fold_K != number), np.flatnonzero(fold_K == number)
        best = _best_alphas(x_KD, y_KT, train, alphas)
        every = _ridge(x_KD, y_KT, train, test, alphas)
        out[test] = np.stack([every[a, :, t] for t, a in enumerate(best)], axis=1)
    return np.clip(out, 0.0, 100.0)


def _best_alphas(
    x_KD: Array, y_KT: Array, rows: NDArray[np.intp], alphas: Sequence[float]
) -> NDArray[np.intp]:
    """Index of each task's penalty with the best mean R^2 over five consecutive parts of `rows`, (T,)."""
    score = np.zeros((len(alphas), y_KT.shape[1]))
    for part in np.array_split(np.arange(len(rows)), min(FOLDS, len(rows))):
        train, test = np.delete(rows, part), rows[part]
        spread = ((y_KT[test] - y_KT[test].mean(axis=0)) ** 2).sum(axis=0)
        error = ((_ridge(x_KD, y_KT, train, test, alphas) - y_KT[test]) ** 2).sum(axis=1)
        # R^2 = 1 - residual / total sum of squares
        score += np.where(spread > 0, 1.0 - error / np.where(spread > 0, spread, 1.0), -error)
    best: NDArray[np.intp] = np.argmax(score, axis=0)
    return best


def _ridge(
    x_KD: Array, y_KT: Array, train: NDArray[np.intp], test: NDArray[np.intp], alphas: Sequence[float]
) -> Array:
    """Predictions for `test` by ridge regression with an intercept on `train`, penalties x tests x tasks.

    One decomposition, of the smaller of the two product matrices, serves every penalty and task.
    """
    centre, middle = x_KD[train].mean(axis=0), y_KT[train].mean(axis=0)
    a, b, t = x_KD[train] - centre, x_KD[test] - centre, y_KT[train] - middle
    if x_KD.shape[1] < len(train):
        values, vectors = np.linalg.eigh(a.T @ a)
        across, target = b @ vectors, vectors.T @ (a.T @ t)
    else:
        values, vectors = np.linalg.eigh(a @ a.T)
        across, target = (b @ a.T) @ vectors, vectors.T @ t
    positive = np.maximum(values, 0.0)
    # B (A^T A + alpha)^-1 A^T t, by the eigenvectors of A^T A or of A A^T (Hoerl and Kennard 1970)
    return np.stack([across @ (target / (positive + alpha)[:, None]) + middle for alpha in alphas])


def correlations(predicted_SK: Array, y: Array) -> tuple[float, float]:
    """Mean over seeds of Pearson's and Spearman's correlation; NaN where a prediction does not vary."""
    ranks = _ranks(y)
    pearson = [_pearson(p, y) for p in predicted_SK]
    spearman = [_pearson(_ranks(p), ranks) for p in predicted_SK]
    return float(np.mean(pearson)), float(np.mean(spearman))


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else math.nan  # Pearson's r; of ranks, Spearman's rho


def _ranks(v: Array) -> Array:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, count = np.unique(v, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean: Array = last - (count - 1) / 2.0
    return mean[inverse]


def leakage(names: Sequence[str], mean_loglik_K: ArrayLike, benchmark_K: ArrayLike) -> list[Leakage]:
    """Models by decreasing excess of mean log-likelihood over a robust line (Theil-Sen) through the benchmark scores.

    Raises KltuiError if fewer than three models have a score.
    """
    mean, score = np.asarray(mean_loglik_K, dtype=np.float64), np.asarray(benchmark_K, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(mean) & np.isfinite(score))
    if len(known) < 3:
        raise KltuiError(
            f"{len(known)} models have a benchmark score", "a trend needs three or more: import more scores"
        )
    x, y = score[known], mean[known]
    i, j = np.triu_indices(len(known), 1)
    apart = x[i] != x[j]
    # Theil-Sen: the median of the slopes of all pairs, and the median of y - slope x
    slope = float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0
    expected = slope * x + float(np.median(y - slope * x))
    residual = y - expected
    # 1.4826 x median absolute deviation, the standard deviation if residuals are normal
    spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    z = residual / spread if spread > 0 else np.where(residual == 0, 0.0, np.copysign(np.inf, residual))
    own = [names[int(k)] for k in known]
    rows = [
        Leakage(name, float(y[n]), float(x[n]), float(expected[n]), float(z[n])) for n, name in enumerate(own)
    ]
    return sorted(rows, key=lambda r: -r.z)
