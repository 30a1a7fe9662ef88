"""Bindings of the compiled kernels, which check arguments; `kltui.kernels.reference` has the reference implementation.

An invalid argument is a ValueError that names it, so that only valid ones reach the kernels. If the extension is
missing, the reference implementation runs instead, which is logged once. Logits may be numpy arrays (float32, float16, or bfloat16
bits as uint16) or torch tensors (float32, float16, bfloat16) on the CPU; rows must be contiguous, strides between rows
are free, nothing is copied. Results do not depend on the number of threads.

Shape letters: n rows of logits, V vocabulary, D hidden size, K checkpoints, N texts.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kltui.kernels import reference

log = logging.getLogger(__name__)

_core: ModuleType | None
try:
    from kltui.kernels import _core
except ImportError as error:
    _core = None
    # No warning if it was left out on purpose (KLTUI_NATIVE=OFF), only if it exists and cannot be loaded.
    there = any(path.suffix != ".pyi" for path in Path(__file__).parent.glob("_core*"))
    said = "kltui.kernels._core is not built (%s): slower numpy code is used; reinstall kltui to compile it"
    log.log(logging.WARNING if there else logging.INFO, said, error)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
TensorLike = Any  # a numpy array or a torch tensor; torch is never imported here
Kind = Literal["braille", "dots", "half", "ascii"]
Direction = Literal["", "left", "right", "up", "down"]

_KINDS: tuple[Kind, ...] = ("braille", "dots", "half", "ascii")
_DIRECTIONS: tuple[Direction, ...] = ("", "left", "right", "up", "down")
_DTYPE_NAMES = {"float32": "f4", "float16": "f2", "bfloat16": "u2"}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_threads: int | None = None


def set_threads(count: int | None) -> None:
    """Sets the number of threads of every kernel; None: as torch if it is loaded, otherwise OMP_NUM_THREADS."""
    global _threads
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    _threads = count


def threads() -> int:
    """The number of threads that the next kernel will use."""
    if _threads is not None:
        return _threads
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    return int(_core.max_threads()) if _core is not None else 1


def instruction_sets() -> list[str]:
    """Valid values of KLTUI_ISA for this processor and build; [] if the extension is missing."""
    return list(_core.supported_isas()) if _core is not None else []


def info() -> dict[str, object]:
    """Properties of this build: extension, instruction set in use and supported ones, threads, CUDA devices."""
    known: dict[str, object] = {"extension": False, "isa": "numpy", "supported": [], "bf16_products": False}
    if _core is not None:
        known |= {"extension": True, "isa": _core.isa(), "supported": _core.supported_isas()}
        known["bf16_products"] = _core.has_bf16_products()
    try:
        from kltui.kernels import _cuda
    except ImportError:
        return known | {"threads": threads(), "cuda_extension": False, "cuda_devices": 0}
    return known | {"threads": threads(), "cuda_extension": True, "cuda_devices": _cuda.device_count()}


def read_once(array: NDArray[np.generic]) -> int:
    """The exclusive or of a contiguous array's 64-bit words, whose time is that of reading it once, for benchmarks."""
    if not array.flags.c_contiguous or array.nbytes % 8 or array.ctypes.data % 8:
        raise ValueError(f"array must be contiguous, whole aligned 64-bit words, not {array.nbytes} bytes")
    if _core is None:
        return int(np.bitwise_xor.reduce(array.reshape(-1).view(np.uint64)))
    return int(_core.read_once(array, threads()))


# -- arguments -----------------------------------------------------------------------------------------------------


def tensor_view(x: TensorLike, name: str = "tensor") -> NDArray[np.generic]:
    """`x` as a numpy array that shares its memory; bfloat16 is returned as its bits in uint16."""
    if isinstance(x, np.ndarray):
        return x.view(np.uint16) if x.dtype.name == "bfloat16" else x
    if type(x).__module__.partition(".")[0] != "torch":
        raise ValueError(f"{name} must be a numpy array or a torch tensor, not {type(x).__name__}")
    if x.requires_grad:
        raise ValueError(f"{name} requires grad: pass {name}.detach(), or score under torch.no_grad()")
    if x.device.type != "cpu":
        raise ValueError(f"{name} is on {x.device}, where this operation has no kernel: pass {name}.cpu()")
    torch = sys.modules["torch"]
    if x.dtype == torch.bfloat16:
        bits: NDArray[np.int16] = x.view(torch.int16).numpy()
        return bits.view(np.uint16)
    return np.asarray(x.numpy())


