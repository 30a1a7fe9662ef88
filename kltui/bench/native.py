"""Every native operation compared with its floor (reading its bytes once, or the matrix product alone), and with torch or numpy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.analysis.kl import kl_matrix, kl_standard_errors
from kltui.analysis.preprocess import pooled_quantile
from kltui.bench.files import weight_ratios
from kltui.bench.parts import NATIVE_PARTS
from kltui.bench.timing import Ratio, Way, measure
from kltui.errors import UsageError
from kltui.json_schema import JSON_SCHEMA
from kltui.kernels import cuda, native
from kltui.scoring.head import DeviceHead, Head, fused_heads
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.numerics import kernel_chooser, onednn_is_exact

VOCABULARY = 50_304
ROWS = 1000  # 200 MB of float32 logits
HEAD_ROWS = 768
CUDA_PARTS = ("gather", "head")
Array = NDArray[Any]


def run(device: str = "auto", as_json: bool = False, parts: Sequence[str] = tuple(NATIVE_PARTS)) -> int:
    """Prints a table (or one JSON object) with the ratios of `parts` on the CPU or a CUDA device; returns the exit code 0.

    Raises UsageError if the device has no kernels.
    """
    # The kernels need torch tensors, and a torch for CPUs cannot create them on a device that the kernels could use.
    has_kernels = torch.cuda.is_available() and cuda.device_count() > 0
    on_cuda = device.startswith("cuda") or (device == "auto" and has_kernels)
    if on_cuda and not has_kernels:
        raise UsageError(
            f"no kernels for {device}",
            "kltui needs a CUDA device, a build with nvcc and a torch for CUDA; try --device cpu",
        )
    torch.manual_seed(0)
    rows = []
    for ratio in cuda_ratios(device, parts) if on_cuda else cpu_ratios(parts):
        rows.append(ratio)
        if not as_json:
            sys.stdout.write(_line(ratio, first=len(rows) == 1))
            sys.stdout.flush()
    if as_json:
        report = {"schema": JSON_SCHEMA, "build": native.info(), "ratios": [asdict(r) for r in rows]}
        sys.stdout.write(json.dumps(report) + "\n")
    return 0


def _line(ratio: Ratio, first: bool) -> str:
    heading = (
        f"{'operation':42} {'ms':>9} {'/ floor':>8} {'x faster':>9}  floor; reference\n" if first else ""
    )
    figures = f"{ratio.seconds * 1e3:9.2f} {ratio.over_floor:8.2f} {ratio.times_faster:9.1f}"
    return f"{heading}{ratio.operation:42} {figures}  {ratio.floor}; {ratio.reference}\n"


def cpu_ratios(parts: Sequence[str]) -> Iterator[Ratio]:
    """Measures the operations of `parts` on the CPU one after the other."""
    ways: dict[str, Callable[[], Iterator[Ratio]]] = {
        "gather": _gathers,
        "head": _heads,
        "attention": lambda: (_attention(dtype) for dtype in (torch.float32, torch.bfloat16)),
        "maps": lambda: (work() for work in (_kl_rows, _centring, _quantile, _kl_matrix, _standard_errors)),
        "weights": _weights,
        "raster": lambda: iter([_raster()]),
    }
    for part in parts:
        yield from ways[part]()


def _gathers() -> Iterator[Ratio]:
    logits, targets = torch.randn(ROWS, VOCABULARY) * 3, torch.randint(VOCABULARY, (ROWS,))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield _gather(logits.to(dtype), targets, "")
    with _one_thread():
        yield _gather(logits, targets, ", one thread")


def _heads() -> Iterator[Ratio]:
    for depth, vocabulary in ((512, VOCABULARY), (2048, VOCABULARY // 4)):
        for dtype in (torch.float32, torch.bfloat16):
            yield from _head(depth, vocabulary, dtype)


def _weights() -> Iterator[Ratio]:
    yield _distances()
    yield from weight_ratios()


def reference_logprobs(logits_nV: torch.Tensor, targets_n: torch.Tensor) -> torch.Tensor:
    """log p(target) as in the reference procedure: log_softmax over all logits, then a gather."""
    return torch.log_softmax(logits_nV, dim=-1).gather(1, targets_n[:, None])[:, 0]


def _reading(*arrays: Array) -> Way:
    return "read once", lambda: [native.read_once(array) for array in arrays]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    native.set_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        native.set_threads(None)
        torch.set_num_threads(before)


def _gather(logits: torch.Tensor, targets: torch.Tensor, note: str) -> Ratio:
    return measure(
        f"gather {str(logits.dtype)[6:]}{note}",
        lambda: native.log_softmax_gather(logits, targets),
        _reading(native.tensor_view(logits)),
        ("log_softmax, gather", lambda: reference_logprobs(logits, targets)),
    )


def _fast_linear(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The matrix product by the library's other float32 kernel, which "medium" selects on the CPU."""
    torch.set_float32_matmul_precision("medium")
    try:
        return torch.nn.functional.linear(hidden, weight)
    finally:
        torch.set_float32_matmul_precision("highest")


