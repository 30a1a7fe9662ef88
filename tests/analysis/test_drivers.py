"""Texts and domains that drive a KL; shifts; neighbours and clusters; stabilisation; floors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kltui.analysis.drivers import drivers
from kltui.analysis.floors import noise_floor, rounding_floor, storage_dtype
from kltui.analysis.kl import kl_pair
from kltui.analysis.map import Map
from kltui.analysis.neighbours import cluster, nearest
from kltui.analysis.point import Point
from kltui.analysis.shifts import shifts
from kltui.analysis.stability import stabilisation
from kltui.errors import KltuiError


def test_parts_of_a_kl_sum_to_it_by_text_and_by_domain() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(-2000, 30, (2, 90))
    a[7] = np.nan
    domains = ["code", "law", "news"] * 30
    found = drivers(a, b, np.full(90, 950), domains)
    kl = kl_pair(a, b, np.full(90, 950))
    assert found.kl == kl
    assert np.nansum(found.bits_per_byte) == pytest.approx(kl.value, rel=1e-12)
    assert math.isnan(found.bits_per_byte[7])
    assert 7 not in found.order
    assert len(found.order) == 89
    assert sum(d.share for d in found.domains) == pytest.approx(1.0)
    assert sum(d.n_texts for d in found.domains) == 89
    shifted = sum(d.shift * d.n_texts for d in found.domains)
    assert shifted == pytest.approx(0.0, abs=1e-9)


def test_a_planted_text_and_domain_are_found() -> None:
    b = np.zeros(100)
    a = np.random.default_rng(1).normal(0, 0.1, 100)
    a[42] += 30.0
    domains = ["planted" if s == 42 else "rest" for s in range(100)]
    found = drivers(a, b, np.full(100, 1000), domains)
    text, share, difference = found.top(1)[0]
    assert text == 42
    assert share > 0.98
    assert difference == pytest.approx(29.7, abs=0.3)
    assert found.domains[0].domain == "planted"
    assert found.domains[0].shift > 29
    assert found.texts_for_share(0.5) == 1
    assert found.texts_for_share(1.0) == 100


def test_no_difference_has_no_drivers() -> None:
    found = drivers(np.ones(5), np.ones(5), np.full(5, 10))
    assert found.texts_for_share() == 0
    assert math.isnan(found.top(1)[0][1])
    with pytest.raises(KltuiError, match="3 domains for 5 texts"):
        drivers(np.ones(5), np.ones(5), np.full(5, 10), ["a"] * 3)


def test_shift_cosines_against_plain_vectors() -> None:
    rng = np.random.default_rng(2)
    L = rng.normal(-2000, 30, (6, 400))
    common = rng.normal(0, 5, 400)
    L[3:5] = L[0:2] + common + rng.normal(0, 1, (2, 400))
    L[5] = L[2] - common
    found = shifts(L, [(0, 3), (1, 4), (2, 5)], ["a", "b", "c"])
    d = [L[j] - L[i] - (L[j] - L[i]).mean() for i, j in ((0, 3), (1, 4), (2, 5))]
    for x in range(3):
        for y in range(3):
            want = d[x] @ d[y] / np.linalg.norm(d[x]) / np.linalg.norm(d[y])
            assert found.cosine[x, y] == pytest.approx(want)
    assert found.cosine[0, 1] > 0.9
    assert found.cosine[0, 2] < -0.9
    np.testing.assert_allclose(found.length, [np.sqrt(np.mean(v**2)) for v in d])


def test_a_shift_of_length_zero_has_no_direction() -> None:
    L = np.array([[1.0, 2, 3], [1, 2, 3], [1, 2, 5]])
    found = shifts(L, [(0, 1), (0, 2)], ["same", "other"])
    assert math.isnan(found.cosine[0, 0])
    assert found.cosine[1, 1] == pytest.approx(1.0)


def two_clusters() -> Map:
    rng = np.random.default_rng(3)
    centre = np.repeat(rng.normal(0, 50, (2, 300)), 5, axis=0)
    L = centre + rng.normal(0, 2, (10, 300))
    order = rng.permutation(10)
    points = tuple(Point(f"m{k}", f"m{k}", tags=("left" if k < 5 else "right",)) for k in order)
    return Map(points, L[order], np.full(300, 900))


def test_nearest_neighbours() -> None:
    m = two_clusters()
    near = m.nearest("m0", 4)
    assert sorted(n for n, _ in near) == ["m1", "m2", "m3", "m4"]
    kl = [x.value for _, x in near]
    assert kl == sorted(kl)
    np.testing.assert_allclose(m.kl_row("m0"), m.kl()[m.row("m0")], atol=1e-12)
    assert nearest([0.0, math.nan, 2.0, 1.0], 0).tolist() == [3, 2]


def test_clusters_are_contiguous_in_the_order() -> None:
    m = two_clusters()
    c = m.clustering()
    sides = [m.points[k].tags[0] for k in c.order]
    assert len({tuple(sides[:5]), tuple(sides[5:])}) == 2
    groups = c.groups(2)
    assert {m.points[k].tags[0] for k in np.flatnonzero(groups == 0)} == {sides[0]}
    assert groups[c.order[0]] == 0
    kl = m.kl()
    assert c.merges[0, 2] == pytest.approx(np.sqrt(kl[np.triu_indices(10, 1)].min()))


def test_clusters_of_one_and_of_undefined() -> None:
    assert cluster(np.zeros((1, 1))).order.tolist() == [0]
    assert cluster(np.zeros((1, 1))).groups(3).tolist() == [0]
    kl = np.ones((3, 3))
    kl[0, 1] = np.nan
    with pytest.raises(KltuiError, match="those of a are undefined"):
        cluster(kl, names=["a", "b", "c"])


def test_stabilisation_step_and_its_range() -> None:
    steps = [0, 1, 2, 4, 8, 16]
    kl = [9.0, 0.21, 0.3, 0.19, 0.05]
    se = [0.1, 0.01, 0.06, 0.01, 0.01]
    s = stabilisation("r", steps, kl, se, level=0.2)
    assert (s.earliest, s.step, s.latest) == (1, 4, 8)
    assert (s.last_kl, s.last_step) == (0.05, 16)
    never = stabilisation("r", steps, [*kl[:-1], 0.5], se, level=0.2)
    assert (never.step, never.latest) == (None, None)
    undefined = stabilisation("r", steps, [0.1, 0.1, math.nan, 0.1, 0.1], se, level=0.2)
    assert undefined.step == 4


def test_a_range_that_rests_on_unknown_errors_is_unknown() -> None:
    s = stabilisation("r", [0, 1, 2, 3], [9.0, 0.1, 0.1], [math.nan] * 3, level=0.2)
    assert (s.step, s.earliest, s.latest, s.range_known) == (1, None, None, False)
    known = stabilisation("r", [0, 1, 2, 3], [9.0, 0.1, 0.1], [math.nan, 0.01, 0.01], level=0.05)
    assert (known.step, known.earliest, known.range_known) == (None, None, True)


def test_stabilisation_of_a_map_that_slows_down() -> None:
    rng = np.random.default_rng(4)
    size = np.array([50, 40, 20, 1, 1, 1])
    L = np.concatenate([np.zeros((1, 500)), np.cumsum(size[:, None] * rng.normal(size=(6, 500)), axis=0)])
    m = Map(tuple(Point(f"r@{t}", "r", t) for t in range(7)), L, np.full(500, 900))
    (s,) = m.stabilisation(level=0.01)
    assert s.step == s.earliest == s.latest == 3


def test_floors_are_what_rounding_does() -> None:
    rng = np.random.default_rng(5)
    exact = rng.uniform(-2500, -2100, 100_000)
    for dtype in ("float32", "float16"):
        rounded = exact.astype(dtype).astype(np.float64)
        one_sided = kl_pair(exact, rounded, np.full(100_000, 972)).value
        assert rounding_floor(exact, 972, dtype) == pytest.approx(2 * one_sided, rel=0.02)
    assert 4e-4 < rounding_floor(np.full(10, -2300.0), 972.3, "float16") < 6.6e-4
    assert noise_floor("float16 throughout", 972) == 6.6e-4
    assert noise_floor("float32", 972) < noise_floor("float16", 972) < noise_floor("bfloat16", 972)
    assert math.isnan(noise_floor("int3", 972))


def test_storage_dtype_is_recognised() -> None:
    x = np.random.default_rng(6).normal(-2000, 100, 50)
    assert storage_dtype(x) == "float64"
    assert storage_dtype(x.astype(np.float32)) == "float32"
    assert storage_dtype(np.array([np.nan, -2000.0, -1e9])) == "float32"
    assert storage_dtype(x.astype(np.float16)) == "float16"