def _matrix(x: TensorLike, name: str, dtype: str | None = None) -> NDArray[np.generic]:
    """`x` as a non-empty matrix of float32, float16 or bfloat16 bits with contiguous rows. Raises ValueError that names it."""
    a = tensor_view(x, name)
    if a.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, not shape {a.shape}")
    if a.dtype.str[1:] not in _DTYPE_NAMES.values() or not a.dtype.isnative:
        raise ValueError(f"{name} must be float32, float16 or bfloat16 (as uint16), not {a.dtype}")
    if dtype is not None and _DTYPE_NAMES.get(dtype) != a.dtype.str[1:]:
        raise ValueError(f"{name} must be {dtype}, not {a.dtype}")
    if a.size == 0:
        raise ValueError(f"{name} is empty: shape {a.shape}")
    if (a.shape[1] > 1 and a.strides[1] != a.itemsize) or a.strides[0] % a.itemsize:
        raise ValueError(f"{name} must have contiguous rows: strides are {a.strides} bytes")
    return a


def _indices(x: TensorLike, name: str, count: int, limit: int) -> NDArray[np.int64]:
    """`x` as `count` contiguous int64 in [0, limit). Raises ValueError that names it."""
    a = tensor_view(x, name) if not isinstance(x, list | tuple) else np.asarray(x)
    if a.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, not {a.dtype}")
    if a.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), not {a.shape}")
    values = np.ascontiguousarray(a, dtype=np.int64)
    outside = np.flatnonzero((values < 0) | (values >= limit))
    if outside.size:
        where = int(outside[0])
        raise ValueError(f"{name}[{where}] is {values[where]}, outside [0, {limit}) ({outside.size} such)")
    return values


def _doubles(x: TensorLike, name: str, shape: tuple[int | None, ...]) -> F64:
    """`x` as contiguous float64 of `shape` (None: any extent). Raises ValueError that names it."""
    a = np.asarray(x)
    if a.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers, not {a.dtype}")
    if a.ndim != len(shape) or any(w is not None and w != s for w, s in zip(shape, a.shape, strict=True)):
        wanted = ", ".join("any" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} must have shape ({wanted}), not {a.shape}")
    return np.ascontiguousarray(a, dtype=np.float64)


def _transform(scale: float, softcap: float) -> tuple[float, float]:
    if not np.isfinite(scale) or scale == 0:
        raise ValueError(f"scale must be finite and not 0, not {scale}")
    if not np.isfinite(softcap) or softcap < 0:
        raise ValueError(f"softcap must be 0 (none) or positive, not {softcap}")
    return float(scale), float(softcap)


# -- log-probabilities ---------------------------------------------------------------------------------------------


def log_softmax_gather(
    logits_nV: TensorLike,
    targets_n: TensorLike,
    *,
    dtype: str | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
) -> F32:
    """log p(target) of every row in nats, n float32; each logit is read once, and no array of size n x V is allocated.

    The logits are first transformed to `softcap * tanh(scale * x / softcap)` (softcap 0: `scale * x`). -inf logits are
    valid; a row with NaN or +inf, or only -inf, gives NaN.
    """
    logits = _matrix(logits_nV, "logits", dtype)
    targets = _indices(targets_n, "targets", *logits.shape)
    scale, softcap = _transform(scale, softcap)
    if _core is None:
        return reference.log_softmax_gather(logits, targets, scale, softcap)
    result: F32 = _core.log_softmax_gather(logits, targets, scale, softcap, threads())
    return result


