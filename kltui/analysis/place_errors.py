"""The covariance over texts of each point's position in a PCA plot, by the delta method.

The texts are the sample. With G = sum_s q_s q_s^T over N texts, its eigenvectors u_j and values lambda_j, and t_j(s) = u_j^T q_s,
giving text s more weight moves the score of point i along axis k, after the plot has been shifted, rotated and scaled
back onto itself as a whole (Procrustes, as resampled pictures are), by

  h_ik(s) = N sqrt(lambda_k) t_k [ sum_{j in picture} u_ij t_j / (lambda_j + lambda_k) + sum_{j beyond} u_ij t_j / (lambda_k - lambda_j) ]
            - x_ik N sum_j t_j^2 / (2 sum_j lambda_j)            (last sums over the picture's axes)

and the covariance of a position is sum_s h(s) h(s)^T / N^2. Within the plot, the rotation removes the gap between its axes from the
denominators: only the gap to the axes beyond counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.axes import Axes, CentredRows, leading_axes
from kltui.analysis.kl import MIN_TEXTS
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

Array = NDArray[np.float64]
AXES = 50  # the spread of further axes is assumed to be equal


@one_blas_thread
def place_covariances(
    L_KN: ArrayLike, text_bytes_N: ArrayLike, dims: int = 2, text_ids_N: NDArray[np.intp] | None = None
) -> tuple[Array, Array]:
    """(K x dims PCA coordinates in sqrt(bits/byte), K x dims x dims covariances of them over texts).

    Equal `text_ids_N` mark equal texts (None: all differ), which vary together. Axes without spread have covariance 0.
    Raises KltuiError with fewer than three distinct texts.
    """
    rows = CentredRows.of_vectors(L_KN, text_bytes_N)
    groups = None if text_ids_N is None else _Copies(text_ids_N[rows.texts])
    n_differing = rows.shape[1] if groups is None else groups.n
    if n_differing < MIN_TEXTS:
        raise KltuiError(
            f"the map has only {n_differing} distinct texts, too few for an error",
            f"error ellipses need {MIN_TEXTS} or more: score on a larger corpus",
        )
    axes = leading_axes(rows, max(AXES, dims), dims)
    d = min(dims, len(axes.spread_r), int((axes.spread_r > 1e-12 * axes.total).sum()))
    covariance = np.zeros((rows.shape[0], dims, dims))
    weights_Nkd = _Weights(axes, d)
    for part in rows.parts:
        h_kbN = weights_Nkd.influence(rows.block(part), axes.scores_Kr[part])
        if groups is not None:
            h_kbN = groups.summed(h_kbN)
        covariance[part, :d, :d] = np.einsum("kbn,lbn->bkl", h_kbN, h_kbN, optimize=True)  # sum_s h h^T / N^2
    places = np.zeros((rows.shape[0], dims))
    places[:, :d] = axes.scores_Kr[:, :d]
    return places, covariance


class _Weights:
    """Computes, from rows of Q, the influence of every text on their positions along the d axes of a picture."""

    def __init__(self, axes: Axes, d: int) -> None:
        self.d = d
        spread_r = axes.spread_r
        self._size_r = np.sqrt(np.maximum(spread_r, np.finfo(float).tiny))
        self._t_rN = axes.directions_Nr.T * self._size_r[:, None]
        K, N = len(axes.scores_Kr), len(axes.directions_Nr)
        left = min(K, N) - 1 - len(spread_r)
        tail = max(axes.total - float(spread_r.sum()), 0.0) / left if left > 0 else 0.0
        # 1 / (lambda_k - lambda_j)
        self._beyond_d = 1.0 / np.maximum(spread_r[:d] - tail, np.finfo(float).tiny)
        self._factor_dr = np.empty((d, len(spread_r)))
        for k in range(d):
            gap = spread_r[k] - spread_r
            gap[:d] = spread_r[k] + spread_r[:d]  # lambda_j + lambda_k for the axes of the picture
            self._factor_dr[k] = 1.0 / np.where(gap > 0, gap, np.finfo(float).tiny)
        self._scale_N = (self._t_rN[:d] ** 2).sum(axis=0) / (2.0 * float(spread_r[:d].sum()))  # the last sum

    def influence(self, Q_bN: Array, scores_br: Array) -> Array:
        """h / N of some rows, d x b x N."""
        u_br = scores_br / self._size_r
        rest_bN = Q_bN - u_br @ self._t_rN
        out = np.empty((self.d, *Q_bN.shape))
        for k in range(self.d):
            moved_bN = (u_br * self._factor_dr[k]) @ self._t_rN
            moved_bN += rest_bN * self._beyond_d[k]
            moved_bN *= self._size_r[k] * self._t_rN[k]
            out[k] = moved_bN - scores_br[:, k, None] * self._scale_N  # the module's equation
        return out


class _Copies:
    """Groups of equal texts, n of them."""

    def __init__(self, ids_N: NDArray[np.intp]) -> None:
        self._order = np.argsort(ids_N, kind="stable")
        self._starts = np.flatnonzero(np.diff(ids_N[self._order], prepend=-1))
        self.n = len(self._starts)

    def summed(self, values_kbN: Array) -> Array:
        """Sums over the copies of each text."""
        return np.add.reduceat(values_kbN[:, :, self._order], self._starts, axis=2)
