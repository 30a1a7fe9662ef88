"""How torch multiplies float32 matrices on this machine, tested before it is used."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kltui.scoring import kernel_choice
from kltui.scoring.kernel_choice import KernelChooser


@contextlib.contextmanager
def fast_float32(device: torch.device) -> Iterator[bool]:
    """Context in which float32 products on a CPU use oneDNN if that is exact on this machine; yields whether they do.

    The precision "medium" allows torch to use oneDNN. On CPUs without bfloat16 tiles (AMX) it still multiplies in float32, up
    to 1.6 times as fast as the default library on AMD; rounding to bfloat16 is detected by a test. On a GPU, convolutions
    (as in Mamba) would by default round to TF32, which is switched off here.
    """
    before = torch.get_float32_matmul_precision()
    convolutions: Any = torch.backends.cudnn
    rounded = convolutions.allow_tf32
    convolutions.allow_tf32 = False
    fast = device.type == "cpu" and onednn_is_exact()
    torch.set_float32_matmul_precision("medium" if fast else "highest")
    try:
        yield fast
    finally:
        torch.set_float32_matmul_precision(before)
        convolutions.allow_tf32 = rounded


@contextlib.contextmanager
def exact_half_products() -> Iterator[None]:
    """Context in which products of float32 values that are exact in bfloat16 may be computed in bfloat16, summed in float32.

    oneDNN then uses the processor's bfloat16 tiles (AMX) if it has them.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def kernel_chooser(job: Path | None) -> KernelChooser:
    """The kernel chooser for this process with its current number of threads; `job`: the folder of a job's own copy of choices.

    A single thread is timed by its processor time, which other processes do not affect.
    """
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    machine = kernel_choice.machine(torch.__version__, capability, threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    return KernelChooser(machine, job, kernel_choice.user_folder(), clock)


@cache
def onednn_is_exact() -> bool:
    """Whether products with precision "medium" have only float32's error, compared with float64 for typical shapes."""
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    torch.set_float32_matmul_precision("medium")
    try:
        return all(
            _error(shape, generator) < 2e-6 for shape in ((48, 256, 192), (300, 1024, 512), (7, 640, 1031))
        )
    finally:
        torch.set_float32_matmul_precision(before)


def _error(shape: tuple[int, int, int], generator: torch.Generator) -> float:
    """Largest error of one product, relative to the norms of its row and column; bfloat16 gives about 1e-3."""
    n, inner, m = shape
    x = torch.randn(n, inner, generator=generator)
    w = torch.randn(m, inner, generator=generator)
    exact = x.double() @ w.double().T
    size = x.double().norm(dim=1)[:, None] * w.double().norm(dim=1)[None, :]
    return float(((torch.nn.functional.linear(x, w).double() - exact).abs() / size).max())
