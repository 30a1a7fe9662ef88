"""Which texts may share a batch without changing each other's scores; determined by trial, not by model family.

Two effects can make a text's values depend on its batch. Some models depend on the width of the batch: long-context
rotary embeddings use other frequencies if the longest text exceeds a threshold. Others depend on the contents of the
other rows: LLM.int8 keeps the outlier columns of the whole batch in float16, and activations quantised per tensor share
one scale. In the first case a batch has only texts on one side of the threshold, in the second a single text.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kltui.errors import KltuiError
from kltui.scoring.batching import Batch, Ids, Piece, fill_batch

LogProbs = NDArray[np.float32]
Run = Callable[[Batch], LogProbs]

ROWS = 16  # texts in a batch of the trial, enough to show the effects of a full batch
TEXTS = 3  # texts that are tried at many widths, because an effect may not appear in all of them


@dataclass(frozen=True)
class BatchRule:
    """The rule for which pieces may share a batch: all, those between two of `last_widths` (in inputs), or none (`alone`)."""

    last_widths: tuple[int, ...] = ()
    alone: bool = False

    def group(self, piece: Piece) -> tuple[int, ...]:
        """A key that is equal for pieces that may share a batch; sorted by length, pieces with equal keys are adjacent."""
        if self.alone:
            return piece.text, piece.start
        return (bisect_left(self.last_widths, piece.n_inputs),)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the rule; empty if any texts may share a batch."""
        if self.alone:
            return (
                "the model's values for a text depend on the other texts in its batch, so each text was scored alone",
            )
        if not self.last_widths:
            return ()
        said = "the model's values for a text depend on the longest text in its batch: "
        if len(self.last_widths) > 1:
            return (f"{said}only texts of one length were scored together",)
        return (f"{said}texts of up to {self.last_widths[0]} tokens and longer ones were scored separately",)


def find_rule(
    run: Run, pieces: Sequence[Piece], ids: Sequence[Ids], budget: int, dtype: torch.dtype
) -> BatchRule:
    """The rule for these pieces. `run` computes the log-probabilities (n,) of a batch of at most `budget` padded inputs.

    Raises KltuiError if scoring one text twice gives different values, because then no batch is valid.
    """
    if len(pieces) < 2:
        return BatchRule()
    trial = _Trial(run, pieces, ids, budget, dtype)
    alone = trial.sees_other_rows()
    edges = set() if alone else trial.edges()
    trial.check_repeats()
    if len(edges) > 1:  # no threshold: every width stands for itself
        return BatchRule(tuple(trial.widths[:-1]))
    return BatchRule(tuple(edges), alone)


def _ladder(widths: list[int]) -> list[int]:
    """The widths to try, ascending: the two largest, and the largest ones up to a half, a quarter, ... of the maximum."""
    return sorted({*widths[-2:], *_halves(widths)})


def _halves(widths: list[int]) -> set[int]:
    """The largest of `widths` up to a half, a quarter, ... of the maximum."""
    wanted = [widths[-1] >> k for k in range(1, widths[-1].bit_length())]
    return {widths[bisect_right(widths, w) - 1] for w in wanted if w >= widths[0]}


def _between(same: Callable[[int, int], bool], widths: list[int], low: int, high: int) -> set[int]:
    """The widths after which the model changes, by bisection between two indices of `widths` that give different values.

    The search may stop after two: then there is no single threshold.
    """
    if high - low == 1:
        return {widths[low]}
    middle = (low + high) // 2
    if same(widths[low], widths[middle]):
        return _between(same, widths, middle, high)
    edges = _between(same, widths, low, middle)
    return edges if same(widths[middle], widths[high]) else edges | {widths[middle]}