class OnlineLogSoftmax:
    """log p(target) of n rows whose logits are given in tiles of vocabulary entries, in any order.

    >>> rows = OnlineLogSoftmax(targets_n)                       # doctest: +SKIP
    >>> rows.update(hidden @ weight[:4096].T, first=0)           # doctest: +SKIP
    >>> rows.logprobs()                                          # doctest: +SKIP
    """

    def __init__(self, targets_n: TensorLike, *, scale: float = 1.0, softcap: float = 0.0) -> None:
        n = len(targets_n)
        self._targets = _indices(targets_n, "targets", n, 2**62)
        self._scale, self._softcap = _transform(scale, softcap)
        self._reference = np.full(n, np.finfo(np.float32).min, np.float32)
        self._sum = np.zeros(n, np.float64)
        self._target_logit = np.full(n, np.nan, np.float32)

    def update(self, tile_nv: TensorLike, first: int) -> None:
        """Adds the logits of vocabulary entries first, first + 1, ...; each entry must be given exactly once."""
        tile = _matrix(tile_nv, "tile")
        if len(tile) != len(self._targets):
            raise ValueError(f"tile must have {len(self._targets)} rows, not {len(tile)}")
        if first < 0:
            raise ValueError(f"first must not be negative, not {first}")
        state = (self._reference, self._sum, self._target_logit)
        if _core is None:
            reference.online_update(tile, first, self._targets, self._scale, self._softcap, *state)
        else:
            _core.online_update(tile, first, self._targets, self._scale, self._softcap, *state, threads())

    def logprobs(self) -> F32:
        """log p(target) in nats, n float32; NaN if no tile contained the target, or as in `log_softmax_gather`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self._target_logit - self._reference.astype(np.float64) - np.log(self._sum)
        nothing_seen = self._reference == np.finfo(np.float32).min
        return np.where(nothing_seen, np.nan, value).astype(np.float32)


class NativeHead:
    """A model's output layer with the log-softmax, without storing all logits.

    >>> head = NativeHead(weight_VD)                             # doctest: +SKIP
    >>> head.logprobs(hidden_nD, targets_n)                      # doctest: +SKIP

    `weight_VD` may be float32, float16 or bfloat16 and is not copied: do not change it. Products and sums are in float32. If
    weight and hidden states are both bfloat16 and the processor multiplies bfloat16 (isa "amx": in tiles), products are in
    bfloat16 and sums in float32. Working memory is at most about 16 MB for any V.
    """

    def __init__(
        self,
        weight_VD: TensorLike,
        bias_V: TensorLike | None = None,
        *,
        scale: float = 1.0,
        softcap: float = 0.0,
    ) -> None:
        self._weight = _matrix(weight_VD, "weight")
        self._bias: F32 | None = None
        if bias_V is not None:
            bias = reference.widened(tensor_view(bias_V, "bias"))
            if bias.shape != (len(self._weight),):
                raise ValueError(f"bias must have shape ({len(self._weight)},), not {bias.shape}")
            self._bias = np.ascontiguousarray(bias, dtype=np.float32)
        self._scale, self._softcap = _transform(scale, softcap)

    @property
    def shape(self) -> tuple[int, int]:
        """(vocabulary size V, hidden size D)."""
        return self._weight.shape[0], self._weight.shape[1]

    @property
    def fast(self) -> bool:
        """Whether this is about as fast as a BLAS product: false for the portable kernels and without the extension."""
        return _core is not None and _core.isa() != "portable"

    def logprobs(self, hidden_nD: TensorLike, targets_n: TensorLike) -> F32:
        """log p(target) of every row of hidden states in nats, n float32; NaN as in `log_softmax_gather`."""
        hidden = _matrix(hidden_nD, "hidden")
        vocabulary, depth = self.shape
        if hidden.shape[1] != depth:
            raise ValueError(f"hidden must have {depth} columns as weight has, not {hidden.shape[1]}")
        targets = _indices(targets_n, "targets", len(hidden), vocabulary)
        how = (self._scale, self._softcap)
        if _core is None:
            return reference.head_logprobs(hidden, self._weight, self._bias, targets, *how)
        result: F32 = _core.head_logprobs(hidden, self._weight, self._bias, targets, *how, threads())
        return result


class KlRows(NamedTuple):
    """For each pair of rows of logits: exact KL in nats in both directions, and whether the most likely tokens are the same."""

    forward: F64
    reverse: F64
    same_top: NDArray[np.bool_]


def kl_rows(p_nV: TensorLike, q_nV: TensorLike) -> KlRows:
    """KL(p || q), KL(q || p) in nats and top-1 agreement of the softmax of each pair of rows, n each; both of one dtype.

    A token with -inf in p adds nothing to KL(p || q); one with -inf only in q makes it inf. Rows with NaN or +inf, or only
    -inf, give NaN and no agreement. Of equal maxima the first counts.
    """
    p, q = _matrix(p_nV, "p"), _matrix(q_nV, "q")
    if p.shape != q.shape or p.dtype != q.dtype:
        raise ValueError(f"q must be {p.dtype} of shape {p.shape} as p is, not {q.dtype} of shape {q.shape}")
    if _core is None:
        forward, reverse, same_top = reference.kl_rows(p, q)
    else:
        forward, reverse, same_top = _core.kl_rows(p, q, threads())
    return KlRows(forward, reverse, same_top.astype(np.bool_))


def causal_attention(
    query_BHTD: TensorLike, key_BGTD: TensorLike, value_BGTE: TensorLike, out_BTHE: TensorLike, scale: float
) -> None:
    """Causal attention: writes softmax(scale q k^T) v into `out_BTHE`; every position attends to itself and earlier ones.

    All float32, or all bfloat16 with float32 sums; the last axis contiguous, the others with any stride (`out` contiguous).
    Each of the G heads of keys and values is used by H / G heads of queries. With finite values, a position's result depends
    only on its own prefix, to the last bit; a value that is not finite may affect the five positions before it.
    """
    query = tensor_view(query_BHTD, "query")
    if query.ndim != 4 or query.dtype.str[1:] not in ("f4", "u2") or not query.size:
        raise ValueError(
            f"query must be B x H x T x D of float32 or bfloat16, not {query.dtype} {query.shape}"
        )
    B, H, T, _D = query.shape
    key, value = _heads(key_BGTD, "key", query), _heads(value_BGTE, "value", query)
    G = key.shape[1]
    if value.shape[1] != G or not G or H % G:
        raise ValueError(
            f"key and value must have a number of heads that divides {H}, not {G} and {value.shape[1]}"
        )
    if key.shape[3] != query.shape[3]:
        raise ValueError(f"key must have the depth of query, {query.shape[3]}, not {key.shape[3]}")
    out = tensor_view(out_BTHE, "out")
    wanted = (B, T, H, value.shape[3])
    if out.shape != wanted or out.dtype != query.dtype or not out.flags.carray:
        raise ValueError(
            f"out must be contiguous {query.dtype} of shape {wanted}, not {out.dtype} {out.shape}"
        )
    _heads(query_BHTD, "query", query)
    if _core is None:
        out[:] = reference.causal_attention(query, key, value, scale)
    else:
        _core.causal_attention(query, key, value, out, scale, threads())


def _heads(x: TensorLike, name: str, query: NDArray[np.generic]) -> NDArray[np.generic]:
    """`x` as heads of the query's B texts, T positions and dtype. Raises ValueError that names it."""
    a = tensor_view(x, name)
    like = (
        a.ndim == 4
        and a.dtype == query.dtype
        and (a.shape[0], a.shape[2]) == (query.shape[0], query.shape[2])
    )
    if not like or not a.size:
        raise ValueError(
            f"{name} must be {query.dtype} with B, T of query {query.shape}, not {a.dtype} {a.shape}"
        )
    _contiguous_rows(a, name)
    return a


