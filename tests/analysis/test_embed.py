"""Pictures: distances that must be kept, known stress, and refusals that help."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.manifold  # noqa: F401 - before the threads are limited

from kltui.analysis import embed, placing
from kltui.analysis.embed import (
    TSNESettings,
    coordinates,
    first_method,
    pca,
    picture,
    rotate,
    scaled_coordinates,
    smacof,
    stress,
    tsne,
)
from kltui.analysis.kl import kl_matrix
from kltui.analysis.placing import beside_neighbours, by_distances, drawn_rows
from kltui.errors import KltuiError


def explained_variance(Q_KN: np.ndarray) -> np.ndarray:
    """Share of the total spread along each principal axis, falling, summing to 1."""
    spread: np.ndarray = (rotate(Q_KN) ** 2).sum(axis=0)
    if spread.sum() > 0:
        spread /= spread.sum()
    return spread


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
    L, size = vectors(520, 540)
    Q = scaled_coordinates(L, size)
    full = rotate(Q)[:, :3]
    np.testing.assert_allclose(rotate(Q, 3), full, atol=2e-13 * np.abs(full).max())
    np.testing.assert_allclose(rotate(Q, 3, Q @ Q.T), full, atol=2e-13 * np.abs(full).max())


def test_mds_is_the_least_squares_one_and_its_stress_is_kruskals() -> None:
    from sklearn.manifold import smacof

    L, size = vectors(40, 60, seed=3)
    d = np.sqrt(kl_matrix(L, size))
    found = picture(L, size, "mds", 2)
    shown = np.sqrt(sqdist(found.xyz_Kd))
    assert found.stress == pytest.approx(np.sqrt(((shown - d) ** 2).sum() / (shown**2).sum()), rel=1e-9)
    best = min(smacof(d, n_components=2, n_init=4, random_state=s, eps=1e-6)[1] for s in range(2))
    assert ((shown - d) ** 2).sum() / 2 <= 1.02 * best
    assert stress(d**2, found.xyz_Kd) < stress(d**2, pca(scaled_coordinates(L, size)))


def test_mds_recovers_points_of_the_plane_and_has_no_stress() -> None:
    xy = np.random.default_rng(1).normal(0, 1, (25, 2))
    d = np.sqrt(sqdist(xy))
    found = smacof(d, xy + 0.1)
    np.testing.assert_allclose(sqdist(found), d**2, atol=1e-9)
    assert stress(d**2, found) == pytest.approx(0.0, abs=1e-7)
    line = xy[:, :1]
    want = np.sqrt(((d - np.abs(line - line.T)) ** 2).sum() / (d**2).sum())
    assert stress(d**2, line) == pytest.approx(want)
    assert smacof(np.zeros((4, 4)), np.ones((4, 2))).tolist() == [[0.0, 0.0]] * 4


def test_a_large_mds_picture_is_a_draw_s_with_the_others_where_their_distances_put_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    L, size = vectors(90, 70, seed=4)
    whole = picture(L, size, "mds")
    monkeypatch.setattr(embed, "MAX_SMACOF", 45)
    drawn = picture(L, size, "mds", runs=[range(90)])
    assert drawn.n_placed == 45 and whole.n_placed == 0
    d = np.sqrt(kl_matrix(L, size))
    rows = drawn_rows(90, [range(90)], 45)
    pair = np.zeros((90, 90), dtype=bool)
    pair[rows] = pair[:, rows] = True
    shown = np.sqrt(sqdist(drawn.xyz_Kd))
    assert drawn.stress == pytest.approx(
        np.sqrt(((shown - d)[pair] ** 2).sum() / (shown[pair] ** 2).sum()), rel=1e-9
    )
    assert stress(d**2, drawn.xyz_Kd) < 1.2 * stress(d**2, whole.xyz_Kd)


def test_distances_to_drawn_vectors_are_computed_once_for_both_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    L, size = vectors(300, 40, seed=4)
    monkeypatch.setattr(embed, "MAX_SMACOF", 45)
    parts: list[slice] = []
    computed = embed._DistancesTo._computed
    monkeypatch.setattr(
        embed._DistancesTo, "_computed", lambda self, part: parts.append(part) or computed(self, part)
    )
    alone = [picture(L, size, "mds", dims) for dims in (2, 3)]
    assert len(parts) == 4
    known = embed.Known()
    together = [picture(L, size, "mds", dims, known=known) for dims in (2, 3)]
    assert len(parts) == 6 and known.distances is not None and known.distances.shape == (300, 45)
    for one, two in zip(alone, together, strict=True):
        assert np.array_equal(one.xyz_Kd, two.xyz_Kd) and one.stress == two.stress
    monkeypatch.setattr(embed, "_KEPT", 0)  # too many to be kept
    by_parts = picture(L, size, "mds", 2, known=embed.Known())
    assert np.array_equal(by_parts.xyz_Kd, alone[0].xyz_Kd)


def test_places_by_distances_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(8)
    places, start = rng.normal(size=(9, 2)), rng.normal(size=(6, 2))
    target = np.abs(rng.normal(size=(6, 9)))
    start[0], target[1] = places[3], 0.0  # on top of one of them, and no distance at all
    x = start.copy()
    for _ in range(placing._ITERATIONS):
        moved = []
        for here, wanted in zip(x, target, strict=True):
            off = here - places
            size = np.sqrt((off**2).sum(axis=1))
            ratio = np.divide(wanted, size, out=np.zeros(9), where=size > 0)
            moved.append((places + ratio[:, None] * off).mean(axis=0))
        x = np.array(moved)
    found = by_distances(target, places, start.copy())
    np.testing.assert_allclose(found[1:], x[1:], rtol=1e-7, atol=1e-9)
    assert np.isfinite(found).all()


def test_a_lower_perplexity_and_t_sne_s_own_divergence_are_said() -> None:
    L, size = vectors(20, 100)
    settings = TSNESettings(reduce_perplexity=True)
    found = picture(L, size, "tsne", 2, settings)
    assert found.perplexity == pytest.approx(19 / 3) and found.divergence > 0
    assert found.words() == ["perplexity 6.33 of 30"]
    assert first_method(30) == "pca" and first_method(31) == "tsne"
    assert picture(L, size, "pca", 3).words()[0].startswith("axes keep ")


def test_pca_says_what_its_axes_keep() -> None:
    L, size = vectors(40, 200)
    want = explained_variance(scaled_coordinates(L, size))
    np.testing.assert_allclose(picture(L, size, "pca", 3).axis_share, want[:3], rtol=1e-9)
    large, size = vectors(530, 515)
    want = explained_variance(scaled_coordinates(large, size))
    np.testing.assert_allclose(picture(large, size, "pca", 3).axis_share, want[:3], rtol=1e-9)


def test_t_sne_of_very_many_has_the_leading_axes_and_says_their_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    L, size = vectors(120, 100)
    monkeypatch.setattr(embed, "ALL_AXES", 50)
    monkeypatch.setattr(embed, "AXES", 20)
    found = picture(L, size, "tsne", 2, TSNESettings(perplexity=10, maximum=60), runs=[range(120)])
    want = explained_variance(scaled_coordinates(L, size))[:20].sum()
    assert found.n_axes == 20 and found.kept == pytest.approx(want, rel=1e-3)
    assert found.n_placed == 60 and len(found.words()) == 2
    D = sqdist(found.xyz_Kd)
    np.fill_diagonal(D, np.inf)
    assert np.median(np.abs(D.argmin(1) - np.arange(120))) <= 2


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("method", "limit", "steps"), [("pca", 50, 1), ("mds", 50, 2), ("tsne", 50, 3), ("tsne", 500, 2)]
)
def test_pictures_grow_better_until_the_last_which_is_the_one_that_is_asked_for(
    method: embed.Method, limit: int, steps: int, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of t-SNE with leading axes alone there is a draft before it, and PCA comes first unless it is left out."""
    L, size = vectors(80, 100)
    for name, value in (("ALL_AXES", limit), ("AXES", 20), ("DRAFT", 40)):
        monkeypatch.setattr(embed, name, value)
    settings = TSNESettings(perplexity=8)
    found = list(embed.better_and_better(L, size, method, 2, settings, [range(80)], first=first))
    assert [final for _, final in found] == [False] * (len(found) - 1) + [True]
    assert len(found) == max(1, steps - (not first))
    last = picture(L, size, method, 2, settings, runs=[range(80)])
    np.testing.assert_array_equal(found[-1][0].xyz_Kd, last.xyz_Kd)
    if first and steps > 1:
        pca = picture(L, size, "pca", 2).xyz_Kd
        assert found[0][0].method == "pca"
        np.testing.assert_allclose(
            np.abs(found[0][0].xyz_Kd), np.abs(pca), rtol=1e-6, atol=1e-8 * np.abs(pca).max()
        )


