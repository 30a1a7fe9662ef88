"""Training: it learns, gives the same bits again, and goes on where it was cut off."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM

from kltui.demo import pretrain
from kltui.demo.prepared import FOLDER, Prepared, prepare
from kltui.demo.run import training_loss
from kltui.demo.suite import PlannedRun, Suite, checkpoint_folder, is_finished


def weights(workspace: Path, run: PlannedRun, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folder(workspace, run, step) / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, texts_folder: Path, suite: Suite) -> Path:
    """A workspace whose first run and its fine-tune are trained."""
    torch.set_num_threads(1)
    workspace = tmp_path_factory.mktemp("trained")
    shutil.copytree(texts_folder / FOLDER, workspace / FOLDER)
    for run in suite.runs:
        list(pretrain.train(workspace, prepare(workspace, suite), suite, run))
    return workspace


def test_every_checkpoint_is_an_ordinary_folder(trained: Path, suite: Suite) -> None:
    run = suite.runs[0]
    assert is_finished(trained, run)
    folders = sorted(p.name for p in (trained / "runs" / run.name).iterdir())
    assert folders == sorted(f"step{step}" for step in run.steps)
    folder = checkpoint_folder(trained, run, run.last_step)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    assert not list((trained / FOLDER).glob(".*"))
    assert not list((trained / FOLDER).glob("*.state.safetensors"))


def test_a_checkpoint_loads_with_nothing_missing(trained: Path, suite: Suite) -> None:
    run = suite.runs[0]
    folder = checkpoint_folder(trained, run, run.last_step)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32, use_safetensors=True
    )
    assert isinstance(model, GPTNeoXForCausalLM)
    assert not any(info.values()), info
    assert model.num_parameters() == run.size.n_parameters(suite.vocabulary)
    assert model.config.use_parallel_residual
    assert not model.config.tie_word_embeddings
    assert model.gpt_neox.rotary_emb.inv_freq.numel() * 2 == 8, "a quarter of a head of 32 is rotated"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "def f(x):\n    return 'é'"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == 0
    assert 0 not in ids


def test_step_zero_holds_the_initial_weights(trained: Path, suite: Suite) -> None:
    run = suite.runs[0]
    saved = GPTNeoXForCausalLM.from_pretrained(checkpoint_folder(trained, run, 0), dtype=torch.float32)
    assert same(dict(saved.state_dict()), dict(pretrain.initial_model(suite, run).state_dict()))
    other = pretrain.initial_model(suite, replace(run, seed=2))
    assert not same(dict(saved.state_dict()), dict(other.state_dict()))


def test_a_fine_tune_starts_from_its_parents_end(trained: Path, suite: Suite) -> None:
    parent, child = suite.runs
    before, after = weights(trained, parent, parent.last_step), weights(trained, child, child.last_step)
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    started = max(float((after[name] - weights(trained, parent, 0)[name]).abs().max()) for name in before)
    assert 0 < moved < started


def test_training_repeats_bit_for_bit(
    trained: Path, prepared: Prepared, tmp_path: Path, suite: Suite
) -> None:
    run = suite.runs[0]
    list(pretrain.train(tmp_path, prepared, suite, run))
    for step in run.steps:
        assert same(weights(tmp_path, run, step), weights(trained, run, step)), step


@pytest.mark.parametrize("killed_after", [1, 11])
def test_a_resumed_run_equals_an_uninterrupted_one(
    trained: Path, prepared: Prepared, tmp_path: Path, suite: Suite, killed_after: int
) -> None:
    run = suite.runs[0]
    list(islice(pretrain.train(tmp_path, prepared, suite, run), killed_after))
    saved = max(step for step in run.steps if step <= killed_after)
    stamp = (checkpoint_folder(tmp_path, run, saved) / "model.safetensors").stat().st_mtime_ns
    rest = list(pretrain.train(tmp_path, prepared, suite, run))
    assert [t.step for t in rest] == list(range(saved + 1, run.last_step + 1))
    assert (checkpoint_folder(tmp_path, run, saved) / "model.safetensors").stat().st_mtime_ns == stamp
    for step in run.steps:
        assert same(weights(tmp_path, run, step), weights(trained, run, step)), step
    end = run.last_step
    assert training_loss(checkpoint_folder(tmp_path, run, end)) == training_loss(
        checkpoint_folder(trained, run, end)
    )


def test_a_checkpoint_lost_before_its_rename_is_saved_again(
    trained: Path, prepared: Prepared, tmp_path: Path, suite: Suite
) -> None:
    run = suite.runs[0]
    list(islice(pretrain.train(tmp_path, prepared, suite, run), 9))
    for step in (8, 2):  # 8: killed between state and checkpoint; 2: someone deleted it, so all is done again
        shutil.rmtree(checkpoint_folder(tmp_path, run, step))
        list(islice(pretrain.train(tmp_path, prepared, suite, run), 9))
        assert same(weights(tmp_path, run, step), weights(trained, run, step)), step


def test_loss_falls_below_the_unigram_entropy(prepared: Prepared, tmp_path: Path, suite: Suite) -> None:
    run = replace(suite.runs[0], steps=(220,))
    losses = [t.loss for t in pretrain.train(tmp_path, prepared, suite, run)]
    assert losses[0] == pytest.approx(np.log(suite.vocabulary), abs=0.2)
    assert np.mean(losses[-20:]) < prepared.unigram_nats - 0.5
