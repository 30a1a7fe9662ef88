"""Weight distances for the screens: those in the workspace, and those that could not be stored in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kltui.errors import KltuiError

if TYPE_CHECKING:
    from kltui.tui.session import WorkspaceSession
    from kltui.workspace import Workspace

Weights = Mapping[tuple[str, str], float]


def unstored(ws: Workspace, found: Weights) -> Weights:
    """{(weights a, weights b): distance} of those in `found`, {(name a, name b): distance}, that are not stored.

    The keys are digests of weights, because the weights of a name may change.
    """
    held = ws.weight_distances()
    weights = {row.name: row.weights for row in ws.checkpoints()}
    return {(weights[a], weights[b]): d for (a, b), d in found.items() if (a, b) not in held}


def known_distances(ws: Workspace, computed: Weights) -> Weights:
    """{(name a, name b): distance} of the stored distances, and of those in `computed` by present weights."""
    names: dict[str, list[str]] = {}
    for row in ws.checkpoints() if computed else ():
        names.setdefault(row.weights, []).append(row.name)
    found = {
        (a, b): d for (wa, wb), d in computed.items() for a in names.get(wa, ()) for b in names.get(wb, ())
    }
    return {**found, **ws.weight_distances()}


class _NotAwaitedError(Exception):
    """Ends a computation whose result nothing waits for any more."""


async def compute_weights(kl: WorkspaceSession) -> Weights | None:
    """Computes missing distances in a thread; returns those that could not be stored, as `unstored` does.

    Shows progress and result on the status line. None after an error, which is shown too.
    """
    path = kl.reader.path
    if path is None:
        return None

    def work() -> tuple[Weights, list[str], bool]:
        from kltui.workspace import Workspace

        with Workspace.open(path) as ws:
            found = ws.weight_distances(compute=True, progress=progress)
            return unstored(ws, found), ws.weight_problems, bool(found)

    left = threading.Event()  # whoever has quit is not kept waiting: the interpreter ends after its threads

    def progress(what: str, done: int, total: int) -> None:
        if left.is_set():
            raise _NotAwaitedError
        kl.call_from_thread(kl.say, f"weight distances: {what} {done}/{total}")

    try:
        computed, problems, any_found = await asyncio.to_thread(work)
    except KltuiError as error:
        kl.complain(error)
        return None
    finally:
        left.set()
    if problems:
        kl.say(f"weights: {'; '.join(problems)}", "warning")
    elif not any_found:
        kl.say("no run has two scored steps with weights, so there is no weight distance", "warning")
    elif computed:
        kl.say("weight distances are shown but not stored: the workspace is not writable now", "warning")
    else:
        kl.say("weight distances are stored", "good")
    return computed
