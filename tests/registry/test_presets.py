"""Presets against the counts and names that the model cards state."""

import pytest

from kltui.analysis.preprocess import PYTHIA_EXCLUDED
from kltui.errors import UsageError
from kltui.registry.entry import checkpoints_from_entry
from kltui.registry.presets import PRESETS, preset
from kltui.registry.revisions import expand_revisions


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("pythia-410m", 154, "step0", "step143000"),
        ("pythia-410m-seed9", 154, "step0", "step143000"),
        ("olmo-2-1b", 192, "stage1-step0-tokens0B", "stage1-step1907359-tokens4001B"),
        ("olmo-2-7b", 922, "stage1-step1000-tokens5B", "stage1-step928646-tokens3896B"),
        ("smollm3-3b", 118, "stage1-step-40000", "stage3-step-4720000"),
        ("amber", 359, "ckpt_000", "ckpt_358"),
    ],
)
def test_counts_and_ends(name: str, count: int, first: str, last: str) -> None:
    revisions = expand_revisions(preset(name).revisions)
    assert (len(revisions), revisions[0], revisions[-1]) == (count, first, last)


def test_names_that_others_have_used_are_there() -> None:
    olmo = expand_revisions(preset("olmo-2-1b").revisions)
    assert {
        "stage1-step10000-tokens21B",
        "stage1-step40000-tokens84B",
        "stage1-step140000-tokens294B",
    } <= set(olmo)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_checkpoints_with_a_step_each(name: str) -> None:
    checkpoints = checkpoints_from_entry(PRESETS[name].entry())
    steps = [c.step for c in checkpoints]
    assert None not in steps and steps == sorted(steps) and len(set(steps)) == len(steps)
    assert {c.run for c in checkpoints} == {name}


def test_the_papers_exclusions_name_runs_that_exist() -> None:
    names = {c.name for c in checkpoints_from_entry(PRESETS["pythia-1b"].entry())}
    assert set(PYTHIA_EXCLUDED) <= {*PRESETS, *names}


def test_an_unknown_name_gets_its_neighbours() -> None:
    with pytest.raises(UsageError) as error:
        preset("pythia-410")
    assert "pythia-410m" in error.value.hint
