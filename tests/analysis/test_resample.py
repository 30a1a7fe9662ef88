"""Resampling: identities, unbiasedness, the gain of LS on heavy tails; pictures' errors; added models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from kltui.analysis.embed import scaled_coordinates
from kltui.analysis.kl import MIN_TEXTS, double_centre, kl_matrix
from kltui.analysis.resample import (
    TextSample,
    add_models,
    draw,
    draw_texts,
    kl_to_map,
    resampled_coordinates,
    resampling_errors,
    sampling_probabilities,
    square_distances,
)
from kltui.analysis.uncertainty import ellipses, procrustes, resampled_pictures
from kltui.errors import KltuiError


def heavy_tailed(K: int = 20, N: int = 2000, seed: int = 0) -> np.ndarray:
    """Vectors in which a few texts carry most of the variance."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(K, N)) * np.exp(rng.normal(0, 1.5, N)) - 2000


def test_probabilities_against_loops() -> None:
    Q = double_centre(heavy_tailed(6, 50))
    assert sampling_probabilities(Q, "uniform").tolist() == [1 / 50] * 50
    ls = (Q**2).sum(0)
    np.testing.assert_allclose(sampling_probabilities(Q, "ls"), ls / ls.sum())
    pairs = [np.abs(Q[i] - Q[j]) ** 4 for i, j in itertools.product(range(6), repeat=2)]
    kl = np.sqrt(np.sum(pairs, axis=0))
    np.testing.assert_allclose(sampling_probabilities(Q, "kl"), kl / kl.sum(), rtol=1e-9)


def test_merging_repeated_texts_changes_no_distance() -> None:
    L = heavy_tailed(8, 300)
    p = sampling_probabilities(double_centre(L), "ls")
    d = draw(p, 900, seed=3)
    raw = np.random.default_rng(3).choice(300, size=900, p=p)
    weight = 1 / np.sqrt(900 * p[raw])
    repeated = L[:, raw] - (L[:, raw] @ weight**2 / (weight**2).sum())[:, None]
    want = square_distances((repeated - repeated.mean(0)) * weight)
    got = square_distances(resampled_coordinates(L[:, d.index], d, 1 / (2 * math.log(2)))) * 300
    assert len(d.index) < 300
    assert np.abs(got / np.where(want > 0, want, 1) - (want > 0)).max() < 1e-10


def test_every_text_drawn_once_is_the_map_itself() -> None:
    L = heavy_tailed(8, 300)
    size = np.random.default_rng(1).integers(257, 1025, 300)
    all_once = TextSample(np.arange(300), np.ones(300), 300, 300, "uniform", 0)
    got = resampled_coordinates(L, all_once, float(size.mean()))
    np.testing.assert_allclose(got, scaled_coordinates(L, size), atol=1e-12)


@pytest.mark.parametrize("method", ["uniform", "ls", "kl"])
def test_distances_are_unbiased(method: str) -> None:
    Q = double_centre(heavy_tailed(5, 200))
    p = sampling_probabilities(Q, method)
    truth = square_distances(Q)
    got = []
    for seed in range(400):
        d = draw(p, 200, seed)
        got.append(square_distances(Q[:, d.index] * d.weight))
    mean, se = np.mean(got, axis=0), np.std(got, axis=0) / 20
    off = ~np.eye(5, dtype=bool)
    assert (np.abs(mean - truth)[off] < 4 * se[off]).all()


def test_ls_has_at_most_half_of_uniforms_error_on_heavy_tails() -> None:
    rows = {r.method: r for r in resampling_errors(heavy_tailed(), ["uniform", "ls", "kl"], [500], draws=20)}
    assert rows["ls"].absolute <= rows["uniform"].absolute / 2
    assert rows["kl"].absolute <= rows["uniform"].absolute / 2
    assert rows["ls"].relative <= rows["uniform"].relative / 2
    assert rows["ls"].n_different < 500


def test_more_texts_less_error() -> None:
    rows = resampling_errors(heavy_tailed(10, 1000), ["ls"], [100, 400, 1600], draws=10)
    errors = [r.absolute for r in rows]
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.35)


def test_a_model_added_by_drawn_texts_lands_where_it_belongs() -> None:
    L = heavy_tailed(30, 4000)
    size = np.full(4000, 900)
    threshold = float(np.quantile(L[:25], 0.02))
    clipped = np.maximum(L, threshold)
    d = draw_texts(clipped[:25], "ls", 3000)
    got = square_distances(add_models(clipped[:25][:, d.index], L[25:][:, d.index], d, 900.0, threshold))
    want = kl_matrix(clipped, size)
    new = np.abs(got[25:, :25] / want[25:, :25] - 1)
    assert np.median(new) < 0.05
    assert len(d.index) < 2500
    with pytest.raises(KltuiError, match="texts were drawn"):
        add_models(clipped[:25][:, d.index], L[25:], d, 900.0)


def test_refusals() -> None:
    with pytest.raises(KltuiError, match="unknown way"):
        sampling_probabilities(np.ones((2, 3)), "best")
    with pytest.raises(KltuiError, match="are the same"):
        sampling_probabilities(np.zeros((2, 3)), "ls")
    with pytest.raises(KltuiError, match="unscored"):
        sampling_probabilities(np.array([[np.nan, 1.0]]), "ls")


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_procrustes_undoes_a_similarity(flip: float) -> None:
    rng = np.random.default_rng(2)
    fixed = rng.normal(size=(12, 2))
    t = 1.1
    turn = np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]]) * [1.0, flip]
    np.testing.assert_allclose(procrustes(3 * fixed @ turn + [5, -7], fixed), fixed, atol=1e-12)


