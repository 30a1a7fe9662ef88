"""Squared distances between the weights of checkpoints of one run, in one pass over their files.

D_w = sum over parameters of (theta_b - theta_a)^2: parameters only, tied weights once, every dtype upcast before
the difference, float64 sums, not divided by the number of parameters (arXiv 2505.15353, Figure 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.kernels import native
from kltui.registry.parameters import Parameters, model_parameters
from kltui.registry.tensors import BITS, TensorFile

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

_SLICE = 1 << 21  # elements of one tensor taken from every checkpoint at a time


def banded_distances(
    checkpoints: Sequence[Mapping[str, TensorFile]],
    band: int,
    *,
    labels: Sequence[str] = (),
    progress: Progress | None = None,
) -> Array:
    """(K, band) squared distances: [k, d-1] = |theta_{k+d} - theta_k|^2, NaN where k + d >= K.

    `checkpoints` are `open_tensors` of each, in order; every byte is read once. A parameter that one of them
    lacks, or has in another shape, is an error that names both. `progress(bytes done, bytes in all)`.
    """
    reported = [model_parameters(c) for c in checkpoints]
    models = _one_set_of_names(reported)
    check_same_parameters(models, labels)
    total = sum(t.data.nbytes for m in models for t in m.values())
    out = _empty(len(models), band)
    done = 0
    for name, block, n_bytes in _blocks(models):
        # sum of (theta_{k+d} - theta_k)^2 over this slice (arXiv 2505.15353, Figure 5)
        part = native.banded_sqdist([t[0] for t in block], [t[1] for t in block], band)
        out += np.where(_counted(name, reported, band), part, 0.0)
        done += n_bytes
        if progress:
            progress(done, total)
    return out


def _one_set_of_names(reported: Sequence[Parameters]) -> list[dict[str, TensorFile]]:
    """The same parameter names for all models: those that any of them counts, such as an output layer that only one has untied."""
    names = sorted({name for p in reported for name in p.once})
    return [{name: t for name in names if (t := p.named(name)) is not None} for p in reported]


def _counted(name: str, reported: Sequence[Parameters], band: int) -> NDArray[np.bool_]:
    """(K, band): whether `name` is a parameter of its own (not tied) in either model of a pair; True beyond the last model."""
    own = [name in p.once for p in reported]
    K = len(own)
    return np.array(
        [[k + d >= K or own[k] or own[k + d] for d in range(1, band + 1)] for k in range(K)]
    ).reshape(K, band)


def check_same_parameters(
    models: Sequence[Mapping[str, TensorFile]],
    labels: Sequence[str] = (),
    hint: str = "weight distances compare checkpoints of one architecture: give each its own run",
) -> None:
    """Raises KltuiError, with `hint`, where a checkpoint's parameters differ from the first one's by name or shape."""
    if not models:
        return
    called = list(labels) or [f"checkpoint {k}" for k in range(len(models))]
    first = models[0]
    if not first:
        raise KltuiError(
            f"{called[0]} has no parameters", "check that its folder contains the model's weights"
        )
    for label, model in zip(called[1:], models[1:], strict=True):
        different = sorted(first.keys() ^ model.keys())
        if different:
            name = different[0]
            owner, other = (called[0], label) if name in first else (label, called[0])
            raise KltuiError(
                f"{owner} has {name}, {other} does not ({len(different)} names differ)",
                hint,
            )
        for name, t in first.items():
            if model[name].shape != t.shape:
                raise KltuiError(
                    f"{name} is {list(t.shape)} in {called[0]} and {list(model[name].shape)} in {label}",
                    hint,
                )


def _blocks(
    models: Sequence[Mapping[str, TensorFile]],
) -> Iterator[tuple[str, list[tuple[NDArray[np.uint8], str]], int]]:
    """The same part of the same tensor in every checkpoint: its name, (bytes, dtype) of each, and the total bytes."""
    for name in models[0] if models else ():
        tensors = [m[name] for m in models]
        n = tensors[0].n_elements
        for start in range(0, n, _SLICE):
            pieces = []
            for t in tensors:
                width = BITS[t.dtype] // 8
                raw = np.asarray(t.data[start * width : min(start + _SLICE, n) * width])
                aligned = raw if raw.ctypes.data % width == 0 else raw.copy()
                pieces.append((aligned, t.dtype))
            yield name, pieces, sum(p.nbytes for p, _ in pieces)


def as_float64(raw: NDArray[np.uint8], dtype: str) -> Array:
    """Raw little-endian bytes of F64, F32, F16 or BF16 as float64 values, exactly."""
    raw = np.ascontiguousarray(raw)
    if dtype == "BF16":
        wide = raw.view("<u2").astype(np.uint32) << np.uint32(16)  # bfloat16 is the upper half of a float32
        return wide.view(np.float32).astype(np.float64)
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]
    return raw.view(kind).astype(np.float64)


def _empty(K: int, band: int) -> Array:
    out = np.zeros((K, band))
    for d in range(1, band + 1):
        out[max(K - d, 0) :, d - 1] = np.nan
    return out
