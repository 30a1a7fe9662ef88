"""Finds the parts of a causal language model: its layers, its head, and the transformation of the head's output.

Nothing here depends on model families. The parts are found by observing one forward pass, and every split is tested
against the model's own logits before it is used.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import masking_utils

from kltui.scoring.device_map import input_device

Hidden = torch.Tensor
QUANTISED_CHANGE = (
    0.2  # relative to the norm of all hidden states; a bidirectional model changes by about that norm
)


def run(model: Any, ids_BT: torch.Tensor, **more: Any) -> torch.Tensor:
    """Logits (B, T, V) of the model's own forward: no cache, no mask (right padding needs none)."""
    with _no_packed_rows():
        logits: torch.Tensor = model(input_ids=ids_BT, **_options(type(model).forward), **more).logits
    return logits


@contextlib.contextmanager
def _no_packed_rows() -> Iterator[None]:
    """Context in which transformers assumes that every row is one text, without inspecting the positions.

    Finding out whether several texts are packed into a row would wait for the GPU in every forward pass.
    """
    name = "find_packed_sequence_indices"
    look = getattr(masking_utils, name, None)
    if look is None:  # an older or newer transformers does this elsewhere, or not at all
        yield
        return
    setattr(masking_utils, name, lambda _position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, look)


@cache
def _options(forward: Callable[..., Any]) -> dict[str, Any]:
    """Arguments for no cache and a named result, as far as this forward accepts them."""
    known = inspect.signature(forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    return {k: v for k, v in (("use_cache", False), ("return_dict", True)) if anything or k in known}


def looks_ahead(model: Any, head: Any | None, dtype: torch.dtype) -> bool:
    """Whether later tokens change the model's outputs at earlier positions, in which case it is not causal and cannot be padded.

    Compared at the input of the head, or in the logits without a separable `head`. For a quantised model only a large change
    counts, because LLM.int8 keeps in float16 the columns in which any token of a batch is an outlier.
    """
    ids = probe_ids(model)
    other = ids.clone()
    half = ids.shape[1] // 2
    other[:, half:] = other[:, half:].flip(0, 1)
    said = (run(model, x) if head is None else body(model, head, x) for x in (ids, other))
    a, b = (x[:, :half].float() for x in said)  # not float64, which Apple's GPUs lack
    if getattr(model, "is_quantized", False):
        return bool((a - b).norm() > QUANTISED_CHANGE * a.norm())
    return bool((a - b).abs().max() > 100 * torch.finfo(dtype).eps * (1 + a.abs().max()))


@contextlib.contextmanager
def forward_replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Context in which `module(...)` calls `forward` instead of the module's own."""
    had = "forward" in module.__dict__
    before = module.forward
    module.forward = forward
    try:
        yield
    finally:
        if had:
            module.forward = before
        else:
            del module.forward


@dataclass(frozen=True)
class LogitRule:
    """The transformation of the head's output z: `cap * tanh(scale * z / cap)`, or `scale * z` if cap is 0."""

    scale: float = 1.0
    cap: float = 0.0

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Final logits of the head's output, in its dtype."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits


def find_head(model: Any) -> Any | None:
    """The head module if the model calls it exactly once, with (B, T, D); otherwise None."""
    head = model.get_output_embeddings()
    if head is None:
        return None
    shapes: list[tuple[int, ...]] = []
    hook = head.register_forward_pre_hook(
        lambda _module, args: shapes.append(tuple(args[0].shape)) if args else None
    )
    try:
        run(model, _probe_ids(model, rows=2, width=3))
    finally:
        hook.remove()
    return head if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][:2] == (2, 3) else None