def test_procrustes_is_the_least_squares_choice() -> None:
    rng = np.random.default_rng(3)
    fixed, moving = rng.normal(size=(2, 15, 2))
    best = ((procrustes(moving, fixed) - fixed) ** 2).sum()
    centred = moving - moving.mean(0)
    for t in np.linspace(0, 2 * np.pi, 60):
        for flip in (1, -1):
            turned = centred @ (
                np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]]) * [1, flip]
            )
            b = fixed - fixed.mean(0)
            scale = (turned * b).sum() / (turned**2).sum()
            assert best <= ((scale * turned - b) ** 2).sum() + 1e-9


def test_ellipses_of_a_known_cloud() -> None:
    rng = np.random.default_rng(4)
    t = math.radians(30)
    turn = np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]])
    cloud = (rng.normal(size=(20_000, 2)) * [3.0, 1.0]) @ turn + [10, 20]
    (e,) = ellipses(cloud[:, None, :], ["m"])
    assert (e.x, e.y) == pytest.approx((10, 20), abs=0.1)
    assert (e.major, e.minor) == pytest.approx((3, 1), rel=0.03)
    assert e.angle == pytest.approx(30, abs=1)
    inside = (
        (np.linalg.solve(turn.T, (cloud - [10, 20]).T).T / [e.scaled().major, e.scaled().minor]) ** 2
    ).sum(1) < 1
    assert inside.mean() == pytest.approx(0.95, abs=0.01)


def test_more_texts_smaller_ellipses() -> None:
    rng = np.random.default_rng(5)
    L = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 3000)) * 20 + rng.normal(size=(12, 3000))
    size = np.full(3000, 900)
    spreads = []
    for n in (100, 2000):
        fixed, clouds = resampled_pictures(L, size, n=n, draws=12)
        spreads.append(np.mean([e.major for e in ellipses(clouds, [str(k) for k in range(12)])]))
        assert clouds.shape == (12, 12, 2)
        assert np.abs(clouds.mean(0) - fixed).max() < 5 * spreads[-1] + 1e-6
    assert spreads[0] / spreads[1] == pytest.approx(math.sqrt(20), rel=0.35)
    with pytest.raises(KltuiError, match="no error ellipses"):
        resampled_pictures(L, size, method="mds")


def counts(d: TextSample, p_N: np.ndarray) -> np.ndarray:
    return np.rint(d.weight**2 * d.n_drawn * p_N[d.index])


@pytest.mark.parametrize("method", ["uniform", "ls", "kl"])
def test_kl_to_a_map_is_unbiased_and_its_error_is_its_scatter(method: str) -> None:
    L = heavy_tailed(8, 400)
    new = L[:2] + np.random.default_rng(1).normal(size=(2, 400)) * np.exp(
        np.random.default_rng(2).normal(0, 1, 400)
    )
    size = np.full(400, 500)
    truth = kl_matrix(np.concatenate([L, new]), size)[8:, :8]
    p = sampling_probabilities(double_centre(L), method)
    values, errors = [], []
    for seed in range(400):
        d = draw(p, 150, seed)
        found = kl_to_map(L[:, d.index], new[:, d.index], d, counts(d, p), 500.0)
        values.append(found.value)
        errors.append(found.se)
    mean, scatter = np.mean(values, axis=0), np.std(values, axis=0)
    np.testing.assert_allclose(mean, truth, atol=(4 * scatter / 20 + 0.02 * truth).max())
    ratio = np.mean(errors, axis=0) / scatter
    assert 0.75 < np.median(ratio) < 1.25


def test_a_model_of_the_map_is_at_no_distance_from_itself() -> None:
    L = heavy_tailed(5, 300)
    p = sampling_probabilities(double_centre(L), "ls")
    d = draw(p, 100)
    found = kl_to_map(L[:, d.index], L[2:3, d.index] + 7.0, d, counts(d, p), 500.0)
    assert found.value[0, 2] == pytest.approx(0.0, abs=1e-12)
    assert found.se[0, 2] == pytest.approx(0.0, abs=1e-12)
    assert (found.value[0, [0, 1, 3, 4]] > 0).all() and (found.se[0, [0, 1, 3, 4]] > 0).all()


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("n_texts", [40, 1000])
def test_the_error_of_a_kl_from_few_draws_is_not_too_small(n: int, n_texts: int) -> None:
    """Against the scatter of 1,000 draws around the KL over all texts; without the jackknife it is 0.6 to 0.9 of that for 10 draws."""
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(9, 3)) @ rng.normal(size=(3, n_texts)) * np.exp(rng.normal(size=n_texts))
    L = -300 + 20 * shared + 4 * rng.normal(size=(9, n_texts))
    L[8] += 5 * rng.normal(size=n_texts) * np.exp(rng.normal(size=n_texts))
    p = sampling_probabilities(double_centre(L[:8]), "ls")
    truth = (L[:8] - L[8]).var(axis=1) / (2 * 500.0 * np.log(2))
    off, said = [], []
    for seed in range(1000):
        d = draw(p, n, seed)
        found = kl_to_map(L[:8, d.index], L[8:, d.index], d, counts(d, p), 500.0)
        if len(d.index) >= MIN_TEXTS:
            off.append(found.value[0] - truth)
            said.append(found.se[0])
    ratio = np.sqrt(np.mean(np.square(said), axis=0) / np.mean(np.square(off), axis=0))
    assert 0.95 < ratio.mean() < 1.3
