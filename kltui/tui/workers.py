"""Coroutines that run in the background, some of which are replaced before they start."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from inspect import iscoroutine
from typing import Any


def begun(
    start: Callable[..., Any], outlived: Callable[[Any], Awaitable[Any]], work: Any, *given: Any, **how: Any
) -> Any:
    """Textual's worker for `outlived(work)`, started by `start`; `work` is closed if the worker never runs."""

    async def run() -> Any:
        return await outlived(work)

    worker = start(run, *given, **how)
    if iscoroutine(work):
        weakref.finalize(worker, work.close).atexit = False
    return worker
