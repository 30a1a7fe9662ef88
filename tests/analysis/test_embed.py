"""Pictures: distances that must be kept, known stress, and refusals that help."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.manifold  # noqa: F401 - before the threads are limited

from kltui.analysis.embed import (
    classical_mds,
    coordinates,
    explained_variance,
    pca,
    rotate,
    scaled_coordinates,
    stress,
    tsne,
)
from kltui.analysis.kl import kl_matrix
from kltui.errors import KltuiError


def vectors(K: int = 40, N: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(0, 5, (K, N)), axis=0) - 2000, rng.integers(257, 1025, N)


def sqdist(X: np.ndarray) -> np.ndarray:
    return ((X[:, None] - X[None]) ** 2).sum(-1)


@pytest.mark.parametrize(("K", "N"), [(40, 300), (30, 12)])
def test_squared_distances_are_kl_and_rotation_keeps_them(K: int, N: int) -> None:
    L, size = vectors(K, N)
    Q = scaled_coordinates(L, size)
    np.testing.assert_allclose(sqdist(Q), kl_matrix(L, size), rtol=1e-9, atol=1e-12)
    R = rotate(Q)
    assert R.shape == (K, min(K, N))
    np.testing.assert_allclose(sqdist(R), sqdist(Q), rtol=1e-7, atol=1e-9)
    spread = (R**2).sum(0)
    assert (np.diff(spread) <= 1e-9).all()


def test_pca_equals_sklearn_up_to_sign() -> None:
    from sklearn.decomposition import PCA

    Q = scaled_coordinates(*vectors())
    want = PCA(3, svd_solver="full").fit(Q)
    np.testing.assert_allclose(np.abs(pca(Q, 3)), np.abs(want.transform(Q)), atol=1e-8)
    np.testing.assert_allclose(explained_variance(Q)[:3], want.explained_variance_ratio_, rtol=1e-8)


def test_leading_axes_alone_are_those_of_all() -> None:
    L, size = vectors(320, 400)
    Q = scaled_coordinates(L, size)
    np.testing.assert_allclose(rotate(Q, 3), rotate(Q)[:, :3], atol=1e-8)
    np.testing.assert_allclose(coordinates(L, size, "mds", 3), coordinates(L, size, "pca", 3), atol=1e-7)


def test_mds_recovers_points_of_the_plane_and_has_no_stress() -> None:
    xy = np.random.default_rng(1).normal(0, 1, (25, 2))
    D = sqdist(xy)
    found = classical_mds(D, 2)
    np.testing.assert_allclose(sqdist(found), D, atol=1e-9)
    assert stress(D, found) == pytest.approx(0.0, abs=1e-7)
    line = classical_mds(D, 1)
    shown = np.abs(line[:, 0][:, None] - line[:, 0])
    want = np.sqrt(((np.sqrt(D) - shown) ** 2).sum() / D.sum())
    assert stress(D, line) == pytest.approx(want)


def test_mds_of_kl_is_pca_of_q() -> None:
    L, size = vectors()
    np.testing.assert_allclose(coordinates(L, size, "mds", 3), coordinates(L, size, "pca", 3), atol=1e-6)


def test_fewer_dimensions_than_asked_are_filled_with_zero() -> None:
    L = np.array([[0.0, 0, 0, 0], [1, -1, 1, -1]])
    xyz = coordinates(L, [10] * 4, "pca", 3)
    assert xyz.shape == (2, 3)
    assert xyz[:, 1:].tolist() == [[0.0, 0.0], [0.0, 0.0]] or np.abs(xyz[:, 1:]).max() < 1e-7


@pytest.mark.parametrize("dims", [2, 3])
def test_tsne_keeps_neighbours_and_repeats_itself(dims: int) -> None:
    L, size = vectors(40, 200)
    xy = coordinates(L, size, "tsne", dims, perplexity=8)
    assert xy.shape == (40, dims)
    D = sqdist(xy)
    np.fill_diagonal(D, np.inf)
    near = np.abs(D.argmin(1) - np.arange(40))
    assert np.median(near) <= 2  # a random walk: neighbours in time stay neighbours
    if dims == 2:
        np.testing.assert_array_equal(coordinates(L, size, "tsne", dims, perplexity=8), xy)


def test_tsne_of_too_few_points_says_what_to_do() -> None:
    Q = scaled_coordinates(*vectors(30))
    with pytest.raises(KltuiError, match="more than 30 points, the map has 30") as e:
        tsne(Q)
    assert "PCA" in e.value.hint
    assert tsne(Q, reduce_perplexity=True).shape == (30, 2)


def test_unscored_texts_are_left_out_of_the_picture() -> None:
    L, size = vectors(5, 50)
    L[2, 10] = np.nan
    keep = np.arange(50) != 10
    np.testing.assert_allclose(
        scaled_coordinates(L, size), scaled_coordinates(L[:, keep], size[keep]), atol=1e-12
    )
    L[2] = np.nan
    with pytest.raises(KltuiError, match="only 0 texts"):
        scaled_coordinates(L, size)
