"""Double centring and inner products of a map's vectors on a GPU, in float64, for `--device cuda`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError, UsageError
from kltui.kernels import cuda

Array = NDArray[np.float64]
Tensor = Any  # a torch.Tensor

# Multiplications of Q Q^T from which a GPU is used. Fewer take a CPU at 50 GFLOP/s less than 40 ms, about as long as copying
# the vectors over PCIe from pageable memory. This is an estimate, not measured on a GPU.
WORTH = 1_000_000_000


class DeviceGram:
    """Computes `kltui.analysis.kl.centred_gram` on one device."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __call__(self, L_KN: Array) -> tuple[Array, Array] | None:
        """(Q, Q Q^T), K x N and K x K float64 in nats; None if the matrix is so small that the CPU is faster.

        Raises KltuiError if the GPU has too little free memory.
        """
        K, N = L_KN.shape
        if K * K * N < WORTH:
            return None
        import torch

        try:
            Q_KN = _centred(torch.from_numpy(np.require(L_KN, np.float64, ("C", "W"))).to(self._device))
            gram_KK = Q_KN @ Q_KN.T
            gram_KK = torch.add(gram_KK, gram_KK.T).mul_(0.5)  # symmetric only up to rounding
            return Q_KN.cpu().numpy(), gram_KK.cpu().numpy()
        except torch.OutOfMemoryError as error:
            needed = 8 * (2 * K * N + 2 * K * K) / (1 << 30)
            raise KltuiError(
                f"{K} vectors of {N} texts need {needed:.1f} GiB on {self._device}, which has less free memory",
                "Omit --device (in a notebook: device) to compute on the CPU.",
            ) from error


def _centred(L_KN: Tensor) -> Tensor:
    """Q = L - row mean - column mean + grand mean; by torch if kltui's kernels do not support the GPU."""
    if cuda.usable(L_KN.device):
        return cuda.double_centre(L_KN)
    Q_KN = L_KN - L_KN.mean(1, keepdim=True)
    return Q_KN.sub_(Q_KN.mean(0))


def device_gram(asked: str) -> DeviceGram:
    """A DeviceGram on the GPU `asked`, such as "cuda" or "cuda:1". Raises KltuiError if torch has no such GPU; imports torch."""
    if asked.partition(":")[0] != "cuda":
        raise UsageError(
            f"vectors cannot be centred on {asked!r}", 'device must be "cpu", "cuda" or "cuda:1"'
        )
    from kltui.scoring.loading import pick_device

    return DeviceGram(pick_device(asked))
