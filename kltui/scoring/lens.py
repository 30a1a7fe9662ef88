"""The logit lens in one forward pass: every layer's hidden states pass through the model's own tail.

The tail is everything that a model does after its last layer. The method that works for every family is the replay: the
model's own forward with each decoder layer replaced by "return h_k". If the modules called after the last layer give
the same on a first batch, they are called directly, on the scored positions only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from kltui.errors import KltuiError
from kltui.scoring import model_introspection
from kltui.scoring.head import Head
from kltui.scoring.layer_form import LayerForm, streams
from kltui.scoring.loading import first_line
from kltui.scoring.memory_errors import ran_out
from kltui.scoring.model_introspection import Hidden
from kltui.scoring.settings import LayerChoice, wanted_layers

Flow = tuple[
    Hidden, ...
]  # the tensors that go from layer to layer: the hidden states and, in a few families, further streams
Consume = Callable[[int, Flow], None]
MAX_STATES_BYTES = 4 << 20  # of the hidden states of several layers in one call of the head


class LensError(KltuiError):
    """Raised for a model whose layers cannot be scored, although its final vector can."""


class Lens:
    """Extracts the hidden states of chosen layers from one forward pass; index 0 is the first layer's input."""

    def __init__(
        self, model: Any, head_module: Any, head: Head, layers: LayerChoice, dtype: torch.dtype
    ) -> None:
        modules = model_introspection.find_layers(model)
        if modules is None:
            raise LensError("kltui cannot identify this model's layers, so they cannot be scored")
        self.model = model
        self.head_module = head_module
        self.modules = modules
        self.wanted = wanted_layers(layers, len(modules))
        self._replaying = False
        self._forms: list[LayerForm] = []
        self._tail = self._tested_tail(head, dtype)

    @property
    def depth(self) -> int:
        """Number of decoder layers: the index of the last layer's output."""
        return len(self.modules)

    @property
    def path(self) -> Literal["modules", "replay"]:
        """How the tail is computed: by its modules directly, or by replaying the whole forward pass."""
        return "replay" if self._tail is None else "modules"

    @contextlib.contextmanager
    def watching(self, consume: Consume) -> Iterator[None]:
        """Context in which a forward pass calls `consume(k, output)` for every wanted layer k, as soon as it is computed."""

        def outputs_of(k: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                if not self._replaying:
                    consume(k, self._forms[k - 1].taken(output))

            return hook

        def first_input(module: Any, args: Any, kwargs: Any) -> None:
            if not self._replaying:
                consume(0, self._forms[0].entering(streams(module, args, kwargs)))

        hooks = [self.modules[k - 1].register_forward_hook(outputs_of(k)) for k in self.wanted if k > 0]
        if 0 in self.wanted:
            hooks.append(self.modules[0].register_forward_pre_hook(first_input, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def head_input(self, flow: Flow, ids_BT: torch.Tensor, positions_n: torch.Tensor, **more: Any) -> Hidden:
        """The inputs of the model's head at the flat positions (n, D') if its last layer had returned `flow`.

        `more` are further inputs of the model besides its ids.
        """
        if self._tail is None:
            return model_introspection.rows(self.replay(flow, ids_BT, **more), positions_n)
        return _chain(self._tail, model_introspection.rows(flow[0], positions_n)[None])[0]

    def replay(self, flow: Flow, ids_BT: torch.Tensor, **more: Any) -> Hidden:
        """The head's input (B, T, D') of the model's own forward with every layer replaced by "return h_k".

        Each layer returns `flow` in the form in which it returns its own hidden states.
        """
        # copies, because the tail may modify them, and the next layer still needs them
        flow = tuple(stream.clone() for stream in flow)
        self._replaying = True
        try:
            with contextlib.ExitStack() as stack:
                for module, form in zip(self.modules, self._forms, strict=True):
                    stack.enter_context(
                        model_introspection.forward_replaced(module, _returning(form.given(flow)))
                    )
                return model_introspection.body(self.model, self.head_module, ids_BT, **more)
        finally:
            self._replaying = False

    def _tested_tail(self, head: Head, dtype: torch.dtype) -> list[Any] | None:
        """The modules of the tail if they agree with the replay at the first, a middle and the last layer, otherwise None.

        Raises LensError if the replay itself does not give the model's own logits.
        """
        ids_BT = model_introspection.probe_ids(self.model)
        try:
            self._forms = self._learnt_forms(ids_BT)
            flows, tail = self._watch_whole_pass(ids_BT)
            replayed = {k: self.replay(flows[k], ids_BT).flatten(0, 1) for k in self._tried}
            exact = self._matches_final(replayed[self.depth], ids_BT, head, dtype)
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError) as error:
            if ran_out(error):
                raise  # not a property of the model
            raise LensError(
                f"the part of this model after its last layer cannot be run separately, so its layers cannot be scored: {first_line(error)}"
            ) from error
        if not exact:
            raise LensError(
                "running the part of this model after its last layer separately does not give its own logits, so its layers cannot be scored"
            )
        return tail if tail is not None and self._serves(tail, flows, replayed, head, ids_BT, dtype) else None

    @property
    def _tried(self) -> set[int]:
        """The first, a middle and the last layer."""
        return {0, self.depth // 2, self.depth}

    def _serves(
        self,
        tail: list[Any],
        flows: list[Flow],
        replayed: dict[int, Hidden],
        head: Head,
        ids_BT: torch.Tensor,
        dtype: torch.dtype,
    ) -> bool:
        """Whether the tail's modules, called one after another, give the same as the replay."""
        targets_n = ids_BT.flatten()
        try:
            return all(
                _close(
                    head(_chain(tail, flows[k][0].flatten(0, 1)[None])[0], targets_n),
                    head(replayed[k], targets_n),
                    dtype,
                )
                for k in self._tried
            )
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            if ran_out(error):
                raise  # not a property of the tail
            return False

    def _matches_final(self, replayed: Hidden, ids_BT: torch.Tensor, head: Head, dtype: torch.dtype) -> bool:
        own = model_introspection.body(self.model, self.head_module, ids_BT).flatten(0, 1)
        return _close(head(own, ids_BT.flatten()), head(replayed, ids_BT.flatten()), dtype)

    def _learnt_forms(self, ids_BT: torch.Tensor) -> list[LayerForm]:
        """The form in which each layer returns its hidden states, observed on a small batch."""
        forms: list[LayerForm] = []
        hooks = [
            m.register_forward_hook(lambda _m, _a, out: forms.append(LayerForm(out))) for m in self.modules
        ]
        try:
            model_introspection.body(self.model, self.head_module, ids_BT)
        finally:
            for hook in hooks:
                hook.remove()
        return forms

    def _watch_whole_pass(self, ids_BT: torch.Tensor) -> tuple[list[Flow], list[Any] | None]:
        """(outputs of the layers 0 .. depth on a small batch, the outermost modules called after the layers or None)."""
        flows: dict[int, Flow] = {}
        wanted, self.wanted = self.wanted, tuple(range(len(self.modules) + 1))
        watch = _TailWatch(self.model, self.modules[-1], self.head_module)

        def keep(k: int, flow: Flow) -> None:
            flows[k] = tuple(stream.clone() for stream in flow)

        try:
            with self.watching(keep), watch:
                model_introspection.body(self.model, self.head_module, ids_BT)
        finally:
            self.wanted = wanted
        return [flows[k] for k in sorted(flows)], watch.tail


class LayerLogprobs:
    """Log-probabilities of the targets from the states of several layers; on a CPU the head processes several layers per call.

    A head reads all of its weights in every call, so each call processes as many rows as fit in a small amount of memory.
    """

    def __init__(self, head: Head, targets_n: torch.Tensor) -> None:
        self._head, self._targets_n = head, targets_n
        self._waiting: dict[int, Hidden] = {}
        self._found: dict[int, torch.Tensor] = {}

    def add(self, k: int, states_nD: Hidden) -> None:
        """Adds the states of layer k, (n, D)."""
        size = states_nD.nbytes * (len(self._waiting) + 1)
        if states_nD.device.type != "cpu" or size > MAX_STATES_BYTES:
            self._compute()
        self._waiting[k] = states_nD

    def found(self) -> dict[int, torch.Tensor]:
        """{layer: log-probabilities (n,) in nats}."""
        self._compute()
        return self._found

    def _compute(self) -> None:
        layers, states = list(self._waiting), list(self._waiting.values())
        self._waiting.clear()
        if len(states) == 1:
            self._found[layers[0]] = self._head(states[0], self._targets_n)
        elif states:
            logp = self._head(torch.cat(states), self._targets_n.repeat(len(states)))
            self._found.update(zip(layers, torch.split(logp, len(self._targets_n)), strict=True))


class _TailWatch:
    """Records the outermost modules called between the end of the last layer and the start of the head."""

    def __init__(self, model: Any, last_layer: Any, head_module: Any) -> None:
        inside = {id(m) for m in last_layer.modules()}
        # modules that contain the head would run it too
        around = {id(m) for m in model.modules() if any(inner is head_module for inner in m.modules())}
        self._others = [m for m in model.modules() if id(m) not in inside | around]
        self._last_layer = last_layer
        self._head = head_module
        self._open = False
        self._level = 0
        self._chain: list[Any] = []
        self._broken = False
        self._hooks: list[Any] = []

    @property
    def tail(self) -> list[Any] | None:
        """The modules in order; None if one of them has other inputs than one tensor."""
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
        # modules that contain the layers end here without having started here
        if self._open and self._level > 0:
            self._level -= 1


def _returning(output: Any) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: output


def _chain(modules: list[Any], hidden: Hidden) -> Hidden:
    """The result of the modules applied one after another."""
    for module in modules:
        hidden = module(hidden)
    return hidden


def _close(ours: Any, truth: Any, dtype: torch.dtype) -> bool:
    """Whether log-probabilities agree, to 1e-4 nats in float32 and to 8 eps otherwise."""
    limit = 1e-4 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    return bool(abs(ours - truth).max() <= limit)
