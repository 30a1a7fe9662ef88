"""Pictures of a map: scaled coordinates, and t-SNE, PCA or classical MDS of them in 2 or 3 dimensions."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.kl import LN2, CentredGram, centred_gram, double_centre, kl_matrix
from kltui.errors import KltuiError

Array = NDArray[np.float64]
Method = Literal["tsne", "pca", "mds"]
METHODS: tuple[Method, ...] = ("tsne", "pca", "mds")

_FLOAT32 = (1e-12, 1e12)  # sizes whose squares float32 holds with room to spare
_FEW = 300  # below so many points every axis costs less than loading scipy


def complete_texts(L_KN: ArrayLike) -> NDArray[np.intp]:
    """Indices of the texts that every vector has: coordinates need all of them."""
    complete = np.isfinite(np.asarray(L_KN)).all(axis=0)
    if complete.sum() < 2:
        raise KltuiError(
            f"only {int(complete.sum())} texts were scored by every checkpoint of the map",
            "coordinates need two or more: leave out checkpoints with unscored texts",
        )
    return np.flatnonzero(complete)


def scaled_coordinates(L_KN: ArrayLike, text_bytes_N: ArrayLike, gram: CentredGram | None = None) -> Array:
    """Scaled Q = double-centred L / sqrt(2 N B ln 2): squared distances are KL in bits/byte (arXiv 2502.16173).

    K x N', where N' are the texts that every vector has, and B their mean bytes. `gram` centres, where one is given.
    """
    return _scaled(L_KN, text_bytes_N, gram)[0]


def _scaled(L_KN: ArrayLike, text_bytes_N: ArrayLike, gram: CentredGram | None) -> tuple[Array, Array | None]:
    """(scaled Q, its products Q Q^T where `gram` is given, which makes both)."""
    L = np.asarray(L_KN, dtype=np.float64)
    used = complete_texts(L)
    chosen = L if len(used) == L.shape[1] else L[:, used]
    Q, products = (double_centre(chosen), None) if gram is None else centred_gram(chosen, gram)
    square = 2.0 * len(used) * float(np.asarray(text_bytes_N, dtype=np.float64)[used].mean()) * LN2
    Q /= math.sqrt(square)
    return Q, None if products is None else products / square


def rotate(Q_KN: Array, dims: int | None = None, gram_KK: Array | None = None) -> Array:
    """The rows of Q in their own principal axes, K x min(K, N) or the first `dims`: axes by falling spread.

    All axes keep every distance. Each points where its largest entry is positive, so that a picture is the same
    on every machine. `gram_KK` is Q Q^T of a double-centred Q, where somebody has it already.
    """
    K, N = Q_KN.shape
    scores: Array
    if N <= K:
        centred = Q_KN - Q_KN.mean(axis=0)
        _, vectors = _leading(centred.T @ centred, dims)
        scores = centred @ vectors
    else:
        values, vectors = _leading(_gram(Q_KN) if gram_KK is None else gram_KK, dims)
        scores = vectors * np.sqrt(np.maximum(values, 0.0))
    return _oriented(scores)


def _gram(Q_KN: Array) -> Array:
    centred = Q_KN - Q_KN.mean(axis=0)
    product: Array = centred @ centred.T
    return product


def _leading(square: Array, dims: int | None) -> tuple[Array, Array]:
    """The largest `dims` (None: all) eigenvalues of a symmetric matrix, falling, and their vectors as columns."""
    n = len(square)
    if dims is None or dims * 10 > n or n < _FEW:
        values, vectors = np.linalg.eigh(square)
    else:
        from scipy.linalg import eigh

        values, vectors = eigh(square, subset_by_index=(n - dims, n - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    return (values, vectors) if dims is None else (values[:dims], vectors[:, :dims])


def _oriented(scores: Array) -> Array:
    peak = np.abs(scores).argmax(axis=0)
    scores *= np.where(scores[peak, np.arange(scores.shape[1])] < 0, -1.0, 1.0)
    return scores


def pca(Q_KN: Array, dims: int = 2, gram_KK: Array | None = None) -> Array:
    """K x dims principal component scores of Q, in sqrt(bits/byte)."""
    return _padded(rotate(Q_KN, dims, gram_KK), dims)


def explained_variance(Q_KN: Array) -> Array:
    """Share of the total spread along each principal axis, falling, summing to 1."""
    spread: Array = (rotate(Q_KN) ** 2).sum(axis=0)
    if spread.sum() > 0:
        spread /= spread.sum()
    return spread


def classical_mds(sqdist_KK: ArrayLike, dims: int = 2) -> Array:
    """K x dims Torgerson coordinates of squared distances (KL in bits/byte), in sqrt(bits/byte)."""
    D = np.asarray(sqdist_KK, dtype=np.float64)
    if not np.isfinite(D).all():
        raise KltuiError(
            "multidimensional scaling needs every pairwise KL, and some are undefined",
            "leave out checkpoints that share fewer than two scored texts with another",
        )
    gram = -0.5 * double_centre(D)
    values, vectors = _leading((gram + gram.T) / 2, dims)
    return _padded(_oriented(vectors * np.sqrt(np.maximum(values, 0.0))), dims)


def stress(sqdist_KK: ArrayLike, xy_Kd: Array) -> float:
    """Kruskal's stress-1 of a picture, 0 for exact: sqrt(sum (d - d')^2 / sum d^2) over pairs, d = sqrt(KL)."""
    d = np.sqrt(np.asarray(sqdist_KK, dtype=np.float64))
    shown = _distances(xy_Kd)
    pair = np.isfinite(d)
    total = float((d[pair] ** 2).sum())
    return math.sqrt(float(((d - shown)[pair] ** 2).sum()) / total) if total > 0 else 0.0


def _distances(xy_Kd: Array) -> Array:
    square: Array = np.zeros((len(xy_Kd), len(xy_Kd)))
    for x in xy_Kd.T:
        square += np.subtract.outer(x, x) ** 2
    return np.sqrt(square)


def tsne(
    Q_KN: Array,
    dims: int = 2,
    perplexity: float = 30.0,
    seed: int = 42,
    *,
    reduce_perplexity: bool = False,
    verbose: int = 0,
    gram_KK: Array | None = None,
) -> Array:
    """K x dims t-SNE of Q (init pca, learning rate auto), deterministic in `seed`. Source: arXiv 2505.15353.

    With `reduce_perplexity`, too few points lower the perplexity instead of being refused; `verbose` is scikit-learn's.
    """
    K = len(Q_KN)
    if perplexity >= K:
        if not reduce_perplexity or K < 4:
            raise KltuiError(
                f"t-SNE with perplexity {perplexity:g} needs more than {perplexity:g} points, the map has {K}",
                f"choose a perplexity below {K}, a PCA or MDS picture, or score more checkpoints",
            )
        perplexity = max(1.0, (K - 1) / 3)
    rotated = _in_reach(rotate(Q_KN, gram_KK=gram_KK))
    from sklearn.manifold import TSNE

    model = TSNE(
        n_components=dims,
        perplexity=perplexity,
        init="pca",
        learning_rate="auto",
        random_state=seed,
        n_jobs=-1,
        verbose=verbose,
    )
    return np.asarray(model.fit_transform(rotated), dtype=np.float64)


def _in_reach(scores: Array) -> Array:
    """Principal scores as they are, or scaled where float32, in which t-SNE works, would lose them: it has no unit."""
    size = float(np.abs(scores).max(initial=0.0))
    spread = float(np.std(scores[:, 0])) if scores.size else 0.0
    if not spread > 1e-9 * size:
        raise KltuiError(
            "the map's vectors are all the same, and t-SNE has nothing to lay out",
            "score checkpoints that differ, or on more texts",
        )
    return scores if _FLOAT32[0] < size < _FLOAT32[1] else scores / size


def coordinates(
    L_KN: ArrayLike,
    text_bytes_N: ArrayLike,
    method: Method = "tsne",
    dims: int = 2,
    perplexity: float = 30.0,
    seed: int = 42,
    *,
    reduce_perplexity: bool = False,
    gram: CentredGram | None = None,
) -> Array:
    """K x dims picture of the map by `method`; PCA and MDS are in sqrt(bits/byte), t-SNE has no unit.

    `gram` centres and multiplies the vectors, where one is given that will.
    """
    if method not in METHODS:
        raise KltuiError(f"unknown picture {method!r}", f"known: {', '.join(METHODS)}")
    if dims < 1 or (method == "tsne" and dims > 3):
        raise KltuiError(f"a {method} picture in {dims} dimensions", "give 1, 2 or 3")
    if method == "mds":
        return classical_mds(kl_matrix(L_KN, text_bytes_N, gram), dims)
    Q, products = _scaled(L_KN, text_bytes_N, gram)
    if method == "pca":
        return pca(Q, dims, products)
    return tsne(Q, dims, perplexity, seed, reduce_perplexity=reduce_perplexity, gram_KK=products)


def _padded(scores: Array, dims: int) -> Array:
    """The first `dims` columns; zeros where the points span fewer."""
    out = np.zeros((len(scores), dims))
    out[:, : min(dims, scores.shape[1])] = scores[:, :dims]
    return out
