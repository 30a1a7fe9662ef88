"""Which vectors a map leaves out: those without a number, and those that would leave it too few texts."""

import numpy as np
import pytest

from kltui.analysis.emptying import MAX_NATS, emptying
from kltui.analysis.kl import kl_matrix, kl_pair


def values(*had, n=10):
    """One row per set of texts that it has, of n."""
    rows = np.full((len(had), n), np.nan)
    for row, texts in zip(rows, had, strict=True):
        row[list(texts)] = -1.0
    return rows


ALL = range(10)


@pytest.mark.parametrize(
    ("had", "out"),
    [
        ((ALL, ALL), []),
        ((ALL, ()), [1]),
        (((), ()), [0, 1]),
        ((ALL, range(9), range(1, 10)), []),
        ((ALL, range(5)), []),
        ((ALL, range(4)), [1]),
        ((ALL, ALL, [3]), [2]),
        ((ALL, range(2), range(2)), [1, 2]),  # two of three on drawn texts alone
        ((range(4), ALL, *[range(4)] * 9), []),  # all but one on the same few: the map stands on these
        ((range(5), range(5, 10), range(5, 10)), [0]),
        (([1, 2], [1, 2], [1]), []),
        ((ALL, range(7), range(3, 10)), []),
    ],
)
def test_who_is_left_out(had, out):
    assert list(emptying(values(*had))) == out


def test_reasons_say_how_many_texts_there_are():
    out = emptying(values(ALL, (), [0, 1]))
    assert out == {
        1: "none of its 10 texts has a number",
        2: "scored on 2 of 10 texts: 2 would remain for the map",
    }


def test_infinities_are_no_numbers():
    rows = values(ALL, ALL)
    rows[1] = -np.inf
    assert list(emptying(rows)) == [1]


def test_who_stays_has_half_of_the_texts_of_the_fullest_group():
    rng = np.random.default_rng(0)
    for _ in range(50):
        usual = rng.random(40) < 0.8
        rows = np.where(usual & (rng.random((9, 40)) < rng.random((9, 1))), -1.0, np.nan)
        rows[:3] = np.where(usual, -1.0, np.nan)
        kept = [k for k in range(9) if k not in emptying(rows)]
        assert kept == [k for k in range(9) if 2 * np.isfinite(rows[k]).sum() >= usual.sum()]


def test_the_largest_values_on_a_map_leave_the_kl_of_the_others_what_it_is():
    rng = np.random.default_rng(3)
    usual = rng.normal(-1500, 300, 400) + rng.normal(0, 20, (5, 400))
    size = np.full(400, 900)
    truth = np.array([[kl_pair(a, b, size).value for b in usual] for a in usual])
    for scale, spoils in ((0.1 * MAX_NATS, False), (1e30, True)):
        found = np.vstack([usual, scale * rng.uniform(-1, 1, 400)])
        assert list(emptying(found)) == [5] * spoils
        if not spoils:
            np.testing.assert_allclose(kl_matrix(found, size)[:5, :5], truth, rtol=1e-4)
