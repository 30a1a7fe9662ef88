"""Cutting and packing, by brute force and against the rolling windows as lm-evaluation-harness defines them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.errors import KltuiError
from kltui.scoring.batching import cut_pieces, fill_batch, plan_batches


def rolling_windows(tokens, context):
    """(inputs, targets) of rolling log-likelihood: full windows side by side, the last reaching back."""
    predicted = min(context, len(tokens) - 1)
    pairs = [(tokens[:predicted], tokens[1 : predicted + 1])]
    rest = tokens[1:]
    while predicted < len(rest):
        count = min(len(rest) - predicted, context)
        end = predicted + count
        pairs.append((tokens[1:][end - context - 1 : end - 1], rest[end - count : end]))
        predicted = end
    return pairs


@settings(deadline=None)  # a busy machine may be slow
@given(st.integers(2, 60), st.integers(2, 20))
def test_windows_are_those_of_rolling_loglikelihood(length, context):
    tokens = list(range(length))
    pieces = cut_pieces([length], 1, context, "window")
    ours = [(tokens[p.start : p.stop - 1], tokens[p.first : p.stop]) for p in pieces]
    if length > context:
        assert ours == rolling_windows(tokens, context)
    else:
        assert ours == [(tokens[:-1], tokens[1:])]


@settings(deadline=None)  # a busy machine may be slow
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 3), st.integers(4, 16))
def test_every_id_behind_the_prefix_is_scored_once(lengths, first, context):
    seen = [np.zeros(n, int) for n in lengths]
    for piece in cut_pieces(lengths, first, context, "window"):
        assert 0 <= piece.start < piece.first and piece.n_inputs <= context and piece.n_scored > 0
        seen[piece.text][piece.first : piece.stop] += 1
    for counts in seen:
        assert (counts[:first] == 0).all() and (counts[first:] == 1).all()


def test_truncate_keeps_the_context_and_error_names_the_longest():
    assert [(p.start, p.stop) for p in cut_pieces([3, 9, 1], 1, 5, "truncate")] == [(0, 3), (0, 5)]
    with pytest.raises(KltuiError, match=r"2 of 3 texts .* context of 5; text 1 has 9") as caught:
        cut_pieces([6, 9, 1], 1, 5, "error")
    assert "window" in caught.value.hint


def test_no_context_means_no_limit():
    assert len(cut_pieces([100_000], 1, None, "error")) == 1


@settings(deadline=None)  # a busy machine may be slow
@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 200), st.integers(0, 5))
def test_batches_hold_every_piece_once_within_the_budget(lengths, budget, rows):
    pieces = cut_pieces(lengths, 1, None, "error")
    batches = plan_batches(pieces, budget, rows)
    assert sorted(p.text for b in batches for p in b) == list(range(len(lengths)))
    for batch in batches:
        width = max(p.n_inputs for p in batch)
        assert len(batch) == 1 or width * len(batch) <= budget
        assert rows == 0 or len(batch) <= rows


def test_a_filled_batch_points_each_target_at_the_input_before_it():
    ids = [np.array([5, 6, 7]), np.array([8, 9])]
    batch = fill_batch(cut_pieces([3, 2], 1, None, "error"), ids)
    assert batch.ids_BT.tolist() == [[5, 6], [8, 0]]
    assert batch.targets_n.tolist() == [6, 7, 9]
    assert batch.ids_BT.ravel()[batch.positions_n].tolist() == [5, 6, 8]
    assert batch.texts_n.tolist() == [0, 0, 1]
