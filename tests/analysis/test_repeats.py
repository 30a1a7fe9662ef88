"""Checkpoints that have the same weights: found by files or vectors, used once in their run, said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.analysis.scale import ScaleRow
from kltui.store.same_weights import left_out_words, sentences

N = 400
SIZE = np.full(N, 900)
STEPS = list(range(0, 30_000, 1000))


def walk(T: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(-1500, 300, N) + np.cumsum(rng.normal(0, 5, (T, N)), axis=0)


def run_of(L: np.ndarray, steps: list[int], run: str = "r", **more: object) -> Map:
    points = tuple(Point(f"{run}@{s}", run, s, **more) for s in steps)  # type: ignore[arg-type]
    return Map(points, L, SIZE)


def one_file_under_many_steps() -> tuple[Map, Map]:
    """A run whose steps 0 to 9000 and 20000 hold the bytes of the last one; and the run of the true steps alone."""
    L = walk(30)
    served = L.copy()
    served[[*range(10), 20]] = L[29]
    honest = [k for k in range(30) if k >= 10 and k != 20]
    return run_of(served, STEPS), run_of(L[honest], [STEPS[k] for k in honest])


def test_a_file_served_under_many_steps_counts_once_where_it_belongs() -> None:
    served, honest = one_file_under_many_steps()
    assert served.repeats.groups == ((*range(10), 20, 29),)
    assert served.repeats.left_out == {*range(10), 20}
    assert served.consecutive() == honest.consecutive()
    assert served.stabilisation(0.01) == honest.stabilisation(0.01)
    assert min(c.kl for c in served.consecutive()) > 0


def test_exponents_and_the_scale_are_those_of_the_true_steps() -> None:
    served, honest = one_file_under_many_steps()
    found = served.diffusion(window=5, schedule={"r": STEPS})
    assert {e.start for e in found} == {s for s in range(10_000, 25_000, 1000) if s != 20_000}
    for e in found:
        assert 0.6 < e.c_q < 1.5
    assert found == honest.diffusion(window=5, schedule={"r": STEPS})

    def settings(m: Map) -> dict[str, ScaleRow]:
        return {r.setting: r for r in m.scale()}

    assert settings(served) == settings(honest)
    assert settings(served)["early pretraining"].low > 0


def test_no_text_is_an_outlier_for_a_jump_to_weights_of_another_step() -> None:
    served, _ = one_file_under_many_steps()
    true_pairs = [(k, k + 1) for k in range(10, 29) if 20 not in (k, k + 1)]
    change = np.max([np.abs(served.loglik_KN[b] - served.loglik_KN[a]) for a, b in true_pairs], axis=0)
    record = served.preprocessed("pretraining", clip_quantile=0.0).record["preprocess"]
    assert isinstance(record, dict)
    assert record["removed_texts"] == np.argsort(-change, kind="stable")[:12].tolist()


def test_neighbours_that_are_the_same_keep_the_first() -> None:
    L = walk(6)
    L[3] = L[2]
    L[5] = L[4]  # a final copy of the last checkpoint
    m = run_of(L, STEPS[:6])
    assert m.repeats.left_out == {3, 5}
    assert [(c.step_from, c.step_to) for c in m.consecutive()] == [(0, 1000), (1000, 2000), (2000, 4000)]


def test_a_final_model_that_is_a_copy_is_named_and_the_run_kept_whole() -> None:
    L = walk(4)
    m = run_of(L, STEPS[:4])
    m = replace(m, points=(*m.points, Point("r-final", "r-final")), loglik_KN=np.vstack([L, L[3]]))
    assert m.repeats.groups == ((3, 4),)
    assert not m.repeats.left_out
    assert sentences([[m.points[k] for k in g] for g in m.repeats.groups]) == [
        "r@3000 and r-final have equal vectors and therefore probably the same weights"
    ]


def test_seeds_that_are_one_are_left_out_of_the_scale() -> None:
    L = walk(9)
    runs = [("s1", L[:3]), ("s2", L[:3]), ("s3", L[3:6])]
    points = [
        Point(f"{r}@{t}", r, t, seed=i, size="tiny", type="x")
        for i, (r, _) in enumerate(runs)
        for t in (0, 10, 20)
    ]
    m = Map(tuple(points), np.vstack([part for _, part in runs]), SIZE)
    row = next(r for r in m.scale() if r.setting == "seed")
    assert row.pairs == (("s1@20", "s3@20"), ("s2@20", "s3@20"))
    assert "1 of 3 pairs left out: both have the same weights" in row.note
    assert sentences([[m.points[k] for k in g] for g in m.repeats.groups]) == [
        "s1 and s2 have equal vectors and therefore probably the same weights at each of 3 steps, 0, 10 and 20"
    ]


def test_a_quantisation_that_did_nothing_is_named_and_left_out_of_the_scale() -> None:
    L = walk(2)
    points = [Point("a", "a"), Point("a+bnb-8bit", "a", quantization="bnb-8bit")]
    points += [Point("b", "b"), Point("b+bnb-8bit", "b", quantization="bnb-8bit")]
    m = Map(tuple(points), np.vstack([L[0], L[0], L[0] * 1.1, L[1]]), SIZE)
    row = next(r for r in m.scale() if r.setting == "8-bit")
    assert row.pairs == (("b", "b+bnb-8bit"),)
    assert m.repeats.groups == ((0, 1),)


def test_files_tell_what_values_do_not() -> None:
    """Scored on another GPU the same weights give other bits; untrained models may give the same ones."""
    L = walk(2)
    near = L[0] + np.random.default_rng(1).normal(0, 1e-5, N)
    points = tuple(
        Point(f"r@{t}", "r", t, weights=w) for t, w in ((0, "files:aa"), (10, "files:bb"), (20, "files:aa"))
    )
    m = Map(points, np.stack([L[0], L[1], near]), SIZE)
    assert m.repeats.groups == ((0, 2),)
    apart = tuple(Point(n, n, 0, weights=f"files:{n}") for n in ("a", "b"))
    assert not Map(apart, np.stack([L[0], L[0]]), SIZE).repeats.groups
    unknown = tuple(Point(n, n, 0, weights=n) for n in ("a", "b"))
    assert Map(unknown, np.stack([L[0], L[0]]), SIZE).repeats.groups == ((0, 1),)
    variants = (Point("a", "a", weights="f"), Point("a+q", "a", quantization="q", weights="f"))
    assert not Map(variants, L, SIZE).repeats.groups


@pytest.mark.parametrize("tags", [("interpolation",), ("null",)])
def test_points_that_are_equal_by_design_are_no_repeats(tags: tuple[str, ...]) -> None:
    L = walk(1)
    m = Map((Point("a", "a"), Point("b", "b", tags=tags)), np.vstack([L, L]), SIZE)
    assert not m.repeats.groups
    lens = Map((Point("a@1", "a", 1), Point("a@1#2", "a", 1, layer=2)), np.vstack([L, L]), SIZE)
    assert not lens.repeats.groups
    assert not Map((Point("a", "a"), Point("b", "b")), np.full((2, N), np.nan), SIZE).repeats.groups


def test_a_run_that_stands_still_has_no_neighbours() -> None:
    L = walk(1)
    m = run_of(np.repeat(L, 5, axis=0), STEPS[:5])
    assert m.repeats.left_out == {1, 2, 3, 4}
    assert m.consecutive() == [] and m.stabilisation() == [] and m.diffusion(window=2) == []


def test_what_is_left_out_is_said_with_what_stands_for_it() -> None:
    served, _ = one_file_under_many_steps()
    (said,) = left_out_words(served.points, served.repeats)
    assert said.startswith("left out of r: steps 0, 1000, 2000,")
    assert "the same weights as r@29000" in said
    known = [replace(p, weights="w") for p in served.points]
    assert "which have the same weights as r@29000" in left_out_words(known, served.repeats)[0]
