"""Sketches against the distances they stand for, and the generated runs against the figures they are made from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kltui.analysis.kl import kl_matrix
from kltui.analysis.sketch import candidates as sketched
from kltui.analysis.sketch import nearest_rows, reranked, sketch
from kltui.errors import KltuiError

sys.path.insert(0, str(Path(__file__).parent))  # recall.py

import recall as generated
from recall import recall


def vectors(K: int = 40, N: int = 600, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-2000, 30, (K, 1)) + np.random.default_rng(seed + 1).normal(
        0, 5, (K, N)
    )


def square_distances(S: np.ndarray) -> np.ndarray:
    return ((S[:, None].astype(np.float64) - S[None]) ** 2).sum(axis=-1)


def test_squared_distances_are_kl_without_bias_and_as_sure_as_told() -> None:
    L, bytes_N, dims = vectors(12), np.full(600, 500.0), 64
    truth = kl_matrix(L, bytes_N)
    pairs = np.triu_indices(12, 1)
    found = np.array([square_distances(sketch(L, 500.0, dims, seed))[pairs] for seed in range(200)])
    ratios = found / truth[pairs]
    assert ratios.mean() == pytest.approx(1.0, abs=0.005)
    assert ratios.std() == pytest.approx(np.sqrt(2 / dims), rel=0.1)


def test_rows_do_not_depend_on_their_company_nor_on_a_constant() -> None:
    L = vectors()
    whole = sketch(L, 900.0, 32)
    np.testing.assert_allclose(sketch(L[7:9], 900.0, 32), whole[7:9], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sketch(L + 100.0, 900.0, 32), whole, rtol=1e-4, atol=1e-5)
    assert not np.allclose(sketch(L, 900.0, 32, seed=1), whole)


def test_nearest_rows_are_those_of_brute_force_nearest_first() -> None:
    S = np.random.default_rng(3).normal(7.0, 1.0, (3000, 5)).astype(np.float32)
    rows = np.arange(0, 3000, 100)
    found = nearest_rows(S, rows, 6)
    for row, near in zip(rows, found, strict=True):
        distance = ((S.astype(np.float64) - S[row]) ** 2).sum(axis=1)
        distance[row] = np.inf
        np.testing.assert_array_equal(near, np.argsort(distance)[:6])
    assert nearest_rows(S[:4], [0], 10).shape == (1, 3)


def test_more_rows_than_a_block_holds_are_searched() -> None:
    S = np.random.default_rng(4).normal(size=(4500, 3)).astype(np.float32)
    every = nearest_rows(S, np.arange(4500), 2)
    np.testing.assert_array_equal(every[4400:4410], nearest_rows(S, np.arange(4400, 4410), 2))
    assert not (every == np.arange(4500)[:, None]).any()


def test_reranked_candidates_come_in_the_order_of_kl() -> None:
    L = vectors(30)
    kl = kl_matrix(L, np.full(600, 10.0))
    candidates = np.array([[5, 9, 20, 3], [0, 2, 4, 6]])
    found = reranked(L, [1, 1], candidates, 3)
    for near, given in zip(found, candidates, strict=True):
        np.testing.assert_array_equal(near, given[np.argsort(kl[1, given])][:3])


def test_recall_counts_the_true_ones_found() -> None:
    assert recall(np.array([[1, 2], [3, 4]]), np.array([[2, 9, 1], [3, 8, 7]])) == 0.75


def test_unscored_texts_are_refused() -> None:
    L = vectors()
    L[3, 5] = np.nan
    with pytest.raises(KltuiError, match="cannot be sketched"):
        sketch(L, 900.0, 8)


def test_a_sketch_finds_the_neighbours_of_generated_runs() -> None:
    L = generated.runs(1200, 2000)
    rows = np.arange(0, 1200, 40)
    truth = nearest_rows(L - L.mean(axis=1, keepdims=True), rows, 10)
    candidates = nearest_rows(sketch(L, generated.BYTES, 128), rows, 50)
    assert recall(truth, candidates[:, :10]) > 0.6
    assert recall(truth, reranked(L, rows, candidates, 10)) > 0.98


def test_generated_runs_keep_the_published_distances() -> None:
    L = generated.runs(2 * 64 * 150, 400)
    first = L[::150].astype(np.float64)  # 2 families of 4 types, 4 sizes, 4 seeds
    kl = kl_matrix(np.concatenate([first, L[1:150]]), np.full(400, generated.BYTES))
    assert kl[np.arange(0, 64, 4), np.arange(1, 64, 4)].mean() == pytest.approx(0.12 + 2 * 0.0055, rel=0.2)
    assert kl[0:4, 4:8].mean() == pytest.approx(0.48, rel=0.2)
    assert kl[0:16, 16:32].mean() == pytest.approx(0.95, rel=0.2)
    assert kl[0:64, 64:128].mean() == pytest.approx(2.2, rel=0.2)
    run = kl[128:, 128:]
    assert np.diagonal(run, 1).mean() == pytest.approx(0.011, rel=0.1)
    assert np.diagonal(run, 32).mean() == pytest.approx(0.011 * 32**0.2, rel=0.15)


def test_candidates_are_compared_in_full_over_the_texts_that_all_have() -> None:
    rng = np.random.default_rng(4)
    L = rng.normal(-1500, 30, (60, 200))
    L[7, 3:9] = np.nan
    size = np.full(200, 900)
    found = sketched(L, size, [0, 7, 59], 59)
    kl = kl_matrix(np.delete(L, slice(3, 9), axis=1), size[6:])
    for row, near in zip((0, 7, 59), found.nearest_Mn, strict=True):
        assert near.tolist() == [k for k in np.argsort(kl[row]) if k != row]
    assert found.relative_se == pytest.approx((2 / 256) ** 0.5)
