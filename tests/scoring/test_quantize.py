"""Quantised variants on the CPU: near the original but not equal to it, or a message that says what to do."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS, write_model

from kltui.errors import KltuiError
from kltui.scoring import loading, quantize
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings


def score(folder, quantization, **settings):
    return Scorer(TEXTS, "c", ScoringSettings(**settings)).score(folder, quantization, "w", lambda _: None)


@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-fp4", "bnb-nf4"])
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_bitsandbytes_on_the_cpu(tmp_path, family, quantization):
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    folder = write_model(tmp_path / "m", family, hidden_size=64, intermediate_size=128)
    exact, near = score(folder, "none"), score(folder, quantization, layers="all")
    error = np.abs(exact.vectors[0].loglik_N - near.vectors[0].loglik_N) / exact.vectors[0].n_scored_N.clip(1)
    assert 1e-4 < np.nanmax(error) < (0.1 if quantization == "bnb-8bit" else 1.5)
    assert near.key["quantization"] == quantization and near.key["bitsandbytes"]
    assert np.array_equal(near.vectors[0].loglik_N, near.vectors[-1].loglik_N, equal_nan=True)


def test_a_family_that_a_variant_breaks_says_so(tmp_path):
    """Mamba multiplies by its weights past its linear layers, where packed ones have another shape."""
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    folder = write_model(tmp_path / "m", "mamba")
    with pytest.raises(KltuiError, match="fails on a small batch") as caught:
        score(folder, "bnb-nf4")
    assert "without quantization" in caught.value.hint


def test_missing_libraries_name_the_command(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", "gpt_neox")
    monkeypatch.setattr(quantize, "find_spec", lambda _: None)
    for name, said in (("bnb-8bit", "bitsandbytes and accelerate"), ("torchao-int8", "torchao")):
        with pytest.raises(KltuiError, match=said) as caught:
            score(folder, name)
        assert "pip install" in caught.value.hint


@pytest.mark.parametrize(
    ("stated", "quantization", "said"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            "none",
            "quantised by gptq, which needs .*not installed here",
        ),
        ({"quant_method": "hqq_of_mine"}, "none", "which this version of transformers does not support"),
        ({"quant_method": "awq", "bits": 4}, "bnb-8bit", r"stored quantised already \(awq 4-bit\)"),
    ],
)
def test_files_that_are_quantised_themselves_are_scored_so_or_not_at_all(
    tmp_path, stated, quantization, said
):
    folder = write_model(tmp_path / "m", "llama")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": stated}))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.up_proj.qweight"] = torch.zeros(4, 48, dtype=torch.int32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = loading.load_config(folder)
    with pytest.raises(KltuiError, match=said):
        loading.load_model(folder, config, "float32", quantization, torch.device("cpu"), False)
    assert quantize.stored(config).startswith(stated["quant_method"])


@pytest.mark.parametrize("quantization", ["none", "bnb-nf4"])
def test_the_key_of_plain_weights_says_how_they_were_scored(tmp_path, quantization):
    """Also where config.json has a `quantization_config`, as merged adapters have that of their base."""
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    folder = write_model(tmp_path / "m", "llama", hidden_size=64, intermediate_size=128)
    plain, path = score(folder, quantization), folder / "config.json"
    stated = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": stated}))
    found = score(folder, quantization)
    assert found.key == plain.key and found.key["quantization"] == quantization
    assert np.array_equal(found.vectors[0].loglik_N, plain.vectors[0].loglik_N, equal_nan=True)


def test_unknown_names_list_the_known_ones(tmp_path):
    folder = write_model(tmp_path / "m", "gpt_neox")
    with pytest.raises(KltuiError, match="unknown quantization 'int3'") as caught:
        score(folder, "int3")
    assert "bnb-nf4" in caught.value.hint


def test_torchao_int8_on_the_cpu(tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed")
    folder = write_model(tmp_path / "m", "llama", hidden_size=64, intermediate_size=128)
    exact, near = score(folder, "none"), score(folder, "torchao-int8", layers="all")
    error = np.abs(exact.vectors[0].loglik_N - near.vectors[0].loglik_N)
    assert 1e-4 < np.nanmax(error) < 2.0 and near.key["torchao"]


def test_torchao_int4_says_that_a_cpu_has_none(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", "gpt_neox")
    monkeypatch.setattr(quantize, "find_spec", lambda _: object())
    with pytest.raises(KltuiError, match="torchao does not support int4 on a CPU"):
        score(folder, "torchao-int4")


def test_a_variant_that_quantises_nothing_is_refused(tmp_path):
    """GPT-2's layers are no linear ones to torchao: its vector would be the original's under another name."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    folder = write_model(tmp_path / "m", "gpt2")
    with pytest.raises(KltuiError, match="changes no weight"):
        score(folder, "torchao-int8")


@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-nf4", "torchao-int8"])
def test_experts_that_stay_as_they_are_are_told(tmp_path, quantization):
    pytest.importorskip("torchao" if "torchao" in quantization else "bitsandbytes", reason="not installed")
    wide = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes packs 64 weights of a row together
    mixed = score(write_model(tmp_path / "a", "mixtral", **wide), quantization)
    assert any("of its layers' weights are" in note for note in mixed.notes)
    whole = score(write_model(tmp_path / "b", "llama", **wide), quantization)
    assert not any("of its layers' weights are" in note for note in whole.notes)


def test_the_share_of_quantised_weights_is_counted():
    from tiny_models import build_model

    model = build_model("llama", num_hidden_layers=1)
    assert quantize.quantized_share(model) == 0.0

    class Quantised(type(model.lm_head.weight)):
        """A parameter as a quantising library makes it."""

    Quantised.__module__ = "torchao.made_up"
    layer = model.model.layers[0]
    layer.mlp.up_proj.weight = Quantised(layer.mlp.up_proj.weight.data, requires_grad=False)
    total = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
    assert quantize.quantized_share(model) == pytest.approx(layer.mlp.up_proj.weight.numel() / total)
    with pytest.raises(KltuiError, match="changes no weight"):
        quantize.note("torchao-int8", build_model("llama"))
    assert quantize.note("none", model) == ()
    assert "torchao-int8" in quantize.note("torchao-int8", model)[0]
