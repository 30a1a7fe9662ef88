"""The hooks that accelerate puts on the modules of a model spread over several devices, and each module's own forward.

A hooked module's `forward` is accelerate's: it copies weights and inputs to one device, calls the module's own forward, stored
under another attribute, and frees the copied weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_HOOK, _OWN = "_hf_hook", "_old_forward"


def is_hooked(module: Any) -> bool:
    """Whether accelerate's forward replaces the module's own."""
    return _HOOK in module.__dict__ and _OWN in module.__dict__


def forward_name(module: Any) -> str:
    """The attribute that holds the module's own forward."""
    return _OWN if is_hooked(module) else "forward"


def own_forward(module: Any) -> Callable[..., Any]:
    """The module's own forward. It expects weights and inputs on the device where the module is computed."""
    forward: Callable[..., Any] = getattr(module, forward_name(module))
    return forward


def execution_device(module: Any) -> torch.device | None:
    """The device on which a hooked module is computed; None without a hook, or where the hook moves nothing."""
    import torch

    hook = module.__dict__.get(_HOOK)
    first = getattr(hook, "hooks", (hook,))[0]
    where = getattr(first, "execution_device", None)
    return None if where is None else torch.device(where)


def device_of(module: Any) -> torch.device:
    """The device on which a module's `weight` is multiplied, also if it is stored elsewhere between calls."""
    lies: torch.device = module.weight.device
    return (execution_device(module) or lies) if module.weight.is_meta else lies


@contextmanager
def at_hand(module: Any, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Context in which the module's weights are on the device where it is computed; yields `tensors` on that device."""
    if not is_hooked(module):
        yield tensors
        return
    hook = module.__dict__[_HOOK]
    moved, _ = hook.pre_forward(module, *tensors)
    try:
        yield tuple(moved)
    finally:
        hook.post_forward(module, None)
