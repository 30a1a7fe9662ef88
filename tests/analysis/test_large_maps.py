"""What large maps compute by need: rows of KL, bands along runs, shapes and stress, as the whole matrices have them."""

from __future__ import annotations

import numpy as np
import pytest

from kltui.analysis import map as maps
from kltui.analysis import shape
from kltui.analysis.kl import KLPairs, kl_matrix, kl_standard_errors
from kltui.analysis.map import Map, shared_counts
from kltui.analysis.point import Point

K, N = 300, 50


def some_vectors(gaps: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    L = rng.normal(-1500, 200, N) + rng.normal(0, 9, (K, N)).cumsum(axis=0)
    L[7], L[9] = L[6], L[8] + 1e-7 * rng.normal(size=N)
    if gaps:
        L[2, 3:9], L[:, 11], L[20, 1:] = np.nan, np.nan, np.nan
    return L, rng.integers(257, 1024, N)


def a_map(gaps: bool = False) -> Map:
    L, size = some_vectors(gaps)
    runs = ["a"] * 200 + ["b"] * 100
    points = tuple(Point(name=f"{run}@{1000 * k}", run=run, step=1000 * k) for k, run in enumerate(runs))
    return Map(points, L, size)


@pytest.mark.parametrize("gaps", [False, True])
def test_rows_bands_and_tiles_by_need_are_those_of_the_matrix(gaps: bool) -> None:
    L, size = some_vectors(gaps)
    ids = np.arange(N) // 2
    whole, errors = kl_matrix(L, size), kl_standard_errors(L, size, ids)
    for by_need in (False, True):
        pairs = KLPairs(L, size, ids, by_need=by_need)
        rows = np.array([299, 0, 7, 2])
        np.testing.assert_allclose(pairs.rows(rows), whole[rows], rtol=1e-9, atol=1e-16)
        ahead = pairs.ahead(3)
        for d in (1, 2, 3):
            np.testing.assert_allclose(ahead[:-d, d - 1], np.diagonal(whole, d), rtol=1e-9, atol=1e-16)
            assert np.isnan(ahead[-d:, d - 1]).all()
        tile = pairs.standard_errors(slice(0, 40), slice(40, 300))
        np.testing.assert_allclose(tile, errors[:40, 40:], rtol=1e-6, atol=1e-16)
    assert (KLPairs(L, size).rows(np.arange(K)) == whole).sum() >= (whole == whole).sum() - K


@pytest.mark.parametrize("gaps", [False, True])
def test_few_rows_are_not_worth_the_matrix(gaps: bool) -> None:
    shown = a_map(gaps)
    rows = shown.kl_rows([0, 250])
    assert "_kl" not in shown.__dict__
    np.testing.assert_allclose(rows, shown.kl()[[0, 250]], rtol=1e-9, atol=1e-16)
    many = a_map(gaps)
    assert np.array_equal(many.kl_rows(range(50)), many.kl()[:50], equal_nan=True)
    assert "_kl" in many.__dict__


@pytest.mark.parametrize("gaps", [False, True])
def test_a_large_map_says_what_a_small_one_says(gaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small = a_map(gaps)
    rows = small.kl()[[0, 250]]
    exponents = [(e.run, e.start, e.c_q) for e in small.diffusion()]
    monkeypatch.setattr(maps, "_MAX_IN_MATRIX", 10)
    large = a_map(gaps)
    np.testing.assert_allclose(large.kl_rows([0, 250]), rows, rtol=1e-9, atol=1e-16)
    assert "_kl" not in large.__dict__
    found = [(e.run, e.start, e.c_q) for e in large.diffusion()]
    assert [f[:2] for f in found] == [e[:2] for e in exponents]
    np.testing.assert_allclose([f[2] for f in found], [e[2] for e in exponents], rtol=1e-7)


def test_stress_of_drawn_rows_is_that_of_all_where_all_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = a_map()
    xy = shown.coordinates("pca")
    whole = shown.stress(xy)
    monkeypatch.setattr(maps, "_MAX_IN_MATRIX", 10)
    monkeypatch.setattr(maps, "_STRESS_ROWS", K)
    assert a_map().stress(xy) == pytest.approx(whole, rel=1e-9)


def test_shapes_by_need_are_those_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    L, size = some_vectors(gaps=False)
    before = shape.against_null("a", L, size)
    monkeypatch.setattr(shape, "_IN_MEMORY", 0)
    monkeypatch.setattr(shape, "_ROWS", 7)
    after = shape.against_null("a", L, size)
    assert after.shape.arc_length == before.shape.arc_length
    assert after.shape.turning == before.shape.turning
    assert after.shape.winding == pytest.approx(before.shape.winding, rel=1e-9)
    assert after.null_winding == before.null_winding


def test_counts_that_all_vectors_share_are_kept_once() -> None:
    counts = np.tile(np.arange(5, dtype=np.int32), (4, 1))
    shared = shared_counts(counts)
    assert (shared == counts).all()
    assert shared.strides[0] == 0
    counts[2, 1] = 9
    assert shared_counts(counts) is counts
    shown = Map(a_map().points[:4], some_vectors(gaps=False)[0][:4, :5], np.full(5, 300), shared)
    part = shown.select([3, 1]).n_scored_KN
    assert part is not None
    assert part.strides[0] == 0
    assert (part == shared[:2]).all()
    clipped = shown.preprocessed("clip").n_scored_KN
    assert clipped is not None
    assert (clipped == shared).all()
