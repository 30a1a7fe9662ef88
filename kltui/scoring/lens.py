"""The logit lens in one forward pass: every layer's hidden states through the model's own tail (SPEC section 9).

The tail is everything a model does after its last layer. The rule that holds for every family is the replay: the
model's own forward with each decoder layer replaced by "return h_k". Where the modules called after the last layer
give the same on a first batch, they are called by themselves, on the scored positions only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from kltui.errors import KltuiError
from kltui.scoring import anatomy
from kltui.scoring.anatomy import Hidden
from kltui.scoring.head import Head

Consume = Callable[[int, Hidden], None]
LayerChoice = Literal["none", "all"] | tuple[int, ...]


class Lens:
    """Takes the hidden states of chosen layers out of one forward pass; index 0 is the first layer's input."""

    def __init__(
        self, model: Any, head_module: Any, head: Head, layers: LayerChoice, dtype: torch.dtype
    ) -> None:
        modules = anatomy.find_layers(model)
        if modules is None:
            raise KltuiError(
                "this model's layers cannot be found, so they cannot be scored",
                'score it with layers = "none"',
            )
        self.model = model
        self.head_module = head_module
        self.modules = modules
        self.wanted = wanted_layers(layers, len(modules))
        self._replaying = False
        self._tuples: set[int] = set()  # layers that return their hidden states first in a tuple
        self._tail = self._tested_tail(head, dtype)

    @property
    def depth(self) -> int:
        """Number of decoder layers: the index of the last layer's output."""
        return len(self.modules)

    @property
    def path(self) -> Literal["modules", "replay"]:
        """How the tail is run: its modules by themselves, or the whole forward replayed."""
        return "replay" if self._tail is None else "modules"

    @contextlib.contextmanager
    def watching(self, consume: Consume) -> Iterator[None]:
        """Within it a forward pass hands h_k (B, T, D) of every wanted layer to `consume`, as soon as it is there."""

        def outputs_of(k: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                if not self._replaying:
                    consume(k, output[0] if isinstance(output, tuple) else output)

            return hook

        def first_input(_module: Any, args: Any, kwargs: Any) -> None:
            if not self._replaying:
                consume(0, args[0] if args else kwargs["hidden_states"])

        hooks = [self.modules[k - 1].register_forward_hook(outputs_of(k)) for k in self.wanted if k > 0]
        if 0 in self.wanted:
            hooks.append(self.modules[0].register_forward_pre_hook(first_input, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def head_input(self, hidden_BTD: Hidden, ids_BT: torch.Tensor, positions_n: torch.Tensor) -> Hidden:
        """What the model would hand to its head at the flat positions (n, D'), had its last layer returned h_k."""
        if self._tail is None:
            return anatomy.rows(self.replay(hidden_BTD, ids_BT), positions_n)
        return _chain(self._tail, anatomy.rows(hidden_BTD, positions_n)[None])[0]

    def replay(self, hidden_BTD: Hidden, ids_BT: torch.Tensor) -> Hidden:
        """The head's input (B, T, D') of the model's own forward with every layer replaced by "return h_k"."""
        hidden_BTD = hidden_BTD.clone()  # the tail may write into it, and the next layer still needs it
        self._replaying = True
        try:
            with contextlib.ExitStack() as stack:
                for module in self.modules:
                    stack.enter_context(anatomy.forward_replaced(module, self._returning(module, hidden_BTD)))
                return anatomy.body(self.model, self.head_module, ids_BT)
        finally:
            self._replaying = False

    def _returning(self, module: Any, hidden_BTD: Hidden) -> Callable[..., Any]:
        output = (hidden_BTD, None) if id(module) in self._tuples else hidden_BTD
        return lambda *_args, **_kwargs: output

    def _tested_tail(self, head: Head, dtype: torch.dtype) -> list[Any] | None:
        """The modules of the tail, where they agree with the replay at the first, a middle and the last layer."""
        ids_BT = anatomy.probe_ids(self.model)
        states, tail = self._watch_whole_pass(ids_BT)
        targets_n = ids_BT.flatten()
        for k in {0, len(self.modules) // 2, len(self.modules)}:
            replayed = self.replay(states[k], ids_BT).flatten(0, 1)
            if k == len(self.modules) and not self._matches_final(replayed, ids_BT, head, dtype):
                raise KltuiError(
                    "replaying this model's tail does not give its own logits, so its layers cannot be scored",
                    'score it with layers = "none"',
                )
            if tail is None:
                continue
            try:
                chained = _chain(tail, states[k].flatten(0, 1)[None])[0]
            except (RuntimeError, TypeError, ValueError, AttributeError):
                tail = None
                continue
            if not _close(head(chained, targets_n), head(replayed, targets_n), dtype):
                tail = None
        return tail

    def _matches_final(self, replayed: Hidden, ids_BT: torch.Tensor, head: Head, dtype: torch.dtype) -> bool:
        own = anatomy.body(self.model, self.head_module, ids_BT).flatten(0, 1)
        return _close(head(own, ids_BT.flatten()), head(replayed, ids_BT.flatten()), dtype)

    def _watch_whole_pass(self, ids_BT: torch.Tensor) -> tuple[list[Hidden], list[Any] | None]:
        """All hidden states h_0 .. h_depth of a small batch, and the outermost modules called behind the layers."""
        states: dict[int, Hidden] = {}
        wanted, self.wanted = self.wanted, tuple(range(len(self.modules) + 1))
        watch = _TailWatch(self.model, self.modules[-1], self.head_module)
        hooks = [module.register_forward_hook(self._note_kind) for module in self.modules]
        try:
            with self.watching(lambda k, h: states.__setitem__(k, h.clone())), watch:
                anatomy.body(self.model, self.head_module, ids_BT)
        finally:
            for hook in hooks:
                hook.remove()
            self.wanted = wanted
        return [states[k] for k in sorted(states)], watch.tail

    def _note_kind(self, module: Any, _args: Any, output: Any) -> None:
        if isinstance(output, tuple):
            self._tuples.add(id(module))


class _TailWatch:
    """Notes the outermost modules called with one tensor between the last layer's end and the head's start."""

    def __init__(self, model: Any, last_layer: Any, head_module: Any) -> None:
        inside = {id(m) for m in last_layer.modules()}
        self._others = [m for m in model.modules() if id(m) not in inside and m is not head_module]
        self._last_layer = last_layer
        self._head = head_module
        self._open = False
        self._level = 0
        self._chain: list[Any] = []
        self._broken = False
        self._hooks: list[Any] = []

    @property
    def tail(self) -> list[Any] | None:
        """The modules in order, or None where one of them takes more than a tensor."""
        return None if self._broken else self._chain

    def __enter__(self) -> _TailWatch:
        self._hooks.append(self._last_layer.register_forward_hook(lambda *_: setattr(self, "_open", True)))
        self._hooks.append(self._head.register_forward_pre_hook(lambda *_: setattr(self, "_open", False)))
        for module in self._others:
            self._hooks.append(module.register_forward_pre_hook(self._starts, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._ends))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _starts(self, module: Any, args: Any, kwargs: Any) -> None:
        if not self._open:
            return
        if self._level == 0:
            self._chain.append(module)
            self._broken = self._broken or len(args) != 1 or bool(kwargs)
        self._level += 1

    def _ends(self, *_: object) -> None:
        # modules that hold the layers end while the watch is open without having started in it
        if self._open and self._level > 0:
            self._level -= 1


def _chain(modules: list[Any], hidden: Hidden) -> Hidden:
    """The modules one after another."""
    for module in modules:
        hidden = module(hidden)
    return hidden


def _close(ours: Any, truth: Any, dtype: torch.dtype) -> bool:
    """Agreement of log-probabilities: 1e-4 nat in float32, the dtype's rounding else."""
    limit = 1e-4 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    return bool(abs(ours - truth).max() <= limit)


def wanted_layers(layers: LayerChoice, depth: int) -> tuple[int, ...]:
    """Layer indices 0 (embedding output) to `depth` (final) that the setting names, in order."""
    if layers == "none":
        return ()
    if layers == "all":
        return tuple(range(depth + 1))
    wrong = [k for k in layers if not 0 <= k <= depth]
    if wrong:
        raise KltuiError(
            f"layers = {list(layers)} names layer {wrong[0]}, but this model has layers 0 (embeddings) to {depth}",
            "name layers in that range",
        )
    return tuple(sorted(set(layers)))
