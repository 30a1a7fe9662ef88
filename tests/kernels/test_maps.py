"""Double centring and weight distances against loops, closed forms and the numpy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.kernels import native, reference

shapes = st.tuples(st.integers(1, 40), st.integers(1, 1100))
seeds = st.integers(0, 2**32 - 1)


def matrix(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(-2000, 300, shape)


@settings(deadline=None, max_examples=60)
@given(shapes, seeds, st.booleans(), st.booleans())
def test_double_centring_equals_its_twin(
    shape: tuple[int, int], seed: int, weighted: bool, clipped: bool
) -> None:
    x = matrix(shape, seed)
    weights = np.random.default_rng(seed).random(shape[1]) + 0.1 if weighted else None
    floor = -2200.0 if clipped else -np.inf
    ours = native.double_centre(x, weights, floor=floor)
    np.testing.assert_allclose(ours, reference.double_centre(x, weights, floor), atol=1e-9)
    average = np.average(ours, axis=1, weights=weights)
    np.testing.assert_allclose(average, 0, atol=1e-9)
    np.testing.assert_allclose(ours.mean(axis=0), 0, atol=1e-9)


def test_double_centring_in_place_and_of_a_sum_of_effects() -> None:
    x = np.arange(7.0)[:, None] + np.linspace(0, 5, 900)[None, :] ** 2
    same = x.copy()
    assert native.double_centre(same, out=same) is same
    np.testing.assert_allclose(same, 0, atol=1e-12)


def test_nan_stays_nan_in_centring() -> None:
    x = matrix((4, 600), 0)
    x[1, 3] = np.nan
    centred = native.double_centre(x, floor=-1e9)
    assert np.isnan(centred[1]).all()
    assert np.isnan(centred[:, 3]).all()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 400_003])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_values_are_split_as_masks_split_them(size: int, threads: int) -> None:
    x = np.random.default_rng(size).normal(size=size)
    x[::1_013] = np.nan
    x[5::2_003] = np.inf
    x[7::2_003] = -np.inf
    before = native.threads()
    native.set_threads(threads)
    try:
        for bottom, top in ((-0.5, 0.25), (-np.inf, np.inf), (2.0, 1.0), (9.0, 9.0), (np.nan, 0.0)):
            below, inside = native.split_values(x, bottom, top)
            wanted_below, wanted = reference.split_values(x, bottom, top)
            assert below == wanted_below
            np.testing.assert_array_equal(inside, wanted)
    finally:
        native.set_threads(before)


RAW = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def raw_bytes(values: np.ndarray, dtype: str, shift: int = 0) -> np.ndarray:
    """The values' bytes; with a shift they start at an odd address, as a memory map of a file may."""
    if dtype == "BF16":
        data = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        data = values.astype(RAW[dtype]).tobytes()
    return np.frombuffer(b"?" * shift + data, np.uint8)[shift:]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(0, 3000),
    st.integers(1, 12),
    st.sampled_from(["F64", "F32", "F16", "BF16", "mixed"]),
    st.integers(0, 3),
    seeds,
)
def test_weight_distances_equal_a_float64_loop(
    count: int, elements: int, band: int, dtype: str, shift: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    names = ["F64", "F32", "F16", "BF16"]
    dtypes = [names[k % 4] if dtype == "mixed" else dtype for k in range(count)]
    buffers = [raw_bytes(rng.normal(size=elements), name, shift) for name in dtypes]
    ours = native.banded_sqdist(buffers, dtypes, band)
    assert ours.shape == (count, band)
    expected = reference.banded_sqdist([b.copy() for b in buffers], dtypes, band)
    for k in range(count):
        for d in range(1, band + 1):
            if k + d < count:
                bound = 1e-12 if "F64" in dtypes else 2e-6
                assert ours[k, d - 1] == pytest.approx(expected[k, d - 1], rel=bound)
            else:
                assert np.isnan(ours[k, d - 1])


def test_a_band_beyond_the_last_checkpoint_needs_no_memory_for_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    path = [np.full(5, float(k * k)) for k in range(3)]
    asked = []

    class Noting:
        def banded_sqdist(self, raw: Any, dtypes: Any, band: int, threads: int) -> Any:
            asked.append(band)
            return reference.banded_sqdist(raw, dtypes, band)

    monkeypatch.setattr(native, "_core", Noting())
    monkeypatch.setattr(native, "_threads", 1)
    ours = native.banded_sqdist([p.view(np.uint8) for p in path], ["F64"] * 3, 1 << 20)
    assert asked == [2] and ours.shape == (3, 1 << 20)
    assert ours[0, :2].tolist() == [5.0, 80.0] and ours[1, 0] == 45.0 and np.isfinite(ours).sum() == 3
    assert np.isnan(native.banded_sqdist([path[0].view(np.uint8)], ["F64"], 4)).all()


@pytest.mark.parametrize("step", [1e-6, 1e-3])
def test_weight_distances_of_a_long_walk_are_good_to_2e_7(step: float) -> None:
    rng = np.random.default_rng(4)
    path = [0.02 * rng.standard_normal(300_001, dtype=np.float32)]
    for _ in range(11):
        path.append(path[-1] + np.float32(step) * rng.standard_normal(300_001, dtype=np.float32))
    ours = native.banded_sqdist([p.view(np.uint8) for p in path], ["F32"] * 12, 10)
    for k in range(12):
        for d in range(1, min(11, 12 - k)):
            truth = np.square(path[k + d].astype(float) - path[k].astype(float)).sum()
            assert ours[k, d - 1] == pytest.approx(truth, rel=2e-7)


@pytest.mark.parametrize("size", [1e-25, 1e-20, 1e20, 1e30])
def test_weight_distances_beyond_what_float32_squares_hold(size: float) -> None:
    path = np.random.default_rng(5).normal(size=(6, 700)).astype(np.float32) * np.float32(size)
    ours = native.banded_sqdist([p.view(np.uint8) for p in path], ["F32"] * 6, 2)
    truth = np.square(path[1:].astype(float) - path[:-1].astype(float)).sum(1)
    np.testing.assert_allclose(ours[:-1, 0], truth, rtol=1e-12)


def test_a_weight_that_is_not_finite_spoils_only_its_own_distances() -> None:
    path = np.random.default_rng(6).normal(size=(9, 2000)).astype(np.float32)
    path[4, 1234] = np.nan
    ours = native.banded_sqdist([p.view(np.uint8) for p in path], ["F32"] * 9, 3)
    for k in range(9):
        for d in range(1, min(4, 9 - k)):
            truth = np.square(path[k + d].astype(float) - path[k].astype(float)).sum()
            assert ours[k, d - 1] == pytest.approx(truth, rel=1e-6, nan_ok=True)
            assert np.isnan(truth) == (4 in (k, k + d))


def test_weight_distances_of_known_steps_are_exact() -> None:
    path = [np.full(100_000, 0.5 * k, np.float32) for k in range(5)]
    ours = native.banded_sqdist([p.view(np.uint8) for p in path], ["F32"] * 5, 3)
    np.testing.assert_array_equal(ours[0], 100_000 * np.array([0.25, 1.0, 2.25]))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: native.double_centre(np.zeros((0, 3))), "x"),
        (lambda: native.double_centre(np.zeros(3)), "x"),
        (lambda: native.double_centre([["a"]]), "x"),
        (lambda: native.double_centre(np.zeros((2, 3)), [1, 2]), "weights"),
        (lambda: native.double_centre(np.zeros((2, 3)), [1, -1, 1]), "weights"),
        (lambda: native.double_centre(np.zeros((2, 3)), out=np.zeros((3, 2))), "out"),
        (lambda: native.double_centre(np.zeros((2, 3)), out=np.zeros((2, 3), np.float32)), "out"),
        (
            lambda: native.double_centre(
                np.zeros((2, 3)),
                out=np.frombuffer(bytearray(49), np.uint8)[1:].view(np.float64).reshape(2, 3),
            ),
            "out",
        ),
        (lambda: native.banded_sqdist([], [], 1), "buffers"),
        (lambda: native.banded_sqdist([np.zeros(4, np.uint8)], ["F32"], 0), "band"),
        (lambda: native.banded_sqdist([np.zeros(4, np.uint8)], ["I8"], 1), "dtypes"),
        (lambda: native.banded_sqdist([np.zeros(5, np.uint8)], ["F32"], 1), "buffers"),
        (lambda: native.banded_sqdist([np.zeros(4, np.float32)], ["F32"], 1), "buffers"),
        (lambda: native.banded_sqdist([np.zeros(8, np.uint8)] * 2, ["F32", "F16"], 1), "buffers"),
    ],
)
def test_mistakes_name_the_argument(call: object, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()  # type: ignore[operator]
