"""The CUDA kernels: importable anywhere, checked like the others, and equal to the CPU's where there is a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from kltui.kernels import cuda, native

needs_gpu = pytest.mark.skipif(
    cuda.device_count() == 0 or not torch.cuda.is_available(),
    reason="no CUDA device, or kltui was built without CUDA",
)


def test_the_module_imports_and_counts_devices_without_a_gpu() -> None:
    if not native.info()["cuda_extension"]:
        pytest.skip("kltui was built without CUDA")
    program = "from kltui.kernels import _cuda; print(_cuda.device_count() >= 0)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"


def test_tensors_of_other_places_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"logits is on cpu: use kltui\.kernels\.native"):
        cuda.log_softmax_gather(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="x must be a torch tensor"):
        cuda.double_centre(np.zeros((2, 3)))


class RocmTorch:
    """As much of a torch for AMD's GPUs as is asked for."""

    class version:  # noqa: N801 - torch's own name
        hip = "6.2"


def test_a_torch_for_amd_is_not_told_to_fetch_nvidias_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_torch", lambda: RocmTorch)
    device = torch.device("cuda", 0)
    assert not cuda.usable(device)
    assert "ROCm" in cuda.why_not(device)
    assert "nvcc" not in cuda.why_not(device)


def test_another_gpu_than_the_one_meant_is_never_made_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime's own way back to the device before would begin to use GPU 0; torch's leaves it alone."""
    events: list[object] = []

    class Extension:
        def device_count(self) -> int:
            return 4

        def has_code(self, index: int) -> bool:
            events.append(f"asks {index}")
            return True

    @contextmanager
    def current(index: int) -> Iterator[None]:
        events.append(f"enters {index}")
        yield
        events.append("leaves")

    cuda._has_code.cache_clear()
    monkeypatch.setattr(cuda, "_extension", lambda: Extension())
    monkeypatch.setattr(torch.cuda, "device", current)
    try:
        assert cuda.usable(torch.device("cuda", 3))
    finally:
        cuda._has_code.cache_clear()
    assert events == ["enters 3", "asks 3", "leaves"]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("vocabulary", [1, 7, 511, 50_257])
def test_gather_and_tiles_equal_the_cpu(dtype: str, vocabulary: int) -> None:
    logits = (torch.randn(33, vocabulary + 3) * 5).to(getattr(torch, dtype))[:, 1 : vocabulary + 1]
    logits[3, 0] = float("nan")
    logits[4] = -float("inf")
    targets = torch.randint(vocabulary, (33,))
    expected = native.log_softmax_gather(logits, targets, scale=0.7, softcap=11.0)
    there, targets_there = logits.cuda(), targets.cuda()
    ours = cuda.log_softmax_gather(there, targets_there, scale=0.7, softcap=11.0)
    np.testing.assert_allclose(ours.cpu().numpy(), expected, rtol=2e-6, atol=2e-6)
    online = cuda.CudaOnlineLogSoftmax(targets_there, scale=0.7, softcap=11.0)
    cut = vocabulary // 3
    for first, tile in ((cut, there[:, cut:]), (0, there[:, :cut])):
        if tile.numel():
            online.update(tile, first)
    np.testing.assert_allclose(online.logprobs().cpu().numpy(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.gpu
@needs_gpu
def test_sums_and_centring_equal_the_cpu() -> None:
    logp, text = torch.randn(1000), torch.sort(torch.randint(17, (1000,))).values
    ours = cuda.sum_by_text(logp.cuda(), text.cuda(), 18)
    np.testing.assert_allclose(ours.cpu().numpy(), native.sum_by_text(logp, text, 18), rtol=1e-12, atol=1e-12)
    x = torch.randn(41, 1037, dtype=torch.float64) * 300 - 2000
    centred = cuda.double_centre(x.cuda()).cpu().numpy()
    np.testing.assert_allclose(centred, native.double_centre(x.numpy()), atol=1e-9)
