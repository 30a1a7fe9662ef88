"""Models of images and text, scored on text alone: against float64 loops over transformers' own whole model."""

import json

import numpy as np
import pytest
import torch
from folder_changes import change_tensors
from image_text_models import (
    FAMILIES,
    VARIED,
    build_config,
    build_model,
    load_float64,
    true_logliks,
    write_model,
)
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS
from tiny_models import write_model as write_text_model

from kltui.errors import KltuiError
from kltui.scoring import families, loading, prepacked_linear
from kltui.scoring.engine import Engine
from kltui.scoring.in_memory import score_in_memory
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

CPU = torch.device("cpu")
TOLERANCE_NATS = 1e-4
SAID = "scored on text alone; its image encoder is not used"
# Lengths in no order, some beyond the sliding windows of 12.
CORPUS = [*TEXTS, " ".join(TEXTS[:3]), "ab" * 40, "yz " * 9]
EVERY = [name if name in VARIED else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES]


def load(folder, dtype="float32"):
    return loading.load_model(folder, loading.load_config(folder), dtype, "none", CPU, False)


def score(folder, texts=CORPUS, **settings):
    return Scorer(texts, "c", ScoringSettings(device="cpu", **settings)).score(
        folder, "none", "w", lambda _: None
    )


@pytest.mark.parametrize("name", EVERY)
def test_values_and_layers_are_those_of_the_whole_model(name, tmp_path, monkeypatch):
    """In batches, in another order and alone; no family by a fallback."""
    monkeypatch.setattr(prepacked_linear, "pays", lambda dtype: True)
    folder = write_model(tmp_path, name, seed=7)
    truth = np.array(true_logliks(folder, CORPUS))
    result = score(folder, layers="all", batch_texts=8)
    ours = np.array([v.loglik_N for v in result.vectors])
    assert [v.layer for v in result.vectors] == [None, 0, 1, 2, 3] and not result.no_layers
    assert (
        np.array_equal(np.isnan(ours), np.isnan(truth)) and np.nanmax(np.abs(ours - truth)) < TOLERANCE_NATS
    )
    assert (np.nanmax(np.abs(truth[1:-1] - truth[0]), axis=1) > 100 * TOLERANCE_NATS).all()
    assert SAID in result.notes and not any("cannot be separated" in note for note in result.notes)
    turned = score(folder, CORPUS[::-1], batch_texts=1).vectors[0].loglik_N[::-1]
    assert np.nanmax(np.abs(turned - truth[0])) < TOLERANCE_NATS


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_three_axes_of_positions_begin_anew_in_every_text_and_window(name, tmp_path):
    """Nothing of one batch goes into the next; texts longer than the context in windows, each as a text of its own."""
    text = {**FAMILIES[name]["text_config"], "max_position_embeddings": 32}
    folder = write_model(tmp_path, name, seed=5, text_config=text)
    assert loading.context_length(loading.load_config(folder)) == 32
    long = ["x" * 50, "short", "the quick " * 30]
    got = score(folder, long, overlong="window", tokens=True, batch_texts=2)
    model, scorer = load_float64(folder), Scorer(long, "c", ScoringSettings(device="cpu", overlong="window"))
    prepared = scorer._prepare(folder, loading.load_config(folder), folder)
    truth = np.zeros(len(long))
    with torch.no_grad():
        for piece in prepared.pieces:
            ids = torch.tensor(np.asarray(prepared.ids[piece.text]))[piece.start : piece.stop]
            logp = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
            logp_T = logp[:-1].gather(1, ids[1:, None])[:, 0]
            truth[piece.text] += float(logp_T[len(logp_T) - piece.n_scored :].sum())
    assert len(prepared.pieces) > len(long)
    assert np.abs(got.vectors[0].loglik_N - truth).max() < TOLERANCE_NATS


