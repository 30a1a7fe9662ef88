"""A loaded model is the one in its files: what it would leave out, or read as something else, is refused and named."""

import json
import re

import pytest
import torch
import transformers
from folder_changes import change_config, change_tensors
from safetensors.torch import load_file
from tiny_models import VOCAB, WIDTH, build_tokenizer, write_model

from kltui.errors import KltuiError
from kltui.scoring import loading, quantize

N_LAYERS = 3  # of the tiny llama


def load(folder):
    config = loading.load_config(folder)
    return loading.load_model(folder, config, "float32", "none", torch.device("cpu"), False)


def projections(tensors):
    return [name for name in tensors if name.endswith("_proj.weight")]


def as_int8(tensors):
    """As bitsandbytes stores them: codes, and the scale of each row beside them."""
    for name in projections(tensors):
        scale = tensors[name].abs().amax(1)
        tensors[name] = (tensors[name] / scale[:, None] * 127).round().to(torch.int8)
        tensors[name.replace("weight", "SCB")] = scale


def as_float8(tensors):
    for name in projections(tensors):
        tensors[name] = (tensors[name] / 0.01).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.full((1, 1), 0.01)


def as_gptq(tensors):
    for name in projections(tensors):
        del tensors[name]
        tensors[name.replace("weight", "qweight")] = torch.zeros(4, 8, dtype=torch.int32)
        tensors[name.replace("weight", "scales")] = torch.ones(1, 8)


def as_mxfp4(tensors):
    for name in projections(tensors):
        del tensors[name]
        tensors[name.replace(".weight", "_blocks")] = torch.zeros(4, 8, dtype=torch.uint8)
        tensors[name.replace(".weight", "_scales")] = torch.zeros(4, dtype=torch.uint8)


def one_of_codes(tensors):
    name = projections(tensors)[0]
    tensors[name] = (tensors[name] * 10).to(torch.int8)


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "m", "llama")


@pytest.mark.parametrize("store", [as_int8, as_float8, as_gptq, as_mxfp4, one_of_codes])
def test_quantised_weights_whose_config_does_not_say_so_are_refused(folder, store):
    """transformers reads the codes as values, and lists the scales among the unused tensors."""
    change_tensors(folder, store)
    with pytest.raises(KltuiError, match=r"quantised.*no quantization_config"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz], ids=str)
def test_float8_without_scales_is_used_as_it_is(folder, dtype):
    change_tensors(folder, lambda t: t.update({n: t[n].to(dtype) for n in projections(t)}))
    loaded = load(folder)
    assert "float8 without scales" in loaded.notes[0]
    stored = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(loaded.model.model.layers[0].mlp.up_proj.weight, stored.float())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.bias", (WIDTH,)),  # Qwen2's, called a llama
        ("model.layers.0.self_attn.q_norm.weight", (8,)),  # Qwen3's
        ("model.layers.1.self_attn.q_proj.lora_A.weight", (4, WIDTH)),
        ("model.layers.3.mlp.up_proj.weight", (48, WIDTH)),
        ("layers.2.post_feedforward_layernorm.weight", (WIDTH,)),
        ("model.norm.bias", (WIDTH,)),
        ("lm_head.bias", (VOCAB,)),
    ],
)
def test_parameters_of_its_layers_that_a_model_would_leave_out_are_an_error(folder, name, shape):
    change_tensors(folder, lambda t: t.update({name: torch.ones(shape)}))
    with pytest.raises(KltuiError, match=rf"1 tensors.*not used by transformers' llama.*first {name}"):
        load(folder)


def test_fewer_layers_than_in_the_files_are_an_error(folder):
    change_config(folder, num_hidden_layers=N_LAYERS - 1)
    with pytest.raises(KltuiError, match=r"not used .*first model\.layers\.2"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,)),
        ("model.layers.0.self_attn.bias", (1, 1, 8, 8)),
        ("model.layers.0.self_attn._extra_state", (3,)),
        ("model.layers.0.self_attn.k_scale", ()),
        ("v_head.summary.weight", (1, WIDTH)),
        ("mtp.layers.0.mlp.up_proj.weight", (48, WIDTH)),
        ("audio_encoder.layers.0.self_attn_layer_scale.scale", (WIDTH,)),
        ("mtp.layers.0.mlp.up_proj.weight_scale_inv", (1, 1)),
        ("model.vision_tower.layers.0.fc.weight", (4, 4)),
        ("model.image_newline", (WIDTH,)),
    ],
)
def test_tables_and_other_parts_may_be_left_out(folder, name, shape):
    change_tensors(folder, lambda t: t.update({name: torch.ones(shape)}))
    notes = load(folder).notes
    assert notes == () or notes == (f"1 tensor in the files is not used by the model, first {name}",)


def test_biases_that_are_zero_may_be_left_out(folder):
    """As conversions write them for layers that have none."""
    name = "model.layers.0.self_attn.q_proj.bias"
    change_tensors(folder, lambda t: t.update({name: torch.zeros(WIDTH)}))
    assert load(folder).notes == (f"1 tensor in the files is not used by the model, first {name}",)


def test_layers_that_predict_later_tokens_may_be_left_out(folder):
    change_config(folder, num_nextn_predict_layers=1)
    change_tensors(folder, lambda t: t.update({"model.layers.3.eh_proj.weight": torch.ones(4, 4)}))
    assert "not used" in load(folder).notes[0]
    change_tensors(folder, lambda t: t.update({"model.layers.4.eh_proj.weight": torch.ones(4, 4)}))
    with pytest.raises(KltuiError, match=r"first model\.layers\.4"):
        load(folder)