def _head(depth: int, vocabulary: int, dtype: torch.dtype) -> Iterator[Ratio]:
    """The head that scoring uses here, relative to each matrix product, then the other head, relative to the first product."""
    hidden = torch.randn(HEAD_ROWS, depth).to(dtype)
    linear = torch.nn.Linear(depth, vocabulary, bias=False, dtype=dtype).requires_grad_(False)
    weight = linear.weight.normal_(std=0.05)
    targets = torch.randint(vocabulary, (HEAD_ROWS,))
    taken, *others = fused_heads(linear, LogitRule(), vocabulary, kernel_chooser(None))
    products: list[Way] = [("mm", lambda: torch.mm(hidden, weight.T))]
    if dtype == torch.float32 and onednn_is_exact():  # otherwise "medium" multiplies in bfloat16
        products.append(("linear, medium", lambda: _fast_linear(hidden, weight)))

    def by_torch() -> torch.Tensor:
        return reference_logprobs((hidden @ weight.T).float(), targets)

    def beside(head: Head, note: str, product: Way) -> Ratio:
        operation = f"head {str(dtype)[6:]}, D = {depth}: {head.name}{note}"
        reference = ("mm, log_softmax, gather", by_torch)
        return measure(operation, lambda: head(hidden, targets), product, reference, rounds=4)

    yield from (beside(taken, "", product) for product in products)
    yield from (beside(head, ", not taken", products[0]) for head in others)


def _attention(dtype: torch.dtype) -> Ratio:
    B, H, T, D = 6, 12, 250, 64
    query, key, value = torch.randn(B, T, H, 3 * D).to(dtype).transpose(1, 2).chunk(3, dim=-1)
    out = query.new_empty((B, T, H, D))
    whole = [x.float().reshape(B * H, T, D) for x in (query, key, value)]
    weights = torch.rand(B * H, T, T)

    def by_torch() -> torch.Tensor:
        made = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return made.transpose(1, 2).contiguous()

    return measure(
        f"causal attention {str(dtype)[6:]}",
        lambda: native.causal_attention(query, key, value, out, D**-0.5),
        ("float32 products, no mask", lambda: (whole[0] @ whole[1].mT, weights @ whole[2])),
        ("scaled_dot_product_attention", by_torch),
    )


def _kl_rows() -> Ratio:
    p = torch.randn(300, VOCABULARY) * 3
    q = p + torch.randn(300, VOCABULARY) * 0.3

    def by_torch() -> torch.Tensor:
        log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
        forward, reverse = (log_p.exp() * (log_p - log_q)).sum(-1), (log_q.exp() * (log_q - log_p)).sum(-1)
        return forward + reverse + (p.argmax(-1) == q.argmax(-1))

    return measure(
        "two-row KL float32",
        lambda: native.kl_rows(p, q),
        _reading(p.numpy(), q.numpy()),
        ("log_softmax twice, sums, argmax", by_torch),
    )


def _centring() -> Ratio:
    x = np.random.default_rng(0).normal(-2300, 300, (1018, 10_000))
    out = np.empty_like(x)
    return measure(
        "double centring 1018 x 10000",
        lambda: native.double_centre(x, out=out),
        _reading(x),
        ("numpy", lambda: x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()),
    )


def _quantile() -> Ratio:
    x = np.random.default_rng(0).normal(-2300, 300, (1018, 10_000))
    return measure(
        "pooled quantile of 1018 x 10000",
        lambda: pooled_quantile(x, 0.02),
        _reading(x),
        ("np.quantile", lambda: np.quantile(x, 0.02)),
    )


def _kl_matrix() -> Ratio:
    x = np.random.default_rng(0).normal(-2300, 300, (1018, 10_000))
    text_bytes, other = np.full(10_000, 972.0), x.copy()

    def by_numpy() -> Array:
        return np.array([np.var(x[k] - x[:32], axis=1) for k in range(8)])

    return measure(
        "KL matrix 1018 x 10000",
        lambda: kl_matrix(x, text_bytes),
        ("bare product of the rows", lambda: x @ other.T),
        ("numpy loop (1/4,048 of the pairs timed)", by_numpy),
        rounds=3,
        share=256 / 1018**2,
    )


