"""Leading axes found in passes over the rows, against a full decomposition; errors of places against a bootstrap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kltui.analysis import axes as axes_module
from kltui.analysis.axes import CentredRows, leading_axes
from kltui.analysis.place_errors import place_covariances
from kltui.analysis.uncertainty import resampled_pictures
from kltui.errors import KltuiError


def vectors(K: int, N: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two runs that wind through a few directions, and noise."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, K)[:, None]
    a, b, c = rng.normal(0, 60, (3, N))
    curve = 900 * (1 - t) ** 2 + a * np.sin(3 * t) + b * np.cos(2 * t) * (1 - t) + c * (t > 0.5)
    return rng.normal(-1500, 200, N) - curve + rng.normal(0, 6, (K, N)), rng.integers(257, 1025, N)


def full(L: np.ndarray, size: np.ndarray) -> np.ndarray:
    """All scores by a singular value decomposition in float64, each with its largest entry positive."""
    Q = L - L.mean(1, keepdims=True)
    Q = (Q - Q.mean(0)) / np.sqrt(2 * L.shape[1] * size.mean() * np.log(2))
    u, s, _ = np.linalg.svd(Q, full_matrices=False)
    scores = u * s
    peak = np.abs(scores).argmax(0)
    return scores * np.sign(scores[peak, np.arange(scores.shape[1])])


@pytest.mark.parametrize(("K", "N"), [(700, 500), (400, 900)])
def test_leading_axes_are_those_of_the_full_decomposition(K: int, N: int) -> None:
    L, size = vectors(K, N)
    want = full(L, size)
    found = leading_axes(CentredRows.of_vectors(L, size), 30, exact=3)
    assert found.residual < 1e-14
    np.testing.assert_allclose(found.scores_Kr[:, :3], want[:, :3], rtol=0, atol=1e-13 * want.max())
    kept = (want[:, :30] ** 2).sum() / (want**2).sum()
    assert found.total == pytest.approx((want**2).sum(), rel=1e-12)
    assert kept * (1 - 1e-4) <= found.share_r.sum() <= kept * (1 + 1e-12)


def test_rows_in_a_file_and_any_number_of_threads_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    L, size = vectors(900, 400)
    np.save(tmp_path / "rows.npy", L)
    one = leading_axes(CentredRows.of_vectors(L, size), 5)
    monkeypatch.setattr(axes_module, "_IN_MEMORY", 0)
    monkeypatch.setattr(axes_module, "free_threads", lambda: 3)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    three = leading_axes(CentredRows.of_vectors(mapped, size), 5)
    np.testing.assert_array_equal(one.scores_Kr, three.scores_Kr)


def test_vectors_without_spread_and_few_vectors_have_axes() -> None:
    L, size = vectors(3, 40)
    found = leading_axes(CentredRows.of_vectors(L, size), 10)
    np.testing.assert_allclose(np.abs(found.scores_Kr), np.abs(full(L, size)[:, :2]), atol=1e-12)
    same = leading_axes(CentredRows.of_vectors(np.tile(L[:1], (50, 1)), size), 2)
    assert np.abs(same.scores_Kr).max() < 1e-9


def test_texts_that_a_vector_lacks_are_left_out() -> None:
    L, size = vectors(30, 60)
    L[4, 7] = np.nan
    keep = np.arange(60) != 7
    found = leading_axes(CentredRows.of_vectors(L, size), 2)
    np.testing.assert_allclose(found.scores_Kr, full(L[:, keep], size[keep])[:, :2], atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_covariances_of_places_are_those_of_a_bootstrap_over_texts(dims: int) -> None:
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(0, 5, (30, 500)), axis=0)
    L, size = walk - 1500 + rng.normal(0, 200, 500), rng.integers(257, 1025, 500)
    places, C = place_covariances(L, size, dims)
    fixed, clouds = resampled_pictures(L, size, draws=400, dims=dims)
    np.testing.assert_allclose(places, fixed, atol=1e-10)
    B = np.array([np.cov(clouds[:, k].T) for k in range(len(L))])
    ratio = np.sqrt(np.einsum("kdd->kd", C) / np.einsum("kdd->kd", B))
    np.testing.assert_allclose(np.median(ratio, axis=0), 1.0, atol=0.05)
    assert np.linalg.norm(C - B) < 0.12 * np.linalg.norm(B)


@pytest.mark.parametrize("new", [0.0, 1e-14, 1e-10, 1e-4, 1.0])
def test_what_is_added_to_a_basis_is_orthogonal_to_it_however_little_it_is(new: float) -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(80, 60)))[0]
    columns = basis @ rng.normal(size=(60, 30)) + new * rng.normal(size=(80, 30))
    fresh = axes_module._orthonormal_to(basis, columns)
    assert fresh.shape[1] == (20 if new > 1e-8 else 0)
    both = np.hstack([basis, fresh])
    np.testing.assert_allclose(both.T @ both, np.eye(both.shape[1]), atol=1e-13)


def test_copies_of_texts_make_no_place_surer() -> None:
    L, size = vectors(30, 80)
    ids = np.arange(80)
    _, alone = place_covariances(L, size, 2, ids)
    _, twice = place_covariances(np.tile(L, 2), np.tile(size, 2), 2, np.tile(ids, 2))
    np.testing.assert_allclose(twice, alone, rtol=1e-9)
    with pytest.raises(KltuiError, match="2 distinct texts"):
        place_covariances(np.tile(L[:, :2], 2), np.tile(size[:2], 2), 2, np.tile(ids[:2], 2))