def test_a_reward_model_is_refused_also_where_its_embeddings_could_serve_as_a_head(tmp_path):
    for family, head in (("llama", "lm_head.weight"), ("llama_tied", None)):
        folder = write_model(tmp_path / family, family)
        change_tensors(
            folder,
            lambda t, head=head: (head and t.pop(head), t.update({"score.weight": torch.ones(1, WIDTH)})),
        )
        change_config(folder, architectures=["LlamaForSequenceClassification"])
        with pytest.raises(KltuiError, match=r"says that .* is a LlamaForSequenceClassification"):
            load(folder)


def test_a_causal_model_with_a_value_head_keeps_its_tied_head(tmp_path):
    folder = write_model(tmp_path / "m", "llama_tied")
    change_tensors(folder, lambda t: t.update({"v_head.summary.weight": torch.ones(1, WIDTH)}))
    change_config(folder, architectures=["LlamaForCausalLMWithValueHead"])
    assert "first v_head.summary.weight" in load(folder).notes[0]


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_an_index_may_name_tensors_that_no_file_has(tmp_path, family, dtype):
    """As of conversions that dropped some: what the model needs is checked by what was loaded."""
    folder = write_model(tmp_path / "m", family)
    plain = load(folder).model.state_dict()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    names = [*load_file(folder / "model-00001-of-00001.safetensors"), "mtp.fc.weight"]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = loading.load_config(folder)
    loaded = loading.load_model(folder, config, dtype, "none", torch.device("cpu"), False)
    assert all(torch.equal(plain[name], tensor) for name, tensor in loaded.model.state_dict().items())


@pytest.mark.parametrize("architecture", ["Bart", "Whisper"])
def test_an_encoder_decoder_model_is_refused_as_one(tmp_path, architecture):
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=VOCAB, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=50,
        pad_token_id=1, decoder_start_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    getattr(transformers, f"{architecture}ForConditionalGeneration")(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(KltuiError, match="has an encoder and a decoder"):
        load(tmp_path)


def test_an_untied_head_that_is_missing_tells_of_the_setting(tmp_path):
    folder = write_model(tmp_path / "m", "llama_tied")
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(KltuiError, match=r"lm_head\.weight.*does not tie") as caught:
        load(folder)
    assert '"tie_word_embeddings": true' in caught.value.hint


@pytest.mark.parametrize("value", ["fp8", {}, {"bits": 4}, 7, ["fp8"]])
def test_a_quantization_config_that_is_none_is_named(folder, value):
    change_config(folder, quantization_config=value)
    with pytest.raises(KltuiError, match="quantization_config"):
        load(folder)


OF_BASES = {
    "fp8": {"activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes 8-bit": {"load_in_8bit": True},
    "mxfp4": {},
    "gptq": {"bits": 4, "group_size": 128},
    "awq": {"bits": 4, "group_size": 128, "version": "gemm"},
    "auto-round": {"bits": 4},
    "compressed-tensors": {
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8}}},
        "quantization_status": "compressed",
        "format": "int-quantized",
    },
}


@pytest.mark.parametrize("name", OF_BASES)
def test_a_quantization_config_beside_plain_weights_is_noted_and_has_no_effect(folder, name):
    """As a tool leaves it that has written the values back, or has merged an adapter into them."""
    plain, ids = load(folder).model, torch.arange(12)[None]
    change_config(folder, quantization_config={"quant_method": name.split()[0], **OF_BASES[name]})
    loaded = load(folder)
    assert re.search(
        rf"says that the weights are stored quantised \({name.split()[0]}.*, but the files hold none",
        loaded.notes[0],
    )
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain(ids).logits)


@pytest.mark.parametrize(
    "config",
    [
        {"config_groups": {"a": {"input_activations": {"num_bits": 8}}}, "quantization_status": "compressed"},
        {"config_groups": {"a": {"weights": {"num_bits": 8}}}, "quantization_status": "frozen"},
        {},
    ],
)
def test_plain_weights_that_are_quantised_in_each_pass_are_not_taken_as_they_are(folder, config):
    change_config(folder, quantization_config={"quant_method": "compressed-tensors", **config})
    config = loading.load_config(folder)
    assert quantize.as_stored(folder, config, "none")[0] is config


def test_beside_plain_weights_it_does_not_hide_that_layers_are_left_out(folder):
    change_config(folder, quantization_config={"quant_method": "fp8"}, num_hidden_layers=2)
    with pytest.raises(KltuiError, match=r"not used .*first model\.layers\.2"):
        load(folder)


def test_a_body_with_tied_embeddings_is_said_to_have_no_head_of_its_own(tmp_path):
    """As in models of embeddings of texts, whose files say LlamaModel and have no prefix."""
    folder = write_model(tmp_path / "m", "llama_tied")
    change_config(folder, architectures=["LlamaModel"])
    change_tensors(folder, lambda t: [t.__setitem__(n.removeprefix("model."), t.pop(n)) for n in list(t)])
    (note,) = load(folder).notes
    assert note.startswith(
        "config.json says that the model is a LlamaModel, without an output head for tokens"
    )
    for stated in (["LlamaForCausalLM"], ["GPT2LMHeadModel"], []):
        change_config(folder, architectures=stated)
        assert load(folder).notes == ()
