"""Linear layers computed in the way that is fastest on this processor, with the rounding of their dtype unchanged.

Weights are packed once for oneDNN, and the activation after a layer is fused with its product: this makes products 10
to 15 % faster and saves the activation's pass over memory. Weights in bfloat16 are widened when used: on
a processor without bfloat16 instructions this is many times faster; with AMX, oneDNN uses its tiles.

The operators are torch's own, private ones: they are used only where they exist and a whole forward pass agrees.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kltui.scoring import hooks
from kltui.scoring.kernel_choice import MIN_WEIGHTS, TRIAL_ROWS, Candidate, KernelChooser
from kltui.scoring.loading import first_line
from kltui.scoring.memory_errors import ran_out
from kltui.scoring.numerics import exact_half_products
from kltui.scoring.padded_rows import over_padded_rows

# Packed copies are in addition to the weights, so only models that are small for the machine are packed. This depends on its
# total memory and not on the free memory, so that a resumed job gives bit-identical results.
MAX_BYTES = 2 * 2**30
SHARE_OF_MEMORY = 0.1

log = logging.getLogger(__name__)

_TAKEN = "_kltui_taken_over"  # attribute of a module: (name, previous value) of its replaced forward

# Activations that oneDNN can fuse with a product: class name -> operator and variant.
ACTIVATIONS = {
    "GELUActivation": ("gelu", "none"),
    "GELUTanh": ("gelu", "tanh"),
    "NewGELUActivation": ("gelu", "tanh"),
    "PytorchGELUTanh": ("gelu", "tanh"),
    "ReLU": ("relu", ""),
    "SiLU": ("swish", ""),
    "SiLUActivation": ("swish", ""),
}


@dataclass(frozen=True)
class Packing:
    """The linear layers with packed weights, each with the activation that is fused with its product, or None.

    Layers in `widened` multiply in float32 by their unpacked bfloat16 weights.
    """

    follows: dict[Any, Any | None]
    rows: int
    widened: tuple[Any, ...] = ()

    def __str__(self) -> str:
        counts = {"packed": len(self.follows), "widened": len(self.widened)}
        return " and ".join(f"{n} {way}" for way, n in counts.items() if n)

    def apply(self) -> bool:
        """Packs the layers' current weights; returns whether that succeeded. `unpack` undoes it.

        Raises the error if memory ran out.
        """
        try:
            for layer, activation in self.follows.items():
                take_over(layer, _packed_forward(layer, self.rows, *_operator(activation)))
            for activation in filter(None, self.follows.values()):
                take_over(activation, _unchanged)
            for layer in self.widened:
                take_over(layer, _widened_forward(layer))
        except (
            RuntimeError,
            AttributeError,
        ) as error:  # this processor or torch packs no weights of this dtype
            for module in (*self.follows, *filter(None, self.follows.values()), *self.widened):
                let_go(module)
            if ran_out(error):
                raise  # a resumed job, with more memory, would give other bits
            log.info("the linear layers are not packed: %s", first_line(error))
            return False
        return True


def find(
    model: Any, head: Any, rows: int, run: Callable[[], object], chooser: KernelChooser | None = None
) -> Packing | None:
    """The layers of the model to pack, without the head; None if there are none, or if they are too large for the machine.

    `run` is a small forward pass that shows which activation reads which layer's output. `chooser` finds the fastest way for
    each shape of layers; for tiny models, and without a chooser, the expected one is used (`pays`).
    """
    layers = _plain_linears(model, head)
    size = sum(layer.weight.nbytes for layer in layers)
    if not layers or size > min(MAX_BYTES, SHARE_OF_MEMORY * _memory_bytes()) or not _available():
        return None
    behind = _activations_behind(model, layers, run)
    timed = chooser if sum(layer.weight.numel() for layer in layers) >= MIN_WEIGHTS else None
    ways: dict[str, str] = {}
    for layer in layers:
        shape = _shape(layer, behind.get(layer))
        if shape not in ways:
            ways[shape] = _fastest(layer, behind.get(layer), shape, timed)
    way_of = {layer: ways[_shape(layer, behind.get(layer))] for layer in layers}
    packed = {layer: behind.get(layer) for layer in layers if way_of[layer] == "packed"}
    widened = tuple(layer for layer in layers if way_of[layer] == "widened")
    return Packing(packed, rows, widened) if packed or widened else None


def _shape(layer: Any, activation: Any | None) -> str:
    """A description of what the speed of a layer depends on: dtype, outputs x inputs, bias, activation."""
    dtype = str(layer.weight.dtype).removeprefix("torch.")
    bias = "bias" if layer.bias is not None else ""
    words = ("linear", dtype, f"{layer.out_features} x {layer.in_features}", bias, _operator(activation)[0])
    return " ".join(word for word in words if word not in ("", "none"))


def _fastest(layer: Any, activation: Any | None, shape: str, chooser: KernelChooser | None) -> str:
    """The fastest way to compute such a layer with its activation: "packed", "plain" or, in bfloat16, "widened"."""
    expected = ["packed", "plain"] if pays(layer.weight.dtype) else ["plain", "packed"]
    if chooser is None:
        return expected[0]
    if layer.weight.dtype == torch.bfloat16:
        expected.append("widened")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TRIAL_ROWS, layer.in_features, generator=generator).to(layer.weight.dtype)
    ways = _ways(layer, activation, x)
    bias = None if layer.bias is None else layer.bias.double()
    exact = torch.nn.functional.linear(x.double(), layer.weight.double(), bias)
    truth = (_unchanged if activation is None else activation)(exact)
    # the error of float32 sums in any order, and the rounding of the result of each operation
    slack = 2e-6 * float(x.double().norm(dim=1).max() * layer.weight.double().norm(dim=1).max())
    slack += 4.0 * torch.finfo(x.dtype).eps * float(truth.abs().max())

    def candidate(name: str) -> Candidate:
        run = ways[name]
        return Candidate(name, run, lambda: bool((run().double() - truth).abs().max() <= slack))

    return chooser.among(shape, [candidate(name) for name in expected])


def _ways(layer: Any, activation: Any | None, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    """{name: function that computes the layer and its activation on `x` in this way}; "packed" may raise when called."""
    after = _unchanged if activation is None else activation
    packed: list[Callable[[torch.Tensor], torch.Tensor]] = []

    def by_packed() -> torch.Tensor:
        if not packed:
            packed.append(_packed_forward(layer, TRIAL_ROWS, *_operator(activation)))
        return packed[0](x)

    widened = _widened_forward(layer)
    return {"packed": by_packed, "plain": lambda: after(layer(x)), "widened": lambda: after(widened(x))}


def _operator(activation: Any | None) -> tuple[str, str]:
    return ("none", "") if activation is None else ACTIVATIONS[type(activation).__name__]


def pays(dtype: torch.dtype) -> bool:
    """Whether oneDNN is expected to multiply packed weights of a dtype faster than torch multiplies unpacked ones here.

    Used if nothing was timed. Without AVX-512, MKL is the faster library for float32, by 13 to 18 % of all scoring (Zen 3,
    two cores, Pythia's shapes).
    """
    library: Any = torch.backends.mkl
    if dtype != torch.float32 or not library.is_available():
        return True
    return torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT", "NO AVX")


def unpack(model: Any) -> None:
    """Restores the own forward of every module."""
    for module in model.modules():
        let_go(module)


def take_over(module: Any, forward: Callable[..., torch.Tensor]) -> None:
    """Replaces the module's own forward, inside accelerate's hook if it has one, until `let_go`."""
    name = hooks.forward_name(module)
    if _TAKEN not in module.__dict__:
        setattr(module, _TAKEN, (name, module.__dict__.get(name)))
    setattr(module, name, forward)


def is_taken_over(module: Any) -> bool:
    """Whether the module's own forward is replaced."""
    return _TAKEN in module.__dict__


def let_go(module: Any) -> None:
    """Restores the module's own forward."""
    if not is_taken_over(module):
        return
    name, own = module.__dict__.pop(_TAKEN)
    if own is None:
        delattr(module, name)
    else:
        setattr(module, name, own)


def _plain_linears(model: Any, head: Any) -> list[Any]:
    """The torch.nn.Linear layers that may be packed: float32 or bfloat16 on the CPU, each once, without the head.

    Offloaded layers of a spread model are left out, because their weights are in memory only while they are used.
    """
    return [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module is not head
        and type(module.weight.data) is torch.Tensor  # torchao has its own type
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and "forward" not in module.__dict__
    ]


def _activations_behind(model: Any, layers: list[Any], run: Callable[[], object]) -> dict[Any, Any]:
    """{linear layer: the activation module that reads its output and nothing else}.

    Both must be children of the same module only: an activation that several experts share would also be replaced for
    experts that the small forward pass did not use.
    """
    home = _only_parents(model)
    known = [m for m in home if type(m).__name__ in ACTIVATIONS and not m._forward_hooks]
    # by id; the tensors are kept alive, so that no id is reused
    made: dict[int, tuple[torch.Tensor, Any]] = {}
    read: dict[Any, list[Any]] = {activation: [] for activation in known}

    def note_output(layer: Any, _inputs: object, output: torch.Tensor) -> None:
        made[id(output)] = (output, layer)

    def note_input(activation: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        read[activation].append(made.get(id(inputs[0]), (None, None))[1])

    hooks = [layer.register_forward_hook(note_output) for layer in layers]
    hooks += [activation.register_forward_pre_hook(note_input) for activation in known]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {
        sources[0]: activation
        for activation, sources in read.items()
        if len(sources) == 1 and sources[0] in home and home[sources[0]] is home[activation]
    }


def _only_parents(model: Any) -> dict[Any, Any]:
    """{module: its parent}, for modules with exactly one parent."""
    parents: dict[Any, list[Any]] = {}
    for parent in model.modules():
        for child in parent._modules.values():
            if child is not None:
                parents.setdefault(child, []).append(parent)
    return {child: found[0] for child, found in parents.items() if len(found) == 1}


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def _packed_forward(
    layer: Any, rows: int, operator: str = "none", variant: str = ""
) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
    bias = layer.bias

    def product(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, operator, [], variant)
        return result

    return over_padded_rows(product)


def widened_product(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that computes the product of a bfloat16 layer with bfloat16 inputs, as float32."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        bias = None if layer.bias is None else layer.bias.float()
        with exact_half_products():
            return torch.nn.functional.linear(x.float(), layer.weight.float(), bias)

    return forward


def _widened_forward(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A forward for a bfloat16 layer that computes in float32 and rounds the result once."""
    product = widened_product(layer)
    return lambda x: product(x).to(x.dtype)


def _available() -> bool:
    backend: Any = torch.backends.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return bool(backend.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _memory_bytes() -> float:
    """The machine's memory in bytes; infinite if unknown."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return float("inf")