def has_rotation() -> bool:
    """Whether the extension has `rotate`; the numpy version is slower than torch."""
    return hasattr(_core, "rotate")


def rotate(x_BHTD: TensorLike, cosine_BTR: TensorLike, sine_BTR: TensorLike) -> None:
    """Rotary position embedding in place: x cosine + (-x2, x1) sine for the first R of D entries, with halves x1 and x2.

    All float32, the last axis contiguous; one row of cosines and sines for each position, for every text or common to all
    (B = 1). Every product and sum is rounded separately, so that the result has the same bits as the expression on tensors.
    """
    x: NDArray[Any] = tensor_view(x_BHTD, "x")
    if x.ndim != 4 or x.dtype != np.float32 or not x.size or not x.flags.writeable:
        raise ValueError(f"x must be B x H x T x D of float32, not {x.dtype} {x.shape}")
    if any(n > 1 and step == 0 for n, step in zip(x.shape, x.strides, strict=True)):
        raise ValueError(f"x must not repeat entries: strides are {x.strides} bytes")
    _contiguous_rows(x, "x")
    cosine, sine = _angles(cosine_BTR, "cosine", x), _angles(sine_BTR, "sine", x)
    if cosine.shape != sine.shape or cosine.strides != sine.strides:
        raise ValueError(f"sine must be laid out as cosine is, {cosine.shape}, not {sine.shape}")
    if _core is None:
        reference.rotate(x, cosine, sine)
    else:
        _core.rotate(x, cosine, sine, threads())


