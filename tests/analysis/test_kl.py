"""KL and its standard error against the formula, exact enumeration, loops over pairs, and the bootstrap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from kltui.analysis.kl import (
    LN2,
    MIN_TEXTS,
    KLPairs,
    double_centre,
    kl_matrix,
    kl_pair,
    kl_standard_errors,
    length_share,
)


def kl_bootstrap_se(
    l_i: ArrayLike, l_j: ArrayLike, text_bytes_N: ArrayLike, draws: int = 1000, seed: int = 42
) -> float:
    """Standard error of `kl_pair` in bits/byte by resampling texts `draws` times: the check of the moment formula."""
    d = np.asarray(l_i, dtype=np.float64) - np.asarray(l_j, dtype=np.float64)
    used = np.isfinite(d)
    d, size = d[used], np.asarray(text_bytes_N, dtype=np.float64)[used]
    if len(np.unique(d)) < MIN_TEXTS:
        return math.nan
    rng = np.random.default_rng(seed)
    variances = [np.var(d[rng.integers(0, d.size, d.size)]) for _ in range(draws)]
    return float(np.std(variances)) / (2.0 * float(size.mean()) * LN2)


def random_vectors(K: int, N: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    L = rng.normal(-2300, 300, N) + np.cumsum(rng.normal(0, 5, (K, N)), axis=0) + rng.normal(0, 50, (K, 1))
    return L, rng.integers(257, 1025, N)


def test_formula_of_the_paper() -> None:
    kl = kl_matrix([[0, 0, 0, 0], [1, -1, 1, -1]], [10, 10, 10, 10])
    assert kl[0, 1] == pytest.approx(0.0721348, abs=1e-7)
    assert kl[0, 1] == kl[1, 0]
    assert kl[0, 0] == kl[1, 1] == 0.0


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    L, size = random_vectors(5, 200)
    moved = L + np.array([0, 1e3, -1e4, 5, 0.1])[:, None]
    np.testing.assert_allclose(kl_matrix(moved, size), kl_matrix(L, size), rtol=1e-9)


def test_double_centring_is_rows_columns_and_grand_mean() -> None:
    L, _ = random_vectors(6, 50)
    Q = L - L.mean(1, keepdims=True) - L.mean(0) + L.mean()
    np.testing.assert_allclose(double_centre(L), Q, atol=1e-9)


def test_weighted_centring() -> None:
    L, _ = random_vectors(6, 50)
    w = np.random.default_rng(1).random(50)
    rows = L - (L * w).sum(1, keepdims=True) / w.sum()
    np.testing.assert_allclose(double_centre(L, w), rows - rows.mean(0), atol=1e-9)


@pytest.mark.parametrize("missing", [0.0, 0.002, 0.2])
@pytest.mark.parametrize("N", [37, 2500])
def test_matrices_equal_pairs_one_by_one(N: int, missing: float) -> None:
    L, size = random_vectors(9, N, seed=3)
    rng = np.random.default_rng(4)
    L[rng.random(L.shape) < missing] = np.nan
    kl, se = kl_matrix(L, size), kl_standard_errors(L, size)
    for i, j in itertools.permutations(range(9), 2):
        one = kl_pair(L[i], L[j], size)
        assert kl[i, j] == pytest.approx(one.value, rel=1e-9, nan_ok=True)
        assert se[i, j] == pytest.approx(one.se, rel=1e-8, nan_ok=True)


@pytest.mark.parametrize("missing", [0.0, 0.05])
def test_errors_across_tiles_equal_moments_of_differences(missing: float) -> None:
    L, size = random_vectors(140, 300, seed=9)  # more rows than a tile has
    L[np.random.default_rng(2).random(L.shape) < missing] = np.nan
    kl, se = kl_matrix(L, size), kl_standard_errors(L, size)
    np.testing.assert_array_equal(se, se.T)
    for i, j in ((0, 139), (3, 130), (127, 128), (5, 6), (129, 138)):
        d = L[i] - L[j]
        d, B = d[np.isfinite(d)], size[np.isfinite(d)].mean()
        d = d - d.mean()
        m2, m4 = (d**2).mean(), (d**4).mean()
        assert kl[i, j] == pytest.approx(m2 / (2 * B * LN2), rel=1e-9)
        assert se[i, j] == pytest.approx(math.sqrt((m4 - m2**2) / len(d)) / (2 * B * LN2), rel=1e-8)


def test_the_products_of_a_map_are_read_once_and_written_over() -> None:
    L, size = random_vectors(140, 60)
    made: list[np.ndarray] = []

    def products(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Q = double_centre(given)
        made.append(Q @ Q.T)
        return Q, made[0]

    found = kl_matrix(L, size, products)
    assert found is made[0]  # no second K x K
    np.testing.assert_allclose(found, kl_matrix(L, size), rtol=1e-12)


def test_missing_texts_are_excluded_pairwise_and_counted() -> None:
    a = np.array([1.0, 2.0, np.nan, 5.0, 0.0])
    b = np.array([0.0, np.nan, 1.0, 1.0, 2.0])
    kl = kl_pair(a, b, [10, 20, 30, 40, 70])
    assert (kl.n_texts, kl.n_dropped, kl.mean_bytes) == (3, 2, 40.0)
    assert kl.value == pytest.approx(np.var([1.0, 4.0, -2.0]) / (2 * 40 * math.log(2)))
    assert kl.nats == pytest.approx(np.var([1.0, 4.0, -2.0]) / 2)


def test_an_undefined_kl_is_never_zero() -> None:
    L = np.array([[1.0, np.nan, np.nan], [np.nan, 2.0, 3.0], [1.0, 2.0, 4.0], [np.nan] * 3])
    size = [10, 10, 10]
    kl, se = kl_matrix(L, size), kl_standard_errors(L, size)
    assert np.isnan([kl[0, 1], kl[0, 2], kl[3, 3], kl[0, 0], se[0, 1], se[3, 2]]).all()
    assert kl[1, 2] > 0
    assert kl[2, 2] == 0
    assert math.isnan(kl_pair(L[0], L[1], size).value)


def test_texts_that_nobody_scored_do_not_count_in_mean_bytes() -> None:
    L, _ = random_vectors(3, 4)
    L[:, 3] = np.nan
    np.testing.assert_allclose(
        kl_matrix(L, [10, 20, 30, 10**6]), kl_matrix(L[:, :3], [10, 20, 30]), rtol=1e-9
    )


def test_nearby_vectors_far_from_the_others_keep_their_digits() -> None:
    rng = np.random.default_rng(5)
    L = rng.normal(0, 1000, (4, 3000))
    L[1] = L[0] + rng.normal(0, 1e-4, 3000)
    L[2] = L[0]
    size = np.full(3000, 900)
    kl, se = kl_matrix(L, size), kl_standard_errors(L, size)
    one = kl_pair(L[0], L[1], size)
    assert kl[0, 1] == pytest.approx(one.value, rel=1e-8)
    assert se[0, 1] == pytest.approx(one.se, rel=1e-8)
    assert kl[0, 2] == 0.0
    assert math.isnan(se[0, 2])  # no text deviates: nothing tells an error


def test_standard_error_against_the_bootstrap_and_the_normal_law() -> None:
    rng = np.random.default_rng(6)
    n, size = 4000, np.full(4000, 1000)
    normal = rng.normal(0, 3, n)
    heavy = rng.standard_t(8, n) * 3
    for d in (normal, heavy):
        one = kl_pair(d, np.zeros(n), size)
        assert one.se == pytest.approx(kl_bootstrap_se(d, np.zeros(n), size, draws=2000), rel=0.06)
    # variance of a normal sample's variance: 2 sigma^4 / n
    one = kl_pair(normal, np.zeros(n), size)
    assert one.se == pytest.approx(math.sqrt(2 * 81 / n) / (2000 * math.log(2)), rel=0.1)


STRINGS = list(itertools.product(range(4), repeat=5))


def markov_loglik(t_54: np.ndarray) -> np.ndarray:
    """Log-probability of all 4^5 strings under transitions t[a, b] and first symbols t[4]."""
    return np.array(
        [np.log(t_54[4, s[0]]) + sum(np.log(t_54[a, b]) for a, b in itertools.pairwise(s)) for s in STRINGS]
    )


def two_models(scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (5, 4))
    other = logits + rng.normal(0, scale, (5, 4))
    return tuple(markov_loglik(np.exp(a) / np.exp(a).sum(1, keepdims=True)) for a in (logits, other))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("scale", "level", "error"), [(0.1, 0.0136, 0.05), (0.3, 0.12, 0.16), (1.1, 1.6, 0.8)]
)
def test_second_order_against_exact_enumeration(scale: float, level: float, error: float) -> None:
    """Half the variance is the exact KL up to an error that grows with it, on 21 pairs of 4-symbol models."""
    exact, relative = [], []
    for seed in range(21):
        lp, lq = two_models(scale, seed)
        w = np.exp(lp)
        assert w.sum() == pytest.approx(1.0)
        kl = float(w @ (lp - lq))
        d = lp - lq - kl
        exact.append(kl)
        relative.append(float(w @ d**2) / 2 / kl - 1)
    assert np.median(exact) == pytest.approx(level, rel=0.05)
    assert np.abs(relative).max() < error
    assert 0 < np.median(relative) < error / 2


def test_the_estimate_converges_to_half_the_variance_under_the_model() -> None:
    lp, lq = two_models(0.3, 0)
    w = np.exp(lp)
    half_variance = float(w @ (lp - lq - w @ (lp - lq)) ** 2) / 2
    drawn = np.repeat(np.arange(len(w)), np.random.default_rng(1).multinomial(400_000, w / w.sum()))
    kl = kl_pair(lp[drawn], lq[drawn], np.full(400_000, 5))
    assert kl.nats == pytest.approx(half_variance, abs=3 * kl.nats_se)
    assert kl.nats_se < 0.01 * half_variance


# -- errors that texts cannot tell, and texts that come twice


def clustered_error(d: np.ndarray, ids: np.ndarray, size: np.ndarray) -> float:
    """Standard error of Var(d) / (2 B ln 2) with equal texts as one observation, by a plain loop."""
    square = (d - d.mean()) ** 2
    sums = [sum(square[s] - square.mean() for s in range(len(d)) if ids[s] == k) for k in set(ids.tolist())]
    return math.sqrt(sum(x * x for x in sums)) / len(d) / (2 * size.mean() * math.log(2))


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_copies_of_a_text_make_no_error_smaller(missing: float) -> None:
    rng = np.random.default_rng(11)
    L, size = random_vectors(6, 80, seed=11)
    L[rng.random(L.shape) < missing] = np.nan
    ids = np.sort(rng.integers(0, 80, 300)).astype(np.intp)
    ids = ids[rng.permutation(300)]
    many, sizes = L[:, ids], size[ids]
    kl, se = kl_matrix(many, sizes), kl_standard_errors(many, sizes, ids)
    for i, j in itertools.combinations(range(6), 2):
        one = kl_pair(many[i], many[j], sizes, ids)
        used = np.isfinite(many[i] - many[j])
        d = (many[i] - many[j])[used]
        assert one.value == kl_pair(many[i], many[j], sizes).value == pytest.approx(kl[i, j])
        assert one.se == pytest.approx(clustered_error(d, ids[used], sizes[used]), rel=1e-9)
        assert se[i, j] == pytest.approx(one.se, rel=1e-7)


def test_a_corpus_taken_twice_has_the_error_of_the_corpus() -> None:
    L, size = random_vectors(4, 50)
    ids = np.tile(np.arange(50), 2)
    twice = kl_standard_errors(np.tile(L, 2), np.tile(size, 2), ids)
    np.testing.assert_allclose(twice, kl_standard_errors(L, size), rtol=1e-7)
    naive = kl_standard_errors(np.tile(L, 2), np.tile(size, 2))
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(naive[off] * math.sqrt(2), twice[off], rtol=1e-7)


@pytest.mark.parametrize(
    ("texts", "ids"),
    [
        ([0.0, 1.0], None),
        ([-3.0, 4.5, -3.0, 4.5], [0, 1, 0, 1]),
        ([-3.0, 4.5, 4.5, 4.5, 4.5], [0, 1, 1, 1, 1]),
        ([7.1] * 10, None),
        ([7.1] * 10, [0] * 10),
        ([0.0] * 50, None),
    ],
)
def test_an_error_that_the_texts_cannot_tell_is_unknown(texts: list[float], ids: list[int] | None) -> None:
    d, size = np.array(texts), np.full(len(texts), 30)
    same = None if ids is None else np.array(ids, dtype=np.intp)
    rows = np.stack([d - 100.3, np.full(len(d), -100.3)])
    assert math.isnan(kl_pair(*rows, size, same).se)
    assert math.isnan(kl_standard_errors(rows, size, same)[0, 1])
    assert math.isnan(kl_bootstrap_se(*rows, size)) or len(set(texts)) > 2
    assert not math.isnan(kl_pair(*rows, size, same).value)


def test_three_differing_texts_have_an_error() -> None:
    L = np.array([[0.0, 1.0, 5.0], [0.0, 0.0, 0.0]])
    one = kl_pair(*L, [10, 10, 10])
    assert one.se == pytest.approx(clustered_error(L[0], np.arange(3), np.full(3, 10.0)))
    assert kl_standard_errors(L, [10, 10, 10])[0, 1] == pytest.approx(one.se)


def test_the_share_of_a_kl_that_is_the_lengths_of_texts() -> None:
    """Two models that differ by nothing but a constant a byte differ by lengths alone; noise takes its share."""
    rng = np.random.default_rng(4)
    size_N = rng.integers(100, 2000, 5000)
    a_N = -1.0 * size_N
    assert length_share(a_N, -1.5 * size_N, size_N) == pytest.approx(1.0)
    noise_N = rng.normal(0, 0.5 * size_N.std(), 5000)  # as large as what the lengths make
    assert length_share(a_N, -1.5 * size_N + noise_N, size_N) == pytest.approx(0.5, abs=0.03)
    assert length_share(a_N, a_N + noise_N, size_N) < 0.01
    assert math.isnan(length_share(a_N, a_N, size_N)) and math.isnan(
        length_share(a_N, noise_N, np.ones(5000))
    )
    noise_N[:10] = np.nan
    assert length_share(a_N, -1.5 * size_N + noise_N, size_N) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("gaps", [False, True])
def test_a_kl_of_rounding_is_0_and_one_of_float32_is_not(gaps: bool) -> None:
    rng = np.random.default_rng(5)
    base = rng.uniform(-2600.0, -300.0, 500)
    shifted = np.array([base + 0.1 * k for k in range(6)])  # constants do not change a KL
    if gaps:
        shifted[2, 7] = np.nan
    size = rng.integers(260, 1024, 500)
    assert not kl_matrix(shifted, size).any()
    assert not KLPairs(shifted, size, by_need=True).rows(np.arange(6)).any()
    assert {kl_pair(shifted[i], shifted[j], size).value for i in range(6) for j in range(i)} == {0.0}
    least = shifted.copy()
    least[4, 3] = np.nextafter(np.float32(base[3]), np.float32(0.0))  # as small a difference as float32 has
    truth = np.nanvar(least[4] - least[0]) / (2 * size.mean() * math.log(2))
    for found in (kl_matrix(least, size)[0, 4], kl_pair(least[0], least[4], size).value):
        assert found == pytest.approx(truth, rel=1e-6) and found > 0
