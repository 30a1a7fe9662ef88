"""Texts as token ids, cut to the model's context, sorted and packed into batches: plain numpy, no model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kltui.errors import KltuiError

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """One row of a batch: the ids [start, stop) of text `text`, of which [first, stop) are scored.

    The model reads [start, stop - 1), because the last id is only a target.
    """

    text: int
    start: int
    stop: int
    first: int

    @property
    def n_inputs(self) -> int:
        """Number of ids that the model reads."""
        return self.stop - 1 - self.start

    @property
    def n_scored(self) -> int:
        """Number of targets."""
        return self.stop - self.first


def cut_pieces(
    lengths: Sequence[int], first: int, context: int | None, overlong: str, window: int | None = None
) -> list[Piece]:
    """Pieces of all texts by the length policy `overlong`; texts with nothing to score have none.

    `lengths` counts ids with their prefix; `first` is the first scored position. A text is over-long if it has more than
    `context` ids. The policy "window" then scores every id once, in windows of `window` (default: `context`) inputs, of which
    the last one reaches back as far as it can (lm-evaluation-harness `loglikelihood_rolling`). Raises KltuiError for "error".
    """
    too_long = [i for i, n in enumerate(lengths) if context is not None and n > context]
    if too_long and overlong == "error":
        worst = max(too_long, key=lambda i: lengths[i])
        raise KltuiError(
            f"{len(too_long)} of {len(lengths)} texts have more tokens than the model's context of {context}; "
            f"text {worst} has {lengths[worst]}",
            'set overlong = "window" (every token scored once) or "truncate" in [scoring], or cut the corpus: chunk = true',
        )
    pieces: list[Piece] = []
    for text, length in enumerate(lengths):
        if context is not None and length > context:
            pieces += (
                rolling(text, length, first, window or context, start=1)
                if overlong == "window"
                else [Piece(text, 0, context, first)]
            )
        elif length > first:
            pieces.append(Piece(text, 0, length, first))
    return pieces


def rolling(text: int, length: int, first: int, context: int, start: int | None = None) -> list[Piece]:
    """Rolling windows of at most `context` inputs that score the ids [first, length) once each.

    They are counted from the id `start` (default: `first`); each reaches back as far as it can.
    """
    windows = []
    scored = first if start is None else start
    while scored < length:
        stop = min(scored + context, length)
        left = max(0, stop - 1 - context)
        if stop > first:
            windows.append(Piece(text, left, stop, max(scored, first)))
        scored = stop
    return windows


def paired_pieces(
    pieces_a: Sequence[Piece], pieces_b: Sequence[Piece], lengths_a: Sequence[int], lengths_b: Sequence[int]
) -> list[tuple[Piece, Piece]]:
    """Pieces of the same texts for two models: both pieces of a pair have the same targets, each in its own context.

    The rows of a text end in the same ids, after different contexts. If one is split, the other is split too, which
    changes no target's context. Targets that only one of them scores are left out.
    """
    of_b: dict[int, list[Piece]] = defaultdict(list)
    for piece in pieces_b:
        of_b[piece.text].append(piece)
    paired = []
    for p in pieces_a:
        length_a, length_b = lengths_a[p.text], lengths_b[p.text]
        for q in of_b[p.text]:
            # targets counted from the end of the row
            furthest = min(length_a - p.first, length_b - q.first)
            nearest = max(length_a - p.stop, length_b - q.stop)
            if furthest > nearest:
                paired.append(
                    (
                        Piece(p.text, p.start, length_a - nearest, length_a - furthest),
                        Piece(p.text, q.start, length_b - nearest, length_b - furthest),
                    )
                )
    return paired


def plan_batches(
    pieces: Sequence[Piece],
    batch_tokens: int,
    batch_texts: int = 0,
    group: Callable[[Piece], object] = lambda _: None,
) -> list[list[Piece]]:
    """Batches of pieces, longest first, of at most `batch_tokens` padded inputs or a single piece.

    `batch_texts` limits the number of pieces (0: no limit). Only pieces with equal `group` share a batch.
    """
    batches: list[list[Piece]] = []
    width = 0
    for piece in sorted(pieces, key=lambda p: (-p.n_inputs, p.text, p.start)):
        rows = len(batches[-1]) if batches else 0
        full = (batch_texts > 0 and rows >= batch_texts) or (rows + 1) * width > batch_tokens
        if not batches or full or group(batches[-1][0]) != group(piece):
            batches.append([])
            width = piece.n_inputs
        batches[-1].append(piece)
    return batches


@dataclass(frozen=True)
class Batch:
    """A padded batch: `ids_BT` for the model, and for its n targets: id, flat position in B*T, and text.

    `pieces` are its rows as they were cut, where it was filled from pieces.
    """

    ids_BT: Ids
    targets_n: Ids
    positions_n: Ids
    texts_n: Ids
    pieces: tuple[Piece, ...] = ()

    @property
    def n_scored(self) -> int:
        """Number of targets in the batch."""
        return len(self.targets_n)

    @property
    def n_inputs(self) -> int:
        """Number of ids that are read, without padding: those of each row up to its last target's position."""
        last_B = np.searchsorted(self.rows_n, np.arange(len(self.ids_BT)), side="right") - 1
        return int((self.positions_n[last_B] % self.ids_BT.shape[1] + 1).sum())

    @property
    def rows_n(self) -> Ids:
        """The row of each target, ascending; every row has one."""
        return np.asarray(self.positions_n // self.ids_BT.shape[1])

    @property
    def row_texts(self) -> Ids:
        """The text of each row."""
        return self.texts_n[np.searchsorted(self.rows_n, np.arange(len(self.ids_BT)))]


@dataclass(frozen=True)
class BatchScores:
    """Log-likelihoods of a batch's rows, (1 + layers, B) in nats, and per-token log-probabilities of the final layer if they are stored.

    `cells` counts the ids that the model read, padding included.
    """

    loglik_LB: NDArray[np.float64]
    cells: int
    logp_n: NDArray[np.float32] | None = None


def sum_rows(logp_Ln: NDArray[np.float32], rows_n: Ids, B: int) -> NDArray[np.float64]:
    """Sums over the targets of each of B rows, (L, B) in float64."""
    return np.stack([np.bincount(rows_n, logp_n.astype(np.float64), minlength=B) for logp_n in logp_Ln])


def fill_batch(pieces: Sequence[Piece], ids: Sequence[Ids]) -> Batch:
    """The batch of these pieces, padded on the right with id 0, which does not affect the values of causal models."""
    width = max(p.n_inputs for p in pieces)
    ids_BT = np.zeros((len(pieces), width), dtype=np.int64)
    targets, positions, texts = [], [], []
    for row, piece in enumerate(pieces):
        ids_BT[row, : piece.n_inputs] = ids[piece.text][piece.start : piece.stop - 1]
        targets.append(ids[piece.text][piece.first : piece.stop])
        read_from = piece.first - 1 - piece.start
        positions.append(np.arange(read_from, piece.n_inputs, dtype=np.int64) + row * width)
        texts.append(np.full(piece.n_scored, piece.text, dtype=np.int64))
    return Batch(
        ids_BT, np.concatenate(targets), np.concatenate(positions), np.concatenate(texts), tuple(pieces)
    )
