"""The ten settings of the scale, found from lineage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from kltui.analysis.kl import kl_pair
from kltui.analysis.map import Map
from kltui.analysis.point import Point
from kltui.analysis.scale import PUBLISHED, ScaleRow, locate, prepared_apart

PYTHIA_STEPS = [0, *(2**k for k in range(10)), *range(1000, 144_000, 1000)]
SIZES = ["410m", "1b", "1.4b", "2.8b", "6.9b"]


def point(run: str, step: int | None = None, **more: object) -> Point:
    name = run if step is None else f"{run}@{step}"
    if more.get("quantization"):
        name += f"+{more['quantization']}"
    if more.get("layer") is not None:
        name += f"#{more['layer']}"
    return Point(name, run, step, **more)  # type: ignore[arg-type]


def make(points: list[Point], seed: int = 0, n: int = 50) -> Map:
    L = np.random.default_rng(seed).normal(-2000, 30, (len(points), n))
    return Map(tuple(points), L, np.full(n, 900))


def rows(points: list[Point]) -> dict[str, ScaleRow]:
    return {r.setting: r for r in make(points).scale()}


def pythia(**more: object) -> list[Point]:
    return [point(f"pythia-{s}", t, size=s, type="gpt_neox") for s in SIZES for t in PYTHIA_STEPS]


def test_published_medians() -> None:
    assert [s.median for s in PUBLISHED] == [0.011, 0.067, 0.12, 0.48, 0.44, 0.49, 0.40, 0.95, 2.2, 3.0]


def test_pretraining_of_pythia_follows_the_paper() -> None:
    r = rows(pythia())
    for setting, first, last in (
        ("early pretraining", (2000, 3000), (51_000, 52_000)),
        ("later pretraining", (93_000, 94_000), (142_000, 143_000)),
    ):
        row = r[setting]
        assert row.n == 250
        steps = [tuple(int(n.split("@")[1]) for n in pair) for pair in row.pairs[:50]]
        assert (steps[0], steps[-1]) == (first, last)
        assert "1000 steps apart" in row.note
    assert r["size"].n == 10
    assert r["size"].note == "all pairs at step 143000"


def test_a_type_of_one_size_has_no_part_in_the_pairs_of_sizes() -> None:
    alone = [point("alone", step, size="1b", type="llama") for step in (5, 10)]
    several = [point(f"run-{size}", 7, size=size, type="gpt_neox") for size in ("70m", "160m", "410m")]
    r = rows([*alone, *several])["size"]
    assert r.n == 3 and r.note == "all pairs at step 7"


def test_a_missing_checkpoint_is_not_bridged() -> None:
    points = [p for p in pythia() if not (p.size == "1b" and p.step == 116_000)]
    pairs = rows(points)["later pretraining"].pairs
    assert len(pairs) == 250
    assert ("pythia-1b@115000", "pythia-1b@117000") not in pairs


def test_short_runs_split_their_even_part_and_say_so() -> None:
    steps = [0, 1, 2, 4, 8, 16, *range(20, 220, 20)]
    r = rows([point("tiny", t) for t in steps])
    early, later = r["early pretraining"], r["later pretraining"]
    assert early.n == later.n == 4
    assert early.pairs[0] == ("tiny@20", "tiny@40")
    assert later.pairs[-1] == ("tiny@180", "tiny@200")
    assert not set(early.pairs) & set(later.pairs)
    assert "20 steps apart from step 20" in early.note


def test_seeds_are_compared_at_their_last_common_step() -> None:
    points = [point(f"410m-seed{s}", t, seed=s, size="410m") for s in (1, 2, 5) for t in (0, 1000, 2000)]
    points += [point("410m-seed1", 3000, seed=1, size="410m"), point("410m", 143_000, size="410m")]
    row = rows(points)["seed"]
    want = itertools.combinations([f"410m-seed{s}@2000" for s in (1, 2, 5)], 2)
    assert list(row.pairs) == list(want)
    assert row.note == "all pairs at step 2000"


def test_main_run_of_a_size_is_the_one_without_a_seed_or_the_lowest() -> None:
    points = [point(f"t{s}", t, seed=s, size="tiny") for s in (3, 1, 2) for t in (0, 10)]
    points += [point("big", t, size="big") for t in (0, 10)]
    assert rows(points)["size"].pairs == (("t1@10", "big@10"),)


def test_quantised_variants() -> None:
    points = [
        point("m", 5),
        point("m", 5, quantization="bnb-8bit"),
        point("m", 5, quantization="bnb-fp4"),
        point("x", None, quantization="bnb-8bit"),  # its original was not scored
    ]
    r = rows(points)
    assert r["8-bit"].pairs == (("m@5", "m@5+bnb-8bit"),)
    assert r["4-bit"].pairs == (("m@5", "m@5+bnb-fp4"),)


def family(kind: str, n: int) -> list[Point]:
    base = point(kind, type=kind)
    return [base, *(point(f"{kind}-ft{i}", type=kind, parent=kind) for i in range(n))]


def test_fine_tuning_within_type_and_random() -> None:
    points = [*family("llama", 7), *family("gpt2", 4), point("merge", type="llama", parent="llama,gpt2")]
    r = rows(points)
    assert r["fine-tuning"].n == 11
    assert ("llama", "llama-ft3") in r["fine-tuning"].pairs
    assert "1 merges left out" in r["fine-tuning"].note
    assert r["within type"].n == r["random"].n == 11
    kind = {p.name: p.type for p in points}
    within = [kind[a] for a, b in r["within type"].pairs if kind[a] == kind[b] and a != b]
    assert sorted(within) == ["gpt2"] * 4 + ["llama"] * 7
    assert rows(points)["random"].pairs == r["random"].pairs
    assert "as many as (child, parent) pairs" in r["random"].note
    assert not any("merge" in pair for pair in r["random"].pairs)


def test_few_fine_tuned_models_are_paired_with_all_others() -> None:
    points = [*family("llama", 2), *(point("base", t, type="gpt2") for t in (0, 10))]
    r = rows(points)
    assert r["fine-tuning"].n == 2
    assert r["within type"].n == 3
    assert r["random"].n == 6
    assert ("llama", "base@10") in r["random"].pairs


def test_a_fine_tune_of_a_run_is_compared_with_its_last_checkpoint() -> None:
    points = [*(point("base", t) for t in (0, 10, 20)), *(point("child", t, parent="base") for t in (5, 10))]
    assert rows(points)["fine-tuning"].pairs == (("base@20", "child@10"),)
    points = [point("base", 10), point("base", 20), point("child", parent="base@10")]
    assert rows(points)["fine-tuning"].pairs == (("base@10", "child"),)


def test_random_pairs_without_fine_tuned_models() -> None:
    points = [point("a", type="x"), point("b", type="x"), point("c", type="y")]
    r = rows(points)
    assert r["within type"].pairs == (("a", "b"),)
    assert r["random"].n == 3


def test_adjacent_layers_of_the_last_checkpoint() -> None:
    points = [point("m", t, layer=k) for t in (10, 20) for k in (0, 1, 2, 4)] + [point("m", 20)]
    assert rows(points)["adjacent layers"].pairs == (("m@20#0", "m@20#1"), ("m@20#1", "m@20#2"))


def test_every_missing_setting_says_what_it_needs() -> None:
    r = rows([point("lonely")])
    assert len(r) == 10
    assert all(x.n == 0 and math.isnan(x.median) and x.note.startswith("needs ") for x in r.values())


def test_quartiles_are_of_the_pairs() -> None:
    points = [point("a", t, size="s") for t in range(0, 100, 10)]
    m = make(points)
    row = next(r for r in m.scale() if r.setting == "later pretraining")
    kl = [kl_pair(m.loglik_KN[m.row(a)], m.loglik_KN[m.row(b)], m.text_bytes_N).value for a, b in row.pairs]
    assert (row.median, row.q25, row.q75) == pytest.approx(tuple(np.quantile(kl, [0.5, 0.25, 0.75])))
    assert row.contains(row.median)
    assert not row.contains(row.high * 1.01)


def test_undefined_pairs_are_counted_not_zero() -> None:
    m = make(
        [point("m"), point("m", quantization="bnb-8bit"), point("n"), point("n", quantization="bnb-8bit")]
    )
    m.loglik_KN[1] = np.nan
    row = next(r for r in m.scale() if r.setting == "8-bit")
    assert row.n == 1
    assert row.low > 0
    assert "1 undefined" in row.note


def test_the_papers_preparation_is_per_group() -> None:
    points = [point("main", t, size="s") for t in range(2000, 22_000, 1000)]
    points += [point(f"seed{s}", t, seed=s, size="s") for s in (1, 2) for t in (2000, 3000)]
    m = make(points, n=100)
    raw = {r.setting: r for r in m.scale()}
    prepared = {r.setting: r for r in m.scale(pretraining=True, exclude=["main@9000"])}
    main = m.select(range(20)).preprocessed("pretraining", exclude=["main@9000"])
    assert (
        prepared["later pretraining"].median
        == next(r for r in main.scale() if r.setting == "later pretraining").median
    )
    assert prepared["seed"].median != raw["seed"].median
    assert all("main@9000" not in pair for pair in prepared["early pretraining"].pairs)


def test_where_a_kl_lies() -> None:
    where = locate(0.05)
    assert (where.below, where.nearest, where.above) == (
        "later pretraining",
        "early pretraining",
        "early pretraining",
    )
    assert locate(0.2).settings == ("size",)
    found = make([point("a", t) for t in range(0, 100, 10)]).scale()
    row = next(r for r in found if r.n)
    assert row.setting in locate(row.median, found).settings
    assert locate(1e6, found).settings == ()
    assert locate(math.nan).nearest == ""
    assert locate(100.0).above == ""


def test_single_models_do_not_enter_the_clip_of_the_main_runs() -> None:
    """A whole release: runs in training and single hub models, of which the worse ones would lower the threshold."""
    rng = np.random.default_rng(3)
    points = [
        point(f"run-{s}", t, size=s, type="neox") for s in ("1b", "3b") for t in range(1000, 9000, 1000)
    ]
    runs = len(points)
    points += [point(f"model-{k}", type=f"t{k % 7}") for k in range(60)]
    points += [point("run-1b", size="1b", type="neox"), point("other/1b", size="1b", type="neox")]
    points += [point("lone", 4000, size="7b", type="neox")]
    L = rng.normal(-1500, 200, (len(points), 80))
    L[runs:] -= 2000
    m = Map(tuple(points), L, np.full(80, 900))
    main = prepared_apart(m, "clip")["main"]
    assert main.names == [p.name for p in points[:runs]]
    record = main.record["preprocess"]
    assert isinstance(record, dict)
    assert record["clip_threshold"] == np.quantile(L[:runs], 0.02) != np.quantile(L, 0.02)


def test_sizes_are_those_of_runs_and_of_single_models_where_there_is_no_run() -> None:
    singles = [point("a-1b", size="1b", type="a"), point("a-3b", size="3b", type="a")]
    runs = [point(f"b-{s}", t, size=s, type="b") for s in ("1b", "3b") for t in (10, 20)]
    again = [point("hub/b-1b", size="1b", type="b")]
    row = rows([*again, *singles, *runs])["size"]
    assert row.pairs == (("b-1b@20", "b-3b@20"), ("a-1b", "a-3b"))


def test_runs_that_the_early_and_later_rows_leave_out_are_named() -> None:
    points = [point(f"tiny-s{s}", t, seed=s, size="tiny") for s in (1, 2) for t in range(0, 200, 20)]
    points += [point("short", t, size="small") for t in (0, 20)]
    points += [point("tuned", t, parent="tiny-s1@180") for t in range(0, 200, 20)]
    points += [point("hub/model")]
    for setting in ("early pretraining", "later pretraining"):
        note = rows(points)[setting].note
        assert "left out, without three evenly saved checkpoints: short" in note
        assert "left out, another seed of a run that counts: tiny-s2" in note
        assert "left out, trained from a parent model: tuned" in note
        assert "hub/model" not in note
