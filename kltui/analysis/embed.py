"""Embeddings of a map in 2 or 3 dimensions: PCA, t-SNE or least-squares MDS of its scaled coordinates, with quality measures.

Classical MDS of these coordinates is PCA (Gower 1966); SMACOF (de Leeuw 1977) is not. t-SNE (van der Maaten and Hinton 2008)
uses all axes of up to ALL_AXES vectors; beyond that the leading ones, and beyond MAX_TSNE points it embeds a sample and places
the other points next to their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kltui.analysis.axes import (
    Axes,
    CentredRows,
    Progress,
    are_rounding,
    complete_texts,
    leading_axes,
    oriented,
)
from kltui.analysis.kl import LN2, CentredGram, centred_gram, double_centre
from kltui.analysis.placing import beside_neighbours, by_distances, drawn_rows
from kltui.errors import KltuiError
from kltui.threads import one_blas_thread

__all__ = ["complete_texts"]

Array = NDArray[np.float64]
Method = Literal["tsne", "pca", "mds"]
METHODS: tuple[Method, ...] = ("tsne", "pca", "mds")

PERPLEXITY = 30.0
FEW_POINTS = 30  # up to so many points the default is PCA, because t-SNE would need a lower perplexity
ALL_AXES = 2000  # up to so many vectors t-SNE uses all axes
AXES = 50
MAX_TSNE = {2: 10_000, 3: 3000}  # points by dimensions: half a minute to a minute of one core
MAX_SMACOF = 1000
_KEPT = 1 << 24  # distances to drawn vectors kept for the picture in the other number of dimensions: 128 MB
DRAFT = 1500  # points of a first t-SNE of a large map
_MIN_RATE = 50  # of scikit-learn's learning rate "auto"
_FLOAT32 = (1e-12, 1e12)  # range of sizes whose squares float32 can represent
_FEW = 512  # below so many points, all axes cost less than the leading ones
_EXACT = 1e-10  # residuals up to this are not reported


@dataclass(frozen=True, eq=False)
class Picture:
    """Coordinates K x dims of a map's vectors by `method` ("pca", "tsne", "mds" or a released one), with quality measures.

    PCA and MDS are in sqrt(bits/byte), t-SNE has no unit. `axis_share`: of PCA, the share of the sum of squared distances
    along each axis. `stress`: of MDS, Kruskal's stress-1 (0 keeps every distance). Of t-SNE: the `perplexity` used and the one
    asked for, its `divergence` (KL in nats), the `n_axes` that it was computed from, and the share `kept` of the squared
    distances along these.
    `n_placed` points were placed next to their neighbours (MDS: by their distances) instead of being embedded.
    `residual`: of axes found by iteration, the residual of the eigenvalue equation relative to the largest eigenvalue.
    """

    method: str
    xyz_Kd: Array
    axis_share: tuple[float, ...] = ()
    stress: float = math.nan
    perplexity: float = math.nan
    perplexity_asked: float = math.nan
    divergence: float = math.nan
    n_axes: int = 0
    kept: float = 1.0
    n_placed: int = 0
    residual: float = 0.0

    @property
    def dims(self) -> int:
        """2 or 3."""
        return int(self.xyz_Kd.shape[1])

    def words(self) -> list[str]:
        """The quality measures in short phrases, for a title; limitations come first."""
        phrases = []
        if self.perplexity < self.perplexity_asked:
            phrases.append(f"perplexity {self.perplexity:.3g} of {self.perplexity_asked:g}")
        if self.n_placed:
            how = "by distances" if self.method == "mds" else "beside neighbours"
            phrases.append(f"{self.n_placed:,} of {len(self.xyz_Kd):,} placed {how}")
        if any(self.axis_share):  # a single point has no spread
            shares = ", ".join(f"{share:.1%}" for share in self.axis_share)
            phrases.append(f"axes keep {shares}")
        if self.method in ("pca", "mds") and len(self.xyz_Kd) > 1 and not self.xyz_Kd.any():
            phrases.append("all vectors are equal")
        if self.residual > _EXACT:
            phrases.append(f"axes accurate to {self.residual:.0e}")
        if not math.isnan(self.stress):
            phrases.append(f"stress {self.stress:.3f}")
        if self.kept < 1.0:
            phrases.append(f"{self.n_axes} axes keep {self.kept:.1%}")
        return phrases

    def facts(self) -> dict[str, object]:
        """The quality measures for JSON, without coordinates and NaN."""
        found: dict[str, object] = {"method": self.method, "dims": self.dims}
        for name in ("stress", "perplexity", "perplexity_asked", "divergence"):
            value = getattr(self, name)
            if not math.isnan(value):
                found[name] = value
        if self.axis_share:
            found["axis_share"] = list(self.axis_share)
        return found | {
            "n_axes": self.n_axes,
            "kept": self.kept,
            "n_placed": self.n_placed,
            "residual": self.residual,
        }


@dataclass(eq=False)
class Known:
    """Intermediate results of pictures of some vectors, reused by further pictures of the same vectors.

    `axes`: {(how many axes, how many of them to rounding precision): the axes}; `distances`: sqrt(KL) of all vectors to the
    `drawn` ones, K x m.
    """

    axes: dict[tuple[int, int], Axes] = field(default_factory=dict)
    drawn: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    distances: Array | None = None


@dataclass(frozen=True)
class TSNESettings:
    """Settings of t-SNE. With `reduce_perplexity`, the perplexity is lowered if there are too few points.

    Of more than `maximum` points (0: MAX_TSNE), a sample is embedded. `verbose` is scikit-learn's.
    """

    perplexity: float = PERPLEXITY
    seed: int = 42
    reduce_perplexity: bool = False
    verbose: int = 0
    maximum: int = 0


def first_method(n_points: int) -> Method:
    """The default method: t-SNE if there are enough points, otherwise PCA."""
    return "tsne" if n_points > FEW_POINTS else "pca"


def scaled_coordinates(L_KN: ArrayLike, text_bytes_N: ArrayLike, gram: CentredGram | None = None) -> Array:
    """Scaled Q = double-centred L / sqrt(2 N B ln 2): squared distances are KL in bits/byte (arXiv 2502.16173).

    K x N', where N' are the texts that every vector has, and B their mean bytes. `gram` does the centring, if given.
    """
    return _scaled(L_KN, text_bytes_N, gram)[0]


def _scaled(L_KN: ArrayLike, text_bytes_N: ArrayLike, gram: CentredGram | None) -> tuple[Array, Array | None]:
    """(scaled Q, its products Q Q^T), both computed by `gram`; without `gram`, the products are None."""
    L = np.asarray(L_KN, dtype=np.float64)
    used = complete_texts(L)
    chosen = L if len(used) == L.shape[1] else L[:, used]
    Q, products = (double_centre(chosen), None) if gram is None else centred_gram(chosen, gram)
    square = 2.0 * len(used) * float(np.asarray(text_bytes_N, dtype=np.float64)[used].mean()) * LN2
    unit = math.sqrt(square)
    Q /= unit  # q = Q / sqrt(2 N B ln 2), so that |q_i - q_j|^2 = KL(i, j) (arXiv 2502.16173)
    if are_rounding(Q[:1], np.abs(chosen[:1]).max(initial=0.0) / unit, len(Q)) and are_rounding(
        Q, np.abs(chosen).max(initial=0.0) / unit, len(Q)
    ):  # the first row alone tells most maps
        return np.zeros_like(Q), None if products is None else np.zeros_like(products)
    return Q, None if products is None else products / square


def rotate(Q_KN: Array, dims: int | None = None, gram_KK: Array | None = None) -> Array:
    """The rows of Q in their own principal axes, K x min(K, N) or the first `dims`: axes by falling spread.

    All axes keep every distance. Each points where its largest entry is positive, so that a picture is the same
    on every machine. `gram_KK` is Q Q^T of a double-centred Q, if already computed.
    """
    K, N = Q_KN.shape
    if gram_KK is None and dims is not None and _is_large(K, N, dims):
        return leading_axes(CentredRows.of_scaled(Q_KN), dims).scores_Kr
    scores: Array
    if N <= K:
        centred = Q_KN - Q_KN.mean(axis=0)
        _, vectors = _leading(centred.T @ centred, dims)
        scores = centred @ vectors
    else:
        values, vectors = _leading(_gram(Q_KN) if gram_KK is None else gram_KK, dims)
        scores = vectors * np.sqrt(np.maximum(values, 0.0))  # Q Q^T = U S^2 U^T, scores U S
    return scores * oriented(scores)


def _is_large(K: int, N: int, dims: int) -> bool:
    """Whether the leading axes cost less than all."""
    return min(K, N) >= max(_FEW, 10 * dims)


def _gram(Q_KN: Array) -> Array:
    centred = Q_KN - Q_KN.mean(axis=0)
    product: Array = centred @ centred.T
    return product


@one_blas_thread
def _leading(square: Array, dims: int | None) -> tuple[Array, Array]:
    """The largest `dims` (None: all) eigenvalues of a symmetric matrix, falling, and their vectors as columns."""
    n = len(square)
    if dims is None or not _is_large(n, n, dims):
        values, vectors = np.linalg.eigh(square)
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).normal(size=n)
        with one_blas_thread:  # also limits scipy's own BLAS, which the import above loads
            values, vectors = eigsh(square, k=dims, v0=start, tol=0)
    values, vectors = values[::-1], vectors[:, ::-1]
    return (values, vectors) if dims is None else (values[:dims], vectors[:, :dims])


def pca(Q_KN: Array, dims: int = 2, gram_KK: Array | None = None) -> Array:
    """K x dims principal component scores of Q, in sqrt(bits/byte)."""
    return _padded(rotate(Q_KN, dims, gram_KK), dims)


# ---- least-squares MDS


def stress(sqdist_MK: ArrayLike, xy_Kd: Array, rows_M: NDArray[np.intp] | None = None) -> float:
    """How far a picture's distances are off, 0 for exact: sqrt(sum (d - d')^2 / sum d^2) over pairs, d = sqrt(KL).

    The pairs are those of `rows_M` (None: all) with all K points.
    """
    d = np.sqrt(np.asarray(sqdist_MK, dtype=np.float64))
    shown = _distances(xy_Kd if rows_M is None else xy_Kd[rows_M], xy_Kd)
    pair = np.isfinite(d)
    total = float((d[pair] ** 2).sum())
    # sqrt(sum (d - d')^2 / sum d^2): as Kruskal's stress-1, but relative to the true distances d
    return math.sqrt(float(((d - shown)[pair] ** 2).sum()) / total) if total > 0 else 0.0


def _distances(xy_Kd: Array, other_md: Array | None = None) -> Array:
    other = xy_Kd if other_md is None else other_md
    square: Array = np.zeros((len(xy_Kd), len(other)))
    for x, y in zip(xy_Kd.T, other.T, strict=True):
        square += np.subtract.outer(x, y) ** 2
    return np.sqrt(square)


def smacof(distance_KK: Array, start_Kd: Array) -> Array:
    """K x d coordinates whose distances fit `distance_KK` by least squares: metric MDS by majorisation, starting from `start`."""
    size = float(distance_KK.mean())
    if not size > 0:
        return np.zeros_like(start_Kd)
    from sklearn import manifold

    # In units of the mean distance, because scikit-learn replaces distances of 0 by 1e-5.
    found = manifold.smacof(
        distance_KK / size, n_components=start_Kd.shape[1], init=start_Kd / size, n_init=1, eps=1e-6
    )
    return np.asarray(found[0], dtype=np.float64) * size


def _smacof_picture(rows: CentredRows, dims: int, runs: Sequence[Sequence[int]], known: Known) -> Picture:
    """Least-squares MDS of at most MAX_SMACOF points; the others are placed by their distances to those.

    Its stress is Kruskal's stress-1 sqrt(sum (d' - d)^2 / sum d'^2), d' the picture's, over all pairs with one of those.
    """
    from threadpoolctl import threadpool_limits

    K = rows.shape[0]
    drawn = drawn_rows(K, runs, MAX_SMACOF)
    start = _padded(_scores(rows, dims, known), dims)
    off = square = 0.0
    with threadpool_limits(1):
        to_drawn = _DistancesTo(rows, drawn, known)
        places = smacof(_mirrored(to_drawn.among), start[drawn])
        xyz = start
        xyz[drawn] = places
        for part in rows.parts:
            target = to_drawn.of(part)
            others = np.setdiff1d(np.arange(part.start, part.stop), drawn)
            if len(others):
                xyz[others] = by_distances(target[others - part.start], places, xyz[others])
            shown = _distances(xyz[part], places)
            # A pair of two drawn points comes up twice.
            times = np.where(np.isin(np.arange(part.start, part.stop), drawn), 0.5, 1.0)[:, None]
            off += float((times * (shown - target) ** 2).sum())
            square += float((times * shown**2).sum())
    # Kruskal (1964): sqrt(sum (d' - d)^2 / sum d'^2)
    stress_1 = math.sqrt(off / square) if square > 0 else 0.0
    return Picture("mds", _turned(xyz), stress=stress_1, n_placed=K - len(drawn))


class _DistancesTo:
    """sqrt(KL) of all vectors to m drawn ones; computed block by block if all of them would take too much memory."""

    def __init__(self, rows: CentredRows, drawn_m: NDArray[np.intp], known: Known) -> None:
        self._rows, self._drawn = rows, drawn_m
        self._kept: Array | None = None
        if known.distances is not None and np.array_equal(known.drawn, drawn_m):
            self._kept = known.distances
            return
        self._anchors = rows.take(drawn_m)
        self._norm_m = np.einsum("mn,mn->m", self._anchors, self._anchors)
        if rows.shape[0] * len(drawn_m) <= _KEPT:
            self._kept = np.concatenate([self._computed(part) for part in rows.parts])
            known.drawn, known.distances = drawn_m, self._kept

    def of(self, part: slice) -> Array:
        """The distances of one block of rows (of `CentredRows.parts`), rows x m."""
        return self._computed(part) if self._kept is None else self._kept[part]

    def _computed(self, part: slice) -> Array:
        Q = self._rows.block(part)
        # |q - a|^2 = |q|^2 + |a|^2 - 2 q a, which is KL
        square = np.einsum("kn,kn->k", Q, Q)[:, None] + self._norm_m - 2.0 * (Q @ self._anchors.T)
        out: Array = np.sqrt(np.maximum(square, 0.0))
        here = np.flatnonzero((self._drawn >= part.start) & (self._drawn < part.stop))
        out[self._drawn[here] - part.start, here] = 0.0
        return out

    @property
    def among(self) -> Array:
        """The distances between the drawn vectors, m x m."""
        found = []
        for part in self._rows.parts:
            here = self._drawn[(self._drawn >= part.start) & (self._drawn < part.stop)]
            if len(here):
                found.append(self.of(part)[here - part.start])
        return np.concatenate(found)


def _mirrored(square: Array) -> Array:
    return (square + square.T) / 2


def _turned(xyz_Kd: Array) -> Array:
    """Coordinates centred and rotated to their principal axes, because MDS determines them only up to a rigid motion."""
    centred = xyz_Kd - xyz_Kd.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    turned: Array = centred @ vectors[:, ::-1]
    return turned * oriented(turned)


# ---- t-SNE


def tsne(
    Q_KN: Array,
    dims: int = 2,
    perplexity: float = PERPLEXITY,
    seed: int = 42,
    *,
    reduce_perplexity: bool = False,
    verbose: int = 0,
    gram_KK: Array | None = None,
) -> Array:
    """K x dims t-SNE of Q (init pca, learning rate auto), deterministic in `seed`. Source: arXiv 2505.15353.

    With `reduce_perplexity`, too few points lower the perplexity instead of being refused; `verbose` is scikit-learn's.
    """
    settings = TSNESettings(perplexity, seed, reduce_perplexity, verbose)
    _perplexity(len(Q_KN), settings)  # refused before the axes are found
    return tsne_of(rotate(Q_KN, gram_KK=gram_KK), dims, settings).xyz_Kd


def _perplexity(K: int, s: TSNESettings) -> float:
    """The perplexity that K points allow. Raises KltuiError if the requested one is too high and may not be lowered."""
    if s.perplexity < K:
        return s.perplexity
    if not s.reduce_perplexity or K < 4:
        raise KltuiError(
            f"t-SNE with perplexity {s.perplexity:g} needs more than {s.perplexity:g} points, the map has {K}",
            f"choose a perplexity below {K}, a PCA or MDS picture, or score more checkpoints",
        )
    return max(1.0, (K - 1) / 3)


def tsne_of(scores_Kr: Array, dims: int, s: TSNESettings, runs: Sequence[Sequence[int]] = ()) -> Picture:
    """t-SNE of principal scores; for very many points a sample is embedded and the others are placed next to their neighbours.

    It runs on one thread, because sums over several threads would make the result depend on their number.
    """
    K = len(scores_Kr)
    drawn = drawn_rows(K, runs, s.maximum or MAX_TSNE.get(dims, K))
    used = _perplexity(len(drawn), s)
    embedded = scores_Kr if len(drawn) == K else scores_Kr[drawn]
    places, divergence = _run_tsne(_in_reach(embedded), dims, used, s)
    made = Picture("tsne", places, perplexity=used, perplexity_asked=s.perplexity, divergence=divergence)
    if len(drawn) < K:
        made = replace(made, xyz_Kd=beside_neighbours(scores_Kr, drawn, places), n_placed=K - len(drawn))
    return replace(made, n_axes=scores_Kr.shape[1])


def _run_tsne(scores_mr: Array, dims: int, perplexity: float, s: TSNESettings) -> tuple[Array, float]:
    """(places m x dims, their divergence in nats)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    model = TSNE(
        n_components=dims,
        perplexity=perplexity,
        init="pca",
        learning_rate=_learning_rate(len(scores_mr), dims),
        random_state=s.seed,
        n_jobs=1,
        verbose=s.verbose,
    )
    # PCA, from which it starts, wants as many columns as the picture has; columns of zeros change no distance.
    missing = max(0, dims - scores_mr.shape[1])
    with threadpool_limits(1):
        places = np.asarray(model.fit_transform(np.pad(scores_mr, ((0, 0), (0, missing)))), dtype=np.float64)
    return places, float(model.kl_divergence_)


