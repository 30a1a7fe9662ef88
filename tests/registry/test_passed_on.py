"""What a folder may say of other files, code and repositories, and what of it reaches transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_folders import make_model, make_sharded

from kltui.errors import KltuiError
from kltui.registry.layout import weight_names
from kltui.registry.passed_on import check_folder, model_config, staged, staged_tokenizer

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "hidden_act": "gelu_pytorch_tanh", "rope_parameters": {"rope_type": "llama3", "factor": 8.0}, "pad_token_id": None,
    "layer_types": ["full_attention", "sliding_attention"], "transformers_version": "4.57.0.dev0", "torch_dtype": "float16",
    "hybrid_override_pattern": "M-M*-M|E", "id2label": {"0": "LABEL_0"}, "per_layer_config": {"1": {"head_dim": 8}},
}  # fmt: skip


def with_config(folder: Path, **more: object) -> Path:
    make_model(folder)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **more}))
    return folder


def test_plain_settings_pass_as_they_are(tmp_path: Path) -> None:
    assert model_config(with_config(tmp_path / "m")) == LLAMA


@pytest.mark.parametrize(
    ("stated", "passed"),
    [
        ("bf16", "bfloat16"), ("BF16", "bfloat16"), ("torch.bfloat16", "bfloat16"), ("fp16", "float16"),
        ("half", "float16"), ("fp32", "float32"), ("float32", "float32"), ("float8_e4m3fn", None), ("auto", None),
        (16, None), (None, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_spellings_of_a_dtype_are_torch_s_and_what_is_no_dtype_is_left_out(
    tmp_path: Path, key: str, stated: object, passed: str | None
) -> None:
    plain = {k: v for k, v in LLAMA.items() if k != "torch_dtype"}
    folder = with_config(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({**plain, key: stated, "text_config": {key: stated}}))
    inner = {key: passed} if passed or stated is None else {}
    assert model_config(folder) == {**plain, **inner, "text_config": inner}


@pytest.mark.parametrize(
    "more",
    [
        {"auto_map": {"AutoConfig": "code.Config"}},
        {"_name_or_path": "someone/else", "name_or_path": "/elsewhere"},
        {"attn_implementation": "someone/kernel@v1:module"},
        {"_attn_implementation_internal": "someone/kernel", "_attn_implementation": "flash_attention_2"},
        {"experts_implementation": "someone/kernel"},
        {
            "fusion_config": {"patch_embeddings": True},
            "kernel_config": {"RMSNorm": "a/b:c"},
            "use_kernels": True,
        },
        {"custom_pipelines": {"p": {"impl": "code.P"}}},
        {"base_model_name_or_path": "someone/else", "subfolder": "other", "revision": "refs/pr/1"},
        {"attribute_map": {"hidden": "hidden_size"}, "hidden": "other.safetensors"},
        {"get_text_config": 3, "to_dict": {}, "from_pretrained": "x"},
        {"weights_file_of_a_later_release": "other.safetensors", "module": "a.b:C", "url": "https://x/y"},
        {"use_timm_backbone": True, "use_pretrained_backbone": True, "distributed_config": {"tp_size": 2}},
    ],
)
def test_what_names_something_else_is_left_out(tmp_path: Path, more: dict[str, object]) -> None:
    assert model_config(with_config(tmp_path / "m", **more)) == LLAMA
    inside = model_config(with_config(tmp_path / "n", text_config={"hidden_size": 3, **more}))
    assert inside["text_config"] == {"hidden_size": 3}


@pytest.mark.parametrize("key", ["transformers_weights", "configuration_files", "gguf_file", "backbone"])
def test_what_would_be_read_instead_is_refused(tmp_path: Path, key: str) -> None:
    for number, more in enumerate(({key: "other.safetensors"}, {"text_config": {key: ["../other.bin"]}})):
        folder = with_config(tmp_path / str(number), **more)
        with pytest.raises(KltuiError, match=f"names .*{key} = ") as caught:
            check_folder(folder)
        assert f"Remove {key}" in caught.value.hint
    check_folder(with_config(tmp_path / "none", **{key: None}))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 1, "hidden_size": 2}')
    with pytest.raises(KltuiError, match="'hidden_size' appears twice"):
        check_folder(folder)
    folder = make_sharded(tmp_path / "s", {"a.safetensors": b"1", "b.safetensors": b"2"})
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}'
    )
    with pytest.raises(KltuiError, match="weight index"):
        weight_names(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_whole_weights_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_model(tmp_path / "m")
    check_folder(folder)
    (folder / name).write_text("{}")
    with pytest.raises(KltuiError, match=rf"an adapter \({name}\) and full weights") as caught:
        check_folder(folder)
    assert "take the adapter's files away" in caught.value.hint and "merge" in caught.value.hint


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "weights.pt", "model.safetensors.bin", "config.json"])
def test_an_index_of_safetensors_names_no_pickle(tmp_path: Path, shard: str) -> None:
    folder = make_sharded(tmp_path / "s", {"a.safetensors": b"1", shard: b"2"})
    with pytest.raises(KltuiError, match=r"not a \.safetensors file"):
        weight_names(folder)


def test_transformers_sees_the_hashed_files_and_no_others(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "m", auto_map={"AutoConfig": "code.C"})
    for name in (
        "code.py",
        "pytorch_model.bin",
        "head.safetensors",
        "shard-00000-model-00001-of-00002.safetensors",
    ):
        (folder / name).write_bytes(b"x")
    (folder / "sub").mkdir()
    with staged(folder) as made:
        assert sorted(p.name for p in made.iterdir()) == ["config.json", "model.safetensors"]
        assert json.loads((made / "config.json").read_text()) == LLAMA
        assert (made / "model.safetensors").read_bytes() == b"weights"
    assert not made.exists() and (folder / "model.safetensors").exists()
    with staged(folder, scratch=tmp_path) as kept:
        pass
    assert kept.parent == tmp_path and (kept / "model.safetensors").exists()


def test_a_tokenizer_is_read_from_its_own_files(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "m", auto_map={"AutoTokenizer": ["code.T", None]})
    said = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_bos_token": True, "model_max_length": 10**30,
        "chat_template": "{{ a.b }}/", "added_tokens_decoder": {"0": {"content": "</s>", "special": True}},
    }  # fmt: skip
    elsewhere = {
        "auto_map": {"AutoTokenizer": ["code.T", None]}, "tokenizer_file": "/etc/passwd", "vocab_file": "../x", "merges_file": "y",
        "fast_tokenizer_files": ["tokenizer.5.0.0.json"], "init_inputs": ["/etc/passwd"], "name_or_path": "someone/else",
        "special_tokens_map_file": "/x", "tokenizer_object": "x", "slow_tokenizer_class": "x", "_commit_hash": "1", "gguf_file": "x",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, **elsewhere}))
    (folder / "code.py").write_text("")
    with staged_tokenizer(folder) as made:
        assert sorted(p.name for p in made.iterdir()) == [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        assert json.loads((made / "tokenizer_config.json").read_text()) == said
    assert not made.exists()