def _angles(values_BTR: TensorLike, name: str, x: NDArray[Any]) -> NDArray[Any]:
    """`values_BTR` as cosines or sines for the positions of `x`. Raises ValueError that names them."""
    a: NDArray[Any] = tensor_view(values_BTR, name)
    (B, _, T, D), shape = x.shape, a.shape
    right = a.ndim == 3 and a.dtype == np.float32 and shape[0] in (1, B) and shape[1] == T
    if not right or not 0 < shape[2] <= D or shape[2] % 2:
        raise ValueError(
            f"{name} must be float32 of an even number of columns for x {x.shape}, not {a.dtype} {shape}"
        )
    _contiguous_rows(a, name)
    return a


def _contiguous_rows(a: NDArray[np.generic], name: str) -> None:
    """Raises ValueError unless the last axis is contiguous."""
    if a.strides[-1] != a.itemsize or any(s % a.itemsize for s in a.strides):
        raise ValueError(f"{name} must have a contiguous last axis: strides are {a.strides} bytes")


def sum_by_text(logp_n: TensorLike, text_index_n: TensorLike, n_texts: int) -> F64:
    """Sum of the log-probabilities of each text in nats, n_texts float64; 0 for a text without tokens."""
    logp = tensor_view(logp_n, "logp")
    if logp.ndim != 1 or logp.dtype != np.float32:
        raise ValueError(f"logp must be a vector of float32, not {logp.dtype} of shape {logp.shape}")
    if n_texts < 0:
        raise ValueError(f"n_texts must not be negative, not {n_texts}")
    values = np.ascontiguousarray(logp)
    text_index = _indices(text_index_n, "text_index", len(values), n_texts)
    if _core is None:
        return reference.sum_by_text(values, text_index, n_texts)
    sums: F64 = _core.sum_by_text(values, text_index, n_texts)
    return sums


# -- maps ----------------------------------------------------------------------------------------------------------


def double_centre(
    x_KN: TensorLike, weights_N: TensorLike | None = None, *, floor: float = -np.inf, out: F64 | None = None
) -> F64:
    """max(x, floor) minus row and column means plus the grand mean, K x N float64 (docs/method.md).

    `weights_N` weights the texts in the means over texts. NaN spreads over its row and column. The result is written to
    `out`, a contiguous float64 K x N array, which may be `x_KN` itself, or to a new array.
    """
    x = _doubles(x_KN, "x", (None, None))
    weights = None if weights_N is None else _doubles(weights_N, "weights", (x.shape[1],))
    if x.size == 0:
        raise ValueError(f"x is empty: shape {x.shape}")
    if weights is not None and not (
        np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0
    ):
        raise ValueError("weights must be finite, not negative, and not all 0")
    result = np.empty_like(x) if out is None else out
    if result.shape != x.shape or result.dtype != np.float64 or not result.flags.carray:
        raise ValueError(f"out must be writable, aligned, contiguous float64 of shape {x.shape}")
    if _core is None:
        result[:] = reference.double_centre(x, weights, floor)
    else:
        _core.double_centre(x, weights, floor, result, threads())
    return result


