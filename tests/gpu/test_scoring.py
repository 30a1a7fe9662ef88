"""Scoring on a GPU against float64 loops on the CPU, and what happens when its memory or a process gives out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, true_logliks, write_model, write_run
from transformers import AutoModelForCausalLM

from kltui.analysis.kl import centred_gram
from kltui.jobs.process import python_command
from kltui.kernels import cuda
from kltui.scoring import quantize
from kltui.scoring.centring import device_gram
from kltui.scoring.head import DeviceHead
from kltui.scoring.model_introspection import LogitRule
from kltui.scoring.pair import exact_kl
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoreResult, ScoringSettings
from kltui.workspace import Workspace

pytestmark = pytest.mark.gpu

TEXTS = [
    "A short one.",
    "x",
    "",
    "The longest of them, by far: " + "many words, " * 9,
    "Numbers 1 2 3 and 4, and 650841823.",
    "  def add(a, b):\n    return a + b",
]
# Nats that a token's log-probability may be off: float32's rounding; in half precision weights and states are rounded.
PER_TOKEN = {"float32": 2e-5, "float16": 0.03, "bfloat16": 0.25}


def score(
    folder: Path, device: str, texts: list[str] = TEXTS, quantization: str = "none", **settings: Any
) -> ScoreResult:
    scorer = Scorer(texts, "0" * 64, ScoringSettings(device=device, overlong="window", **settings))
    return scorer.score(folder, quantization, "", lambda _: None)


def assert_close(found: ScoreResult, truth: list[list[float]], dtype: str) -> None:
    assert len(found.vectors) == len(truth)
    for vector, exact in zip(found.vectors, truth, strict=True):
        np.testing.assert_array_equal(np.isnan(vector.loglik_N), np.isnan(exact))
        allowed = PER_TOKEN[dtype] * np.maximum(vector.n_scored_N, 5)
        assert np.nanmax(np.abs(vector.loglik_N - exact) / allowed) <= 1


@pytest.mark.parametrize("dtype", list(PER_TOKEN))
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_layers_and_shuffled_batches(family: str, dtype: str, device: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", family)
    whole = score(folder, device, dtype=dtype, layers="all")
    assert_close(whole, true_logliks(folder, TEXTS), dtype)
    order = [3, 0, 5, 4, 2, 1]
    apart = score(folder, device, [TEXTS[i] for i in order], dtype=dtype, layers="all", batch_tokens=40)
    for one, other in zip(whole.vectors, apart.vectors, strict=True):
        allowed = PER_TOKEN[dtype] * np.maximum(one.n_scored_N[order], 5)
        assert np.nanmax(np.abs(other.loglik_N - one.loglik_N[order]) / allowed) <= 1


def test_exact_kl_is_that_of_the_cpu(device: str, tmp_path: Path) -> None:
    folders = [write_model(tmp_path / name, "gpt_neox", seed=seed) for seed, name in enumerate("ab")]
    there, here = (
        exact_kl(*folders, TEXTS, "0" * 64, ScoringSettings(device=d, overlong="window"))
        for d in (device, "cpu")
    )
    np.testing.assert_allclose(there.forward_nats_N, here.forward_nats_N, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(there.same_top_N, here.same_top_N)


def test_plain_heads_go_through_the_kernels(device: str) -> None:
    if device == "cpu":
        pytest.skip("a dry run has no kernels")
    assert cuda.usable(torch.device(device, 0))
    head = DeviceHead(torch.nn.Linear(64, 3000, device=device), LogitRule(), 3000)
    hidden = torch.randn(9000, 64, device=device)
    targets = torch.randint(3000, (9000,), device=device)
    with torch.inference_mode():
        ours = head(hidden, targets)
        logits = head._module(hidden).double()
    exact = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
    assert float((ours - exact).abs().max()) < 1e-4
    assert head._width in DeviceHead.WIDTHS


@contextmanager
def memory_limit(limit: int) -> Iterator[None]:
    """This process may reserve so many bytes of the GPU; what others have is left alone."""
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def reserved_by(work: Callable[[], ScoreResult]) -> tuple[ScoreResult, int]:
    """What `work` gives, and the most bytes of the GPU that were reserved meanwhile."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = work()
    return result, torch.cuda.max_memory_reserved()