def _standard_errors() -> Ratio:
    x = np.random.default_rng(0).normal(-2300, 300, (256, 4000))

    def by_numpy() -> Array:
        return np.array([[np.mean((a - b) ** 4) for b in x[:32]] for a in x[:32]])

    return measure(
        "KL standard errors 256 x 4000",
        lambda: kl_standard_errors(x, np.full(4000, 972.0)),
        ("bare product of the rows", lambda: x @ x.T),
        ("numpy loop (1/64 of the pairs timed)", by_numpy),
        rounds=3,
        share=1 / 64,
    )


def _distances() -> Ratio:
    start = np.random.default_rng(0).standard_normal(2_000_000, dtype=np.float32)
    path = [(start * np.float32(1 + 0.01 * k)).view(np.uint8) for k in range(24)]

    def pairwise() -> float:
        typed = [np.asarray(p.view(np.float32), np.float64) for p in path[:5]]
        return float(sum(np.square(a - b).sum() for a in typed for b in typed))

    return measure(
        "weight distances, 24 of 8 MB, 10",
        lambda: native.banded_sqdist(path, ["F32"] * len(path), 10),
        _reading(*path),
        ("numpy (25 of 185 pairs timed)", pairwise),
        rounds=4,
        share=25 / 185,
    )


def _raster() -> Ratio:
    xy = np.random.default_rng(0).random((100_000, 2)) * (400, 240)

    def draw() -> object:
        raster = native.Raster(200, 60)
        raster.points(xy)
        return raster.planes()

    return measure(
        "raster of 100,000 points",
        draw,
        _reading(xy),
        ("np.histogram2d", lambda: np.histogram2d(xy[:, 0], xy[:, 1], bins=(200, 60))),
    )


def cuda_ratios(device: str, parts: Sequence[str]) -> Iterator[Ratio]:
    """The ratios of the kernels on a CUDA device. Raises UsageError if none of `parts` has a CUDA kernel."""
    if not set(parts) & set(CUDA_PARTS):
        raise UsageError(f"no kernels of {', '.join(parts)} on a GPU", f"There are: {', '.join(CUDA_PARTS)}.")
    where = torch.device("cuda" if device == "auto" else device)
    if "gather" in parts:
        targets = torch.randint(VOCABULARY, (4096,), device=where)
        for dtype in (torch.bfloat16, torch.float32):
            yield _cuda_gather((torch.randn(4096, VOCABULARY, device=where) * 3).to(dtype), targets)
    if "head" in parts:
        for depth, dtype in (
            (1024, torch.bfloat16),
            (1024, torch.float16),
            (1024, torch.float32),
            (4096, torch.bfloat16),
        ):
            yield _cuda_head(depth, dtype, where)


def _cuda_head(depth: int, dtype: torch.dtype, where: torch.device) -> Ratio:
    """The head that scoring uses, relative to its matrix product; the reference is the plain expression, compiled."""
    rows = 16_384
    linear = torch.nn.Linear(depth, VOCABULARY, bias=False, device=where, dtype=dtype)
    hidden = torch.randn(rows, depth, device=where).to(dtype)
    targets = torch.randint(VOCABULARY, (rows,), device=where)
    head = DeviceHead(linear, LogitRule(), VOCABULARY)
    compiled = torch.compile(
        lambda h: reference_logprobs((h @ linear.weight.T).float(), targets), dynamic=False
    )
    with torch.inference_mode():
        return measure(
            f"head {str(dtype)[6:]}, D = {depth}",
            lambda: head(hidden, targets),
            ("mm", lambda: hidden @ linear.weight.T),
            ("mm, log_softmax, gather; torch.compile", lambda: compiled(hidden)),
            synchronise=torch.cuda.synchronize,
        )


def _cuda_gather(logits: torch.Tensor, targets: torch.Tensor) -> Ratio:
    half = logits[: len(logits) // 2]
    return measure(
        f"gather {str(logits.dtype)[6:]}",
        lambda: cuda.log_softmax_gather(logits, targets),
        ("copy of half: as many bytes", half.clone),
        ("log_softmax, gather", lambda: reference_logprobs(logits, targets)),
        synchronise=torch.cuda.synchronize,
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1] if len(sys.argv) > 1 else "auto"))
