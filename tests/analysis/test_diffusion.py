"""Exponents of motions whose exponent is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis.diffusion import Exponent, auto_from_step, fit_exponent, fit_exponents, summarise, windows
from kltui.analysis.kl import LN2
from kltui.analysis.map import Map
from kltui.analysis.point import Point

N = 10_000


def found(q_TN: np.ndarray, steps: list[int] | None = None, **settings: object) -> list[Exponent]:
    steps = steps or list(range(1000, 1000 * (len(q_TN) + 1), 1000))
    points = tuple(Point(f"r@{s}", "r", s) for s in steps)
    return Map(points, q_TN, np.full(q_TN.shape[1], 972)).diffusion(**settings)  # type: ignore[arg-type]


def exponents(q_TN: np.ndarray, steps: list[int] | None = None, **settings: object) -> np.ndarray:
    return np.array([e.c_q for e in found(q_TN, steps, **settings)])


def fractional_motion(T: int, n: int, hurst: float, seed: int) -> np.ndarray:
    """T x n paths of fractional Brownian motion by the Cholesky factor of its covariance."""
    t = np.arange(1, T + 1, dtype=float)
    h = 2 * hurst
    cov = (t[:, None] ** h + t[None] ** h - np.abs(t[:, None] - t[None]) ** h) / 2
    return np.linalg.cholesky(cov) @ np.random.default_rng(seed).normal(size=(T, n))


def test_ballistic_motion_is_two() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=N) + np.arange(30)[:, None] * rng.normal(size=N)
    np.testing.assert_allclose(exponents(q), 2.0, atol=1e-6)


def test_gaussian_walk_is_one() -> None:
    q = np.cumsum(np.random.default_rng(1).normal(size=(60, N)), axis=0)
    c = exponents(q)
    assert len(c) == 50
    assert np.median(c) == pytest.approx(1.0, abs=0.03)
    assert np.abs(c - 1).max() < 0.03


def test_independent_noise_is_zero() -> None:
    assert np.abs(exponents(np.random.default_rng(2).normal(size=(40, N)))).max() < 0.05


def test_fractional_brownian_motion() -> None:
    c = exponents(fractional_motion(60, N, 0.1, seed=3))
    assert np.median(c) == pytest.approx(0.20, abs=0.02)


def test_noise_flattens_a_walk_and_the_correction_restores_it() -> None:
    """Noise that adds one step's worth to every distance: D = tau + 1 has slope 0.755 over tau = 1..10."""
    rng = np.random.default_rng(4)
    q = np.cumsum(rng.normal(size=(60, N)), axis=0) + rng.normal(0, math.sqrt(0.5), size=(60, N))
    assert np.median(exponents(q)) == pytest.approx(0.755, abs=0.01)
    corrected = exponents(q, noise_corrected=True)
    assert np.median(corrected) == pytest.approx(1.0, abs=0.1)
    known = 1.0 / (2 * 972 * LN2)
    assert np.median(exponents(q, noise_corrected=known)) == pytest.approx(1.0, abs=0.03)


def test_the_correction_leaves_a_noiseless_motion_alone() -> None:
    for motion, c in (
        (fractional_motion(60, 2500, 0.5, seed=5), 1.0),
        (fractional_motion(60, 2500, 0.25, seed=5), 0.5),
    ):
        assert np.median(exponents(motion, noise_corrected=True)) == pytest.approx(c, abs=0.1)


@pytest.mark.parametrize(("seed", "n"), [(3, N), (11, 500)])
def test_fractional_motion_is_not_taken_for_noise(seed: int, n: int) -> None:
    motion = fractional_motion(60, n, 0.1, seed)
    plain = exponents(motion)
    np.testing.assert_array_equal(exponents(motion, noise_corrected=True), plain)
    assert np.median(plain) == pytest.approx(0.20, abs=0.02)


LAG = np.arange(40)
BENT = {
    "squares": LAG + 0.05 * LAG**2,
    "growth": np.exp(LAG / 15.0),
    "root": np.sqrt(LAG),
    "late turn": np.where(LAG < 20, LAG, LAG + 0.02 * np.maximum(LAG - 20, 0) ** 2),
    "wave": np.sin(LAG / 8.0) * 8,
}


