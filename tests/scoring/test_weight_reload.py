"""Checkpoints of one run share a model: it is refilled where that is safe, and only there."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, TEXTS, VARIED, VOCAB, true_logliks, write_model, write_run

from kltui.errors import KltuiError
from kltui.scoring import loading, weight_reload
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings


def score(scorer, folder):
    return scorer.score(folder, "none", "w", lambda _: None).vectors[0].loglik_N


@pytest.fixture
def loads(monkeypatch):
    """Counts how often a model is built anew."""
    counted, real = [], loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *a: (counted.append(a[0]), real(*a))[1])
    return counted


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama_tied", "opt", "mamba", "gemma3"])
def test_a_run_is_built_once_and_scores_the_same(tmp_path, loads, family):
    folders = write_run(tmp_path, family, steps=(0, 1, 2))
    alone = [score(Scorer(TEXTS, "c", ScoringSettings()), folder) for folder in folders]
    loads.clear()
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    assert np.array_equal([score(scorer, folder) for folder in folders], alone, equal_nan=True)
    assert len(loads) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layers", ["none", "all"])
def test_an_engine_is_made_once_for_a_run_and_gives_the_same_bits(tmp_path, monkeypatch, dtype, layers):
    from kltui.scoring import scorer as scoring

    folders = write_run(tmp_path, "llama", steps=(0, 1, 2))
    settings = ScoringSettings(dtype=dtype, layers=layers)
    alone = [Scorer(TEXTS, "c", settings).score(f, "none", "w", lambda _: None) for f in folders]
    made, real = [], scoring.Engine
    monkeypatch.setattr(scoring, "Engine", lambda *a: made.append(1) or real(*a))
    scorer = Scorer(TEXTS, "c", settings)
    together = [scorer.score(f, "none", "w", lambda _: None) for f in folders]
    for a, b in zip(alone, together, strict=True):
        assert a.key == b.key and a.notes == b.notes
        for one, other in zip(a.vectors, b.vectors, strict=True):
            assert np.array_equal(one.loglik_N, other.loglik_N, equal_nan=True)
    assert len(made) == 1


def test_weights_with_which_the_kept_engine_is_wrong_get_a_new_one(tmp_path, monkeypatch):
    """A kept engine is tested on every checkpoint: one whose packed layers go wrong is not used."""
    from kltui.scoring import prepacked_linear

    monkeypatch.setattr(prepacked_linear, "pays", lambda dtype: True)
    a, b, c = write_run(tmp_path, "llama", steps=(0, 1, 2))
    expected = [score(Scorer(TEXTS, "c", ScoringSettings()), folder) for folder in (b, c)]
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    score(scorer, a)
    first, real = scorer._engine, prepacked_linear._packed_forward
    assert first is not None and first._packing is not None
    with monkeypatch.context() as wrong:
        wrong.setattr(prepacked_linear, "_packed_forward", lambda *args: lambda x: real(*args)(x) * 1.01)
        assert np.nanmax(np.abs(score(scorer, b) - expected[0])) < 1e-4
        assert scorer._engine is not first and scorer._engine._packing is None
    assert np.array_equal(score(scorer, c), expected[1], equal_nan=True), "what failed once is tried anew"
    assert scorer._engine._packing is not None


def test_damaged_weights_fail_in_a_kept_engine_as_in_a_new_one(tmp_path):
    a, b, c = write_run(tmp_path, "gpt_neox", steps=(0, 1, 2))
    tensors = load_file(b / "model.safetensors")
    tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"][:] = float("nan")
    save_file(tensors, b / "model.safetensors", metadata={"format": "pt"})
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    score(scorer, a)
    with pytest.raises(KltuiError, match="NaN"):
        score(scorer, b)
    assert np.array_equal(score(scorer, c), score(Scorer(TEXTS, "c", ScoringSettings()), c), equal_nan=True)


def test_files_that_are_not_the_models_weights_are_never_copied_in(tmp_path):
    """An averaged copy beside the weights, equal at the first step, must not take their place at the second."""
    import shutil

    a, b = write_run(tmp_path, "gpt_neox", steps=(0, 1))
    expected = score(Scorer(TEXTS, "c", ScoringSettings()), b)
    shutil.copy(a / "model.safetensors", a / "model_ema.safetensors")
    shutil.copy(a / "model.safetensors", b / "model_ema.safetensors")
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    score(scorer, a)
    assert np.array_equal(score(scorer, b), expected, equal_nan=True)


@pytest.mark.parametrize("families", [VARIED, pytest.param(tuple(FAMILIES), marks=pytest.mark.full)], ids=len)
def test_every_family_scores_the_same_refilled_or_not(tmp_path, loads, families):
    for family in families:
        first = write_model(tmp_path / family / "a", family, seed=1)
        second = write_model(tmp_path / family / "b", family, seed=2)
        scorer = Scorer(TEXTS[:3], "c", ScoringSettings())
        score(scorer, first)
        assert np.array_equal(score(scorer, second), score(Scorer(TEXTS[:3], "c", ScoringSettings()), second))


def test_another_configuration_is_built_anew(tmp_path, loads):
    a, b = write_run(tmp_path, "gpt_neox", steps=(0, 1))
    path = b / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 1e-3}))
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    score(scorer, a)
    expected = score(Scorer(TEXTS, "c", ScoringSettings()), b)
    assert np.array_equal(score(scorer, b), expected, equal_nan=True) and len(loads) == 3


def test_a_checkpoint_that_lacks_a_tensor_fails_and_the_next_one_scores(tmp_path):
    a, b, c = write_run(tmp_path, "gpt_neox", steps=(0, 1, 2))
    tensors = load_file(b / "model.safetensors")
    del tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"]
    save_file(tensors, b / "model.safetensors", metadata={"format": "pt"})
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    score(scorer, a)
    with pytest.raises(KltuiError, match="lack 1 of the model's tensors"):
        score(scorer, b)
    assert np.array_equal(score(scorer, c), score(Scorer(TEXTS, "c", ScoringSettings()), c), equal_nan=True)


def test_a_damaged_file_never_leaves_the_last_weights_in_place(tmp_path):
    a, b = write_run(tmp_path, "gpt_neox", steps=(0, 1))
    path = b / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    score(scorer, a)
    with pytest.raises(KltuiError, match="damaged"):
        score(scorer, b)


def test_rearranged_weights_make_no_mould(tmp_path):
    folder = write_model(tmp_path / "m", "gpt_neox")
    loaded = loading.load_model(
        folder, loading.load_config(folder), "float32", "none", loading.pick_device("cpu"), False
    )
    assert weight_reload.make_template(loaded, folder, "") is not None
    weight = loaded.model.gpt_neox.layers[1].attention.dense.weight
    weight.data = weight.data.flip(0)
    assert weight_reload.make_template(loaded, folder, "") is None


def test_a_run_is_tokenised_once_and_another_tokenizer_anew(tmp_path, monkeypatch):
    from kltui.scoring import tokens

    made, real = [], tokens.load_tokenizer
    monkeypatch.setattr(tokens, "load_tokenizer", lambda *a: (made.append(a[0]), real(*a))[1])
    a, b = write_run(tmp_path / "run", "llama", steps=(0, 1))
    other = write_model(tmp_path / "other", "llama", prepend_bos=True)
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    for folder in (a, b, other):
        score(scorer, folder)
    assert made == [a, other]
    assert np.array_equal(
        score(scorer, other), score(Scorer(TEXTS, "c", ScoringSettings()), other), equal_nan=True
    )


def test_a_model_that_rewrites_its_weights_as_it_runs_is_never_refilled(tmp_path, monkeypatch, loads):
    """RWKV divides weights of its upper layers by two in its first forward pass, and remembers that it has."""
    arguments = {"vocab_size": VOCAB, "hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 48}
    monkeypatch.setitem(
        FAMILIES, "rwkv", ("RwkvConfig", arguments | {"num_hidden_layers": 4, "rescale_every": 2})
    )
    folders = [write_model(tmp_path / f"step{seed}", "rwkv", seed=seed) for seed in (1, 2)]
    scorer = Scorer(TEXTS, "c", ScoringSettings())
    for folder in folders:
        np.testing.assert_allclose(
            score(scorer, folder), true_logliks(folder, TEXTS, layers=False)[0], atol=1e-4
        )
    assert len(loads) == 2
