"""The map: names, parts, records, consecutive KL."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.analysis.kl import kl_matrix, kl_pair, kl_standard_errors
from kltui.analysis.loss import losses
from kltui.analysis.map import Map, shared_counts
from kltui.analysis.point import Point
from kltui.analysis.trajectory import even_interval, trajectories
from kltui.errors import KltuiError


def small_map() -> Map:
    points = (
        Point("a@2", "a", 2),
        Point("a@0", "a", 0),
        Point("b@1", "b", 1),
        Point("a@1", "a", 1),
        Point("a@2+bnb-8bit", "a", 2, "bnb-8bit"),
        Point("a@2#1", "a", 2, layer=1),
        Point("c", "c"),
    )
    L = np.random.default_rng(0).normal(-2000, 50, (7, 60))
    L[2, 3] = np.nan
    return Map(points, L, np.arange(300, 360), np.full((7, 60), 250, np.int32), {"corpus": "x"})


def test_trajectories_are_sorted_by_step_and_kept_apart() -> None:
    m = small_map()
    assert [(t.label, t.steps) for t in m.trajectories()] == [
        ("a", (0, 1, 2)),
        ("b", (1,)),
        ("a+bnb-8bit", (2,)),
    ]
    assert "a#1" in [t.label for t in trajectories(m.points, layers=True)]


def test_consecutive_kl_follows_the_run() -> None:
    m = small_map()
    rows = m.consecutive()
    assert [(r.run, r.step_from, r.step_to) for r in rows] == [("a", 0, 1), ("a", 1, 2)]
    want = kl_pair(m.loglik_KN[1], m.loglik_KN[3], m.text_bytes_N)
    assert (rows[0].kl, rows[0].se) == (want.value, want.se)


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_bytes_of_pairs_are_those_of_every_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    K, N = 9, 40
    L, size = rng.normal(-2000, 50, (K, N)), rng.integers(1, 2000, N)
    L[rng.random((K, N)) < 0.3] = np.nan
    L[1] = np.where(np.isfinite(L[0]), L[1], np.nan)
    L[2, : N // 2], L[3, N // 2 :] = np.nan, np.nan  # no text is common to both
    m = Map(tuple(Point(f"a@{k}", "a", k) for k in range(K)), L, size, np.ones((K, N), np.int32), {})
    both = [np.isfinite(a) & np.isfinite(b) for a, b in combinations(L, 2)]
    B = [size[common].mean() for common in both if common.any()]
    assert len(B) < len(both) and m.pair_mean_bytes == pytest.approx((min(B), max(B)), rel=1e-12)


@pytest.mark.parametrize("alike", [True, False])
def test_counts_follow_their_vectors_and_texts(alike: bool) -> None:
    m = small_map()
    counts = np.random.default_rng(3).integers(1, 500, (7, 60)).astype(np.int32)
    counts = counts[:1].repeat(7, axis=0) if alike else counts
    m = replace(m, n_scored_KN=shared_counts(counts))
    rows = [5, 0, 3]
    assert np.array_equal(m.select(rows).n_scored_KN, counts[rows])
    clipped = m.preprocessed("clip", exclude=["b@1"])
    kept = [m.row(name) for name in clipped.names]
    assert 2 not in kept and np.array_equal(clipped.n_scored_KN, counts[np.ix_(kept, clipped.text_index)])
    cleaned = m.preprocessed("pretraining", remove_fraction=0.1, outlier_from_step=0)
    kept = [m.row(name) for name in cleaned.names]
    assert len(cleaned.text_index) < 60
    assert np.array_equal(cleaned.n_scored_KN, counts[np.ix_(kept, cleaned.text_index)])


def test_a_loss_is_that_of_a_trained_models_last_layer() -> None:
    m = small_map()
    m = replace(m, points=(*m.points[:6], Point("c", "c", tags=("interpolation", "of=a b"))))
    size = m.text_bytes_N
    assert [r.name for r in losses(m)] == ["a@2", "a@0", "b@1", "a@1", "a@2+bnb-8bit"]
    bits = -m.loglik_KN[1].sum() / size.sum() / np.log(2)
    assert losses(m)[1].bits_per_byte == pytest.approx(bits)


def test_pairs_by_name() -> None:
    m = small_map()
    pair = m.pair("a@0", "b@1")
    assert pair.n_dropped == 1
    assert m.kl()[1, 2] == pytest.approx(pair.value)
    assert m.kl_se()[1, 2] == pytest.approx(pair.se)
    with pytest.raises(KltuiError, match="no vector named") as e:
        m.pair("a@O", "b@1")
    assert "a@0" in e.value.hint
    with pytest.raises(KltuiError, match="no vector named") as e:
        m.pair("a", "b@1")
    assert e.value.hint == "it is a run of 4; its last vector is a@2"


def test_parts_keep_rows_and_records() -> None:
    m = small_map()
    part = m.select([k for k, point in enumerate(m.points) if point.layer is None])
    assert part.names == [n for n in m.names if "#" not in n]
    clipped = m.preprocessed("clip", exclude=["c"])
    assert clipped.record["corpus"] == "x"
    assert clipped.record["preprocess"]["mode"] == "clip"  # type: ignore[index]
    assert clipped.n_scored_KN is not None
    assert clipped.n_scored_KN.shape == clipped.loglik_KN.shape == (6, 60)


def test_means_and_missing_texts() -> None:
    m = small_map()
    assert m.n_unscored.tolist() == [0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(m.mean_loglik, np.nanmean(m.loglik_KN, axis=1))
    assert m.mean_bytes == 329.5


def test_impossible_maps_are_refused() -> None:
    with pytest.raises(KltuiError, match="cannot hold"):
        Map((Point("a", "a"),), np.zeros((2, 3)), np.ones(3, np.int64))
    with pytest.raises(KltuiError, match="'a'"):
        Map((Point("a", "a"), Point("a", "b")), np.zeros((2, 3)), np.ones(3, np.int64))


def test_the_even_part_of_a_schedule() -> None:
    assert even_interval([0, 1, 2, 4, 512, 1000, 2000, 3000]) == (1000, 1000)
    assert even_interval([0, 1, 2, 4, 8, 20, 40, 60, 80, 93]) == (20, 20)
    assert even_interval([0, 10, 20, 40, 50]) == (0, 10)
    rng = np.random.default_rng(2)
    for _ in range(50):
        steps = [0, *np.cumsum(rng.integers(1, 5, 12)).tolist()]
        gaps = [b - a for a, b in pairwise(steps)]
        gap = max(set(gaps), key=lambda g: (gaps.count(g), g))
        assert even_interval(steps) == (steps[gaps.index(gap)], gap)
    assert even_interval([5]) == (5, 0)
    assert even_interval([]) == (0, 0)


def test_texts_keep_their_place_in_the_corpus() -> None:
    m = small_map()
    assert m.text_index.tolist() == list(range(60))
    steps = tuple(Point(f"a@{t}", "a", t) for t in (2000, 3000, 4000))
    L = np.random.default_rng(2).normal(size=(3, 100))
    L[1, [8, 50]] += 99
    once = Map(steps, L, np.full(100, 900)).preprocessed("pretraining", remove_fraction=0.02)
    assert set(range(100)) - set(once.text_index) == {8, 50}
    twice = once.preprocessed("pretraining", remove_fraction=0.1)
    np.testing.assert_array_equal(np.maximum(L[:, twice.text_index], -np.inf).shape, twice.loglik_KN.shape)
    assert len(twice.text_index) == 88
    assert set(twice.text_index) < set(once.text_index)
    np.testing.assert_array_equal(twice.select([2, 0]).text_index, twice.text_index)


def test_texts_pictures_and_benchmarks_of_a_map() -> None:
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(30, 2))
    L = latent @ rng.normal(size=(2, 80)) * 30 - 2000 + rng.normal(size=(30, 80))
    L[3, 7] = np.nan
    m = Map(tuple(Point(f"m{k}", f"m{k}", type=f"t{k % 6}") for k in range(30)), L, np.full(80, 900))
    xy, found = m.error_ellipses(draws=5)
    np.testing.assert_allclose(xy, m.coordinates("pca"))
    assert [e.name for e in found] == m.names
    scores = {f"m{k}": float(50 + 10 * latent[k, 0]) for k in range(29)}
    predicted = m.predicted(scores, seeds=[0])
    assert predicted.pearson > 0.9
    assert predicted.n_models == 29
    assert len(m.leakage(scores)) == 29
    part = m.select([k for k in range(30) if k != 3])
    assert part.draw_texts(40).n_drawn == 40


@settings(deadline=None)  # a busy machine may be slow
@given(
    st.integers(2, 6),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.6),
)
def test_kl_of_any_map_is_symmetric_and_never_negative(K: int, N: int, seed: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    L = rng.normal(-1000, 10 ** rng.uniform(-3, 3), (K, N))
    L[rng.random((K, N)) < missing] = np.nan
    kl, se = kl_matrix(L, rng.integers(1, 1024, N)), kl_standard_errors(L, np.full(N, 9))
    np.testing.assert_array_equal(kl, kl.T)
    both = np.isfinite(L)[:, None] & np.isfinite(L)[None]
    np.testing.assert_array_equal(np.isnan(kl), both.sum(-1) < 2)
    off = ~np.eye(K, dtype=bool)
    np.testing.assert_array_equal(np.isnan(se)[off], (both.sum(-1) < 3)[off])
    assert not (se[off] == 0).any()
    assert not (kl < 0).any()
    assert (np.diag(kl)[~np.isnan(np.diag(kl))] == 0).all()
