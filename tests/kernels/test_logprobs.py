"""Log-probabilities, the fused head and the two-row KL against float64 truths, in every dtype and for odd rows.

The rule: the error against float64 is at most that of the naive computation in float32 on the same (upcast) numbers,
plus 1e-6 relative.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.kernels import native, reference

DTYPES = ["float32", "float16", "bfloat16"]
sizes = st.one_of(st.integers(1, 70), st.sampled_from([255, 2047, 2048, 2049, 4101]))
seeds = st.integers(0, 2**32 - 1)
inf, nan = np.inf, np.nan
ULPS = 3e-7  # where the sum of exponentials is near 1, float32 counts in steps of 1.2e-7


def as_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded to the dtype; bfloat16 as its bits."""
    if dtype == "bfloat16":
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(dtype)


def draw(shape: tuple[int, ...], dtype: str, seed: int, spread: float = 4.0) -> np.ndarray:
    return as_dtype(np.random.default_rng(seed).normal(0, spread, shape), dtype)


def truth(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """log p(target) per row by a float64 loop."""
    out = []
    for row, target in zip(logits.astype(np.float64), targets, strict=True):
        top = row.max()
        out.append(row[target] - top - np.log(np.sum(np.exp(row - top))))
    return np.array(out)


def naive(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The same in float32 throughout, as log_softmax and a gather do it."""
    x = logits.astype(np.float32)
    x = x - x.max(axis=1, keepdims=True)
    logp = x - np.log(np.exp(x).sum(axis=1, dtype=np.float32, keepdims=True))
    return logp[np.arange(len(x)), targets]


def assert_within_rule(
    ours: np.ndarray, other: np.ndarray, exact: np.ndarray, rounding: float = ULPS
) -> None:
    allowed = np.abs(other - exact).max() + 1e-6 * np.abs(exact).max() + rounding
    assert np.abs(ours - exact).max() <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 9), vocabulary=sizes, spread=st.sampled_from([0.1, 4.0, 60.0]), seed=seeds)
def test_gather_within_the_rule(dtype: str, n: int, vocabulary: int, spread: float, seed: int) -> None:
    logits = draw((n, vocabulary), dtype, seed, spread)
    targets = np.random.default_rng(seed).integers(0, vocabulary, n)
    wide = reference.widened(logits)
    ours = native.log_softmax_gather(logits, targets, dtype=dtype)
    assert ours.dtype == np.float32
    assert_within_rule(ours, naive(wide, targets), truth(wide, targets))
    expected = reference.log_softmax_gather(logits, targets)
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=2e-6)


def test_gather_over_a_large_vocabulary_and_strided_rows() -> None:
    wide = draw((5, 60_000), "float32", 1)
    logits = wide[::2, 100:50_357]
    targets = np.array([0, 50_256, 777])
    assert_within_rule(
        native.log_softmax_gather(logits, targets), naive(logits, targets), truth(logits, targets)
    )


@pytest.mark.parametrize(("scale", "softcap"), [(0.0625, 0.0), (1.0, 30.0), (2.0, 5.0), (-1.0, 0.0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_and_soft_cap(dtype: str, scale: float, softcap: float) -> None:
    logits = draw((7, 3001), dtype, 5, 20.0)
    logits[:, 5] = as_dtype(np.array(1e-3), dtype)
    targets = np.arange(7)
    x = reference.widened(logits) * scale
    x = softcap * np.tanh(x / softcap) if softcap else x
    ours = native.log_softmax_gather(logits, targets, scale=scale, softcap=softcap)
    assert_within_rule(ours, naive(x, targets), truth(x, targets))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 40, 5000])
def test_rows_that_are_not_finite(dtype: str, width: int) -> None:
    rows = np.zeros((7, width))
    rows[0, 1:] = -inf
    rows[1, :] = -inf
    rows[2, 2] = nan
    rows[3, width - 1] = inf
    rows[4, 0] = -inf
    rows[5, : width - 1] = -inf
    rows[6, :] = nan
    ours = native.log_softmax_gather(as_dtype(rows, dtype), np.zeros(7, int))
    expected = [0.0, nan, nan, nan, -inf, -inf, nan]
    np.testing.assert_array_equal(ours, np.array(expected, np.float32))


def test_a_late_high_logit_and_extreme_magnitudes() -> None:
    rows = np.full((3, 9000), -1e4, np.float32)
    rows[0, 8999] = 500.0
    rows[1, 4000] = 3e38
    rows[2, 0], rows[2, 8000] = -3e38, 17.0
    np.testing.assert_array_equal(native.log_softmax_gather(rows, [8999, 4000, 8000]), [0, 0, 0])
    assert native.log_softmax_gather(rows, [0, 0, 0])[0] == -10500


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=40)
@given(
    level=st.sampled_from([0.0, 70.0, -900.0, 30_000.0, -59_950.0, 59_950.0]),
    rise=st.sampled_from([0.0, 15.0, 17.0, 80.0, 95.0, 300.0]),
    start=st.integers(0, 18_000),
    masked=st.booleans(),
    seed=seeds,
)
def test_logits_that_rise_far_above_those_before(
    dtype: str, level: float, rise: float, start: int, masked: bool, seed: int
) -> None:
    """Past the first block and beyond what its exponentials can hold, around levels where float32 is coarse."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 3, (2, 18_001)) + level
    x[:, start:] += rise
    if masked:
        x[:, rng.integers(0, 18_001, 900)] = -inf
    logits = as_dtype(x, dtype)
    seen = logits if dtype != "bfloat16" else (logits.astype(np.uint32) << 16).view(np.float32)
    targets = np.argmax(seen, axis=1)
    assert_within_rule(native.log_softmax_gather(logits, targets), naive(seen, targets), truth(seen, targets))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [-5e4, -130.0, 0.0, 3.0, 700.0, 6.1e4])
def test_a_sure_token_has_log_probability_zero(dtype: str, level: float) -> None:
    rows = np.full((3, 9005), level - 2000.0)
    rows[[0, 1, 2], [0, 5000, 9004]] = level
    ours = native.log_softmax_gather(as_dtype(rows, dtype), np.array([0, 5000, 9004]), dtype=dtype)
    np.testing.assert_array_equal(ours, 0.0)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 6),
    cuts=st.lists(st.integers(1, 2500), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    seed=seeds,
)
def test_tiles_in_any_order_equal_the_whole(n: int, cuts: list[int], dtype: str, seed: int) -> None:
    edges = np.concatenate([[0], np.cumsum(cuts)])
    logits = draw((n, int(edges[-1])), dtype, seed, 10.0)
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, logits.shape[1], n)
    online = native.OnlineLogSoftmax(targets)
    for tile in rng.permutation(len(cuts)):
        online.update(logits[:, edges[tile] : edges[tile + 1]], int(edges[tile]))
    np.testing.assert_allclose(
        online.logprobs(), native.log_softmax_gather(logits, targets), rtol=1e-6, atol=1e-6
    )


