"""What a folder may be missing, or be instead of a model: each says so, and nothing is scored half."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from folder_changes import change_config, change_tensors
from safetensors.torch import load_file, save_file, save_model
from tiny_models import build_config, build_model, write_model

from kltui.errors import KltuiError
from kltui.scoring import loading

CPU = torch.device("cpu")


def load(folder, quantization="none", dtype="float32", allow_bin=False):
    return loading.load_model(folder, loading.load_config(folder), dtype, quantization, CPU, allow_bin)


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "m", "llama")


def test_a_whole_folder_loads_without_notes(folder):
    loaded = load(folder)
    assert loaded.notes == () and loaded.attention == "sdpa" and loaded.dtype == torch.float32
    assert not loaded.model.training


def test_weights_in_one_file_beside_an_index_of_others_are_noted(folder):
    tensors = load_file(folder / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")}))
    assert load(folder).notes == ()
    other = "model-00001-of-00001.safetensors"
    save_file({n: 2 * t for n, t in tensors.items()}, folder / other, metadata={"format": "pt"})
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, other)}))
    loaded = load(folder)
    assert loaded.notes == (
        "model.safetensors was scored; the folder also contains model.safetensors.index.json, whose files may be other weights",
    )
    assert torch.equal(loaded.model.lm_head.weight, tensors["lm_head.weight"])


def test_a_missing_tensor_is_fatal_and_named(folder):
    change_tensors(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(KltuiError, match=r"lack 1 of the model.s tensors.*layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_a_tied_head_may_be_missing(tmp_path):
    folder = write_model(tmp_path / "m", "llama_tied")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert load(folder).notes == ()


@pytest.mark.parametrize(("family", "head", "embeddings"), [
    ("llama_tied", "lm_head.weight", "model.embed_tokens.weight"),
    ("gemma2", "lm_head.weight", "model.embed_tokens.weight"),
    ("gpt2", "lm_head.weight", "transformer.wte.weight"),
])  # fmt: skip
def test_tied_embeddings_may_be_stored_as_the_head_alone(tmp_path, family, head, embeddings):
    """As safetensors.torch.save_model stores them: of the names of one tensor, the first by alphabet."""
    folder = write_model(tmp_path / "m", family)
    plain, ids = load(folder), torch.arange(12)[None]
    save_model(plain.model, folder / "model.safetensors", metadata={"format": "pt"})
    assert head in (names := load_file(folder / "model.safetensors")) and embeddings not in names
    loaded = load(folder)
    assert loaded.notes == ()
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain.model(ids).logits)


def test_a_wrong_shape_is_fatal(folder):
    change_tensors(folder, lambda t: t.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(KltuiError, match="shape"):
        load(folder)


def test_unused_tensors_are_noted(folder):
    change_tensors(folder, lambda t: t.update({"v_head.weight": torch.ones(1, 32)}))
    (note,) = load(folder).notes
    assert "not used by the model, first v_head.weight" in note


def test_damaged_weights_are_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(KltuiError, match="damaged"):
        load(folder)


def test_pickled_weights_need_permission(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(KltuiError, match="pickled") as caught:
        load(folder)
    assert "allow_bin" in caught.value.hint
    assert load(folder, allow_bin=True).notes == ()


@pytest.mark.parametrize(
    ("name", "said"), [("m.gguf", "GGUF"), ("tf_model.h5", "TensorFlow"), ("x.txt", "no weight")]
)
def test_other_formats_are_named(folder, name, said):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"0")
    with pytest.raises(KltuiError, match=said):
        load(folder)


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "weights.safetensors.index.json", "adapter_model.bin"]
)
def test_weights_under_another_name_are_refused_and_never_opened(folder, name):
    """transformers would load them in place of model.safetensors, a pickle too."""
    torch.save({"x": torch.ones(1)}, folder / name)
    change_config(folder, transformers_weights=name)
    with pytest.raises(KltuiError, match="names another weight file: transformers_weights"):
        load(folder)


def test_files_beside_the_weights_are_not_seen(folder, monkeypatch):
    """Shards of a distributed checkpoint, and an adapter where peft is installed, would go before the weights."""
    whole = load(folder).model.state_dict()
    from transformers.models.auto import auto_factory

    monkeypatch.setattr(auto_factory, "is_peft_available", lambda: True)
    save_file({"x": torch.ones(1)}, folder / "shard-00000-model-00001-of-00001.safetensors")
    change_config(
        folder, attn_implementation="someone/kernel", fusion_config={"x": True}, auto_map={"AutoModel": "a.B"}
    )
    found = load(folder)
    assert all(torch.equal(whole[name], tensor) for name, tensor in found.model.state_dict().items())
    assert found.attention == "sdpa"
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    with pytest.raises(KltuiError, match="and full weights"):
        load(folder)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_the_head_is_the_files_whatever_the_config_says(tmp_path, stated, own):
    """Scoring uses it, and weight distances count it: both as the files have it."""
    from kltui.registry.parameters import model_parameters
    from kltui.registry.tensors import open_tensors

    folder = write_model(tmp_path / "m", "llama")
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(folder, lambda t: t.update({"lm_head.weight": embeddings.clone() + own}))
    change_config(folder, tie_word_embeddings=stated)
    loaded = load(folder)
    assert torch.equal(loaded.model.lm_head.weight, embeddings + own)
    assert len(loaded.notes) == (stated and own)
    counted = model_parameters(open_tensors(folder)).n_elements()
    assert counted == sum(p.numel() for p in loaded.model.parameters()) - (
        embeddings.numel()
        if not own and not stated
        else 0  # two copies of one tensor, which is trained as one
    )


def test_a_head_that_is_lost_is_an_error(folder, monkeypatch):
    """As in releases of transformers that tie by the config alone."""
    change_config(folder, tie_word_embeddings=True)
    real = loading._from_pretrained

    def tying(*given):
        model, info = real(*given)
        model.lm_head.weight = model.model.embed_tokens.weight
        return model, info

    monkeypatch.setattr(loading, "_from_pretrained", tying)
    with pytest.raises(KltuiError, match="a separate output head"):
        load(folder)


def test_errors_name_the_folder_and_not_the_one_made_for_transformers(folder):
    change_config(folder, hidden_act="no_such_function")
    with pytest.raises(KltuiError) as caught:
        load(folder)
    assert str(folder) in caught.value.message and "kltui-" not in caught.value.message


def test_adapters_empty_folders_and_broken_configs(tmp_path):
    with pytest.raises(KltuiError, match=r"no config\.json"):
        loading.load_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(KltuiError, match="adapter"):
        loading.load_config(tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(KltuiError, match="cannot be read"):
        loading.load_config(tmp_path)


def test_code_in_the_folder_is_never_run(folder):
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    change_config(
        folder, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    )
    with pytest.raises(KltuiError, match="custom Python code"):
        loading.load_config(folder)


@pytest.mark.parametrize(("part", "noted"), [("AutoModelForCausalLM", True), ("AutoTokenizer", False)])
def test_code_of_a_model_that_transformers_has_is_noted(folder, part, noted):
    change_config(folder, auto_map={part: "modeling_llama_of_mine.Llama"})
    said = "config.json names custom Python code, which kltui never runs: scored as transformers' own llama"
    assert load(folder).notes == (said,) * noted


def test_models_that_are_not_causal_say_so(folder):
    change_config(folder, model_type="t5")
    with pytest.raises(KltuiError, match="not a causal language model"):
        load(folder)


def test_fp16_on_a_cpu_is_upcast_and_said(folder):
    loaded = load(folder, dtype="float16")
    assert loaded.dtype == torch.float32 and "upcast" in loaded.notes[0]
    assert next(loaded.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "yarn", "factor": 2.0}, 128),
        ({"rope_type": "dynamic", "factor": 4.0}, 64),
        ({"rope_type": "linear", "factor": 4.0}, 64),
        ({"rope_type": "default"}, 64),
    ],
)
def test_context_length_of_scaled_rotary_positions(scaling, context):
    config = build_config("llama", max_position_embeddings=64, rope_scaling={**scaling, "rope_theta": 1e4})
    assert loading.context_length(config) == context


@pytest.mark.parametrize("stated", [0, -1, None, "many"])
def test_a_context_length_that_is_none_is_passed_over(stated):
    """Some configurations say 0 or -1 where there is no limit, and some the true number under another name."""
    config = SimpleNamespace(model_type="llama", max_position_embeddings=stated)
    config.get_text_config = lambda: config
    assert loading.context_length(config) is None
    config.n_positions = 77
    assert loading.context_length(config) == 77


def test_context_length_knows_families_without_one():
    assert loading.context_length(build_model("gpt2").config) == 256
    assert loading.context_length(build_model("opt").config) == 256
    assert loading.context_length(build_model("bloom").config) is None
    assert loading.context_length(build_model("mamba").config) is None


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loading.pick_device("auto") == CPU
    with pytest.raises(KltuiError, match="no CUDA device"):
        loading.pick_device("cuda:1")
    with pytest.raises(KltuiError, match="unknown device"):
        loading.pick_device("toaster")


def test_importing_the_room_imports_neither_torch_nor_transformers():
    code = (
        "import sys, kltui.scoring, kltui.scoring.settings, kltui.bench\n"
        "sys.exit(bool({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_window_of_nothing_is_refused(tmp_path):
    """transformers' eager attention gives NaN for it, and its sdpa numbers that are not those without a window either."""
    from transformers import MistralConfig

    folder = write_model(tmp_path / "m", "mistral")
    change_config(folder, sliding_window=0)
    with pytest.raises(KltuiError, match="sliding_window = 0") as caught:
        loading.load_config(folder)
    assert '"sliding_window": null' in caught.value.hint
    MistralConfig(sliding_window=None).save_pretrained(tmp_path)
    assert loading.load_config(tmp_path).sliding_window is None
    change_config(tmp_path, model_type="qwen2", use_sliding_window=False, sliding_window=0)
    loading.load_config(tmp_path)  # no layer has a window