def test_points_that_were_not_drawn_stand_beside_their_neighbours() -> None:
    runs = [range(10), range(10, 20)]
    drawn = drawn_rows(25, runs, 13)
    assert {0, 9, 10, 19} <= set(drawn.tolist()) and len(drawn) <= 13
    assert drawn_rows(25, runs, 25).tolist() == list(range(25))
    assert len(drawn_rows(25, [[k] for k in range(25)], 7)) <= 7
    scores = np.arange(5.0)[:, None] ** 2
    xy = beside_neighbours(scores, np.array([0, 2, 4]), np.array([[0.0, 0], [1, 0], [9, 9]]))
    weight = 1 / np.array([1.0, 9.0, 225.0])
    want = (weight[:, None] * [[0.0, 0], [1, 0], [9, 9]]).sum(0) / weight.sum()
    np.testing.assert_allclose(xy[1], want)
    assert xy[[0, 2, 4]].tolist() == [[0, 0], [1, 0], [9, 9]]


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
    with pytest.raises(KltuiError, match="no text is scored"):
        scaled_coordinates(L, size)


def test_tsne_of_few_points_settles_in_three_dimensions() -> None:
    """By scikit-learn's own learning rate it ends at 0.7 nat, points thrown about in a ball."""
    rng = np.random.default_rng(0)
    walks = [rng.normal(0, 2, 300) + np.cumsum(rng.normal(0, 0.2, (16, 300)), axis=0) for _ in range(2)]
    found = picture(np.concatenate(walks), np.full(300, 400), "tsne", 3, TSNESettings(perplexity=10))
    assert found.divergence < 0.1
