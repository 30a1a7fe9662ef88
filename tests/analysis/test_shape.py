"""Lengths, angles and windings of curves that have them by construction, and the random-walk null."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis import shape as shape_module
from kltui.analysis.kl import kl_matrix
from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.analysis.shape import against_null, random_walk, shape, winding


def directions(n: int, N: int, seed: int = 0) -> np.ndarray:
    """n orthonormal directions of mean zero in N texts."""
    x = np.random.default_rng(seed).normal(size=(N, n + 1))
    x[:, 0] = 1.0
    return np.linalg.qr(x)[0].T[1:]


def test_a_line_is_straight() -> None:
    e = directions(1, 100)
    L = -2000 + np.arange(8.0)[:, None] * e[0] * 40
    s = shape("r", L, np.full(100, 900))
    kl = kl_matrix(L, np.full(100, 900))
    assert s.straightness == pytest.approx(1.0)
    assert s.turning == pytest.approx(0.0, abs=1e-4)
    assert s.arc_length == pytest.approx(math.sqrt(kl[0, -1]))
    assert s.chord == pytest.approx(math.sqrt(kl[0, -1]))
    assert abs(s.winding) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_circle_winds_as_often_as_it_turns(turns: int) -> None:
    a, b = directions(2, 300)
    t = np.linspace(0, 2 * np.pi * turns, 60 * turns + 1)
    L = 100 * (np.cos(t)[:, None] * a + np.sin(t)[:, None] * b)
    s = shape("r", L, np.full(300, 900))
    assert abs(s.winding) == pytest.approx(turns, abs=0.02)
    assert s.turning == pytest.approx(6.0, rel=1e-3)
    assert s.chord == pytest.approx(0.0, abs=1e-6)


def test_winding_of_a_square_counterclockwise_and_back() -> None:
    square = [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    assert winding(square) == pytest.approx(0.75)
    assert winding(square[::-1]) == pytest.approx(-0.75)


def test_the_null_has_the_runs_step_lengths_and_turns_at_right_angles() -> None:
    rng = np.random.default_rng(1)
    L = -2000 + np.cumsum(rng.normal(0, np.linspace(20, 1, 30)[:, None], (30, 2000)), axis=0)
    L[4, 9] = np.nan
    size = np.full(2000, 900)
    walk = random_walk(L, seed=7)
    assert np.isnan(walk[:, 9]).all()
    used = np.arange(2000) != 9
    for t in range(29):
        assert np.var(walk[t + 1, used] - walk[t, used]) == pytest.approx(np.var(L[t + 1, used] - L[t, used]))
    np.testing.assert_allclose(walk[:, used].mean(1), L[:, used].mean(1))
    assert shape("null", walk, size).turning == pytest.approx(90.0, abs=2.0)
    assert not np.array_equal(random_walk(L, seed=8)[:, used], walk[:, used])


def test_a_spiral_stands_out_from_its_null_and_a_walk_does_not() -> None:
    a, b = directions(2, 400)
    t = np.linspace(0, 6 * np.pi, 120)
    spiral = 100 * np.exp(-t / 20)[:, None] * (np.cos(t)[:, None] * a + np.sin(t)[:, None] * b)
    found = against_null("r", spiral, np.full(400, 900), walks=10)
    assert abs(found.shape.winding) > 2.5
    assert found.null_winding < 1.5
    assert found.share_winding_more == 0.0
    assert found.null_turning == pytest.approx(90, abs=3)
    walk = np.cumsum(np.random.default_rng(2).normal(size=(120, 400)), axis=0)
    plain = against_null("r", walk, np.full(400, 900), walks=10)
    assert 0.5 < plain.shape.straightness / plain.null_straightness < 2
    assert plain.n_walks == 10


def test_degenerate_runs() -> None:
    assert math.isnan(shape("r", np.ones((1, 10)), np.full(10, 9)).arc_length)
    still = shape("r", np.ones((4, 10)), np.full(10, 9))
    assert still.arc_length == 0.0
    assert math.isnan(still.straightness)
    assert math.isnan(still.turning)
    assert not np.isnan(random_walk(np.ones((4, 10)))).any()


def test_a_null_joins_the_map() -> None:
    L = np.cumsum(np.random.default_rng(3).normal(size=(6, 50)), axis=0)
    m = Map(tuple(Point(f"r@{t}", "r", t) for t in range(6)), L, np.full(50, 900), np.ones((6, 50), np.int32))
    both = m.with_null("r")
    assert both.names[6:] == [f"r~null@{t}" for t in range(6)]
    assert [t.label for t in both.trajectories()] == ["r", "r~null"]
    kl = [(c.run, c.kl) for c in both.consecutive()]
    for (_, own), (_, null) in zip(kl[:5], kl[5:], strict=True):
        assert null == pytest.approx(own)
    assert all(not any("null" in n for pair in row.pairs for n in pair) for row in both.scale())
    assert len(m.shapes(walks=2)) == 1


def test_a_walk_has_steps_of_the_lengths_asked_for_in_directions_of_the_generator() -> None:
    length = np.abs(np.random.default_rng(3).normal(size=600)) + 0.1
    path = shape_module._walk(length, 7, np.random.default_rng(42))
    steps = np.random.default_rng(42).normal(size=(600, 7))
    steps *= (length / np.linalg.norm(steps, axis=1))[:, None]
    assert np.array_equal(path, np.concatenate([np.zeros((1, 7)), np.cumsum(steps, axis=0)]))
    np.testing.assert_allclose(np.linalg.norm(np.diff(path, axis=0), axis=1), length, rtol=1e-12)
