"""Domain directions: planted gains are found, with errors that cover them; cosines as plain vectors have them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis.directions import domain_directions
from kltui.errors import KltuiError

GAINS = {"code": 0.30, "prose": 0.05, "web": -0.10}  # bits per byte


def planted(rng: np.random.Generator, n: int = 600, noise: float = 20.0):
    """(before, after, bytes, domains): each domain's texts gain what is planted, less noise in nats a text."""
    domains = rng.choice(list(GAINS), n, p=[0.2, 0.3, 0.5])
    size = rng.integers(300, 1024, n)
    gain = np.array([GAINS[d] for d in domains]) * size * math.log(2)
    before = -2.0 * size + rng.normal(size=n)
    return before, before + gain + noise * rng.normal(size=n), size, list(domains)


def test_planted_gains_are_found_within_their_errors():
    rng, covered = np.random.default_rng(0), []
    for _ in range(60):
        before, after, size, domains = planted(rng)
        rest = {d: np.array([x != d for x in domains]) for d in GAINS}
        for found in domain_directions(before, after, size, domains, draws=10):
            others = rest[found.domain]
            meant = np.array([GAINS[d] for d in domains])
            outside = float((meant * size)[others].sum() / size[others].sum())
            noise_z = (found.gain - GAINS[found.domain]) / found.gain_se
            covered.append(abs(noise_z) < 2)
            assert found.against_rest == pytest.approx(GAINS[found.domain] - outside, abs=0.03)
    assert 0.90 < np.mean(covered) < 0.99


def test_the_order_and_sign_say_where_it_moved():
    found = domain_directions(*planted(np.random.default_rng(1)))
    assert [d.domain for d in found] == ["code", "prose", "web"]
    assert found[0].z > 5 and found[-1].z < -5


def test_cosines_are_those_of_plain_vectors():
    before, after, size, domains = planted(np.random.default_rng(2), n=80)
    D = after - before
    D = D - D.mean()
    for found in domain_directions(before, after, size, domains, draws=10):
        mine = np.array([d == found.domain for d in domains])
        e = np.where(mine, 1 / mine.sum(), -1 / (~mine).sum())
        assert found.cosine == pytest.approx(D @ e / np.linalg.norm(D) / np.linalg.norm(e))


def test_the_cosines_error_is_its_spread_over_fresh_texts():
    rng = np.random.default_rng(3)
    values = [domain_directions(*planted(rng, 300), draws=1)[0].cosine for _ in range(300)]
    stated = domain_directions(*planted(rng, 300), draws=400)[0].cosine_se
    assert stated == pytest.approx(np.std(values), rel=0.3)


def test_copies_make_no_error_smaller_and_missing_texts_are_left_out():
    before, after, size, domains = planted(np.random.default_rng(4), 50)
    once = domain_directions(before, after, size, domains)
    twice = domain_directions(
        np.tile(before, 2), np.tile(after, 2), np.tile(size, 2), domains * 2, np.tile(np.arange(50), 2)
    )
    for a, b in zip(once, twice, strict=True):
        assert b.gain_se == pytest.approx(a.gain_se) and b.against_rest_se == pytest.approx(a.against_rest_se)
        assert b.cosine_se == pytest.approx(a.cosine_se)
    lacking = np.append(after, np.nan)
    again = domain_directions(np.append(before, 0), lacking, np.append(size, 5), [*domains, "code"])
    assert again == once


def test_a_step_of_nothing_has_no_direction_and_one_domain_is_none():
    values = np.zeros(9)
    found = domain_directions(values, values, np.full(9, 10), list("aaabbbccc"))
    assert all(d.gain == 0 and math.isnan(d.gain_se) and math.isnan(d.cosine) for d in found)
    with pytest.raises(KltuiError, match="two domains"):
        domain_directions(values, values, np.full(9, 10), ["a"] * 9)
