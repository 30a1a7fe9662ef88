"""The cost of float32 relative to the precision in which a checkpoint is stored: time and nats, measured on its first batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kltui.errors import KltuiError
from kltui.scoring.batch_effects import BatchRule
from kltui.scoring.batching import Batch, Ids, Piece, fill_batch, plan_batches
from kltui.scoring.engine import Engine
from kltui.scoring.loading import first_line
from kltui.scoring.memory_errors import ran_out
from kltui.scoring.prefetch import available_bytes
from kltui.scoring.settings import DtypeCost

MIN_BUDGET = 1024
ROUNDS = 2
SHARE_OF_MEMORY = 0.5  # of the available memory: on a CPU, running out of it kills the process


def is_worth_comparing(engine: Engine, auto: str) -> bool:
    """Whether `engine` in float32 has an alternative in `auto`: any half precision on a GPU, bfloat16 on a CPU."""
    return auto == "bfloat16" or (auto != "float32" and engine.transfers.waits)


def dtype_cost(
    engine: Engine,
    in_half: Callable[[], Engine],
    auto: str,
    pieces: Sequence[Piece],
    ids: Sequence[Ids],
    rule: BatchRule,
    budget: int,
) -> DtypeCost:
    """The cost of a float32 engine relative to the one created by `in_half`, which computes in the dtype `auto`.

    Measured alternately on the first batch that fits for both, of up to `budget` padded ids, after a warm-up pass each.
    """
    needed = 2 * sum(parameter.numel() for parameter in engine.model.parameters())
    if engine.device.type == "cpu" and 0 < SHARE_OF_MEMORY * available_bytes() < needed:
        return DtypeCost(auto, None, "both do not fit in memory at the same time")
    try:
        other = in_half()
        while True:
            try:
                batch = fill_batch(plan_batches(pieces, budget, group=rule.group)[0], ids)
                return _compared(engine, other, batch, auto)
            except (RuntimeError, MemoryError) as error:
                budget //= 2
                if budget < MIN_BUDGET or not ran_out(error):
                    raise
                engine.free_memory()
    except KltuiError as error:
        return DtypeCost(auto, None, error.message)
    except (RuntimeError, MemoryError) as error:
        why = "both do not fit in memory at the same time" if ran_out(error) else first_line(error)
        return DtypeCost(auto, None, why)


def _compared(engine: Engine, other: Engine, batch: Batch, auto: str) -> DtypeCost:
    """The ratio of both engines' best times on a batch, and the differences of its texts' log-likelihoods in nats."""
    both = (engine, other)
    wide, half = (each.submit(batch)().loglik_LB[0] for each in both)  # also a warm-up
    seconds = [[_seconds(each, batch) for each in both] for _ in range(ROUNDS)]
    ours, theirs = (max(min(found), 1e-9) for found in zip(*seconds, strict=True))
    apart = np.abs(wide - half)
    if not np.isfinite(apart).all():  # some models overflow in float16
        return DtypeCost(auto, ours / theirs)
    return DtypeCost(auto, ours / theirs, "", float(apart.max()), float(apart.mean()))


def _seconds(engine: Engine, batch: Batch) -> float:
    """Seconds that the device needs for a batch."""
    before = engine.seconds["batches"]
    engine.submit(batch)()
    return engine.seconds["batches"] - before
