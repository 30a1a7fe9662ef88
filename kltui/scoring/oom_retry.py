"""Runs batches of a size that fits in memory, found by trial."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from kltui.errors import KltuiError
from kltui.scoring.batch_effects import BatchRule, LogProbs, find_rule
from kltui.scoring.batching import Batch, Ids, Piece, fill_batch, plan_batches
from kltui.scoring.device_map import memory_hint
from kltui.scoring.loading import first_line
from kltui.scoring.memory_errors import ran_out
from kltui.scoring.settings import ScoringSettings

Result = TypeVar("Result")


def run_batches(
    submit: Callable[[Batch], Callable[[], Result]],
    pieces: Sequence[Piece],
    ids: Sequence[Ids],
    budget: int,
    settings: ScoringSettings,
    free_memory: Callable[[], None],
    group: Callable[[Piece], object],
    ahead: bool = False,
) -> Iterator[tuple[Batch, Result, int]]:
    """Yields every batch of the pieces, its result from `submit`, and the batch size in padded inputs.

    With `ahead`, the next batch is submitted before a result is requested. Only pieces with equal `group` share a batch. If
    memory runs out, `free_memory` is called, the batch size is halved and the remaining pieces are planned again. Raises
    KltuiError if a single piece does not fit, and for any other error of the model.
    """
    queue = deque(plan_batches(pieces, budget, settings.batch_texts, group))
    waiting: deque[tuple[Batch, Callable[[], Result], int]] = deque()
    while queue:
        try:
            batch = fill_batch(queue[0], ids)
            waiting.append((batch, submit(batch), budget))
        except (MemoryError, RuntimeError) as error:
            yield from _results(waiting)  # submitted batches also take memory
            budget = _halved(error, queue[0], settings.device_map)
            free_memory()
            left = [piece for pieces in queue for piece in pieces]
            queue = deque(plan_batches(left, budget, settings.batch_texts, group))
            continue
        queue.popleft()
        yield from _results(waiting, keep=int(ahead))
    yield from _results(waiting)


def _results(
    waiting: deque[tuple[Batch, Callable[[], Result], int]], keep: int = 0
) -> Iterator[tuple[Batch, Result, int]]:
    """Yields the results, oldest first, of all but the last `keep` batches. Raises KltuiError if the model failed."""
    while len(waiting) > keep:
        batch, result, budget = waiting.popleft()
        try:
            values = result()
        except RuntimeError as error:  # errors that a GPU reports later
            raise _failed(error) from error
        yield batch, values, budget


def rule_within_memory(
    run: Callable[[Batch], LogProbs],
    pieces: Sequence[Piece],
    ids: Sequence[Ids],
    budget: int,
    settings: ScoringSettings,
    free_memory: Callable[[], None],
    dtype: torch.dtype,
) -> BatchRule:
    """Which pieces may share a batch, by `find_rule`, with fewer texts per batch if memory runs out."""
    widest = max((piece.n_inputs for piece in pieces), default=0)
    while True:
        try:
            return find_rule(run, pieces, ids, budget, dtype)
        except (MemoryError, RuntimeError) as error:
            _check_memory(error, budget < widest, settings.device_map)
        budget //= 2
        free_memory()


def _halved(error: Exception, pieces: Sequence[Piece], device_map: str) -> int:
    """Half the size, in padded inputs, of a batch that ran out of memory. Raises KltuiError for any other error."""
    _check_memory(error, len(pieces) == 1, device_map)
    return max(1, len(pieces) * max(p.n_inputs for p in pieces) // 2)


def _check_memory(error: Exception, alone: bool, device_map: str) -> None:
    """Raises KltuiError unless memory ran out and a smaller batch can be tried, that is, the batch was not a single text."""
    if not ran_out(error):
        raise _failed(error) from error
    if alone:
        raise KltuiError(
            "a single text does not fit in memory",
            f"use a smaller dtype, another device or a smaller corpus max_bytes; {memory_hint(device_map)}",
        ) from error


def _failed(error: Exception) -> KltuiError:
    return KltuiError(f"the model failed: {first_line(error)}", "check that it runs in transformers")


def peak_cuda_bytes() -> float:
    """Peak allocation summed over the GPUs, in bytes; the peaks may occur at different times."""
    return float(sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())))
