"""Steps read from names, and revision patterns against lists written out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kltui.errors import UsageError
from kltui.registry.entry import ModelEntry, checkpoints_from_entry
from kltui.registry.revisions import expand_revisions, is_step_name, matching_revisions, parse_step


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500), ("step500", 500), ("step-500", 500), ("step_500", 500), ("500", 500), ("0", 0),
        ("iter_0001000", 1000), ("iter500", 500), ("ckpt_358", 358), ("global_step100", 100), ("STEP7", 7),
        ("stage1-step1000-tokens5B", 1000), ("stage2-ingredient1-step100-tokens1B", 100), ("step-125000", 125000),
        ("checkpoint-3-step-500", 500), ("checkpoint-500-hf", 500), ("pythia-70m-step3000", 3000),
        ("epoch=1-step=500", 500), ("step1000-unsharded", 1000), ("step1000-tokens4B", 1000), ("iter_0000500", 500),
        ("megatron_gpt--val_loss=2.35-step=500-consumed_samples=64000.0", 500), ("template-step5", 5), ("gold_step5", 5),
        ("tmp-checkpoint-200", None), ("checkpoint-200-old", None), ("checkpoint-200.bak", None), ("step5_backup", None),
        ("checkpoint-200 (copy)", None), ("copy of step5", None), ("checkpoint-200.old2", None), (".step5", None),
        ("step5~", None), ("step5.tmp", None), ("step5-incomplete", None), ("checkpoint-1e3", None),
        ("main", None), ("pythia-410m", None), ("Llama-2-7b", None), ("unit5", None), ("step1.5", None),
        ("step500k", None), ("footstep5", None), ("checkpoint", None), ("", None), ("९", None), ("step" + "9" * 30, None),
    ],
)  # fmt: skip
def test_steps_of_names(name: str, step: int | None) -> None:
    assert parse_step(name) == step


def test_names_that_are_only_a_step() -> None:
    assert all(map(is_step_name, ["500", "step500", "checkpoint-500", "global_step5", "iter_0005"]))
    assert not any(map(is_step_name, ["tiny-step500", "main", "llama-2", "pythia410"]))


@settings(deadline=None)  # a busy machine may be slow
@given(st.integers(0, 10**12), st.sampled_from(["", "step", "step-", "checkpoint-", "iter_", "ckpt_"]))
def test_a_step_survives_its_name(step: int, prefix: str) -> None:
    assert parse_step(f"{prefix}{step}") == step


def test_pythias_154_checkpoints() -> None:
    revisions = expand_revisions(["step{0,1,2,4,8,16,32,64,128,256,512}", "step{1000..143000..1000}"])
    steps = [0] + [2**k for k in range(10)] + list(range(1000, 144000, 1000))
    assert revisions == [f"step{s}" for s in steps] and len(revisions) == 154


@pytest.mark.parametrize(
    ("patterns", "revisions"),
    [
        (["main"], ["main"]),
        ([], []),
        (["a{1,2}b{3,4}"], ["a1b3", "a1b4", "a2b3", "a2b4"]),
        (["s{1..4}"], ["s1", "s2", "s3", "s4"]),
        (["s{1..6..2}"], ["s1", "s3", "s5"]),
        (["s{0, 10..30..10}"], ["s0", "s10", "s20", "s30"]),
        (["ckpt_{098..101}"], ["ckpt_098", "ckpt_099", "ckpt_100", "ckpt_101"]),
        (["s{5}", "s{4,5,6}"], ["s5", "s4", "s6"]),
        (["{main,v1.0}"], ["main", "v1.0"]),
    ],
)
def test_patterns_written_out(patterns: list[str], revisions: list[str]) -> None:
    assert expand_revisions(patterns) == revisions


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("step{1,2", "unbalanced"), ("step1}", "unbalanced"), ("s{1,{2,3}}", "nested"), ("s{}", "empty entry"),
        ("s{1,}", "empty entry"), ("s{1..5..0}", "stride 0"), ("s{5..1}", "backwards"), ("s{1..x}", "not a range"),
        ("s{..}", "not a range"), ("s{1..9..2..3}", "not a range"), ("", "empty"), ("a b", "space"),
        ("s{0..100000000}", "more than"), ("{0..999}{0..999}", "more than"), ("{0,0}" * 48, "more than"), ("s{-1..3}", "not a range"),
    ],
)  # fmt: skip
def test_patterns_that_cannot_be_meant(pattern: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        expand_revisions([pattern])
    assert "step{1000..143000..1000}" in error.value.hint


def test_branches_of_one_step_are_runs_of_their_own() -> None:
    listed = [
        "main",
        "stage1-step5-tokens1B",
        "stage1-step9-tokens2B",
        "stage2-ingredient1-step5-tokens1B",
        "dev",
    ]
    entry = ModelEntry(repo="o/olmo", revisions=tuple(matching_revisions(["all"], listed)))
    assert [c.name for c in checkpoints_from_entry(entry)] == [
        "olmo", "olmo-dev", "olmo-stage1@5", "olmo-stage2-ingredient1@5", "olmo-stage1@9",
    ]  # fmt: skip
    one = ModelEntry(repo="o/olmo", revisions=tuple(matching_revisions(["stage1-*"], listed)))
    assert [c.name for c in checkpoints_from_entry(one)] == ["olmo@5", "olmo@9"]


def test_a_pattern_that_means_no_revision_names_some() -> None:
    with pytest.raises(UsageError, match='no revision matches "step\\*"') as error:
        matching_revisions(["step*"], ["main", "v1"])
    assert "main, v1" in error.value.hint