def find_logit_rule(model: Any, head: Any) -> LogitRule | None:
    """The scale and soft cap after the head, determined by feeding it numbers; None if it is any other function."""
    grid = torch.tensor(
        [0.0, 1e-3, -1e-3, 0.5, -0.5, 1.0, 2.0, -3.0, 10.0, -30.0, 1e5, 2e5], dtype=torch.float64
    )
    seen = _behind_head(model, head, grid.float()).cpu().double()
    if seen.shape != grid.shape or not bool(torch.isfinite(seen).all()):
        return None
    capped = abs(float(seen[-1]) - float(seen[-2])) <= 1e-6 * abs(float(seen[-1]))
    cap = _tidy(float(seen[-1])) if capped else 0.0
    slope = float(seen[1]) / 1e-3 if capped else float(seen[5])
    rule = LogitRule(_tidy(slope), cap)
    error = (rule(grid) - seen).abs() / (1.0 + seen.abs())
    return rule if float(error.max()) < 1e-4 else None


def _tidy(value: float) -> float:
    """The value, or the short decimal or reciprocal of one within float32's error of it, such as 0.0625 for 0.0624999."""
    for candidate in (
        round(value, 4),
        1.0 / round(1.0 / value, 4) if abs(value) > 1e-12 and abs(1.0 / value) > 1e-4 else 0.0,
    ):
        if candidate and abs(candidate - value) <= 2e-6 * abs(value):
            return candidate
    return value


def _behind_head(model: Any, head: Any, values: torch.Tensor) -> torch.Tensor:
    """The model's logits if its head's output is `values`, (V,)."""

    def forward(hidden: Hidden) -> torch.Tensor:
        return values.to(hidden.device).expand(*hidden.shape[:2], -1).clone()

    with forward_replaced(head, forward):
        logits = run(model, _probe_ids(model, rows=1, width=2))
    return logits[0, -1]


def body(model: Any, head: Any, ids_BT: torch.Tensor, **more: Any) -> Hidden:
    """The input of the model's head, (B, T, D); everything but the head is run."""
    caught: list[Hidden] = []

    def forward(hidden: Hidden) -> torch.Tensor:
        caught.append(hidden)
        return hidden[..., :1].float()

    with forward_replaced(head, forward):
        run(model, ids_BT, **more)
    return caught[0]


def rows(hidden_BTD: Hidden, positions_n: torch.Tensor) -> Hidden:
    """Hidden states (n, D) at flat positions, on their device; the positions may be on another."""
    return hidden_BTD.flatten(0, 1)[positions_n.to(hidden_BTD.device)]


def find_layers(model: Any) -> list[Any] | None:
    """The decoder layers in order: the outermost list of modules whose members each run once, in order; None if unknown."""
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    for layers in lists:
        if _call_order(model, layers) == list(range(len(layers))):
            return list(layers)
    return None


def _call_order(model: Any, modules: Iterable[Any]) -> list[int]:
    """Indices of `modules` in the order in which one forward pass finishes them."""
    order: list[int] = []

    def note(index: int) -> Callable[..., None]:
        return lambda _module, _args, _out: order.append(index)

    hooks = [module.register_forward_hook(note(index)) for index, module in enumerate(modules)]
    try:
        run(model, _probe_ids(model, rows=1, width=3))
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _probe_ids(model: Any, rows: int, width: int) -> torch.Tensor:
    """Some valid ids (rows, width), the same on every call; the head may have fewer entries than the embeddings."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    vocabulary = min(end.weight.shape[0] for end in ends if end is not None)
    ids: torch.Tensor = torch.arange(rows * width).reshape(rows, width) * 7919 % min(vocabulary, 10_000)
    return ids.to(input_device(model))


def probe_ids(model: Any, rows: int = 2, width: int = 12) -> torch.Tensor:
    """A batch of valid ids (rows, width) for self-tests, the same on every call."""
    return _probe_ids(model, rows, width)


def tolerance(dtype: torch.dtype, logits: torch.Tensor) -> float:
    """Largest difference in log-probability, in nats, that rounding in `dtype` explains for logits of this size."""
    if dtype == torch.float32:
        return 1e-4
    size = float(logits.abs().max())
    return 4.0 * torch.finfo(dtype).eps * max(1.0, size) if math.isfinite(size) else math.inf
