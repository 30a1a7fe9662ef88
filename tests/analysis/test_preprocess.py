"""Quantile, clipping, exclusions and outlier texts against numpy, plain loops and planted outliers."""

from __future__ import annotations

import numpy as np
import pytest

from kltui.analysis.point import Point
from kltui.analysis.preprocess import outlier_scores, pooled_quantile, preprocess
from kltui.errors import KltuiError


def run(name: str, steps: list[int]) -> list[Point]:
    return [Point(f"{name}@{s}", name, s) for s in steps]


@pytest.mark.parametrize("q", [0.0, 0.02, *np.linspace(0.1, 0.9, 17), 0.777, 0.999])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_quantile_is_numpys_bit_for_bit(q: float, missing: float) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 50, 4999):
        v = rng.normal(-2300, 300, n)
        v[1:][rng.random(n - 1) < missing] = np.nan
        assert pooled_quantile(v, q) == np.nanquantile(v, q)


def test_quantile_of_nothing_is_undefined() -> None:
    assert np.isnan(pooled_quantile([np.nan, np.nan], 0.5))


def test_clip_pools_all_values_and_leaves_nan() -> None:
    rng = np.random.default_rng(1)
    L = rng.normal(0, 1, (4, 500))
    L[2, 7] = np.nan
    out = preprocess(run("a", [0, 1, 2, 4]), L, np.full(500, 300), "clip")
    threshold = np.nanquantile(L, 0.02)
    np.testing.assert_array_equal(out.loglik_KN, np.maximum(L, threshold))
    assert np.isnan(out.loglik_KN[2, 7])
    assert out.record["clip_threshold"] == threshold
    assert out.record["n_clipped"] == int((threshold > L).sum())
    assert len(out.kept_N) == 500


def test_excluded_checkpoints_count_in_nothing() -> None:
    rng = np.random.default_rng(2)
    L = rng.normal(0, 1, (6, 400))
    L[3] -= 100.0  # would own the whole lower tail
    points = run("a", [1000, 2000, 3000, 4000, 5000, 6000])
    out = preprocess(points, L, np.full(400, 300), "clip", exclude=["a@4000"])
    assert [p.step for p in out.points] == [1000, 2000, 3000, 5000, 6000]
    assert out.record["clip_threshold"] == np.quantile(np.delete(L, 3, axis=0), 0.02)
    assert out.record["excluded"] == ["a@4000"]


def test_outlier_scores_against_a_loop_with_a_missing_and_an_excluded_checkpoint() -> None:
    rng = np.random.default_rng(3)
    steps = [1000, 2000, 3000, 5000, 6000, 7000]  # 4000 was never saved: 3000 and 5000 are neighbours
    points = [*run("a", steps), *run("b", [512, 2000, 3000])]
    L = rng.normal(0, 1, (9, 40))
    L[1, 5] = np.nan
    excluded = {4}  # a@6000: neither 5000-6000 nor 6000-7000 counts, and 5000-7000 is not bridged
    pairs = [(1, 2), (2, 3), (7, 8)]
    want = np.nanmax([np.abs(L[b] - L[a]) for a, b in pairs], axis=0)
    np.testing.assert_array_equal(outlier_scores(points, L, excluded), want)


def test_planted_outlier_texts_are_removed_and_recorded() -> None:
    rng = np.random.default_rng(4)
    steps = [0, 1, 2, 1000, 2000, 3000, 4000]
    L = rng.normal(-2000, 100, 1000) + rng.normal(0, 1, (7, 1000))
    planted = rng.choice(1000, 30, replace=False)
    L[5, planted] += 50.0
    L[1] += rng.normal(0, 500, 1000)  # before the warm-up ends: must not count
    size = np.where(np.isin(np.arange(1000), planted), 1024, 300)
    out = preprocess(run("a", steps), L, size, "pretraining", clip_quantile=0.0)
    assert sorted(out.record["removed_texts"]) == sorted(planted)  # type: ignore[call-overload]
    assert out.record["mean_bytes"] == 300.0  # B is recounted over the texts in use
    assert out.loglik_KN.shape == (7, 970)


def test_three_hundred_of_ten_thousand() -> None:
    L = np.random.default_rng(5).normal(0, 1, (3, 10_000))
    out = preprocess(run("a", [2000, 3000, 4000]), L, np.full(10_000, 900), "pretraining")
    assert len(out.record["removed_texts"]) == 300  # type: ignore[arg-type]


def test_all_scores_undefined_is_an_error() -> None:
    L = np.random.default_rng(6).normal(0, 1, (3, 20))
    with pytest.raises(KltuiError, match="step 2000"):
        preprocess(run("a", [0, 10, 20]), L, np.full(20, 900), "pretraining")
    out = preprocess(run("a", [0, 10, 20]), L, np.full(20, 900), "pretraining", outlier_from_step=10)
    assert len(out.kept_N) == 19


def test_variants_and_layers_are_no_neighbours_of_the_run() -> None:
    points = [
        Point("a@2000", "a", 2000),
        Point("a@3000", "a", 3000),
        Point("a@3000+bnb-8bit", "a", 3000, "bnb-8bit"),
        Point("a@3000#1", "a", 3000, layer=1),
    ]
    L = np.array([[0.0, 0.0], [1.0, 2.0], [99.0, 99.0], [77.0, 77.0]])
    np.testing.assert_array_equal(outlier_scores(points, L), [1.0, 2.0])


def test_mistakes_are_named() -> None:
    L = np.zeros((1, 4))
    with pytest.raises(KltuiError, match="unknown preprocessing"):
        preprocess(run("a", [1]), L, np.ones(4), "median")
    with pytest.raises(KltuiError, match="clip_quantile is 2"):
        preprocess(run("a", [1]), L, np.ones(4), "clip", clip_quantile=2.0)
    with pytest.raises(KltuiError, match="no checkpoint is left"):
        preprocess(run("a", [1]), L, np.ones(4), exclude=["a"])