@pytest.mark.parametrize("name", BENT)
@pytest.mark.parametrize("n", [60, 600])
def test_a_bent_curve_stays_as_it_is(name: str, n: int) -> None:
    curve = BENT[name][:, None] * np.random.default_rng(1).normal(size=n)
    corrected = found(curve, noise_corrected=True)
    np.testing.assert_array_equal([e.c_q for e in corrected], exponents(curve))
    assert all(e.floor.value == 0 and e.floor.why for e in corrected)


@pytest.mark.parametrize("drift", [0.1, 0.3, 1.0])
def test_a_walk_with_a_drift_stays_as_it_is(drift: float) -> None:
    rng = np.random.default_rng(2)
    q = np.cumsum(rng.normal(size=(60, N)), axis=0) + drift * np.arange(60)[:, None] * rng.normal(size=N)
    np.testing.assert_array_equal(exponents(q, noise_corrected=True), exponents(q))


@pytest.mark.parametrize(("noise", "n"), [(0.5, 2500), (0.5, 400), (0.15, N)])
def test_the_floor_of_a_noisy_walk_lies_in_its_interval_and_below_its_bound(noise: float, n: int) -> None:
    rng = np.random.default_rng(7)
    q = np.cumsum(rng.normal(size=(60, n)), axis=0) + rng.normal(0, math.sqrt(noise), size=(60, n))
    floor = found(q, noise_corrected=True)[0].floor
    true = 2 * noise / (2 * 972 * LN2)
    assert floor.why == "" and floor.value == floor.estimate
    assert floor.low < true < floor.high
    assert true < floor.bound < (2 * noise + 1) / (2 * 972 * LN2)  # no more than its neighbours differ by
    assert (floor.high - floor.low) / true < 0.5


def test_a_straight_line_with_noise_has_its_floor_taken_off() -> None:
    rng = np.random.default_rng(8)
    q = np.arange(60)[:, None] * rng.normal(size=N) + rng.normal(0, math.sqrt(0.5), size=(60, N))
    assert np.median(exponents(q)) < 1.8
    assert np.median(exponents(q, noise_corrected=True)) == pytest.approx(2.0, abs=0.02)


def test_a_run_that_settles_is_not_given_a_floor_above_its_last_distances() -> None:
    """As in the demo: wide steps early bend the curve, and late neighbours differ by a tenth of the fitted floor."""
    rng = np.random.default_rng(9)
    sizes = np.where(np.arange(24) < 12, 1.0, 0.3)
    q = np.cumsum(sizes[:, None] * rng.normal(size=(24, 2000)), axis=0)
    floor = found(q, noise_corrected=True)[0].floor
    neighbours = 0.3**2 / (2 * 972 * LN2)
    assert floor.value < neighbours
    assert not floor.bound > neighbours * 1.1


def test_two_texts_tell_no_floor() -> None:
    q = np.cumsum(np.random.default_rng(1).normal(size=(30, 2)), axis=0)
    floor = found(q, noise_corrected=True)[0].floor
    assert floor.value == 0 and "three distinct texts" in floor.why


def test_fit_against_numpy_and_its_standard_error() -> None:
    rng = np.random.default_rng(6)
    tau = np.arange(1, 11) * 1000.0
    d = 3 * tau**0.3 * np.exp(rng.normal(0, 0.05, 10))
    fit = fit_exponent(tau, d)
    slope, cov = np.polyfit(np.log(tau), np.log(d), 1, cov=True)
    assert fit.c == pytest.approx(slope[0])
    assert fit.se == pytest.approx(math.sqrt(cov[0, 0]))
    assert fit.r2 == pytest.approx(np.corrcoef(np.log(tau), np.log(d))[0, 1] ** 2)


def test_only_finite_positive_points_count() -> None:
    fit = fit_exponent([1, 2, 4, 8, 16], [1, np.nan, 4, 0.0, 16])
    assert (fit.n, round(fit.c, 12)) == (3, 1.0)
    assert math.isnan(fit_exponent([1, 2], [1, np.nan]).c)
    assert math.isnan(fit_exponent([1, 2], [3, 3]).r2)


def test_windows_are_full_and_start_at_1000() -> None:
    pythia = [0, *(2**k for k in range(10)), *range(1000, 144_000, 1000)]
    found = windows(pythia)
    assert len(pythia) == 154
    assert found[0] == (1000, *range(2000, 12_000, 1000))
    assert found[-1][0] == 133_000
    assert len(found) == 133