def _learning_rate(n_points: int, dims: int) -> float | str:
    """scikit-learn's "auto", which is at least 50; for few points in three dimensions n / 8, because 50 does not converge.

    As measured, 83 checkpoints of five runs end at a divergence of 0.93 nats with 50, and of 0.043 with any rate from 1 to 10.
    """
    return "auto" if dims < 3 or n_points >= 8 * _MIN_RATE else n_points / 8


def _in_reach(scores: Array) -> Array:
    """Principal scores, scaled if float32, in which t-SNE works, cannot represent their squares; its picture has no unit.

    Raises KltuiError if all points coincide.
    """
    size = float(np.abs(scores).max(initial=0.0))
    spread = float(np.std(scores[:, 0])) if scores.size else 0.0
    if not spread > 1e-9 * size:
        raise KltuiError(
            "t-SNE needs vectors that differ, and all vectors of the map are the same",
            "Score different checkpoints, or more texts.",
        )
    return scores if _FLOAT32[0] < size < _FLOAT32[1] else scores / size


# ---- one entry point for all


@one_blas_thread
def picture(
    L_KN: ArrayLike,
    text_bytes_N: ArrayLike,
    method: Method = "tsne",
    dims: int = 2,
    settings: TSNESettings | None = None,
    *,
    gram: CentredGram | None = None,
    runs: Sequence[Sequence[int]] = (),
    progress: Progress = lambda share: None,
    known: Known | None = None,
) -> Picture:
    """The embedding of a map by `method` in `dims` dimensions, with its quality measures.

    `gram` centres and multiplies the vectors, if given; `runs` lists the rows of each run in order of step, from which a
    sample of many points is chosen. `progress` is called with the share of the search for axes that is done. Leading axes
    are taken from `known`, if it has them, and added to it.
    """
    checked(method, dims)
    settings = settings or TSNESettings()
    known = Known() if known is None else known
    K, N = np.shape(L_KN)
    if method == "tsne":
        _perplexity(K, settings)
        if K <= ALL_AXES:
            return tsne_of(rotate(*_every_axis(L_KN, text_bytes_N, gram)), dims, settings, runs)
        axes = _found_axes(CentredRows.of_vectors(L_KN, text_bytes_N), AXES, 3, progress, known)
        return _tsne_of_axes(axes, dims, settings, runs)
    if method == "mds":
        return _smacof_picture(CentredRows.of_vectors(L_KN, text_bytes_N), dims, runs, known)
    if gram is None and _is_large(K, N, dims):
        axes = _found_axes(CentredRows.of_vectors(L_KN, text_bytes_N), dims, dims, progress, known)
        return _pca_of_axes(axes, dims)
    Q, products = _scaled(L_KN, text_bytes_N, gram)
    return _pca_picture(rotate(Q, dims, products), float(np.vdot(Q, Q)), dims)


