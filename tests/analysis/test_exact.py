"""Means per token and per byte of sums of texts, and their errors, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis.exact import direction, ratio_of_sums


@pytest.mark.parametrize("seed", range(6))
def test_a_ratio_and_its_error_are_those_of_a_loop_over_differing_texts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.exponential(3.0, 30), rng.integers(0, 5, 30)
    ids = rng.integers(0, 12, 30).astype(np.intp)
    used = [k for k in range(30) if y[k] > 0]
    total = sum(int(y[k]) for k in used)
    r = math.fsum(x[k] for k in used) / total
    deviations = dict.fromkeys((int(ids[k]) for k in used), 0.0)
    for k in used:
        deviations[int(ids[k])] += x[k] - r * y[k]
    se = math.sqrt(math.fsum(d * d for d in deviations.values())) / total
    assert ratio_of_sums(x, y, ids) == pytest.approx((r, se), rel=1e-12)
    alone = math.sqrt(math.fsum((x[k] - r * y[k]) ** 2 for k in used)) / total
    assert ratio_of_sums(x, y) == pytest.approx((r, alone), rel=1e-12)


def test_an_error_needs_three_differing_texts_that_do_not_all_deviate_alike() -> None:
    assert ratio_of_sums([1.0, 2.0, 4.0], [1, 1, 1]) == pytest.approx((7 / 3, math.sqrt(42) / 9))
    for x, y, ids in (
        ([1.0, 2.0], [1, 1], None),
        ([1.0, 2.0, 4.0], [1, 1, 1], np.array([0, 1, 1])),
        ([1.0, 2.0, 4.0], [1, 1, 0], None),
        ([2.0, 4.0, 6.0, 8.0], [1, 2, 3, 4], None),  # every text has the same ratio
    ):
        r, se = ratio_of_sums(x, y, ids)
        assert r == pytest.approx(sum(a for a, b in zip(x, y, strict=True) if b) / sum(y)) and math.isnan(se)
    assert all(map(math.isnan, ratio_of_sums([1.0, 2.0], [0, 0])))


def test_a_text_without_a_token_counts_neither_its_bytes_nor_its_sum() -> None:
    nats, tokens, size = [3.0, 5.0, 1.0, 0.0], [2, 4, 1, 0], [10, 30, 4, 1000]
    found = direction(nats, tokens, size, (1.0, 2.0, 3.0))
    assert found.nats_per_token == pytest.approx(9 / 7)
    assert found.bits_per_byte == pytest.approx(9 / 44 / math.log(2))
    assert found.bits_per_byte_se == pytest.approx(
        math.sqrt(sum((x - 9 / 44 * b) ** 2 for x, b in zip(nats[:3], size[:3], strict=True)))
        / 44
        / math.log(2)
    )
    assert (found.median_nats, found.high_nats, found.max_nats) == (1.0, 2.0, 3.0)
