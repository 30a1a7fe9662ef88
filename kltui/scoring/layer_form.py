"""The form in which a decoder layer returns its hidden states: alone, or in a tuple, a list or a mapping."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

Stream = torch.Tensor


class LayerForm:
    """The position of a layer's hidden states in its return value, learnt from one `output`.

    Besides the hidden states, a layer may return further streams with their shape (such as Reformer's attention output),
    which also go to the next layer. Everything else, such as attention weights or states, is ignored.
    """

    def __init__(self, output: Any) -> None:
        self._kind: Any = type(output)
        self._names, items = _parts(output)
        tensors = [i for i, item in enumerate(items) if _is_stream(item)]
        if not tensors:
            raise TypeError(f"a layer returns {self._kind.__name__} without hidden states")
        self._slots = [i for i in tensors if items[i].shape == items[tensors[0]].shape]

    def taken(self, output: Any) -> tuple[Stream, ...]:
        """The streams in an output of the layer, with the hidden states first."""
        items = _parts(output)[1]
        return tuple(items[i] for i in self._slots)

    def entering(self, inputs: Mapping[str, Stream]) -> tuple[Stream, ...]:
        """A layer's inputs in the order of its outputs: by name if both have names, otherwise in order."""
        others = [stream for name, stream in inputs.items() if name not in self._names]
        found = []
        for slot in self._slots:
            name = self._names[slot]
            if name in inputs:
                found.append(inputs[name])
            elif others:
                found.append(others.pop(0))
        return tuple(found)

    def given(self, flow: tuple[Stream, ...]) -> Any:
        """An output of the layer with these streams, and None for everything else."""
        if issubclass(self._kind, torch.Tensor):
            return flow[0]
        items: list[Any] = [None] * len(self._names)
        for slot, stream in zip(self._slots, flow, strict=False):
            items[slot] = stream
        if issubclass(self._kind, Mapping):
            return self._kind(**dict(zip(self._names, items, strict=True)))
        return self._kind(*items) if hasattr(self._kind, "_fields") else self._kind(items)


def _parts(output: Any) -> tuple[list[str], list[Any]]:
    """(names, values) of the parts of a layer's return value; names are "" for an unnamed sequence."""
    if isinstance(output, Mapping):
        return list(output.keys()), list(output.values())
    if isinstance(output, tuple | list):
        return list(getattr(output, "_fields", [""] * len(output))), list(output)
    return [""], [output]


def _is_stream(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.is_floating_point() and item.ndim >= 3


def streams(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Stream]:
    """{name: tensor} of the hidden states among a layer's inputs, and of other inputs with their shape, in order."""
    names = [*inspect.signature(module.forward).parameters][: len(args)]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    found = {name: value for name, value in given.items() if _is_stream(value)}
    if not found:
        raise TypeError("a layer is called without hidden states")
    hidden = found.get("hidden_states", next(iter(found.values())))
    return {name: value for name, value in found.items() if value.shape == hidden.shape}