def split_values(x: TensorLike, bottom: float, top: float) -> tuple[int, F64]:
    """(number of values below `bottom`, the values neither below `bottom` nor above `top`, including NaN).

    The values are one-dimensional float64 in the order of `x`, which is read once.
    """
    values = _doubles(x, "x", (None,))
    if _core is None:
        return reference.split_values(values, bottom, top)
    below, inside = _core.split_values(values, bottom, top, threads())
    return below, inside


def banded_sqdist(buffers: Sequence[NDArray[np.uint8]], dtypes: Sequence[str], band: int) -> F64:
    """Squared distances of one tensor between checkpoints up to `band` apart: [k, d-1] = |theta_{k+d} - theta_k|^2.

    `buffers` are the K checkpoints' raw bytes (uint8, as in a safetensors file, with any alignment, also memory maps), each
    read once; `dtypes` are F32, F16, BF16 or F64. Returns K x band float64, NaN where k + d >= K. Sums are in float64.
    Without an F64 tensor, differences and squares are in float32, and 32 squares are added before conversion to float64: a
    relative error below 2e-6, about 1e-7 in practice. With F64, or if squares overflow float32, everything is in float64.
    """
    if band < 1:
        raise ValueError(f"band must be at least 1, not {band}")
    if len(buffers) == 0 or len(buffers) != len(dtypes):
        raise ValueError(
            f"buffers and dtypes must have the same length, not {len(buffers)} and {len(dtypes)}"
        )
    sizes = {
        _elements(buffer, dtype, k) for k, (buffer, dtype) in enumerate(zip(buffers, dtypes, strict=True))
    }
    if len(sizes) > 1:
        raise ValueError(f"buffers must have the same number of elements, not {sorted(sizes)}")
    raw = [np.ascontiguousarray(buffer) for buffer in buffers]
    reach = min(band, max(1, len(raw) - 1))  # the kernels need memory for every column
    if _core is None:
        out = reference.banded_sqdist(raw, dtypes, reach)
    else:
        out = _core.banded_sqdist(raw, list(dtypes), reach, threads())
    for d in range(1, reach + 1):
        out[max(0, len(raw) - d) :, d - 1] = np.nan
    return np.pad(out, ((0, 0), (0, band - reach)), constant_values=np.nan)


