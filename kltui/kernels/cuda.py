"""Bindings of the CUDA kernels, which check arguments: torch CUDA tensors in and out, on torch's current stream.

Nothing here waits for the device, and only results are allocated. Values on the device are therefore not checked: a
target outside the vocabulary gives NaN. This module never imports torch; the caller has done so. If `usable(device)` is
false (no CUDA build, no driver, no GPU, a GPU that this build has no code for), callers use torch itself.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

Tensor = Any  # a torch.Tensor

# The type of device that the kernels accept; tests that emulate the kernels on the CPU change it.
DEVICE_TYPE = "cuda"

_DTYPES = {"torch.float32": 0, "torch.float16": 1, "torch.bfloat16": 2}


@cache
def _extension() -> ModuleType | None:
    try:
        from kltui.kernels import _cuda
    except ImportError:
        return None
    return _cuda


def device_count() -> int:
    """The number of CUDA devices that the kernels can use; 0 without the extension or a driver."""
    extension = _extension()
    return 0 if extension is None else int(extension.device_count())


def usable(device: Any) -> bool:
    """Whether the kernels run on `device`, a torch.device: the extension exists and has code for that GPU."""
    if device.type != DEVICE_TYPE or _extension() is None or _is_rocm():
        return False
    return _has_code(_index(device))


def why_not(device: Any) -> str:
    """Why the kernels do not run on `device`, a CUDA device of torch, in a few words; "" if they do."""
    if usable(device):
        return ""
    if _is_rocm():
        return "they need an NVIDIA GPU, and this torch is for AMD GPUs (ROCm)"
    if _extension() is None:
        return "kltui was built without CUDA: install it again with nvcc on PATH"
    if _index(device) >= device_count():
        return "the CUDA runtime of this kltui build does not see the device: the driver may be too old"
    return "kltui was built without machine code for this GPU: install it again with this GPU's nvcc"


def takes(x: Tensor) -> bool:
    """Whether the kernels can read a matrix without a copy: it has a supported float dtype and contiguous rows."""
    return x.ndim == 2 and _dtype_code(x.dtype) is not None and (x.shape[1] == 1 or x.stride(1) == 1)


@cache
def _has_code(index: int) -> bool:
    extension = _extension()
    if extension is None or index >= device_count():
        return False
    with _current(index):
        return bool(extension.has_code(index))


def _is_rocm() -> bool:
    """Whether this torch is built for ROCm, where "cuda" means AMD's GPUs."""
    return getattr(_torch().version, "hip", None) is not None


def _current(index: int) -> AbstractContextManager[None]:
    """Context in which GPU `index` is the current device.

    The previous device is restored only if it is in use already, because making an unused one current would allocate
    several hundred megabytes of its memory.
    """
    if DEVICE_TYPE != "cuda":
        return nullcontext()
    there: AbstractContextManager[None] = _torch().cuda.device(index)
    return there


def log_softmax_gather(
    logits_nV: Tensor, targets_n: Tensor, *, scale: float = 1.0, softcap: float = 0.0
) -> Tensor:
    """log p(target) of every row in nats, n float32 on the logits' device; like `native.log_softmax_gather`."""
    extension, where = _kernels(logits_nV, "logits")
    matrix = _matrix(logits_nV, "logits")
    _vector(targets_n, "targets", "torch.int64", matrix[1], logits_nV.device)
    out = logits_nV.new_empty(matrix[1], dtype=_torch().float32)
    with _current(where[0]):
        extension.log_softmax_gather(
            logits_nV.data_ptr(), *matrix, targets_n.data_ptr(), scale, softcap, out.data_ptr(), *where
        )
    return out


class CudaOnlineLogSoftmax:
    """log p(target) of n rows whose logits are given in tiles of rows and vocabulary entries, in any order.

    Tiles are processed on the stream that was torch's current one when this object was created.
    """

    def __init__(self, targets_n: Tensor, *, scale: float = 1.0, softcap: float = 0.0) -> None:
        self._extension, self._where = _kernels(targets_n, "targets")
        n = len(targets_n)
        _vector(targets_n, "targets", "torch.int64", n, targets_n.device)
        torch = _torch()
        self._targets, self._scale, self._softcap = targets_n, scale, softcap
        lowest = float(torch.finfo(torch.float32).min)
        self._reference = targets_n.new_full((n,), lowest, dtype=torch.float32)
        self._sum = targets_n.new_zeros(n, dtype=torch.float64)
        self._target_logit = targets_n.new_full((n,), float("nan"), dtype=torch.float32)
        self._state = ((targets_n, 8), (self._reference, 4), (self._sum, 8), (self._target_logit, 4))

    def update(self, tile_nv: Tensor, first: int, row: int | None = None) -> None:
        """Adds the logits of vocabulary entries first, first + 1, ... for all rows, or for those from `row` on.

        Each entry must be given exactly once for each row.
        """
        dtype, rows, columns, stride = _matrix(tile_nv, "tile")
        start, n = row or 0, len(self._targets)
        fits = rows == n if row is None else 0 <= row <= n - rows
        if not fits or tile_nv.device != self._targets.device:
            where = f"{n} rows" if row is None else f"at most {n - start} rows"
            raise ValueError(f"tile must have {where} on {self._targets.device}")
        if first < 0:
            raise ValueError(f"first must not be negative, not {first}")
        targets, *state = (t.data_ptr() + start * size for t, size in self._state)
        with _current(self._where[0]):
            self._extension.online_update(
                tile_nv.data_ptr(), dtype, rows, columns, stride, first, targets, self._scale, self._softcap,
                *state, *self._where,
            )  # fmt: skip

    def logprobs(self) -> Tensor:
        """log p(target) in nats, n float32; NaN if no tile contained the target, or all logits are -inf."""
        return (self._target_logit.double() - self._reference.double() - self._sum.log()).float()


