"""A sweep on a GPU: weights read ahead, texts in one row, and the same vectors as without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS, true_logliks, write_model, write_run

from kltui.registry.reading import Hashed, Reading, hash_files
from kltui.scoring import unpadded
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import DtypeCost, Progress, ScoringSettings

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("two_sets", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_read_ahead_give_the_same_vectors(
    device: str, dtype: str, two_sets: bool, tmp_path: Path
) -> None:
    run = [hash_files(folder) for folder in write_run(tmp_path, "gpt_neox", steps=(0, 1, 2, 3))]
    settings = ScoringSettings(device=device, dtype=dtype)
    scorer, plain = Scorer(TEXTS, "c", settings), Scorer(TEXTS, "c", settings)
    if scorer._prefetch is not None and not two_sets:
        scorer._prefetch.give_way()
    for hashed, follows in zip(run, [*run[1:], None], strict=True):

        def expect(progress: Progress, follows: Hashed | None = follows) -> None:
            if follows is not None and progress.stage == "score" and not progress.texts_done:
                scorer.expect(follows, "none")

        with Reading(hashed) as reading:
            ours = scorer.score(hashed.folder, "none", hashed.weights, expect, reading)
        there = plain.score(hashed.folder, "none", hashed.weights, lambda _: None)
        assert np.array_equal(ours.vectors[0].loglik_N, there.vectors[0].loglik_N, equal_nan=True)
        assert ours.stats["weights_read_ahead"] == float(device != "cpu" and hashed is not run[0])
        assert ours.stats["device_idle_seconds"] > 0
    scorer.close()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_plain_model_in_half_precision_is_read_without_padding(
    device: str, dtype: str, tmp_path: Path
) -> None:
    # flash attention wants heads of a multiple of 8
    folder = write_model(tmp_path / "m", "gpt_neox", hidden_size=64, num_attention_heads=4)
    found = Scorer(TEXTS, "c", ScoringSettings(device=device, dtype=dtype)).score(
        folder, "none", "", lambda _: None
    )
    if device != "cpu" and torch.cuda.get_device_capability() >= (8, 0):
        assert found.key["attention"] == unpadded.NAME and found.stats["padding_share"] == 0.0
    per_token = {"float16": 0.03, "bfloat16": 0.25}[dtype]
    vector = found.vectors[0]
    error_N = np.abs(vector.loglik_N - true_logliks(folder, TEXTS)[0])
    assert np.nanmax(error_N / (per_token * np.maximum(vector.n_scored_N, 5))) <= 1


def test_what_float32_costs_is_told(device: str, tmp_path: Path) -> None:
    (folder,) = write_run(tmp_path, "gpt_neox", steps=(0,))
    path = folder / "model.safetensors"
    halves = {name: x.to(torch.bfloat16) for name, x in load_file(path).items()}
    save_file(halves, path, metadata={"format": "pt"})
    costs: list[DtypeCost] = []
    scorer = Scorer(TEXTS, "c", ScoringSettings(device=device), tell_cost=costs.append)
    scorer.score(folder, "none", "", lambda _: None)
    assert [(cost.auto, cost.factor is not None) for cost in costs] == [("bfloat16", True)] * (
        device != "cpu"
    )