def _elements(buffer: NDArray[np.uint8], dtype: str, k: int) -> int:
    """Number of values in a raw buffer. Raises ValueError that names it."""
    if dtype not in _BYTES:
        raise ValueError(f"dtypes[{k}] must be one of {', '.join(_BYTES)}, not {dtype!r}")
    if buffer.dtype != np.uint8 or buffer.ndim != 1:
        raise ValueError(
            f"buffers[{k}] must be a vector of uint8, not {buffer.dtype} of shape {buffer.shape}"
        )
    if buffer.size % _BYTES[dtype]:
        raise ValueError(f"buffers[{k}] has {buffer.size} bytes, not a whole number of {dtype} values")
    return int(buffer.size // _BYTES[dtype])


# -- plots ---------------------------------------------------------------------------------------------------------


class Raster:
    """A grid of character cells for drawing points and lines: `kind` is "braille", "half" (blocks), "dots" or "ascii".

    Coordinates are floats in dots, with (0, 0) at the top left and y downwards; dot i covers [i, i + 1). The canvas has
    `width_dots` x `height_dots`: 2 x 4 dots per cell for braille, 1 x 2 for half, 1 x 1 otherwise. Lines are clipped before
    they are drawn, so that zooming in costs nothing. Coordinates that are not finite leave a gap. A cell belongs to the last
    series drawn in it.
    """

    def __init__(self, width_cells: int, height_cells: int, kind: Kind = "braille") -> None:
        if kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, not {kind!r}")
        if not (0 <= width_cells < 65536 and 0 <= height_cells < 65536):
            raise ValueError(
                f"width_cells and height_cells must be small, not {width_cells} x {height_cells}"
            )
        self.kind: Kind = kind
        self.width_cells, self.height_cells = width_cells, height_cells
        self.dots_per_cell: tuple[int, int] = {"braille": (2, 4), "half": (1, 2)}.get(kind, (1, 1))
        self.width_dots = width_cells * self.dots_per_cell[0]
        self.height_dots = height_cells * self.dots_per_cell[1]
        self._line, self._point = (0x2A, 0x2A) if kind == "ascii" else (0xB7, 0x2022)
        made: Any = reference.ReferenceRaster if _core is None else _core.Raster
        self._raster: Any = made(width_cells, height_cells, kind if _core is None else _KINDS.index(kind))

    def segments(self, xy_n4: TensorLike, series: int | TensorLike = 0, marker: str = "") -> None:
        """Draws n segments, each a row x0 y0 x1 y1. `series`: one number 0 .. 32767, or one per segment.

        `marker` is the character in "dots" and "ascii" cells (default: a middle dot, an asterisk).
        """
        xy = _doubles(xy_n4, "xy", (None, 4))
        self._raster.segments(xy, _series(series, len(xy)), ord(marker) if marker else self._line)

    def points(self, xy_n2: TensorLike, series: int | TensorLike = 0, marker: str = "") -> None:
        """Draws n points, each a row x y; `series` and `marker` as in `segments` (default: a bullet, an asterisk)."""
        xy = _doubles(xy_n2, "xy", (None, 2))
        self._raster.points(xy, _series(series, len(xy)), ord(marker) if marker else self._point)

    def polyline(self, xy_n2: TensorLike, series: int = 0, marker: str = "") -> None:
        """Draws the n - 1 segments between successive points; a point that is not finite is a gap."""
        xy = _doubles(xy_n2, "xy", (None, 2))
        self.segments(np.hstack([xy[:-1], xy[1:]]), series, marker)

    def planes(self) -> tuple[NDArray[np.uint32], NDArray[np.int16]]:
        """Code points (32 for an empty cell) and series (-1 for an empty cell), each height x width cells."""
        codepoints, series = self._raster.planes()
        return codepoints, series

    def rows(self) -> list[str]:
        """The picture as one string per row of cells."""
        return ["".join(map(chr, row)) for row in self.planes()[0].tolist()]

    def clear(self) -> None:
        """Empties every cell."""
        self._raster.clear()


def _series(series: int | TensorLike, count: int) -> NDArray[np.int16]:
    """`series` as one contiguous int16 per point or segment. Raises ValueError for anything else."""
    values = np.asarray(series)
    if values.dtype.kind not in "iu" or values.shape not in ((), (count,)):
        raise ValueError(f"series must be an integer or {count} integers, not {values.dtype} {values.shape}")
    if values.size and (values.min() < 0 or values.max() > 32767):
        raise ValueError("series must lie in 0 .. 32767")
    return np.ascontiguousarray(np.broadcast_to(values, (count,)), dtype=np.int16)


def nearest(points_n2: TensorLike, x: float, y: float, direction: Direction = "") -> int:
    """Index of the point nearest to (x, y), -1 if there is none; points that are not finite are skipped.

    With a direction (on screen, y downwards): among the points strictly in that direction, the one with the smallest
    distance along it plus twice the distance across it.
    """
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be left, right, up, down or empty, not {direction!r}")
    points = _doubles(points_n2, "points", (None, 2))
    engine: Any = reference if _core is None else _core
    return int(engine.nearest(points, float(x), float(y), _DIRECTIONS.index(direction)))


def heat_map(
    values_RC: TensorLike, rows: int, columns: int, low: float, high: float, levels: int = 256
) -> NDArray[np.int16]:
    """A picture of a matrix: rows x columns pixels of level 0 .. levels - 1, int16; -1 for a pixel without a finite value.

    A pixel has the mean of the finite values under it; `low` is level 0, `high` the highest level, others are clamped.
    """
    values = _doubles(values_RC, "values", (None, None))
    if values.size == 0:
        raise ValueError(f"values is empty: shape {values.shape}")
    if not (0 < levels <= 32767 and rows >= 0 and columns >= 0):
        raise ValueError(
            f"rows and columns must not be negative and levels must be in 1 .. 32767, not {rows} x {columns}, {levels} levels"
        )
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"low and high must be finite, not {low} and {high}")
    engine: Any = reference if _core is None else _core
    picture: NDArray[np.int16] = engine.heat_map(values, rows, columns, float(low), float(high), levels)
    return picture
