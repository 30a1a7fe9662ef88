"""A vector is made with the weights that were hashed: files that move while they are loaded or used make it fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS, write_model, write_run

from kltui.registry.reading import ChangedError, Reading, hash_files
from kltui.scoring import loading, weight_reload
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings


def new_scorer(dtype: str = "float32") -> Scorer:
    return Scorer(TEXTS, "c", ScoringSettings(dtype=dtype))


def score(scorer: Scorer, folder: Path) -> Any:
    hashed = hash_files(folder)
    with Reading(hashed) as reading:
        return scorer.score(folder, "none", hashed.weights, lambda _: None, reading).vectors[0].loglik_N


def overwrite(folder: Path) -> None:
    """Other weights in the same file, which keeps its size and time."""
    path = folder / "model.safetensors"
    before = path.stat()
    tensors = {name: tensor + 0.25 for name, tensor in load_file(path).items()}
    other = folder / "other"
    save_file(tensors, other, metadata={"format": "pt"})
    path.write_bytes(other.read_bytes())
    other.unlink()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(folder: Path) -> None:
    other = write_model(folder.parent / "other", "llama", seed=9)
    (other / "model.safetensors").replace(folder / "model.safetensors")


def change_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("1e-06", "2e-06"))


@pytest.mark.parametrize("change", [overwrite, replace, change_config])
@pytest.mark.parametrize("filled", [False, True])
def test_a_change_while_loading_fails_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], filled: bool
) -> None:
    a, b = write_run(tmp_path, "llama", steps=(0, 1))
    scorer = new_scorer()
    if filled:
        score(scorer, a)
    where, name = (weight_reload.ModelTemplate, "fill") if filled else (loading, "load_model")
    real = getattr(where, name)

    def changing(*given: Any) -> Any:
        loaded = real(*given)
        change(b)
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr(where, name, changing)
        with pytest.raises(ChangedError, match="while they were loaded"):
            score(scorer, b)
    assert np.array_equal(score(scorer, b), score(new_scorer(), b), equal_nan=True)


def test_a_mapped_file_that_is_written_to_while_it_is_scored_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 on a CPU the parameters lie in the mapped file itself: a write is a change of the model."""
    folder = write_model(tmp_path / "m", "llama")
    real = Scorer._run

    def changing(*given: Any) -> Any:
        overwrite(folder)
        return real(*given)

    monkeypatch.setattr(Scorer, "_run", changing)
    with pytest.raises(ChangedError, match="while they were in use"):
        score(new_scorer(), folder)


@pytest.mark.parametrize("change", ["removed", "replaced", "linked"])
def test_a_file_that_was_loaded_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """A trainer that keeps its last checkpoints only, a copy by links: the bytes that are mapped stay what they were."""
    folder = write_model(tmp_path / "m", "llama")
    expected, real, path = score(new_scorer(), folder), Scorer._run, folder / "model.safetensors"

    def changing(*given: Any) -> Any:
        if change == "removed":
            path.unlink()
        elif change == "replaced":
            replace(folder)
        else:
            (folder / "copy").hardlink_to(path)
        return real(*given)

    monkeypatch.setattr(Scorer, "_run", changing)
    assert np.array_equal(score(new_scorer(), folder), expected, equal_nan=True)


def test_parameters_lie_in_the_mapped_file(tmp_path: Path) -> None:
    """What the checks above are for; were it otherwise they would do no harm."""
    folder = write_model(tmp_path / "m", "llama")
    model = loading.load_model(
        folder, loading.load_config(folder), "float32", "none", torch.device("cpu"), False
    ).model
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    overwrite(folder)
    assert not torch.equal(before, model.model.layers[0].mlp.up_proj.weight)
