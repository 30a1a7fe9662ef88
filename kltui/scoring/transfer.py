"""Transfers of arrays to a model's device and results back; on a GPU nothing waits until a result is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Mark = Any


class Transfers(Protocol):
    """Copies between the host and a model's device."""

    @property
    def waits(self) -> bool:
        """Whether work is queued asynchronously, so that another batch can be sent before results are collected."""
        ...

    def send(self, array: Array) -> torch.Tensor:
        """The array's values on the device."""
        ...

    def fetch(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """Starts a copy to the host; the returned function waits for it and returns the array."""
        ...

    def mark(self) -> Mark:
        """A marker on the device after all work submitted so far."""
        ...

    def seconds(self, before: Mark, after: Mark) -> float:
        """Seconds between two marks."""
        ...


def transfers(device: torch.device) -> Transfers:
    """The Transfers for `device`."""
    return CudaTransfers(device) if device.type == "cuda" else DirectTransfers(device)


class DirectTransfers:
    """Synchronous transfers, for the CPU and for devices other than CUDA."""

    waits = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, array: Array) -> torch.Tensor:
        """The array's values on the device; on the CPU without a copy."""
        return torch.from_numpy(array).to(self._device)

    def fetch(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """Copies the values to the host at once; the returned function returns them."""
        values: Array = tensor.cpu().numpy()
        return lambda: values

    def mark(self) -> float:
        """The time in seconds, by a steady clock."""
        return time.perf_counter()

    def seconds(self, before: float, after: float) -> float:
        """Seconds between two marks."""
        return after - before


class CudaTransfers:
    """A GPU: copies from and to page-locked memory on the current stream, times from the stream's own events."""

    waits = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def send(self, array: Array) -> torch.Tensor:
        """The array's values on the device, copied asynchronously on the current stream."""
        pinned: torch.Tensor = torch.from_numpy(array).pin_memory()
        return pinned.to(self._device, non_blocking=True)

    def fetch(self, tensor: torch.Tensor) -> Callable[[], Array]:
        """Queues the copy to the host; calling the result waits for it."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        # the result of a spread model may be on another device, on whose stream the copy then is
        behind = _event(tensor.device if tensor.device.type == "cuda" else self._device)

        def result() -> Array:
            behind.synchronize()
            return np.array(host.numpy())  # a copy, so that the page-locked memory returns to torch's pool

        return result

    def mark(self) -> Mark:
        """A timed event on the current stream."""
        return _event(self._device)

    def seconds(self, before: Mark, after: Mark) -> float:
        """Seconds between two events; waits until the second one is reached."""
        after.synchronize()
        return float(before.elapsed_time(after)) / 1e3


def _event(device: torch.device) -> Mark:
    """An event recorded on the current stream of `device`."""
    event: Any = torch.cuda.Event
    marked = event(enable_timing=True)
    marked.record(torch.cuda.current_stream(device))
    return marked
