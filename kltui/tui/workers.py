"""Coroutines that run beside the interface, of which some are replaced before they begin."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from inspect import iscoroutine
from typing import Any


def begun(
    start: Callable[..., Any], outlived: Callable[[Any], Awaitable[Any]], work: Any, *given: Any, **how: Any
) -> Any:
    """Textual's worker of `outlived(work)`, started by `start`; a worker that never begins leaves no coroutine open."""

    async def run() -> Any:
        return await outlived(work)

    worker = start(run, *given, **how)
    if iscoroutine(work):
        weakref.finalize(worker, work.close).atexit = False
    return worker