def test_tiles_with_nothing_in_them() -> None:
    online = native.OnlineLogSoftmax([0, 1])
    assert np.isnan(online.logprobs()).all()
    online.update(np.array([[-inf, -inf], [-inf, 0.0]], np.float32), 0)
    np.testing.assert_array_equal(online.logprobs(), np.array([nan, 0.0], np.float32))


def test_sums_by_text_are_float64() -> None:
    logp = np.array([1e8, 1.0, -1e8, -2.5], np.float32)
    sums = native.sum_by_text(logp, [2, 2, 2, 0], 4)
    np.testing.assert_array_equal(sums, [-2.5, 0, 1.0, 0])


# -- head ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40),
    depth=st.one_of(st.integers(1, 70), st.just(256)),
    vocabulary=st.one_of(st.integers(1, 130), st.sampled_from([2048, 5003])),
    biased=st.booleans(),
    softcap=st.sampled_from([0.0, 20.0]),
    seed=seeds,
)
def test_head_within_the_rule(
    dtype: str, n: int, depth: int, vocabulary: int, biased: bool, softcap: float, seed: int
) -> None:
    hidden, weight = draw((n, depth), dtype, seed, 1.0), draw((vocabulary, depth), dtype, seed + 1, 0.3)
    rng = np.random.default_rng(seed)
    bias = rng.normal(size=vocabulary).astype(np.float32) if biased else None
    targets = rng.integers(0, vocabulary, n)
    ours = native.NativeHead(weight, bias, scale=0.5, softcap=softcap).logprobs(hidden, targets)
    wide_h, wide_w = reference.widened(hidden), reference.widened(weight)
    exact = reference.transformed(wide_h @ wide_w.T + (0 if bias is None else bias), 0.5, softcap)
    single = (wide_h.astype(np.float32) @ wide_w.T.astype(np.float32)) + (0 if bias is None else bias)
    single = reference.transformed(single, 0.5, softcap).astype(np.float32)
    # The products are summed in another order than numpy's, and few of them may be lucky in one and not the other.
    products = 0.5 * 2.0**-24 * (np.abs(wide_h) @ np.abs(wide_w).T).max()
    assert_within_rule(ours, naive(single, targets), truth(exact, targets), ULPS + products)


