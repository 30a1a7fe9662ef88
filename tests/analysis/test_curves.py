"""Curves against the step, compared with loops over the vectors themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis.curves import (
    Curve,
    consecutive_curves,
    curves_to,
    curves_to_last,
    divergence,
    exponent_curves,
    loss_curves,
    seed_divergence,
    seed_family,
    update_curves,
)
from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.analysis.spikes import run_figures, spikes
from kltui.errors import KltuiError

N = 40
STEPS = (0, 1, 2, 4, 8)


@pytest.fixture
def shown() -> Map:
    """Three seeds of one size (the third without step 2), a run of one checkpoint, and a model without steps."""
    points = [
        Point(f"r{seed}@{s}", f"r{seed}", s, seed=seed, size="s")
        for seed in (1, 2, 3)
        for s in STEPS
        if (seed, s) != (3, 2)
    ]
    points += [Point("one@5", "one", 5), Point("plain", "plain")]
    rng = np.random.default_rng(1)
    return Map(tuple(points), rng.normal(-300, 20, (len(points), N)), np.arange(100, 100 + N))


def kl(shown: Map, a: str, b: str) -> float:
    """Var(l_a - l_b) / (2 B ln 2), by a loop."""
    d = [float(x) for x in shown.loglik_KN[shown.row(a)] - shown.loglik_KN[shown.row(b)]]
    mean = math.fsum(d) / N
    variance = math.fsum((x - mean) ** 2 for x in d) / N
    return variance / (2 * (math.fsum(range(100, 100 + N)) / N) * math.log(2))


def by_run(found: list[Curve]) -> dict[str, Curve]:
    return {c.run: c for c in found}


def test_loss_is_of_every_run_with_steps(shown: Map) -> None:
    found = by_run(loss_curves(shown))
    assert list(found) == ["r1", "r2", "r3", "one"]
    row = shown.row("r2@4")
    truth = -math.fsum(shown.loglik_KN[row]) / math.fsum(range(100, 100 + N)) / math.log(2)
    at = found["r2"].names.index("r2@4")
    assert found["r2"].values[at] == pytest.approx(truth, rel=1e-12) and found["r2"].errors[at] > 0


def test_consecutive_kl_ends_at_its_step(shown: Map) -> None:
    found = by_run(consecutive_curves(shown))
    assert set(found) == {"r1", "r2", "r3"}
    assert found["r3"].steps == (1, 4, 8) and found["r3"].names == ("r3@1", "r3@4", "r3@8")
    assert found["r3"].values[1] == pytest.approx(kl(shown, "r3@1", "r3@4"), rel=1e-12)


def test_kl_to_one_checkpoint_and_to_the_last(shown: Map) -> None:
    last = by_run(curves_to_last(shown))["r1"]
    assert last.steps == STEPS[:-1] and last.against == "r1@8"
    assert last.values[0] == pytest.approx(kl(shown, "r1@0", "r1@8"), rel=1e-12)
    marked = by_run(curves_to(shown, "r2@2"))
    assert marked["r2"].steps == (0, 1, 4, 8) and marked["one"].steps == (5,)
    assert marked["r1"].values[2] == pytest.approx(kl(shown, "r1@2", "r2@2"), rel=1e-12)
    with pytest.raises(KltuiError):
        curves_to(shown, "nobody")


def test_two_runs_are_held_against_each_other_where_both_have_a_step(shown: Map) -> None:
    found = divergence(shown, "r3", "r1")
    assert found.steps == (0, 1, 4, 8) and found.against == "r1" and found.names[2] == "r3@4"
    assert found.values[2] == pytest.approx(kl(shown, "r3@4", "r1@4"), rel=1e-12)
    assert len(divergence(shown, "r3", "nobody")) == 0


def test_the_seeds_of_a_family_are_held_against_one_of_them(shown: Map) -> None:
    assert seed_family(shown, "r2") == seed_family(shown, "plain") == ["r1", "r2", "r3"]
    found = seed_divergence(shown, seed_family(shown))
    assert [(c.run, c.against) for c in found] == [("r2", "r1"), ("r3", "r1")]
    alone = shown.select([k for k, p in enumerate(shown.points) if p.run in ("r1", "plain")])
    assert seed_divergence(alone, seed_family(alone)) == []


def test_updates_are_square_roots_and_gaps_are_left_out(shown: Map) -> None:
    found = update_curves(shown, {("r1@0", "r1@1"): 9.0, ("r1@2", "r1@4"): 2.0, ("r1@0", "r1@2"): 7.0})
    assert [(c.run, c.steps, c.values) for c in found] == [("r1", (1, 4), (3.0, math.sqrt(2.0)))]


def test_exponents_stand_at_their_starts(shown: Map) -> None:
    exponents = shown.diffusion(window=3, from_step=0)
    found = by_run(exponent_curves(exponents))["r1"]
    assert found.steps == (0, 1) and found.names == ("r1@0", "r1@1")
    assert found.values == tuple(e.c_q for e in exponents if e.run == "r1")


def test_a_planted_spike_is_found_where_a_watch_finds_it(shown: Map) -> None:
    rng = np.random.default_rng(2)
    points = tuple(Point(f"r@{s}", "r", s) for s in range(10))
    loglik = np.cumsum(rng.normal(0, 1, (10, N)), axis=0) + 3.0 * np.arange(10)[:, None] - 300
    loglik[6:] += rng.normal(-9, 20, N)
    run = run_figures(Map(points, loglik, np.full(N, 100)))["r"]
    assert [s.at.name for s in spikes(run, 5.0, 5.0) if s.rule == "kl"] == ["r@6"]
    assert not spikes(run[:6], 5.0, 5.0)
