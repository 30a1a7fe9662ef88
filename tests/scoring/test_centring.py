"""Centring and products of a map's vectors on a GPU, through the emulated kernels: equal to the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kltui.analysis.embed import METHODS
from kltui.analysis.kl import centred_gram
from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.errors import KltuiError, UsageError
from kltui.scoring import centring
from kltui.scoring.centring import DeviceGram, device_gram


@pytest.fixture
def gram(emulated_cuda: object, monkeypatch: pytest.MonkeyPatch) -> DeviceGram:
    """The device's products on CPU tensors, whatever the size."""
    monkeypatch.setattr(centring, "WORTH", 0)
    return DeviceGram(torch.device("cpu"))


def vectors(K: int, N: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-2300.0, 300.0, (K, N))


def assert_equal(found: np.ndarray, truth: np.ndarray) -> None:
    """Within 1e-12 of the largest entry."""
    assert found.shape == truth.shape and found.dtype == np.float64
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-12 * np.abs(truth).max())


@pytest.mark.parametrize("shape", [(2, 2), (3, 500), (40, 7), (61, 1000)])
def test_centred_vectors_and_products_equal_the_cpu(gram: DeviceGram, shape: tuple[int, int]) -> None:
    L = vectors(*shape)
    for ours, exact in zip(gram(L) or (), centred_gram(L), strict=True):
        assert_equal(ours, exact)
    assert np.array_equal(L, vectors(*shape))


def test_products_are_symmetric_to_the_bit(gram: DeviceGram) -> None:
    _, products = gram(vectors(30, 400)) or ()
    assert np.array_equal(products, products.T)


def test_vectors_that_nobody_may_write_to_are_taken(gram: DeviceGram) -> None:
    L = vectors(5, 60)
    L.flags.writeable = False
    assert_equal((gram(L.T[:9].T) or ())[0], centred_gram(L[:, :9].copy())[0])


def test_without_kernels_torch_centres(gram: DeviceGram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centring.cuda, "usable", lambda device: False)
    L = vectors(7, 300)
    for ours, exact in zip(gram(L) or (), centred_gram(L), strict=True):
        assert_equal(ours, exact)


def make_map(L: np.ndarray, gram: DeviceGram | None = None) -> Map:
    points = tuple(Point(f"r@{step}", "r", step) for step in range(len(L)))
    return Map(points, L, np.full(L.shape[1], 900), gram=gram)


def test_a_map_has_the_same_kl_and_pictures(gram: DeviceGram, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(centring, "_centred", lambda x: calls.append(x) or _centred(x))
    L = np.cumsum(vectors(40, 300) * 0.01, axis=0) - 2000.0
    here, there = make_map(L), make_map(L, gram)
    assert_equal(there.kl(), here.kl())
    assert_equal(there.scaled_coordinates(), here.scaled_coordinates())
    for method in METHODS[1:]:
        found, exact = (m.coordinates(method, 2) for m in (there, here))
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * np.abs(exact).max())
    assert there.coordinates("tsne", 2).shape == (40, 2)
    assert len(calls) == 4  # KL (the scaling of distances too), coordinates, PCA, t-SNE
    assert there.select([0, 3, 2]).gram is gram and there.preprocessed("clip").gram is gram


def test_gaps_are_worked_out_on_the_cpu(gram: DeviceGram) -> None:
    L = vectors(6, 80)
    L[2, 5] = np.nan
    np.testing.assert_array_equal(make_map(L, gram).kl(), make_map(L).kl())
    found, exact = (m.coordinates("pca", 2) for m in (make_map(L, gram), make_map(L)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * np.abs(exact).max())


def test_small_maps_stay_on_the_cpu() -> None:
    assert DeviceGram(torch.device("meta"))(vectors(100, 900)) is None


def test_memory_that_runs_out_is_told(gram: DeviceGram, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(centring, "_centred", full)
    with pytest.raises(KltuiError, match=r"8 vectors of 90 texts need 0\.0 GiB on cpu") as caught:
        gram(vectors(8, 90))
    assert "Omit --device" in caught.value.hint


def test_only_a_gpu_centres() -> None:
    with pytest.raises(UsageError, match="cannot be centred on 'mps'"):
        device_gram("mps")
    if not torch.cuda.is_available():
        with pytest.raises(KltuiError, match="'cuda:1' was asked for"):
            device_gram("cuda:1")


_centred = centring._centred
