"""Quantised variants on the CPU: near the original but not equal to it, or a message that says what to do."""

import numpy as np
import pytest
from tiny_models import TEXTS, write_model

from kltui.errors import KltuiError
from kltui.scoring import quantize
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


def test_widths_that_4_bit_cannot_pack_say_so(tmp_path):
    pytest.importorskip("bitsandbytes", reason="the extra 'quant' is not installed")
    folder = write_model(tmp_path / "m", "gpt2")
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
    with pytest.raises(KltuiError, match="no int4 products on a CPU"):
        score(folder, "torchao-int4")