@dataclass
class _Trial:
    """Compares log-probabilities of a few texts, alone and in batches."""

    run: Run
    pieces: Sequence[Piece]
    ids: Sequence[Ids]
    budget: int
    dtype: torch.dtype
    _known: dict[tuple[int, int], LogProbs] = field(default_factory=dict)
    _noise: float | None = None

    def __post_init__(self) -> None:
        self.pieces = sorted(self.pieces, key=lambda p: (-p.n_inputs, p.text, p.start))
        self.widths = sorted({piece.n_inputs for piece in self.pieces})

    def sees_other_rows(self) -> bool:
        """Whether a text in a batch with others of its length gets other values than alone."""
        rows = self._rows()
        if len(rows) < 2:
            return False
        together = self._logp(rows).reshape(len(rows), -1)
        chosen = sorted({0, len(rows) // 2, len(rows) - 1})
        return any(self._differ(self._logp([rows[i]]), together[i]) for i in chosen)

    def edges(self) -> set[int]:
        """The widths after which the model changes: none, one if there is a threshold, several otherwise.

        Found by comparing the values of a text's first ids alone with those of the same ids in a longer text.
        """
        found: set[int] = set()
        for text in range(min(TEXTS, len(self.pieces))):
            same = partial(self._same, text)
            widths = [width for width in self.widths if width <= self.pieces[text].n_inputs]
            for low, high in pairwise(_ladder(widths)):
                if len(found) < 2 and not same(low, high):
                    found |= _between(same, widths, widths.index(low), widths.index(high))
        return found

    def check_repeats(self) -> None:
        """Raises KltuiError if a text gets another value than when it was scored before."""
        self._first(0, self.widths[-1])
        tried = sorted(width for text, width in self._known if text == 0)
        for width in {tried[len(tried) // 2], tried[-1]}:
            if self._beyond(self._logp([_cut(self.pieces[0], width)]) - self._first(0, width)):
                raise KltuiError(
                    "this model gives a different value when the same text is scored again",
                    "its values would be meaningless: it is random, or keeps state between texts "
                    "(for Reformer set hash_seed in config.json)",
                )

    def _same(self, text: int, low: int, high: int) -> bool:
        """Whether a text's first `low` ids get the same values alone as within its first `high`."""
        return not self._differ(self._first(text, low), self._first(text, high)[:low])

    def _first(self, text: int, width: int) -> LogProbs:
        """Log-probabilities of a text's first `width` inputs alone."""
        key = (text, width)
        if key not in self._known:
            self._known[key] = self._logp([_cut(self.pieces[text], width)])
        return self._known[key]

    def _logp(self, rows: Sequence[Piece]) -> LogProbs:
        return self.run(fill_batch(rows, self.ids))

    def _rows(self) -> list[Piece]:
        """Texts from the longer half, as many as fit, cut to one length."""
        longer = self.pieces[: max(2, len(self.pieces) // 2)]
        width = longer[-1].n_inputs
        count = min(len(longer), ROWS, self.budget // width)
        return [_cut(longer[i * len(longer) // count], width) for i in range(count)]

    def _differ(self, a_n: LogProbs, b_n: LogProbs) -> bool:
        """Whether values differ by more than the rounding caused by a different shape of the matrix products."""
        with np.errstate(invalid="ignore"):  # a NaN is reported where it is scored
            d_n = a_n.astype(np.float64) - b_n
        return self._beyond(d_n) and _rms(d_n) > 2 * self._rounding()

    def _beyond(self, d_n: NDArray[Any]) -> bool:
        """Whether differences, in nats, exceed the tolerance: 1e-4 per text in float32, 4 eps on average in half precision."""
        if self.dtype == torch.float32:
            return bool(np.abs(d_n).max() > 1e-4 or abs(d_n.sum()) > 1e-4)
        return bool(np.abs(d_n).mean() > 4 * torch.finfo(self.dtype).eps)

    def _rounding(self) -> float:
        """Root mean square difference, in nats, between a text alone and in a batch of copies of itself."""
        if self._noise is None:
            rows, measured = self._rows(), 0.0
            if len(rows) > 1:
                copies = self._logp([rows[0]] * len(rows))[: rows[0].n_scored]
                measured = _rms(copies.astype(np.float64) - self._logp(rows[:1]))
            self._noise = max(measured, 32 * torch.finfo(torch.float32).eps)
        return self._noise


def _cut(piece: Piece, width: int) -> Piece:
    """The piece's first `width` inputs, with the target of each of them scored."""
    return Piece(piece.text, piece.start, piece.start + width + 1, piece.start + 1)


def _rms(d_n: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(d_n**2)))
