"""Linear layers with weights packed once for oneDNN, and the activation behind one done with its product.

Where that pays, products are 10 to 15 % faster and the activation costs no pass over memory of its own; the same
float32.

The operators are torch's own, private ones: they are used only where they exist and a whole forward pass agrees.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# Packed copies live beside the weights, so only models that are small for the machine are packed. What counts is the
# memory it has, not what is free just now: a job that is resumed must do as it did before, to the last bit.
LARGEST_BYTES = 2 * 2**30
SHARE_OF_MEMORY = 0.1


# What oneDNN can do to a product before it is stored: class of the activation -> operator and variant.
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
    """Which linear layers multiply by packed weights, each with the activation done with its product, or None."""

    follows: dict[Any, Any | None]
    rows: int

    def apply(self) -> bool:
        """Whether the layers now multiply by their weights of this moment, packed; undone by `unpack`."""
        try:
            for layer, activation in self.follows.items():
                operator = ("none", "") if activation is None else ACTIVATIONS[type(activation).__name__]
                _take_over(layer, _packed_forward(layer, self.rows, *operator))
            for activation in filter(None, self.follows.values()):
                _take_over(activation, _unchanged)
        except (RuntimeError, AttributeError, NotImplementedError):
            for module in (*self.follows, *filter(None, self.follows.values())):
                _let_go(module)
            return False
        return True


def find(model: Any, head: Any, rows: int, run: Callable[[], object]) -> Packing | None:
    """What can be packed in the model, the head aside; None where nothing can, or it is too large for the machine.

    `run` is a small forward pass, to see which activation reads which layer's output.
    """
    layers = _plain_linears(model, head)
    size = sum(layer.weight.nbytes for layer in layers)
    if not layers or size > min(LARGEST_BYTES, SHARE_OF_MEMORY * _memory_bytes()) or not _available():
        return None
    behind = _activations_behind(model, layers, run)
    return Packing({layer: behind.get(layer) for layer in layers}, rows)


def pays(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies packed weights of a dtype faster here than torch multiplies them as they are.

    A property of the processor, not a measurement: a job that is resumed must do as it did before. MKL without AVX-512
    is the faster library for float32, by 13 to 18 % of all scoring (Zen 3, two cores, Pythia's shapes).
    """
    library: Any = torch.backends.mkl
    if dtype != torch.float32 or not library.is_available():
        return True
    return torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT", "NO AVX")


def unpack(model: Any) -> None:
    """Every layer multiplies by its own weight again."""
    for module in model.modules():
        _let_go(module)


def _take_over(module: Any, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    module.forward = forward
    module._kltui_packed = True


def _let_go(module: Any) -> None:
    if module.__dict__.pop("_kltui_packed", False):
        del module.forward


def _plain_linears(model: Any, head: Any) -> list[Any]:
    """The torch.nn.Linear layers that are worth packing: float32 or bfloat16 on the CPU, none twice, without the head."""
    return [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module is not head
        and type(module.weight.data) is torch.Tensor  # torchao's are its own kind
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and "forward" not in module.__dict__
        and pays(module.weight.dtype)
    ]


def _activations_behind(model: Any, layers: list[Any], run: Callable[[], object]) -> dict[Any, Any]:
    """Linear layer -> the activation module that reads its output and nothing else.

    Both are children of one module and the activation of no other: one that several experts share would be taken from
    those too that the small forward pass did not visit.
    """
    home = _only_parents(model)
    known = [m for m in home if type(m).__name__ in ACTIVATIONS and not m._forward_hooks]
    # by identity; the tensors are kept, so that no identity is used twice
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
    """Module -> the module that holds it, for those that one alone holds."""
    parents: dict[Any, list[Any]] = {}
    for parent in model.modules():
        for child in parent._modules.values():
            if child is not None:
                parents.setdefault(child, []).append(parent)
    return {child: held[0] for child, held in parents.items() if len(held) == 1}


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def _packed_forward(
    layer: Any, rows: int, operator: str = "none", variant: str = ""
) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
    bias = layer.bias

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, operator, [], variant)
        return result

    return forward


def _available() -> bool:
    backend: Any = torch.backends.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return bool(backend.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _memory_bytes() -> float:
    """The machine's memory; infinite where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return float("inf")
