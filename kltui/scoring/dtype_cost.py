"""How much longer a checkpoint takes in float32 than in the precision that it is stored in, measured on its first batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kltui.errors import KltuiError
from kltui.scoring.batch_effects import BatchRule
from kltui.scoring.batching import Batch, Ids, Piece, fill_batch, plan_batches
from kltui.scoring.engine import Engine
from kltui.scoring.loading import first_line
from kltui.scoring.settings import DtypeCost

SMALLEST_BUDGET = 1024


def dtype_cost(
    engine: Engine,
    in_half: Callable[[], Engine],
    auto: str,
    pieces: Sequence[Piece],
    ids: Sequence[Ids],
    rule: BatchRule,
    budget: int,
) -> DtypeCost:
    """The factor between an engine in float32 and the one that `in_half` makes, which computes in the dtype `auto`.

    Measured on the first batch that both have room for, of at most `budget` padded ids, each after a first pass.
    """
    try:
        other = in_half()
        while True:
            try:
                batch = fill_batch(plan_batches(pieces, budget, group=rule.group)[0], ids)
                return DtypeCost(auto, _seconds(engine, batch) / max(_seconds(other, batch), 1e-9))
            except (torch.OutOfMemoryError, MemoryError):
                budget //= 2
                if budget < SMALLEST_BUDGET:
                    raise
                engine.free_memory()
    except (torch.OutOfMemoryError, MemoryError):
        return DtypeCost(auto, None, "there is no room for both beside each other")
    except KltuiError as error:
        return DtypeCost(auto, None, error.message)
    except RuntimeError as error:
        return DtypeCost(auto, None, first_line(error))


def _seconds(engine: Engine, batch: Batch) -> float:
    """Seconds of the device for a batch, the second time: the first one also makes what is kept."""
    engine.submit(batch)()
    before = engine.seconds["batches"]
    engine.submit(batch)()
    return engine.seconds["batches"] - before