def _found_axes(rows: CentredRows, r: int, exact: int, progress: Progress, known: Known) -> Axes:
    """The r leading axes, the first `exact` to rounding precision, computed only if `known` does not have them."""
    if (r, exact) not in known.axes:
        known.axes[r, exact] = leading_axes(rows, r, exact, progress)
    return known.axes[r, exact]


def better_and_better(
    L_KN: ArrayLike,
    text_bytes_N: ArrayLike,
    method: Method,
    dims: int,
    settings: TSNESettings,
    runs: Sequence[Sequence[int]] = (),
    *,
    first: bool = True,
    progress: Progress = lambda share: None,
) -> Iterator[tuple[Picture, bool]]:
    """(Embedding, whether it is final) pairs of increasing quality; the final one equals that of `picture`.

    Before it comes PCA, if `first`, and, for t-SNE of a large map, t-SNE of a sample of DRAFT points with the others placed
    next to their neighbours.
    """
    checked(method, dims)
    K = len(np.asanyarray(L_KN))
    if method == "tsne" and K > ALL_AXES:
        axes = leading_axes(CentredRows.of_vectors(L_KN, text_bytes_N), AXES, 3, progress)
        if first:
            yield _pca_of_axes(axes, dims), False
        yield _tsne_of_axes(axes, dims, replace(settings, maximum=DRAFT), runs), False
        yield _tsne_of_axes(axes, dims, settings, runs), True
        return
    if first and method != "pca":
        yield picture(L_KN, text_bytes_N, "pca", dims, progress=progress), False
    yield picture(L_KN, text_bytes_N, method, dims, settings, runs=runs, progress=progress), True


