"""A bfloat16 model on a CPU with products in bfloat16 and everything between them in float32.

Rounding the sums along the layers, norms and rotary embeddings to bfloat16 is most of what such a model is off beyond its
rounded weights: of 24 texts on Pythia's 70m shape 0.22 nat a text at most in transformers, and 0.12 so. Embeddings come out
as float32, layer norms and the products of linear layers too, and torch carries that on. What a linear layer reads is rounded
to its weights' dtype.

Modules that multiply by weights of their own, such as experts, routers and convolutions, run with torch's functions watched:
products of what they read and their weights are made in bfloat16 and handed on as float32. Of a model that is spread the
modules do the same beneath accelerate's hooks, on weights that are there while they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from kltui.scoring import hooks, model_introspection
from kltui.scoring.layer_form import LayerForm
from kltui.scoring.padded_rows import as_dtype, over_padded_rows
from kltui.scoring.prepacked_linear import Packing, is_taken_over, take_over, widened_product

Forward = Callable[..., Any]
HALF = torch.bfloat16

# Functions of torch that multiply by weights or look one up, by name.
_PRODUCTS = {
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d", "grouped_mm",
    "_grouped_mm", "embedding",
}  # fmt: skip
# A matrix so many times longer than wide, as a router's, costs little beside the others, and much hangs on what it gives.
_NARROW = 8


def is_possible(model: Any) -> bool:
    """Whether the model is bfloat16 on the CPU, and no module's forward belongs to another library.

    Some parameters may be float32. Weights that accelerate brings to the CPU count as being there.
    """
    parameters = list(model.parameters())
    return (
        any(p.dtype == HALF for p in parameters)
        and all(p.dtype in (HALF, torch.float32) and p.device.type in ("cpu", "meta") for p in parameters)
        and all(type(p.data) is torch.Tensor for p in parameters)
        and all(map(_computes_itself, model.modules()))
    )


def _computes_itself(module: Any) -> bool:
    """Whether the module runs its class's forward on the CPU, but for what kltui put in its place."""
    if is_taken_over(module):
        return True
    if not hooks.is_hooked(module):
        return "forward" not in module.__dict__
    where = hooks.execution_device(module)
    own = getattr(hooks.own_forward(module), "__func__", None)
    return (where is None or where.type == "cpu") and own is type(module).forward


def apply(model: Any, head: Any, packing: Packing | None) -> None:
    """Has the model's modules hand on float32, the `head` as it does; layers stay packed as they are.

    Undone, with the packing, by `prepacked_linear.unpack`.
    """
    fused = {} if packing is None else {layer: a for layer, a in packing.follows.items() if a is not None}
    widened = set() if packing is None else set(packing.widened)
    rounded = _Rounded()
    for module in model.modules():
        forward = hooks.own_forward(module)
        if module is head or type(module) in (torch.nn.Linear, Conv1D):
            if not any(p.dtype == HALF for p in module.parameters()):
                continue  # multiplies float32 as it is
            own = widened_product(module) if module in widened else over_padded_rows(forward)
            product = _from_rounded(own, rounded)
            # the head's product, and one whose activation is done, which the next layer reads, stay as they are
            take_over(module, product if module is head or module in fused else _widening(product))
        elif type(module) is torch.nn.Embedding:
            take_over(module, _widening(forward))
        elif type(module) is torch.nn.LayerNorm:
            take_over(module, _wide_norm(module))
        elif _multiplies(module):
            take_over(module, _watched(forward))


def goes_through(model: Any, head: Any) -> bool:
    """Whether float32 reaches the head; or, in a model that rounds what its head reads, leaves the last layer."""
    ids_BT = model_introspection.probe_ids(model)
    if model_introspection.body(model, head, ids_BT).dtype == torch.float32:
        return True
    layers, left = model_introspection.find_layers(model), []
    if layers is None:
        return False
    hook = layers[-1].register_forward_hook(
        lambda _module, _args, out: left.append(LayerForm(out).taken(out))
    )
    try:
        model_introspection.body(model, head, ids_BT)
    finally:
        hook.remove()
    return all(stream.dtype == torch.float32 for streams in left for stream in streams)


def _multiplies(module: Any) -> bool:
    """Whether the module may multiply by weights of its own: it has matrices, or weights beside modules."""
    own = list(module.parameters(recurse=False))
    return any(p.ndim > 1 for p in own) or bool(own and module._modules)


class _Rounded:
    """Tensors in bfloat16; the last one is kept, as several layers read one tensor one after another."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == HALF:
            return x
        if self._last is None or self._last[0] is not x:
            self._last = x, as_dtype(x, HALF)
        return self._last[1]


def _from_rounded(forward: Forward, rounded: _Rounded) -> Forward:
    return lambda x: forward(rounded(x))


def _widening(forward: Forward) -> Forward:
    return lambda *args, **kwargs: forward(*args, **kwargs).float()


def _wide_norm(norm: Any) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        weight, bias = (None if p is None else p.float() for p in (norm.weight, norm.bias))
        return torch.nn.functional.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps)

    return forward


def _watched(forward: Forward) -> Forward:
    def watched(*args: Any, **kwargs: Any) -> Any:
        with _WideProducts():
            return forward(*args, **kwargs)

    return watched


class _WideProducts(TorchFunctionMode):
    """Within it products by weights of bfloat16, and embeddings that are looked up, are handed on as float32.

    What is float32 is rounded for the product, except beside a convolution's weights or a narrow matrix, which are widened.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What `func` gives, as float32 where it is such a product."""
        more, name = kwargs or {}, getattr(func, "__name__", "")
        dtypes = {x.dtype for x in (*args, *more.values()) if isinstance(x, torch.Tensor)}
        if name not in _PRODUCTS or HALF not in dtypes or "out" in more:
            return func(*args, **more)
        narrow = torch.float32 in dtypes and any(map(_is_narrow, args))
        dtype = torch.float32 if narrow or name == "conv1d" else HALF
        args = tuple(_as(dtype, x) for x in args)
        return func(*args, **{key: _as(dtype, x) for key, x in more.items()}).float()


def _is_narrow(x: Any) -> bool:
    """Whether this is a matrix of bfloat16 with few rows or few columns."""
    if not isinstance(x, torch.Tensor) or x.dtype != HALF or x.ndim != 2:
        return False
    return _NARROW * min(x.shape) <= max(x.shape)


def _as(dtype: torch.dtype, x: Any) -> Any:
    """A tensor of bfloat16 or float32 in the dtype, anything else as it is."""
    wide = isinstance(x, torch.Tensor) and x.dtype in (HALF, torch.float32)
    return x.to(dtype) if wide else x
