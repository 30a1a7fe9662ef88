"""The uncertainty of an embedding: maps from resampled texts, aligned with it, give one ellipse per model.

Resampled pictures are Procrustes-aligned (shift, rotation, reflection, one scale), since a picture has no fixed
orientation. Source: arXiv 2505.15428, Figures 1 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis import embed
from kltui.analysis.kl import MIN_TEXTS
from kltui.analysis.resample import draw, resampled_coordinates, sampling_probabilities
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ellipse:
    """Error ellipse of a model's position: centre, half axes (one standard deviation), direction in degrees."""

    name: str
    x: float
    y: float
    major: float
    minor: float
    angle: float

    def scaled(self, share: float = 0.95) -> Ellipse:
        """The ellipse that contains `share` of a normal distribution."""
        # chi^2 of two degrees of freedom: P(r^2 <= x) = 1 - exp(-x / 2)
        factor = math.sqrt(-2.0 * math.log(1.0 - share))
        return Ellipse(self.name, self.x, self.y, self.major * factor, self.minor * factor, self.angle)


@one_blas_thread
def procrustes(moving_Kd: ArrayLike, fixed_Kd: ArrayLike) -> Array:
    """`moving` after the shift, rotation, reflection and scaling that bring it closest to `fixed` (least squares), K x d."""
    moving, fixed = np.asarray(moving_Kd, dtype=np.float64), np.asarray(fixed_Kd, dtype=np.float64)
    centre = fixed.mean(axis=0)
    a, b = moving - moving.mean(axis=0), fixed - centre
    # orthogonal Procrustes (Schoenemann and Carroll 1970): A^T B = U S V^T, rotation U V^T, scale tr S / |A|^2
    u, s, vt = np.linalg.svd(a.T @ b)
    size = float((a * a).sum())
    scale = float(s.sum()) / size if size > 0 else 0.0
    out: Array = scale * (a @ u @ vt) + centre
    return out


@one_blas_thread
def resampled_pictures(
    L_KN: ArrayLike,
    text_bytes_N: ArrayLike,
    *,
    method: str = "pca",
    dims: int = 2,
    sampling: str = "uniform",
    n: int = 0,
    draws: int = 20,
    seed: int = 42,
    perplexity: float = 30.0,
    text_ids_N: NDArray[np.intp] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Array, Array]:
    """(K x dims coordinates, draws x K x dims coordinates from n resampled texts, aligned with the first).

    n = 0 draws as many texts as the map has distinct ones.

    Equal `text_ids_N` mark equal texts (None: all differ), which are drawn together. Raises KltuiError with fewer than
    three distinct texts.
    """
    if method not in ("pca", "tsne"):
        raise KltuiError(f"no error ellipses for {method!r} pictures", "known: pca, tsne")
    used = embed.complete_texts(L_KN)
    L = np.asarray(L_KN, dtype=np.float64)[:, used]
    mean_bytes = float(np.asarray(text_bytes_N, dtype=np.float64)[used].mean())

    def picture(Q: Array) -> Array:
        return embed.pca(Q, dims) if method == "pca" else embed.tsne(Q, dims, perplexity, seed)

    Q = embed.scaled_coordinates(L, np.full(len(used), mean_bytes))
    fixed = picture(Q)
    ids = np.arange(len(used)) if text_ids_N is None else text_ids_N[used]
    _, first, copies = np.unique(ids, return_index=True, return_counts=True)
    if len(first) < MIN_TEXTS:
        raise KltuiError(
            f"the map has only {len(first)} distinct texts, too few for an error",
            f"error ellipses need {MIN_TEXTS} or more: score on a larger corpus",
        )
    p = sampling_probabilities(Q[:, first] * np.sqrt(copies), sampling)
    clouds = np.empty((draws, *fixed.shape))
    for r in range(draws):
        d = draw(p, n or len(first), seed + r, sampling)
        d = replace(d, weight=d.weight * np.sqrt(copies[d.index]), n_texts=len(used))  # n equal texts weigh n
        clouds[r] = procrustes(picture(resampled_coordinates(L[:, first[d.index]], d, mean_bytes)), fixed)
        if progress:
            progress(r + 1, draws)
    return fixed, clouds


@one_blas_thread
def ellipses(clouds_RK2: ArrayLike, names: list[str]) -> list[Ellipse]:
    """One standard-deviation ellipse per model from R aligned pictures."""
    clouds = np.asarray(clouds_RK2, dtype=np.float64)
    return [_ellipse(name, clouds[:, k]) for k, name in enumerate(names)]


def _ellipse(name: str, cloud_R2: Array) -> Ellipse:
    x, y = cloud_R2.mean(axis=0)
    if len(cloud_R2) < 2:
        return Ellipse(name, float(x), float(y), math.nan, math.nan, 0.0)
    return ellipse_of(name, float(x), float(y), np.cov(cloud_R2.T))


def ellipse_of(name: str, x: float, y: float, covariance_22: Array) -> Ellipse:
    """The ellipse of one standard deviation around (x, y) for a covariance matrix of positions."""
    values, vectors = np.linalg.eigh(covariance_22)
    minor, major = np.sqrt(np.maximum(values, 0.0))  # half axes: square roots of the covariance's eigenvalues
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])) % 180.0
    return Ellipse(name, x, y, float(major), float(minor), angle)