def _tsne_of_axes(axes: Axes, dims: int, settings: TSNESettings, runs: Sequence[Sequence[int]]) -> Picture:
    """t-SNE of leading axes, with the share of the squared distances along these."""
    made = tsne_of(axes.scores_Kr, dims, settings, runs)
    return replace(made, kept=float(axes.share_r.sum()), residual=axes.residual)


def _pca_of_axes(axes: Axes, dims: int) -> Picture:
    """The first of the leading axes as a picture."""
    return replace(_pca_picture(axes.scores_Kr, axes.total, dims), residual=axes.residual)


def checked(method: str, dims: int) -> None:
    """Raises KltuiError for an unknown method or number of dimensions."""
    if method not in METHODS:
        raise KltuiError(f"unknown picture {method!r}", f"known: {', '.join(METHODS)}")
    if dims < 1 or (method == "tsne" and dims > 3):
        raise KltuiError(f"a {method} picture in {dims} dimensions", "give 1, 2 or 3")


def _every_axis(
    L_KN: ArrayLike, text_bytes_N: ArrayLike, gram: CentredGram | None
) -> tuple[Array, None, Array | None]:
    """The arguments of `rotate` for all axes."""
    Q, products = _scaled(L_KN, text_bytes_N, gram)
    return Q, None, products


