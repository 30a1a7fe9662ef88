"""A model placed by all texts or by a draw of them: KLs, errors, place, scores and means against the whole map's truths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis import embed
from kltui.analysis.kl import kl_pair
from kltui.analysis.placement import Drawn, expected_scores, position, suspected_leakage
from kltui.analysis.resample import draw, sampling_probabilities

K, N = 30, 1500
RNG = np.random.default_rng(3)
BYTES = RNG.integers(300, 1000, N)
SKILL = RNG.standard_normal(K + 1)
KIND = np.arange(K + 1) % 5
_BASE, _DIRECTIONS = -2.3 * BYTES, 12.0 * RNG.standard_normal((6, N))
LOGLIK = _BASE + SKILL[:, None] * _DIRECTIONS[5] + _DIRECTIONS[KIND] + 8.0 * RNG.standard_normal((K + 1, N))
MAP, NEW = LOGLIK[:K], LOGLIK[K]


def drawn(n: int, seed: int, new: np.ndarray = NEW) -> Drawn:
    p = sampling_probabilities(embed.double_centre(MAP), "ls")
    d = draw(p, n, seed)
    count = np.rint(d.weight**2 * n * p[d.index]).astype(np.int64)
    return Drawn(MAP[:, d.index], new[d.index], d, count, float(BYTES.mean()))


def test_on_all_texts_kl_and_error_are_those_of_the_pair() -> None:
    known = Drawn.whole(MAP, NEW, BYTES)
    truth = [kl_pair(NEW, other, BYTES) for other in MAP]
    np.testing.assert_allclose(known.kl().value[0], [t.value for t in truth], rtol=1e-10)
    np.testing.assert_allclose(known.kl_errors_of_whole(), [t.se for t in truth], rtol=1e-8)
    np.testing.assert_allclose(known.kl().se[0], [t.se for t in truth], rtol=1e-8)


def test_drawn_texts_tell_the_kl_within_their_error_and_the_error_of_the_whole() -> None:
    truth = [kl_pair(NEW, other, BYTES) for other in MAP]
    value = np.array([t.value for t in truth])
    made = [drawn(300, seed) for seed in range(12)]
    off = np.array([(d.kl().value[0] - value) / d.kl().se[0] for d in made])
    assert 0.8 < np.sqrt((off**2).mean()) < 1.25  # standard errors are what they say
    whole = np.mean([d.kl_errors_of_whole() for d in made], axis=0)
    np.testing.assert_allclose(whole, [t.se for t in truth], rtol=0.12)
    assert (np.mean([d.kl().se[0] for d in made], axis=0) > whole).all()


def test_a_copy_of_a_vector_of_the_map_stands_where_it_does() -> None:
    picture = embed.pca(embed.scaled_coordinates(MAP, BYTES), 2)
    known = Drawn.whole(MAP, MAP[4] + 3.0, BYTES)
    here = position(known, picture)
    assert known.kl().value[0, 4] < 1e-12
    np.testing.assert_allclose([here.x, here.y], picture[4], atol=1e-9)
    made = [position(drawn(300, seed, MAP[4]), picture) for seed in range(40)]
    assert 0 < here.minor <= here.major < np.median([e.major for e in made])
    off = np.array([[e.x - picture[4, 0], e.y - picture[4, 1]] for e in made])
    stated = np.mean([e.major**2 + e.minor**2 for e in made])
    assert 0.6 < (off**2).sum(axis=1).mean() / stated < 1.6


def test_scores_are_expected_from_the_place_and_a_mean_far_above_is_suspected() -> None:
    scores = {"task": (50 + 9 * SKILL[:K]).tolist(), "empty": [math.nan] * K}
    types = [str(kind) for kind in KIND[:K]]
    for known in (Drawn.whole(MAP, NEW, BYTES), drawn(300, 1)):
        found, problems = expected_scores(known, types, scores, {"task": 48.0})
        (task,) = found
        assert abs(task.score - (50 + 9 * SKILL[K])) < 6 and 0 < task.error < 8 and task.n_models == K
        assert task.given == 48.0 and problems == ["empty: 0 models of the map have a score"]
    means = MAP.mean(axis=1)
    usual = suspected_leakage(float(NEW.mean()), task, means.tolist(), scores["task"])
    seen = suspected_leakage(float(NEW.mean()) + 100, task, means.tolist(), scores["task"])
    assert usual is not None and seen is not None and usual.z < 5 < seen.z
    assert suspected_leakage(0.0, task, [1.0], [2.0]) is None


def test_the_mean_goes_by_the_difference_from_a_known_one() -> None:
    off = [drawn(200, seed).mean_loglik(0, float(MAP[0].mean())) - NEW.mean() for seed in range(8)]
    plain = [drawn(200, seed).new_u.mean() - NEW.mean() for seed in range(8)]
    assert np.abs(off).max() < 0.2 * np.abs(plain).max()


def test_one_text_tells_no_error() -> None:
    known = Drawn.whole(MAP[:, :2], NEW[:2], BYTES[:2])
    assert math.isnan(position(known, np.zeros((K, 2))).major)
    with pytest.raises(Exception, match="texts"):
        Drawn.whole(np.full((2, 4), np.nan), np.zeros(4), np.ones(4))
