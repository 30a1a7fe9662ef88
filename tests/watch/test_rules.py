"""Each rule of a watch on runs made for it: a planted spike is found, an ordinary run is let alone."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from statistics import median

import pytest

from kltui.analysis.spikes import Figures, with_medians
from kltui.jobs.job_tables import WatchTable
from kltui.watch.rules import alerts, stopped

TABLE = WatchTable()


def ordinary(n: int = 12, kl: float = 0.05) -> list[Figures]:
    """A run whose loss falls by one standard error or more a checkpoint, and whose KLs are alike."""
    run = [
        Figures(f"r@{k}", "r", k, 4.0 - 0.1 * k, 0.05, -0.1 if k else math.nan, 0.02, kl * (1 + 0.1 * (k % 3)) if k else math.nan, 0.002)
        for k in range(n)
    ]  # fmt: skip
    return with_medians(run)


def test_an_ordinary_run_is_let_alone() -> None:
    assert alerts(ordinary(), TABLE) == []


@pytest.mark.parametrize(("rise", "reported"), [(0.099, False), (0.101, True)])
def test_a_loss_that_rises_beyond_its_errors(rise: float, reported: bool) -> None:
    run = ordinary()
    run[7] = replace(run[7], loss_change=rise)
    found = alerts(run, TABLE)
    assert [(a.rule, a.checkpoint) for a in found] == ([("loss", "r@7")] if reported else [])
    if reported:
        assert math.isclose(found[0].value, rise / 0.02) and found[0].limit == 5.0
        assert "standard errors" in found[0].message and "r@7" in found[0].message


def test_a_kl_that_is_large_beside_those_before_it() -> None:
    run = ordinary()
    run[9] = replace(run[9], kl=5.2 * (run[9].kl_median))
    (found,) = alerts(run, TABLE)
    assert (found.rule, found.checkpoint) == ("kl", "r@9") and math.isclose(found.value, 5.2)
    assert alerts(run, WatchTable(alert_kl_ratio=6.0)) == []


def test_without_three_before_it_no_kl_is_large() -> None:
    run = with_medians([replace(f, kl=f.kl * (100 if f.step == 3 else 1)) for f in ordinary()])
    assert math.isnan(run[3].kl_median) and not [a for a in alerts(run, TABLE) if a.rule == "kl"]


def test_a_kl_over_a_longer_interval_may_be_larger() -> None:
    """Saves at 0, 1, 2, 4 ... 64, whose KL grows with the interval, then every 32 steps."""
    steps = [0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192]
    gaps = [math.nan, *(float(b - a) for a, b in itertools.pairwise(steps))]
    doubled = [replace(f, step=s, kl=0.01 * gap) for f, s, gap in zip(ordinary(), steps, gaps, strict=True)]
    run = with_medians(doubled)
    assert not [a for a in alerts(run, TABLE) if a.rule == "kl"]
    before = [f.kl for f in doubled[1:7]]
    assert run[7].kl_median == pytest.approx(median(before) * math.sqrt(32 / 3))
    late = with_medians([*doubled[:-1], replace(doubled[-1], kl=6 * doubled[-1].kl)])
    assert [a.rule for a in alerts(late, TABLE)] == ["kl"]


def test_intervals_between_saves_need_not_be_the_same_to_the_step() -> None:
    """Saves by the clock: every interval is a little longer than those before it."""
    steps = [0, 100, 201, 303, 406, 510]
    run = [replace(f, step=s, kl=0.01) for f, s in zip(ordinary(), steps, strict=False)]
    run[5] = replace(run[5], kl=0.1)
    assert [(a.rule, a.checkpoint) for a in alerts(with_medians(run), TABLE) if a.rule == "kl"] == [
        ("kl", run[5].name)
    ]


def test_a_run_settles_once_its_kl_stays_below_with_its_error() -> None:
    run = with_medians([replace(f, kl=0.004 if f.step > 6 else 0.05, kl_se=0.001) for f in ordinary()])
    (found,) = alerts(run, TABLE)
    assert found.rule == "settled" and found.key == "settled r" and "step 6" in found.message
    noisy = [replace(f, kl_se=0.01) for f in run]  # 0.004 + 1.96 x 0.01 is not below 0.01
    assert alerts(noisy, TABLE) == []
    assert alerts(run[:9], TABLE)[0].key == "settled r" and alerts(run[:8], TABLE) == []


def test_undefined_figures_are_no_alerts() -> None:
    run = [replace(f, loss_change=math.nan, kl=math.nan, kl_se=math.nan) for f in ordinary()]
    assert alerts(with_medians(run), TABLE) == []


def test_training_that_writes_no_more() -> None:
    times = [0.0, 100.0, 220.0, 310.0]
    assert stopped("r", "r@3", times, 310.0 + 359.0) is None
    found = stopped("r", "r@3", times, 310.0 + 361.0)
    assert found is not None and found.limit == 360.0 and found.value == 361.0
    assert stopped("r", "r@1", times[:2], 1e9) is None
    assert stopped("r", "r@3", [0.0, 1.0, 2.0], 61.0) is None  # a minute at least


class Counted(float):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return super().__lt__(other)


def test_medians_of_a_long_run_are_those_of_a_look_at_all_before_without_sorting_them_again() -> None:
    rng = random.Random(4)
    steps = sorted(rng.sample(range(10_000), 600))
    run = [
        Figures(f"r@{s}", "r", s, 3.0, 0.1, kl=Counted(rng.random()) if rng.random() < 0.9 else math.nan)
        for s in steps
    ]
    Counted.comparisons = 0
    found = with_medians(run)
    assert Counted.comparisons < 600 * 12
    for k, f in enumerate(found):
        before = [i for i in range(k) if math.isfinite(run[i].kl)]
        gaps = [steps[i] - steps[i - 1] if i else 0 for i in before]
        if len(before) < 3:
            assert math.isnan(f.kl_median)
            continue
        longer = max(1.0, (steps[k] - steps[k - 1]) / max(median(gaps), 1))
        assert f.kl_median == median(run[i].kl for i in before) * math.sqrt(longer)
