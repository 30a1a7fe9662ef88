"""Every family of transformers that also reads images or sound is scored right on text alone, or refused with the reason."""

import numpy as np
import pytest
import torch
from shrunken_models import CHANGES, VARIED, load_whole_float64, whole_loader, write_shrunken
from tiny_models import TEXTS, true_loglik

from kltui.errors import KltuiError
from kltui.scoring import families, loading
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

CORPUS = [*TEXTS, " ".join(TEXTS[:3]), "ab" * 40, "yz " * 9]
EVERY = [name if name in VARIED else pytest.param(name, marks=pytest.mark.full) for name in CHANGES]


def written(tmp_path, name):
    try:
        return write_shrunken(tmp_path / name, name, seed=7)
    except KeyError:
        pytest.skip(f"this transformers has no {name}")


def true_logliks(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    model = load_whole_float64(folder)
    with torch.no_grad():
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in CORPUS]
        return np.array([true_loglik(model, row, 1) for row in ids])


@pytest.mark.parametrize("name", EVERY)
def test_values_are_those_of_the_whole_model_on_ids_alone(name, tmp_path):
    folder = written(tmp_path, name)
    truth = true_logliks(folder)
    scorer = Scorer(CORPUS, "c", ScoringSettings(device="cpu", batch_texts=8))
    result = scorer.score(folder, "none", "w", lambda _: None)
    ours = result.vectors[0].loglik_N
    assert np.array_equal(np.isnan(ours), np.isnan(truth))
    assert np.nanmax(np.abs(ours - truth)) < 2e-4
    alone = name in (
        "llama4",
        "qwen3_5",
        "qwen3_5_moe",
    )  # read as the language model that transformers knows by itself
    assert alone != any("scored on text alone" in note for note in result.notes)


def test_a_note_names_what_is_not_used(tmp_path):
    config = loading.load_config(written(tmp_path, "voxtral"))
    assert families.notes_of(config) == ("scored on text alone; its audio encoder is not used",)


def test_an_encoder_that_the_model_asks_for_its_device_stays(tmp_path):
    folder = written(tmp_path, "qwen2_audio")
    config = loading.load_config(folder)
    loaded = loading.load_model(folder, config, "float32", "none", torch.device("cpu"), False)
    assert loaded.left_out == ()


def test_a_model_that_needs_sound_is_refused(tmp_path):
    folder = written(tmp_path, "voxtral_realtime")
    scorer = Scorer(CORPUS, "c", ScoringSettings(device="cpu"))
    with pytest.raises(KltuiError, match="input_features") as caught:
        scorer.score(folder, "none", "w", lambda _: None)
    assert "it may need an image or sound" in caught.value.hint


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_a_model_that_only_generates_is_refused(name):
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[name]()
    except KeyError:
        pytest.skip(f"this transformers has no {name}")
    with pytest.raises(KltuiError, match=f"{name} .*forward"):
        families.family_of(config)
    assert whole_loader(config) is not None