def test_head_takes_mixed_dtypes_strides_and_long_chunks() -> None:
    hidden = draw((900, 4100), "float32", 1, 0.1)[:, :4097]
    weight = draw((70, 4100), "bfloat16", 2, 0.5)[:, :4097]
    targets = np.arange(900) % 70
    exact = hidden.astype(np.float64) @ reference.widened(weight).T
    np.testing.assert_allclose(
        native.NativeHead(weight).logprobs(hidden, targets), truth(exact, targets), atol=2e-5
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("n", "depth", "vocabulary"), [(70, 1030, 1501), (33, 34, 4129), (5, 2052, 97)])
def test_head_of_several_stretches_and_odd_ends(dtype: str, n: int, depth: int, vocabulary: int) -> None:
    hidden = draw((n, depth + 2), dtype, 1, 0.3)[:, :depth]
    weight, bias = draw((vocabulary, depth + 6), dtype, 2, 0.5)[:, :depth], np.linspace(-3, 3, vocabulary)
    targets = np.random.default_rng(3).integers(0, vocabulary, n)
    targets[:3] = 0, vocabulary - 1, vocabulary // 2
    exact = 0.7 * (reference.widened(hidden).astype(float) @ reference.widened(weight).T.astype(float) + bias)
    found = native.NativeHead(weight, bias, scale=0.7).logprobs(hidden, targets)
    np.testing.assert_allclose(found, truth(exact, targets), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_head_gives_a_row_the_same_bits_whatever_stands_beside_it(dtype: str) -> None:
    hidden, weight = draw((71, 66), dtype, 1, 3.0), draw((701, 66), dtype, 2, 3.0)
    head, targets = native.NativeHead(weight), np.arange(71) * 9
    together = head.logprobs(hidden, targets)
    alone = [head.logprobs(hidden[k : k + 1], targets[k : k + 1])[0] for k in range(71)]
    assert together.tobytes() == np.array(alone).tobytes()


def test_head_gives_the_same_bits_wherever_its_weights_lie() -> None:
    hidden, weight = draw((40, 64), "bfloat16", 1, 3.0), draw((331, 64), "bfloat16", 2, 3.0)
    targets, found = np.arange(40) * 8, set()
    bytes_there = np.zeros(weight.nbytes + 128, np.uint8)
    first = -bytes_there.ctypes.data % 64
    for offset in (0, 2, 32):  # on a line of the cache, and beside it
        place = bytes_there[first + offset :][: weight.nbytes].view(np.uint16).reshape(weight.shape)
        place[:] = weight
        found.add(native.NativeHead(place).logprobs(hidden, targets).tobytes())
    assert len(found) == 1


def test_head_of_bfloat16_keeps_what_is_not_finite_to_its_row() -> None:
    hidden, weight = np.ones((40, 34), np.float32), np.ones((40, 34), np.float32)
    hidden[1, 2], hidden[2, 3], weight[30] = nan, inf, 0
    weight[:5, 3] *= -1  # logits of 34, but for -inf and NaN of the third row
    bias = np.zeros(40, np.float32)
    bias[33:] = -inf
    targets = np.array([8, 8, 8, 39, *[8] * 36])
    halves = [as_dtype(x, "bfloat16") for x in (hidden, weight)]
    row = np.r_[np.full(5, 32.0), np.full(25, 34.0), 0, 34, 34, np.full(7, -inf)]
    exact = truth(row[None], np.array([8]))[0]
    ours = native.NativeHead(halves[1], bias).logprobs(halves[0], targets)
    np.testing.assert_allclose(ours, [exact, nan, nan, -inf, *[exact] * 36], rtol=1e-6)
    # capped, infinities are numbers again: 20 for inf, -20 for -inf, NaN for inf x 0
    weight[30] = 1
    capped = native.NativeHead(as_dtype(weight, "bfloat16"), softcap=20.0).logprobs(halves[0], targets)
    row = np.array([-20.0] * 5 + [20.0] * 35)
    np.testing.assert_allclose(capped[2], truth(row[None], np.array([8]))[0], rtol=1e-6)


def test_head_of_nothing_but_minus_infinity_is_nan() -> None:
    half = as_dtype(np.ones((3, 4), np.float32), "bfloat16")
    ours = native.NativeHead(half, np.full(3, -inf)).logprobs(half, [0, 1, 2])
    assert np.isnan(ours).all()


def test_head_keeps_nan_and_masks() -> None:
    hidden = np.ones((3, 4), np.float32)
    hidden[1, 2] = nan
    bias = np.zeros(40, np.float32)
    bias[1:] = -inf
    ours = native.NativeHead(np.ones((40, 4), np.float32), bias).logprobs(hidden, [0, 0, 7])
    np.testing.assert_array_equal(ours, np.array([0, nan, -inf], np.float32))


# -- two rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 6), vocabulary=sizes, near=st.booleans(), seed=seeds)
def test_kl_of_rows_equals_float64(dtype: str, n: int, vocabulary: int, near: bool, seed: int) -> None:
    p = draw((n, vocabulary), dtype, seed)
    q = as_dtype(reference.widened(p) + (0.02 if near else 3.0) * draw(p.shape, "float32", seed + 1), dtype)
    ours = native.kl_rows(p, q)
    forward, reverse, same_top = reference.kl_rows(p, q)
    np.testing.assert_allclose(ours.forward, forward, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(ours.reverse, reverse, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(ours.same_top, same_top)


def test_kl_of_two_coins_and_odd_rows() -> None:
    p = np.log(np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 1.0], [0.25, 0.75]])).astype(np.float32)
    q = np.log(np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 1.0], [0.5, 0.5]])).astype(np.float32)
    p[2, 1] = -inf
    ours = native.kl_rows(p, q + 7)
    coin = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    np.testing.assert_allclose(
        ours.forward, [coin, 0, np.log(2), 0.25 * np.log(0.5) + 0.75 * np.log(1.5)], atol=1e-6
    )
    assert ours.reverse[2] == inf
    np.testing.assert_array_equal(ours.same_top, [False, True, True, False])
    p[0, 0], p[1] = nan, -inf
    again = native.kl_rows(p, q)
    assert np.isnan(again.forward[:2]).all()
    assert np.isnan(again.reverse[:2]).all()
    assert not again.same_top[:2].any()


