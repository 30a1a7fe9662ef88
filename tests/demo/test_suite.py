"""The plan: steps, sizes, rates, job files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kltui.demo.jobs import write_jobs
from kltui.demo.suite import Suite, checkpoint_steps, full_suite
from kltui.jobs.jobfile import load_job


def test_steps_double_and_then_keep_their_distance() -> None:
    assert checkpoint_steps(24, 8) == (0, 1, 2, 4, 8, 16, 24)
    assert checkpoint_steps(30, 10) == (0, 1, 2, 4, 8, 10, 20, 30)
    assert checkpoint_steps(2, 1) == (0, 1, 2)


def test_full_suite_is_the_one_asked_for() -> None:
    suite = full_suite()
    pretrained = [run for run in suite.runs if not run.parent]
    assert sorted({run.size.name for run in pretrained}) == ["small", "tiny"]
    assert sorted(run.seed for run in pretrained if run.size.name == "tiny") == [1, 2, 3]
    assert {len(run.steps) for run in pretrained} == {19}
    assert [run.parent for run in suite.runs if run.parent] == ["small-seed1"]
    assert suite.n_bytes() < 1e9
    assert sum(step >= 32 for step in pretrained[0].steps) >= 11, "no full window of ten for diffusion"


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    suite = full_suite()
    run = suite.runs[0]
    rates = [suite.rate(run, step) for step in range(run.last_step)]
    assert rates[0] == pytest.approx(run.size.learning_rate / suite.warmup)
    assert max(rates) == pytest.approx(run.size.learning_rate)
    assert rates[-1] == pytest.approx(0.1 * run.size.learning_rate, rel=1e-3)


def test_another_plan_has_another_digest() -> None:
    assert full_suite().digest() == full_suite().digest()
    assert full_suite().digest() != replace(full_suite(), batch=9).digest()


def test_job_files_name_everything_once_and_load(tmp_path: Path, suite: Suite) -> None:
    layers, everything = [load_job(p) for p in write_jobs(tmp_path, suite, eight_bit=True, workers=2)]
    assert Path(everything.workspace) == tmp_path.resolve()
    assert layers.scoring.layers == "all"
    assert [Path(m.path).name for m in layers.models] == ["step24", "step4"]
    assert [(m.run, m.quantization) for m in everything.models] == [
        ("micro-seed1", ("none",)),
        ("micro-seed1-finetuned", ("none",)),
        ("micro-seed1", ("bnb-8bit",)),
    ]
    assert everything.models[1].parent == "micro-seed1@24"
    plain = [load_job(p) for p in write_jobs(tmp_path, suite, eight_bit=False, workers=1)][1]
    assert {m.quantization for m in plain.models} == {("none",)}
