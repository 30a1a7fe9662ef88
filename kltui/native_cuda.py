"""The checked door to the CUDA kernels: torch CUDA tensors in, torch CUDA tensors out, on torch's current stream.

Nothing waits for the device and nothing is allocated beyond the results, so values on the device are not looked at: a
target outside the vocabulary gives NaN. torch is the caller's; it is never imported here. Where `device_count()` is 0
(no CUDA build, no driver, no GPU) the callers use torch itself.
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType
from typing import Any

Tensor = Any  # a torch.Tensor

_DTYPES = {"torch.float32": 0, "torch.float16": 1, "torch.bfloat16": 2}


@cache
def _extension() -> ModuleType | None:
    try:
        from kltui import _cuda
    except ImportError:
        return None
    return _cuda


def device_count() -> int:
    """CUDA devices that the kernels can use; 0 without the extension or a driver."""
    extension = _extension()
    return 0 if extension is None else int(extension.device_count())


def log_softmax_gather(
    logits_nV: Tensor, targets_n: Tensor, *, scale: float = 1.0, softcap: float = 0.0
) -> Tensor:
    """log p(target) of every row in nats, n float32 on the logits' device; as `native.log_softmax_gather`."""
    extension, where = _kernels(logits_nV, "logits")
    matrix = _matrix(logits_nV, "logits")
    _vector(targets_n, "targets", "torch.int64", matrix[1], logits_nV.device)
    out = logits_nV.new_empty(matrix[1], dtype=_torch().float32)
    extension.log_softmax_gather(
        logits_nV.data_ptr(), *matrix, targets_n.data_ptr(), scale, softcap, out.data_ptr(), *where
    )
    return out


class OnlineLogSoftmax:
    """log p(target) of n rows whose logits arrive in tiles of vocabulary entries, in any order."""

    def __init__(self, targets_n: Tensor, *, scale: float = 1.0, softcap: float = 0.0) -> None:
        self._extension, _ = _kernels(targets_n, "targets")
        n = len(targets_n)
        _vector(targets_n, "targets", "torch.int64", n, targets_n.device)
        torch = _torch()
        self._targets, self._scale, self._softcap = targets_n, scale, softcap
        self._lowest = float(torch.finfo(torch.float32).min)
        self._reference = targets_n.new_full((n,), self._lowest, dtype=torch.float32)
        self._sum = targets_n.new_zeros(n, dtype=torch.float64)
        self._target_logit = targets_n.new_full((n,), float("nan"), dtype=torch.float32)

    def update(self, tile_nv: Tensor, first: int) -> None:
        """Folds in the logits of vocabulary entries first, first + 1, ...; each entry must come exactly once."""
        _, where = _kernels(tile_nv, "tile")
        matrix = _matrix(tile_nv, "tile")
        if matrix[1] != len(self._targets) or tile_nv.device != self._targets.device:
            raise ValueError(f"tile must have {len(self._targets)} rows on {self._targets.device}")
        if first < 0:
            raise ValueError(f"first must not be negative, not {first}")
        state = (t.data_ptr() for t in (self._reference, self._sum, self._target_logit))
        self._extension.online_update(
            tile_nv.data_ptr(),
            *matrix,
            first,
            self._targets.data_ptr(),
            self._scale,
            self._softcap,
            *state,
            *where,
        )

    def logprobs(self) -> Tensor:
        """log p(target) in nats, n float32; NaN where no tile held the target."""
        value = (self._target_logit.double() - self._reference.double() - self._sum.log()).float()
        return value.masked_fill(self._reference == self._lowest, float("nan"))


def sum_by_text(logp_n: Tensor, text_index_n: Tensor, n_texts: int) -> Tensor:
    """Sum of the log-probabilities of each text, n_texts float64; `text_index_n` must ascend."""
    extension, where = _kernels(logp_n, "logp")
    n = len(logp_n)
    _vector(logp_n, "logp", "torch.float32", n, logp_n.device)
    _vector(text_index_n, "text_index", "torch.int64", n, logp_n.device)
    if n_texts < 0:
        raise ValueError(f"n_texts must not be negative, not {n_texts}")
    sums = logp_n.new_empty(n_texts, dtype=_torch().float64)
    if n_texts:
        extension.sum_by_text(logp_n.data_ptr(), text_index_n.data_ptr(), n, n_texts, sums.data_ptr(), *where)
    return sums


def double_centre(x_KN: Tensor) -> Tensor:
    """x less row and column means plus the grand mean, K x N float64; as `native.double_centre`, unweighted."""
    extension, where = _kernels(x_KN, "x")
    if x_KN.ndim != 2 or str(x_KN.dtype) != "torch.float64" or not x_KN.is_contiguous() or not x_KN.numel():
        raise ValueError(
            f"x must be a contiguous float64 matrix, not {x_KN.dtype} of shape {tuple(x_KN.shape)}"
        )
    out, means = _torch().empty_like(x_KN), x_KN.new_empty(sum(x_KN.shape))
    extension.double_centre(x_KN.data_ptr(), *x_KN.shape, out.data_ptr(), means.data_ptr(), *where)
    return out


def _torch() -> Any:
    return sys.modules["torch"]


def _kernels(x: Tensor, name: str) -> tuple[ModuleType, tuple[int, int]]:
    """The extension, and the device and stream to run on, or a ValueError naming the tensor."""
    if type(x).__module__.partition(".")[0] != "torch":
        raise ValueError(f"{name} must be a torch tensor, not {type(x).__name__}")
    if x.device.type != "cuda":
        raise ValueError(f"{name} is on {x.device}: use kltui.native")
    if x.requires_grad:
        raise ValueError(f"{name} requires grad: pass {name}.detach(), or score under torch.no_grad()")
    extension = _extension()
    if extension is None:
        raise ValueError(
            f"{name} is on {x.device}, but kltui was built without CUDA: reinstall it with nvcc at hand"
        )
    device = int(x.device.index)
    return extension, (device, int(_torch().cuda.current_stream(x.device).cuda_stream))


def _matrix(x: Tensor, name: str) -> tuple[int, int, int, int]:
    """Dtype code, rows, columns and row stride of a matrix with contiguous rows, or a ValueError naming it."""
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"{name} must be a matrix with entries, not of shape {tuple(x.shape)}")
    if str(x.dtype) not in _DTYPES:
        raise ValueError(f"{name} must be float32, float16 or bfloat16, not {x.dtype}")
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ValueError(f"{name} must have contiguous rows: strides are {x.stride()}")
    return _DTYPES[str(x.dtype)], int(x.shape[0]), int(x.shape[1]), int(x.stride(0))


def _vector(x: Tensor, name: str, dtype: str, count: int, device: Any) -> None:
    """Raises a ValueError naming `x` unless it is a contiguous vector of that dtype, length and device."""
    if str(getattr(x, "dtype", "")) != dtype or tuple(x.shape) != (count,) or not x.is_contiguous():
        raise ValueError(f"{name} must be contiguous {dtype.removeprefix('torch.')} of shape ({count},)")
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}, but should be on {device}")