def test_windows_with_a_missing_checkpoint() -> None:
    saved = list(range(1000, 21_000, 1000))
    have = [s for s in saved if s != 6000]
    by_schedule = {w[0]: w for w in windows(have, schedule=saved)}
    assert 6000 not in by_schedule
    assert by_schedule[1000] == (1000, 2000, 3000, 4000, 5000, 7000, 8000, 9000, 10_000, 11_000)
    assert by_schedule[7000][-1] == 17_000
    alone = {w[0]: w for w in windows(have)}
    assert alone[1000] == (1000, 2000, 3000, 4000, 5000, 7000, 8000, 9000, 10_000, 11_000, 12_000)
    assert max(alone) == 10_000


def test_exponents_of_a_walk_with_a_missing_checkpoint_use_true_times() -> None:
    q = np.cumsum(np.random.default_rng(7).normal(size=(40, N)), axis=0)
    keep = [i for i in range(40) if i != 15]
    steps = [1000 * (i + 1) for i in keep]
    assert np.median(exponents(q[keep], steps)) == pytest.approx(1.0, abs=0.03)


def test_short_runs_find_their_own_start() -> None:
    steps = [0, 1, 2, 4, 8, 16, *range(20, 320, 20)]
    assert auto_from_step(steps) == 20
    assert auto_from_step([0, 1, 512, *range(1000, 20_000, 1000)]) == 1000


def test_alpha_and_dimensions_of_a_map() -> None:
    T = 24
    walk = np.cumsum(np.random.default_rng(8).normal(size=(T, 2000)), axis=0)
    points = tuple(Point(f"r@{1000 * t}", "r", 1000 * t) for t in range(1, T + 1))
    m = Map(points, walk, np.full(2000, 972))
    weights = {
        (a.name, b.name): float(b.step - a.step) ** 2  # type: ignore[operator]
        for a in points
        for b in points
    }
    found = m.diffusion(weights)
    assert len(found) == T - 10
    e = found[0]
    assert (e.run, e.start, e.window, e.n_q, e.n_w) == ("r", 1000, 10, 10, 10)
    assert e.c_w == pytest.approx(2.0)
    assert e.alpha == pytest.approx(e.c_q / 2)
    assert e.dimension_w == pytest.approx(1.0)
    assert e.dimension_q == pytest.approx(2 / e.c_q)
    s = summarise(found)[0]
    assert s.n_starts == T - 10
    assert s.c_q[1] <= s.c_q[0] <= s.c_q[2]
    assert s.c_w[0] == pytest.approx(2.0)


def test_excluded_checkpoints_keep_their_place_in_the_schedule() -> None:
    points = tuple(Point(f"r@{1000 * t}", "r", 1000 * t) for t in range(1, 26))
    L = np.random.default_rng(9).normal(size=(25, 300)).cumsum(0)
    m = Map(points, L, np.full(300, 900)).preprocessed("none", exclude=["r@12000"])
    found = {e.start: e for e in m.diffusion()}
    assert 12_000 not in found
    assert found[5000].n_q == 9
    assert found[13_000].n_q == 10
    again = Map(points, L, np.full(300, 900)).preprocessed("none", exclude=["r@12000"]).preprocessed("clip")
    assert {e.start: e.n_q for e in again.diffusion()} == {start: e.n_q for start, e in found.items()}


@pytest.mark.parametrize("n_points", [1, 2, 3, 10, 20])
def test_windows_fitted_at_once_have_the_fits_of_each_to_the_last_bit(n_points: int) -> None:
    rng = np.random.default_rng(6)
    tau = np.sort(rng.uniform(1, 1000, (60, n_points)), axis=1)
    sqdist = tau**0.3 * rng.lognormal(0, 0.3, (60, n_points))
    whole = tau.copy(), sqdist.copy()
    sqdist[3, 0], sqdist[4], tau[5], tau[6], sqdist[7] = -1.0, np.nan, 7.0, 0.0, 2.0
    for t, d in (whole, (tau, sqdist)):
        one_by_one = [fit_exponent(t[i], d[i]) for i in range(60)]
        assert list(map(repr, fit_exponents(t, d))) == list(map(repr, one_by_one))
