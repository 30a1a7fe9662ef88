"""Parameters of real model folders are the model's own, and their distances those of a float64 loop over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import FAMILIES, build_model, write_run

from kltui.analysis.weights import banded_distances
from kltui.registry.tensors import open_tensors, parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_hold_the_models_parameters_once(tmp_path: Path, family: str) -> None:
    model = build_model(family)
    model.save_pretrained(tmp_path)
    own = sum(p.numel() for p in model.parameters())
    assert sum(t.n_elements for t in parameters(open_tensors(tmp_path)).values()) == own


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama_tied"])
def test_distances_of_a_run_against_its_models(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    write_run(tmp_path, family, steps=(0, 1, 2))
    folders = [tmp_path / f"step{t}" for t in (0, 1, 2)]
    theta = []
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float64")
        theta.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
    got = banded_distances([open_tensors(f) for f in folders], 2)
    for k, d in ((0, 1), (0, 2), (1, 1)):
        assert got[k, d - 1] == pytest.approx(((theta[k + d] - theta[k]) ** 2).sum(), rel=2e-7)
        assert got[k, d - 1] > 0