def test_the_language_model_alone_gives_the_same(tmp_path):
    """The same decoder as a folder of its own family."""
    folder = write_model(tmp_path / "both", "llava", seed=2)
    alone = write_text_model(tmp_path / "alone", "llama", head_dim=8)
    part = "language_model."
    own = {
        n.removeprefix(part): t
        for n, t in load_file(folder / "model.safetensors").items()
        if n.startswith(part)
    }
    save_file(own, alone / "model.safetensors", metadata={"format": "pt"})
    one, other = (score(path, layers="all", batch_texts=8) for path in (folder, alone))
    for a, b in zip(one.vectors, other.vectors, strict=True):
        assert np.array_equal(a.loglik_N, b.loglik_N, equal_nan=True)
    assert SAID not in other.notes


@pytest.mark.parametrize("name", EVERY)
def test_the_image_encoder_is_left_out_of_memory(name, tmp_path):
    loaded = load(write_model(tmp_path, name))
    assert len(loaded.left_out) == 1 and SAID in loaded.notes
    names = [n for n, _ in loaded.model.named_parameters()]
    assert names and not any(n.startswith(loaded.left_out[0]) for n in names)
    whole = build_model(name)
    assert sum(p.numel() for n, p in whole.named_parameters() if n.startswith(loaded.left_out[0]))


def test_the_encoder_is_left_out_where_transformers_cannot_replace_it(tmp_path, monkeypatch):
    """set_encoder("image") raises a ValueError in transformers 5.0."""
    import transformers

    def failing(*_given, **_named):
        raise ValueError("Unnrecognized modality")

    monkeypatch.setattr(transformers.PreTrainedModel, "set_encoder", failing)
    assert load(write_model(tmp_path, "qwen2_vl")).left_out == ("model.visual",)


def test_the_head_in_the_files_counts_where_the_configuration_is_silent(tmp_path):
    """As in Mistral-Small-3.1, whose config.json says nothing of it: the family's own default would tie it."""
    folder = write_model(tmp_path, "mistral3", tie_word_embeddings=False)
    path = folder / "config.json"
    said = json.loads(path.read_text())
    del said["tie_word_embeddings"]
    path.write_text(json.dumps(said))
    head = load_file(folder / "model.safetensors")["language_model.lm_head.weight"]
    loaded = load(folder)
    assert torch.equal(loaded.model.get_output_embeddings().weight, head)
    assert any("separate output head" in note for note in loaded.notes)


def test_a_head_that_the_text_part_alone_calls_tied_is_not_said_to_be(tmp_path):
    """qwen3_vl_moe's text is tied by default, and the model itself is not."""
    folder = write_model(tmp_path, "qwen3_vl_moe")
    assert load(folder).notes == (SAID,)


def test_a_missing_tensor_of_the_language_model_is_fatal_and_an_unused_layer_too(tmp_path):
    folder = write_model(tmp_path / "a", "llava")
    name = "language_model.model.layers.{}.mlp.up_proj.weight"
    change_tensors(folder, lambda t: t.update({name.format(3): t[name.format(1)].clone()}))
    with pytest.raises(KltuiError, match="belong to layers of the model but are not used"):
        load(folder)
    change_tensors(folder, lambda t: [t.pop(name.format(n)) for n in (1, 3)])
    with pytest.raises(KltuiError, match=r"lack 1 of the model.s tensors.*layers\.1\.mlp\.up_proj") as caught:
        load(folder)
    assert "the folder is incomplete" in caught.value.hint, "and not that it is no causal model"


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("blip-2", "blip-2 reads no text without pixel_values"),
        ("instructblip", "reads no text without pixel_values and qformer_input_ids"),
        *((name, f"{name} has an encoder and a decoder") for name in (
            "florence2", "udop", "pix2struct", "vision-encoder-decoder", "t5gemma2", "diffusion_gemma",
        )),
    ],
)  # fmt: skip
def test_models_without_a_likelihood_of_texts_are_refused(family, said):
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[family]()
    except KeyError:
        pytest.skip(f"this transformers has no {family}")
    with pytest.raises(KltuiError, match=said):
        families.family_of(config)


