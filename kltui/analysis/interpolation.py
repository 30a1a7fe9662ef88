"""Weights between models: theta = (1 - a - b) theta_0 + a theta_1 + b theta_2 on a grid (arXiv 2502.16173, Section 6.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from kltui.analysis.weights import as_float64, check_same_parameters
from kltui.registry.tensors import BITS, FLOATS, TensorFile, parameters

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]

STEPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_BLOCK = 1 << 20


def grid(alphas: Sequence[float] = STEPS, betas: Sequence[float] = STEPS) -> list[tuple[float, float]]:
    """Every (a, b) of the grid, b slowest."""
    return [(a, b) for b, a in product(betas, alphas)]


def _stretches(tensors: Sequence[TensorFile]) -> Iterator[list[Array]]:
    n = tensors[0].n_elements
    for start in range(0, n, _BLOCK):
        parts = []
        for t in tensors:
            width = BITS[t.dtype] // 8
            parts.append(as_float64(t.data[start * width : min(start + _BLOCK, n) * width], t.dtype))
        yield parts


def interpolate(tensors: Sequence[TensorFile], a: float, b: float) -> Bytes:
    """Raw bytes of (1 - a - b) theta_0 + a theta_1 + b theta_2 of one tensor, in theta_0's dtype.

    Tensors that are not floating point (masks, counters) are those of theta_0. The corner a = b = 0 equals theta_0 bit for bit.
    """
    base = tensors[0]
    if (a, b) == (0.0, 0.0) or len(tensors) == 1 or base.dtype not in FLOATS:
        return np.asarray(base.data)
    out: Bytes = np.empty(base.data.nbytes, dtype=np.uint8)
    width, at = BITS[base.dtype] // 8, 0
    for x0, x1, x2 in _stretches(tensors):
        raw = from_float64((1.0 - a - b) * x0 + a * x1 + b * x2, base.dtype)  # arXiv 2502.16173, Section 6.3
        out[at : at + len(x0) * width] = raw
        at += len(x0) * width
    return out


def interpolated(
    base: Mapping[str, TensorFile],
    one: Mapping[str, TensorFile],
    two: Mapping[str, TensorFile],
    a: float,
    b: float,
) -> list[tuple[str, str, tuple[int, ...], Callable[[], Bytes]]]:
    """Entries (name, dtype, shape, function that computes the bytes) for `kltui.registry.tensors.write_tensors`.

    They write the model at (a, b), one tensor at a time. Raises KltuiError if the models' parameters differ.
    """
    models = [parameters(m) for m in (base, one, two)]
    check_same_parameters(
        models,
        ("the base", "the first model", "the second model"),
        "interpolations need models of one architecture: name others in base and others of [[interpolations]]",
    )
    entries: list[tuple[str, str, tuple[int, ...], Callable[[], Bytes]]] = []
    for name, t in base.items():
        mixed = [m[name] for m in models] if name in models[0] else [t]
        entries.append((name, t.dtype, t.shape, partial(interpolate, mixed, a, b)))
    return entries


def from_float64(values: Array, dtype: str) -> Bytes:
    """Raw little-endian bytes of float64 values as F64, F32, F16 or BF16, rounded to nearest, ties to even.

    BF16 is rounded from float32, as torch does.
    """
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
        short = np.where(np.isnan(values), quiet, rounded).astype("<u2")
        return short.view(np.uint8)
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]
    with np.errstate(over="ignore"):
        return values.astype(kind).view(np.uint8)