@pytest.mark.parametrize(
    "low", [-80.0, -86.9, -87.1, -100, -170, -300, -744, -746, -1e4, -1e30, -3.4e38, -inf]
)
@pytest.mark.parametrize("vocabulary", [3, 64, 1000])
def test_kl_where_tokens_are_masked_or_all_but_impossible(low: float, vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    p, q = rng.normal(size=(2, 3, vocabulary)).astype(np.float32)
    p[0, ::3] = low
    q[1, 1:] = low
    p[2, ::2], q[2, ::2] = low, 2 * low if low > -1e30 else low
    ours = native.kl_rows(p, q)
    forward, reverse, _ = reference.kl_rows(p, q)
    np.testing.assert_allclose(ours.forward, forward, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(ours.reverse, reverse, rtol=1e-5, atol=2e-6)


def exact_logprobs(row: np.ndarray) -> list[mpmath.mpf]:
    """log softmax of one row by mpmath with 60 digits, on top of the 80 that its largest number may have."""
    with mpmath.workdps(140):
        x = [mpmath.mpf(float(v)) for v in row]
        total = mpmath.fsum([mpmath.exp(v - max(x)) for v in x])
        return [v - max(x) - mpmath.log(total) for v in x]


def exact_kl_of(p: np.ndarray, q: np.ndarray) -> float:
    with mpmath.workdps(140):
        pairs = zip(exact_logprobs(p), exact_logprobs(q), strict=True)
        return float(mpmath.fsum([mpmath.exp(a) * (a - b) for a, b in pairs]))


@pytest.mark.parametrize("top", [0.0, 30.0, 2.0**53, -(2.0**54), 1e20, -1e20, 3e38, -3e38])
@pytest.mark.parametrize("vocabulary", [5, 70])
def test_maxima_that_come_twice_count_twice_however_large_they_are(top: float, vocabulary: int) -> None:
    p = np.full((3, vocabulary), np.float32(top))
    p[0, 2:] -= np.float32(max(abs(top) * 0.1, 2.0))
    p[1, 3:] -= np.float32(max(abs(top) * 0.1, 2.0))
    q = p[[1, 2, 0]].copy()
    for ours in (native.kl_rows(p, q), native.KlRows(*reference.kl_rows(p, q))):
        for r in range(3):
            assert ours.forward[r] == pytest.approx(exact_kl_of(p[r], q[r]), rel=1e-5, abs=1e-6)
            assert ours.reverse[r] == pytest.approx(exact_kl_of(q[r], p[r]), rel=1e-5, abs=1e-6)
        assert ours.same_top.all()
    targets = np.array([1, 0, 2])
    want = [float(exact_logprobs(p[r])[t]) for r, t in enumerate(targets)]
    np.testing.assert_allclose(reference.log_softmax_gather(p, targets), want, rtol=1e-6)
    np.testing.assert_allclose(native.log_softmax_gather(p, targets), want, rtol=1e-5)
    rows = native.OnlineLogSoftmax(targets)
    rows.update(p[:, :3].copy(), 0)
    rows.update(p[:, 3:].copy(), 3)
    np.testing.assert_allclose(rows.logprobs(), want, rtol=1e-5)


# -- arguments -----------------------------------------------------------------------------------------------------

GOOD = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: native.log_softmax_gather([[1.0]], [0]), "logits must be a numpy array or a torch tensor"),
        (lambda: native.log_softmax_gather(np.zeros((2, 4)), [0, 0]), "logits must be float32"),
        (lambda: native.log_softmax_gather(np.zeros(4, np.float32), [0]), "logits must have two dimensions"),
        (lambda: native.log_softmax_gather(np.zeros((0, 4), np.float32), []), "logits is empty"),
        (lambda: native.log_softmax_gather(np.zeros((4, 2), np.float32).T, [0, 0]), "contiguous rows"),
        (
            lambda: native.log_softmax_gather(GOOD, [0, 0], dtype="bfloat16"),
            "logits must be bfloat16, not float32",
        ),
        (lambda: native.log_softmax_gather(GOOD.astype(">f4"), [0, 0]), "logits must be float32"),
        (lambda: native.log_softmax_gather(GOOD, [0, 4]), r"targets\[1\] is 4, outside \[0, 4\)"),
        (lambda: native.log_softmax_gather(GOOD, [-1, 0]), r"targets\[0\] is -1"),
        (lambda: native.log_softmax_gather(GOOD, [0.0, 1.0]), "targets must be integers"),
        (lambda: native.log_softmax_gather(GOOD, [0]), r"targets must have shape \(2,\)"),
        (lambda: native.log_softmax_gather(GOOD, [0, 0], scale=nan), "scale"),
        (lambda: native.log_softmax_gather(GOOD, [0, 0], softcap=-1.0), "softcap"),
        (lambda: native.OnlineLogSoftmax([0]).update(GOOD, 0), "tile must have 1 rows"),
        (lambda: native.OnlineLogSoftmax([0, 0]).update(GOOD, -1), "first"),
        (lambda: native.sum_by_text(np.zeros(2), [0, 0], 1), "logp"),
        (lambda: native.sum_by_text(np.zeros(2, np.float32), [0, 1], 1), "text_index"),
        (lambda: native.sum_by_text(np.zeros(2, np.float32), [0, 1], -1), "n_texts"),
        (lambda: native.NativeHead(np.zeros(3, np.float32)), "weight"),
        (lambda: native.NativeHead(GOOD, [1.0, 2.0]), "bias"),
        (lambda: native.NativeHead(GOOD, np.zeros(3)), "bias"),
        (
            lambda: native.NativeHead(GOOD).logprobs(np.zeros((1, 3), np.float32), [0]),
            "hidden must have 4 columns",
        ),
        (lambda: native.NativeHead(GOOD).logprobs(GOOD, [0, 2]), "targets"),
        (lambda: native.kl_rows(GOOD, GOOD[:1]), "q must be"),
        (lambda: native.kl_rows(GOOD, GOOD.astype(np.float16)), "q must be"),
        (lambda: native.set_threads(0), "count"),
    ],
)
def test_mistakes_name_the_argument(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_torch_tensors_share_memory_and_are_checked() -> None:
    import torch

    logits = torch.randn(4, 300, dtype=torch.float64)
    targets = torch.tensor([0, 5, 299, 7])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = logits.to(dtype)
        expected = torch.log_softmax(x.double(), 1).gather(1, targets[:, None])[:, 0].numpy()
        np.testing.assert_allclose(native.log_softmax_gather(x, targets), expected, rtol=1e-6, atol=1e-6)
        assert native.tensor_view(x).ctypes.data == x.data_ptr()
    with pytest.raises(ValueError, match="logits requires grad"):
        native.log_softmax_gather(logits.float().requires_grad_(), targets)
    with pytest.raises(ValueError, match="logits is on meta"):
        native.log_softmax_gather(torch.empty(4, 3, device="meta"), targets)