def test_a_text_attended_both_ways_is_refused(tmp_path):
    """PaliGemma reads its prompt so."""
    from image_text_models import _SIGLIP, _text
    from transformers import CONFIG_MAPPING, PaliGemmaForConditionalGeneration

    config = CONFIG_MAPPING["paligemma"](
        **_text("gemma"), **_SIGLIP, image_token_index=7, projection_dim=32, hidden_size=32
    )
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loaded = loading.Loaded(model, config, "sdpa", torch.float32, ())
    with torch.inference_mode(), pytest.raises(KltuiError, match="depends on later tokens"):
        Engine(loaded, ScoringSettings(), CPU, "none")


def test_a_model_that_needs_an_image_says_so(monkeypatch):
    model = build_model("llava")

    def needing(*_given, **_named):
        raise ValueError("You have to specify pixel_values")

    monkeypatch.setattr(type(model.model), "forward", needing)
    loaded = loading.Loaded(model, model.config, "sdpa", torch.float32, ())
    with torch.inference_mode(), pytest.raises(KltuiError, match="pixel_values") as caught:
        Engine(loaded, ScoringSettings(), CPU, "none")
    assert "it may need an image" in caught.value.hint


def test_checkpoints_of_a_run_one_after_another(tmp_path):
    """With the weights copied into the first one's model where that is possible, and never another's values."""
    scorer = Scorer(CORPUS, "c", ScoringSettings(device="cpu"))
    for seed in (1, 2, 1):
        for name in ("qwen2_5_vl", "smolvlm"):
            folder = tmp_path / f"{name}{seed}"
            if not folder.exists():
                write_model(folder, name, seed=seed)
    for name in ("qwen2_5_vl", "smolvlm"):
        for seed in (1, 2, 1):
            folder = tmp_path / f"{name}{seed}"
            got = scorer.score(folder, "none", "w", lambda _: None).vectors[0].loglik_N
            assert np.array_equal(got, score(folder).vectors[0].loglik_N, equal_nan=True)


def test_a_model_in_memory_keeps_its_encoder(tmp_path):
    folder = write_model(tmp_path, "qwen2_vl", seed=4)
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.model.rope_deltas = torch.full((1, 1), 5)  # what a generation with an image left behind
    result = score_in_memory(model, folder, CORPUS, "c", ScoringSettings(device="cpu"), frozenset())
    truth = np.array(true_logliks(folder, CORPUS))[0]
    assert np.nanmax(np.abs(result.vectors[0].loglik_N - truth)) < TOLERANCE_NATS
    assert SAID in result.notes and model.get_encoder("image") is model.model.visual


def test_adapters_on_the_language_model_and_on_what_no_text_reaches(tmp_path):
    """An adapter trained on every linear layer has factors for the image encoder too."""
    import peft
    from transformers import AutoModelForImageTextToText

    from kltui.registry.adapters import Adapted
    from kltui.registry.reading import Hashed
    from kltui.scoring import adapters

    base = write_model(tmp_path / "base", "llava", seed=3)
    for seed, targets in enumerate((["q_proj", "v_proj"], r".*language_model.*\.up_proj", "all-linear")):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
        made = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets))
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.data = 0.2 * torch.randn_like(parameter)
        folder = tmp_path / f"adapter{seed}"
        made.save_pretrained(folder)
        there = any("vision_tower" in name for name in load_file(folder / "adapter_model.safetensors"))
        assert there == (targets != r".*language_model.*\.up_proj")
        adapter = adapters.read_adapter(Adapted(Hashed(base, "b"), Hashed(folder, "a")), False)
        adapted = adapters.adapt(load(base), adapter, adapter.make("none"), "none").loaded.model
        ids = torch.arange(20)[None] * 17 % 380
        with torch.no_grad():
            want, got = made.eval()(input_ids=ids).logits, adapted(input_ids=ids).logits
            plain = load(base).model(input_ids=ids).logits
        assert torch.allclose(want, got, atol=1e-5) and not torch.allclose(plain, got, atol=1e-2)


def test_configurations_say_context_and_vocabulary_of_the_text():
    config = build_config(
        "llava", text_config={**FAMILIES["llava"]["text_config"], "max_position_embeddings": 77}
    )
    assert loading.context_length(config) == 77 and config.get_text_config().vocab_size == 384