class CudaKlRows(NamedTuple):
    """For each row KL(p || q) and KL(q || p) in nats, float64, and whether the largest entries have the same index."""

    forward: Tensor
    reverse: Tensor
    same_top: Tensor


def kl_rows(p_nV: Tensor, q_nV: Tensor) -> CudaKlRows:
    """Exact KL between the next-token distributions of two matrices of logits, row by row; like `native.kl_rows`."""
    extension, where = _kernels(p_nV, "p")
    dtype, rows, columns, stride_p = _matrix(p_nV, "p")
    if q_nV.device != p_nV.device or _matrix(q_nV, "q")[:3] != (dtype, rows, columns):
        raise ValueError(f"q must be {p_nV.dtype} of shape {tuple(p_nV.shape)} on {p_nV.device}")
    torch = _torch()
    forward, reverse = (p_nV.new_empty(rows, dtype=torch.float64) for _ in range(2))
    same_top = p_nV.new_empty(rows, dtype=torch.bool)
    out = (x.data_ptr() for x in (forward, reverse, same_top))
    with _current(where[0]):
        extension.kl_rows(
            p_nV.data_ptr(),
            q_nV.data_ptr(),
            dtype,
            rows,
            columns,
            stride_p,
            int(q_nV.stride(0)),
            *out,
            *where,
        )
    return CudaKlRows(forward, reverse, same_top)


def sum_by_text(logp_n: Tensor, text_index_n: Tensor, n_texts: int) -> Tensor:
    """Sum of the log-probabilities of each text in nats, n_texts float64; `text_index_n` must be in ascending order."""
    extension, where = _kernels(logp_n, "logp")
    n = len(logp_n)
    _vector(logp_n, "logp", "torch.float32", n, logp_n.device)
    _vector(text_index_n, "text_index", "torch.int64", n, logp_n.device)
    if n_texts < 0:
        raise ValueError(f"n_texts must not be negative, not {n_texts}")
    sums = logp_n.new_empty(n_texts, dtype=_torch().float64)
    if n_texts:
        with _current(where[0]):
            extension.sum_by_text(
                logp_n.data_ptr(), text_index_n.data_ptr(), n, n_texts, sums.data_ptr(), *where
            )
    return sums


def double_centre(x_KN: Tensor) -> Tensor:
    """x minus row and column means plus the grand mean, K x N float64; as `native.double_centre`, without weights."""
    extension, where = _kernels(x_KN, "x")
    if x_KN.ndim != 2 or str(x_KN.dtype) != "torch.float64" or not x_KN.is_contiguous() or not x_KN.numel():
        raise ValueError(
            f"x must be a contiguous float64 matrix, not {x_KN.dtype} of shape {tuple(x_KN.shape)}"
        )
    out, means = _torch().empty_like(x_KN), x_KN.new_empty(sum(x_KN.shape))
    with _current(where[0]):
        extension.double_centre(x_KN.data_ptr(), *x_KN.shape, out.data_ptr(), means.data_ptr(), *where)
    return out


def _torch() -> Any:
    return sys.modules["torch"]


def _kernels(x: Tensor, name: str) -> tuple[ModuleType, tuple[int, int]]:
    """(extension, (device, stream) to run on). Raises ValueError that names the tensor."""
    if type(x).__module__.partition(".")[0] != "torch":
        raise ValueError(f"{name} must be a torch tensor, not {type(x).__name__}")
    if x.device.type != DEVICE_TYPE:
        raise ValueError(f"{name} is on {x.device}: use kltui.kernels.native")
    if x.requires_grad:
        raise ValueError(f"{name} requires grad: pass {name}.detach(), or score under torch.no_grad()")
    extension = _extension()
    if extension is None or not usable(x.device):
        raise ValueError(f"{name} is on {x.device}: {why_not(x.device)}")
    return extension, (_index(x.device), _stream(x.device))


def _index(device: Any) -> int:
    """The index of a device; a torch.device without an index means the current device."""
    if device.index is not None:
        return int(device.index)
    return int(_torch().cuda.current_device()) if device.type == "cuda" else 0


def _stream(device: Any) -> int:
    """The handle of torch's current stream on `device`; 0 on the CPU, in tests."""
    return int(_torch().cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


@cache
def _dtype_code(dtype: Any) -> int | None:
    return _DTYPES.get(str(dtype))


def _matrix(x: Tensor, name: str) -> tuple[int, int, int, int]:
    """(dtype code, rows, columns, row stride) of a matrix with contiguous rows. Raises ValueError that names it."""
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"{name} must be a matrix with entries, not of shape {tuple(x.shape)}")
    code = _dtype_code(x.dtype)
    if code is None:
        raise ValueError(f"{name} must be float32, float16 or bfloat16, not {x.dtype}")
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ValueError(f"{name} must have contiguous rows: strides are {x.stride()}")
    return code, int(x.shape[0]), int(x.shape[1]), int(x.stride(0))


def _vector(x: Tensor, name: str, dtype: str, count: int, device: Any) -> None:
    """Raises ValueError that names `x` unless it is a contiguous vector of that dtype, length and device."""
    if str(getattr(x, "dtype", "")) != dtype or tuple(x.shape) != (count,) or not x.is_contiguous():
        raise ValueError(f"{name} must be contiguous {dtype.removeprefix('torch.')} of shape ({count},)")
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}, but should be on {device}")
