"""Preparation of a map: exclusions, clipping, removal of pretraining outlier texts, and a record of each.

Source: arXiv 2505.15353 (appendix on preprocessing) and 2502.16173.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.point import Point
from kltui.analysis.trajectory import trajectories
from kltui.errors import KltuiError
from kltui.kernels import native

Array = NDArray[np.float64]
Mode = Literal["none", "clip", "pretraining"]
MODES: tuple[Mode, ...] = ("none", "clip", "pretraining")

# Two anomalous seed runs and one anomalous checkpoint that the published Pythia maps leave out.
PYTHIA_EXCLUDED = ("pythia-410m-seed3", "pythia-410m-seed4", "pythia-1b@116000")
OUTLIER_FROM_STEP = 2000
_DRAWN = 10_000  # values of a sample by which a quantile is located


@dataclass(frozen=True)
class Preprocessed:
    """Result of preprocessing: points, K x N values in nats, bytes per text, indices of the remaining texts and points, the record."""

    points: tuple[Point, ...]
    loglik_KN: Array
    text_bytes_N: NDArray[np.int64]
    kept_N: NDArray[np.intp]
    record: dict[str, object]
    kept_K: NDArray[np.intp]


def pooled_quantile(values: ArrayLike, q: float) -> float:
    """The q-quantile of all values pooled, NaN left out; bit for bit `np.nanquantile`.

    NaN where nothing is defined.
    """
    v = np.asarray(values, dtype=np.float64).ravel()
    found = _neighbours(v, q)
    if found is None:
        v = v[~np.isnan(v)]
        found = _neighbours(v, q)
    if found is None:
        return math.nan
    a, b, t = found
    # linear interpolation, numpy's default method
    return b - (b - a) * (1 - t) if t >= 0.5 else a + (b - a) * t


def _neighbours(v: Array, q: float) -> tuple[float, float, float] | None:
    """The sorted values on both sides of the q-quantile, and its position between them, from 0 to 1.

    None if there are no values, or NaN among those near the quantile. A sample gives bounds that almost always enclose it;
    one pass selects the values between these, and only they are partitioned. Otherwise all values are.
    """
    if v.size == 0:
        return None
    position = q * (v.size - 1)
    low = min(int(position), v.size - 1)
    high = min(low + 1, v.size - 1)
    drawn = np.sort(v[:: max(1, v.size // _DRAWN)])
    at, slack = q * drawn.size, 6.0 * math.sqrt(drawn.size * q * (1.0 - q)) + 2.0
    bottom = drawn[int(at - slack)] if at >= slack else -math.inf
    top = drawn[int(at + slack)] if at + slack < drawn.size else math.inf
    below, inside = native.split_values(v, bottom, top)
    if np.isnan(inside).any():
        return None
    if not below <= low <= high < below + inside.size:
        below, inside = 0, v
    part = np.partition(inside, [low - below, high - below])
    return float(part[low - below]), float(part[high - below]), position - low


def outlier_scores(
    points: Sequence[Point],
    loglik_KN: Array,
    excluded: Collection[int] = (),
    from_step: int = OUTLIER_FROM_STEP,
) -> Array:
    """Largest |change| of each text between neighbouring checkpoints from `from_step` on, N in nats; NaN: undefined.

    A pair that touches a row of `excluded` is skipped, not bridged.
    """
    score_N = np.full(loglik_KN.shape[1], -np.inf)
    for trajectory in trajectories(points):
        late = [r for r, s in zip(trajectory.rows, trajectory.steps, strict=True) if s >= from_step]
        for a, b in pairwise(late):
            if a not in excluded and b not in excluded:
                # max over neighbouring checkpoints of |l_t(s) - l_t'(s)| (arXiv 2505.15353, preprocessing)
                np.fmax(score_N, np.abs(loglik_KN[b] - loglik_KN[a]), out=score_N)
    score_N[np.isneginf(score_N)] = np.nan
    return score_N


def preprocess(
    points: Sequence[Point],
    L_KN: ArrayLike,
    text_bytes_N: ArrayLike,
    mode: str = "none",
    clip_quantile: float = 0.02,
    remove_fraction: float = 0.03,
    exclude: Collection[str] = (),
    outlier_from_step: int = OUTLIER_FROM_STEP,
    repeated: Collection[int] = (),
) -> Preprocessed:
    """The map's rows and texts after `mode`: "clip" pools and clips, "pretraining" also removes outlier texts.

    `exclude` names runs, checkpoints (`run@step`) or single vectors, which are used for nothing. Rows of `repeated` have
    the weights of another step, so they are not used to find outlier texts. Raises KltuiError if no checkpoint is left.
    """
    _check(mode, clip_quantile, remove_fraction)
    L = np.array(L_KN, dtype=np.float64)
    size_N = np.asarray(text_bytes_N, dtype=np.int64)
    gone = {k for k, p in enumerate(points) if not {p.name, p.base, p.run}.isdisjoint(exclude)}
    kept_K = np.array([k for k in range(len(points)) if k not in gone], dtype=np.intp)
    if not len(kept_K):
        raise KltuiError("no checkpoint is left after the exclusions", "exclude fewer runs or checkpoints")
    record: dict[str, object] = {
        "mode": mode,
        "excluded": [points[k].name for k in sorted(gone)],
        "excluded_steps": [[points[k].run, points[k].step] for k in sorted(gone)],
        "texts_before": len(size_N),
        "mean_bytes_before": _mean(size_N),
    }
    kept_N = np.arange(len(size_N))
    if mode != "none":
        L = _clipped(L, kept_K, clip_quantile, record)
    if mode == "pretraining":
        score_N = outlier_scores(points, L, gone | set(repeated), outlier_from_step)
        removed = _outliers(score_N, remove_fraction, outlier_from_step)
        kept_N = np.setdiff1d(kept_N, removed)
        record |= {
            "outlier_from_step": outlier_from_step,
            "remove_fraction": remove_fraction,
            "removed_texts": removed.tolist(),
            "removed_scores": score_N[removed].tolist(),
        }
    record |= {"texts": len(kept_N), "mean_bytes": _mean(size_N[kept_N])}
    if len(kept_K) < len(L) or len(kept_N) < L.shape[1]:
        L = L[np.ix_(kept_K, kept_N)]
    return Preprocessed(tuple(points[k] for k in kept_K), L, size_N[kept_N], kept_N, record, kept_K)


def _clipped(L_KN: Array, kept_K: NDArray[np.intp], q: float, record: dict[str, object]) -> Array:
    """All values clipped at the q-quantile of the kept rows, which is added to the record."""
    kept = L_KN if len(kept_K) == len(L_KN) else L_KN[kept_K]
    threshold = pooled_quantile(kept, q)
    record |= {
        "clip_quantile": q,
        "clip_threshold": threshold,
        "n_clipped": int(np.count_nonzero(kept < threshold)),
    }
    return np.maximum(L_KN, threshold, out=L_KN)  # L = max(L, q-quantile), q = 0.02 in arXiv 2505.15353


def _mean(size_N: NDArray[np.int64]) -> float:
    return float(size_N.mean()) if len(size_N) else math.nan


def _outliers(score_N: Array, fraction: float, from_step: int) -> NDArray[np.intp]:
    """Indices of the round(fraction N) highest scores, highest first, ties by index."""
    if np.isnan(score_N).all():
        raise KltuiError(
            f"outlier texts are undefined: no run has two neighbouring checkpoints from step {from_step} on",
            'Use preprocess "clip" for short runs; in Python, Map.preprocessed takes an earlier outlier_from_step.',
        )
    order = np.argsort(-score_N, kind="stable")  # NaN sorts last
    # round(0.03 N) in arXiv 2505.15353
    n = min(round(fraction * len(score_N)), int((~np.isnan(score_N)).sum()))
    return order[:n]


def _check(mode: str, clip_quantile: float, remove_fraction: float) -> None:
    if mode not in MODES:
        raise KltuiError(f"unknown preprocessing {mode!r}", f"known: {', '.join(MODES)}")
    for name, value in (("clip_quantile", clip_quantile), ("remove_fraction", remove_fraction)):
        if not 0 <= value < 1:
            raise KltuiError(f"{name} is {value}", "give a fraction of at least 0 and below 1")