def test_a_batch_that_does_not_fit_is_halved(device: str, tmp_path: Path) -> None:
    """Memory is limited to the middle between what small batches and one of everything reserve."""
    folder = write_model(tmp_path / "model", "llama", hidden_size=256, intermediate_size=1024)
    texts = [f"{i}: " + "words and more of them, " * 12 for i in range(400)]
    if device == "cpu":
        assert score(folder, device, texts[:20], batch_tokens=512).stats["batch_tokens"] == 512
        return
    small, few = reserved_by(lambda: score(folder, device, texts, batch_tokens=512))
    whole, many = reserved_by(lambda: score(folder, device, texts, batch_tokens=400_000))
    assert whole.stats["batch_tokens"] == 400_000 and many - few > 64 * 2**20
    with memory_limit((few + many) // 2):
        tight = score(folder, device, texts, batch_tokens=400_000)
    assert tight.stats["batch_tokens"] < 400_000
    for other in (small, whole):
        np.testing.assert_allclose(tight.vectors[0].loglik_N, other.vectors[0].loglik_N, atol=1e-2)


@pytest.mark.parametrize("kind", ["bnb-fp4", "bnb-nf4"])
def test_four_bit_variants_equal_a_loop_over_the_same_rounded_weights(
    kind: str, device: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    folder = write_model(tmp_path / "model", "llama", hidden_size=64, intermediate_size=128)
    found = score(folder, device, quantization=kind, layers="all")
    rounded = tmp_path / "rounded"
    shutil.copytree(folder, rounded)
    options = quantize.options(kind, torch.float32, torch.device(device))
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).dequantize().save_pretrained(
        rounded
    )
    assert_close(found, true_logliks(rounded, TEXTS), "float16")
    original = true_logliks(folder, TEXTS)
    assert np.nanmax(np.abs(found.vectors[0].loglik_N - original[0])) > 1e-3


@pytest.mark.parametrize("kind", ["bnb-8bit", "torchao-int8"])
def test_eight_bit_variants_are_near_the_original_but_not_it(kind: str, device: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao" if "torchao" in kind else "bitsandbytes", reason="not installed")
    folder = write_model(tmp_path / "model", "llama", hidden_size=64, intermediate_size=128)
    found = score(folder, device, quantization=kind).vectors[0]
    error = np.abs(found.loglik_N - true_logliks(folder, TEXTS)[0]) / found.n_scored_N.clip(1)
    assert 1e-5 < np.nanmax(error) < 0.1


def test_maps_are_centred_and_multiplied_as_on_the_cpu(device: str) -> None:
    if device == "cpu":
        pytest.skip("a dry run has no GPU to send a map to")
    L = np.random.default_rng(0).normal(-2300.0, 300.0, (1018, 2000))
    for ours, exact in zip(device_gram(device)(L) or (), centred_gram(L), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


def write_job(folder: Path, device: str, workers: int = 1) -> Path:
    write_run(folder / "run", steps=(0, 1, 2, 4))
    (folder / "texts.json").write_text(json.dumps([text for text in TEXTS if text] * 3))
    (folder / "job.toml").write_text(
        'workspace = "ws"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "run"\n'
        f'[scoring]\ndevice = "{device}"\noverlong = "window"\n[engine]\nworkers = {workers}\n'
    )
    return folder / "job.toml"


def batch(job: Path) -> subprocess.Popen[str]:
    command = python_command("kltui.cli", "main", "--batch", str(job), "--json")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env=os.environ)


def vectors(workspace: Path) -> dict[str, np.ndarray]:
    with Workspace.open(workspace) as opened:
        found = opened.map()
        return dict(zip(found.names, found.loglik_KN, strict=True))


def test_a_killed_job_goes_on_where_it_was(device: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, device)
    life = batch(job)
    assert life.stdout is not None
    for line in life.stdout:
        event = json.loads(line)
        if event["event"] == "checkpoint":
            assert event["status"] == "done", event
            break
    life.kill()
    life.communicate()
    again = batch(job)
    events = [json.loads(line) for line in again.communicate()[0].splitlines()]
    ends = [event["status"] for event in events if event["event"] == "checkpoint"]
    assert again.returncode == 0
    assert "kept" in ends and set(ends) <= {"kept", "done"} and len(ends) == 4
    assert len(vectors(tmp_path / "ws")) == 4


def test_two_workers_score_what_one_does(device: str, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        assert batch(write_job(folder, device, workers)).communicate() is not None
        found.append(vectors(folder / "ws"))
    assert found[0].keys() == found[1].keys() and len(found[0]) == 4
    for name, loglik_N in found[0].items():
        np.testing.assert_allclose(found[1][name], loglik_N, atol=1e-3)