def _pca_picture(scores_Kr: Array, total: float, dims: int) -> Picture:
    xyz = _padded(scores_Kr, dims)
    share = (xyz**2).sum(axis=0) / total if total > 0 else np.zeros(dims)  # lambda_k / sum of all lambda
    return Picture("pca", xyz, axis_share=tuple(share.tolist()), n_axes=dims)


def _scores(rows: CentredRows, dims: int, known: Known) -> Array:
    """The leading scores of centred rows, K x dims or fewer columns where they span less.

    Scores in two dimensions are the first of those in three, which a report needs as well.
    """
    if _is_large(*rows.shape, 3):
        return _found_axes(rows, 3, 3, lambda share: None, known).scores_Kr[:, :dims]
    return rotate(np.concatenate([rows.block(part) for part in rows.parts]), dims)


def coordinates(
    L_KN: ArrayLike,
    text_bytes_N: ArrayLike,
    method: Method = "tsne",
    dims: int = 2,
    perplexity: float = PERPLEXITY,
    seed: int = 42,
    *,
    reduce_perplexity: bool = False,
    gram: CentredGram | None = None,
) -> Array:
    """K x dims coordinates of the map's vectors by `method`, as in `picture`."""
    settings = TSNESettings(perplexity, seed, reduce_perplexity)
    return picture(L_KN, text_bytes_N, method, dims, settings, gram=gram).xyz_Kd


def _padded(scores: Array, dims: int) -> Array:
    """The first `dims` columns; zeros where the points span fewer."""
    out = np.zeros((len(scores), dims))
    out[:, : min(dims, scores.shape[1])] = scores[:, :dims]
    return out
