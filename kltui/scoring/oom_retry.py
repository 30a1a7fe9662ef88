"""Batches that fit in memory, found by trial."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from kltui.errors import KltuiError
from kltui.scoring.batch_effects import BatchRule, LogProbs, find_rule
from kltui.scoring.batching import Batch, Ids, Piece, fill_batch, plan_batches
from kltui.scoring.device_map import more_room
from kltui.scoring.loading import first_line
from kltui.scoring.settings import ScoringSettings

Result = TypeVar("Result")

# What errors say that have no kind of their own: the CPU's allocator, the CUDA runtime and MPS, cuBLAS.
_RAN_OUT = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


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
    """Every batch of the pieces with its result from `submit`, and the budget in padded inputs.

    With `ahead` the next batch is submitted before a result is asked for. Pieces whose `group` differs share no batch. On
    out-of-memory `free_memory` is called, the budget is halved and the remaining pieces are planned again. Raises KltuiError if one
    piece alone does not fit, and for any other error of the model.
    """
    queue = deque(plan_batches(pieces, budget, settings.batch_texts, group))
    waiting: deque[tuple[Batch, Callable[[], Result], int]] = deque()
    while queue:
        try:
            batch = fill_batch(queue[0], ids)
            waiting.append((batch, submit(batch), budget))
        except (MemoryError, RuntimeError) as error:
            yield from _results(waiting)  # what is under way holds memory too
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
    """Takes the results, oldest first, of all but the last `keep` batches. Raises KltuiError where a model failed."""
    while len(waiting) > keep:
        batch, result, budget = waiting.popleft()
        try:
            values = result()
        except RuntimeError as error:  # what a GPU reports late
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
    """Which pieces may share a batch, see `find_rule`; tried with fewer texts where memory runs out."""
    widest = max((piece.n_inputs for piece in pieces), default=0)
    while True:
        try:
            return find_rule(run, pieces, ids, budget, dtype)
        except (MemoryError, RuntimeError) as error:
            _check_memory(error, budget < widest, settings.device_map)
        budget //= 2
        free_memory()


def _halved(error: Exception, pieces: Sequence[Piece], device_map: str) -> int:
    """Half the size of a batch that ran out of memory, in padded inputs; any other error is the checkpoint's."""
    _check_memory(error, len(pieces) == 1, device_map)
    return max(1, len(pieces) * max(p.n_inputs for p in pieces) // 2)


def _check_memory(error: Exception, alone: bool, device_map: str) -> None:
    """Raises KltuiError unless memory ran out and there is less than this to be tried: it was no text `alone`."""
    ran_out = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not ran_out and not any(words in str(error) for words in _RAN_OUT):
        raise _failed(error) from error
    if alone:
        raise KltuiError(
            "a single text does not fit in memory",
            f"use a smaller dtype, another device or a smaller corpus max_bytes; {more_room(device_map)}",
        ) from error


def _failed(error: Exception) -> KltuiError:
    return KltuiError(f"the model failed: {first_line(error)}", "check that it runs in transformers")


def peak_cuda_bytes() -> float:
    """Peak allocation summed over the GPUs, in bytes; the peaks may occur at different times."""
    return float(sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())))
