"""GGUF files of tiny models, written by the gguf package, and the models that are left after quantisation.

    truth = write_gguf(tmp_path / "m-Q8_0.gguf", folder, "Q8_0", dequantised=tmp_path / "truth")

Which tensors go where, and how llama.cpp lays them out, is written down here anew: nothing of transformers' reader is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array = NDArray[np.float32]

FILE_TYPE = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}
ARCHITECTURES = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2", "gemma2": "gemma2", "gemma3_text": "gemma3",
    "bloom": "bloom", "stablelm": "stablelm", "starcoder2": "starcoder2", "mistral": "llama",
}  # fmt: skip
# Blocks that the package can take apart and not make: random bytes with scales that are numbers.
MADE_BLOCKS: dict[str, tuple[int, ...]] = {  # where in a block its float16 scales lie
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ2_XXS": (0,), "IQ2_XS": (0,),
    "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,),
    "TQ2_0": (64,),
}  # fmt: skip


def write_gguf(
    path: Path,
    folder: Path,
    kind: str = "Q8_0",
    *,
    dequantised: Path | None = None,
    tokenizer: bool = True,
    file_type: int | None = None,
    parts: int = 1,
    keys: Mapping[str, Any] | None = None,
    extra: Mapping[str, Array] | None = None,
) -> Path:
    """The first file written: the model in `folder` with its matrices as `kind`, in `parts` files.

    `dequantised`: a folder that gets the same model as safetensors, each weight as the file has it.
    """
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    arch = ARCHITECTURES[config["model_type"]]
    mapping = gguf.get_tensor_name_map(_arch_enum(arch), _get(config, "num_hidden_layers", "n_layer"))
    named, left = {}, {}
    for name, values in tensors.items():
        there = _gguf_name(mapping, name)
        forward, back = _layout(arch, there, config)
        laid = np.ascontiguousarray(forward(values))
        stored, kept = _quantised(laid, there, kind)
        named[there] = stored
        left[name] = np.ascontiguousarray(back(kept)).astype(np.float32)
    if dequantised is not None:
        shutil.copytree(folder, dequantised)
        save_file(left, dequantised / "model.safetensors", metadata={"format": "pt"})
    for name, values in (extra or {}).items():
        named[name] = (values.astype(np.float32), gguf.GGMLQuantizationType.F32)
    paths = _paths(path, parts)
    per_part = -(-len(named) // parts)
    for no, where in enumerate(paths):
        writer = gguf.GGUFWriter(where, arch)
        if no == 0:
            _add_keys(writer, arch, config, FILE_TYPE.get(kind, 0) if file_type is None else file_type)
            if tokenizer:
                _add_tokenizer(writer, folder)
            for key, value in (keys or {}).items():
                _add(writer, key, value)
        if parts > 1:
            writer.add_uint16("split.no", no)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(named))
        for name, (data, type_) in list(named.items())[no * per_part : (no + 1) * per_part]:
            writer.add_tensor(name, data, raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths[0]


def _paths(path: Path, parts: int) -> list[Path]:
    if parts == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{k:05d}-of-{parts:05d}.gguf") for k in range(1, parts + 1)]


def _arch_enum(arch: str) -> Any:
    return next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)


def _get(config: Mapping[str, Any], *names: str) -> Any:
    return next(config[name] for name in names if config.get(name) is not None)


def _gguf_name(mapping: Any, name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    for candidate in (stem, stem.removeprefix("transformer."), stem.removeprefix("model.")):
        found = mapping.get_name(candidate)
        if found is not None:
            return str(found) + dot + suffix
    raise KeyError(name)


def _layout(
    arch: str, name: str, config: Mapping[str, Any]
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """(from transformers' layout to llama.cpp's, and back) of one tensor."""
    if arch == "llama" and ("attn_q" in name or "attn_k" in name):
        heads = config["num_attention_heads"] if "attn_q" in name else config["num_key_value_heads"]
        return (lambda w: _interleaved(w, heads), lambda w: _halves(w, heads))
    if (
        arch == "gpt2"
        and name.endswith(".weight")
        and any(part in name for part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down"))
    ):
        return (lambda w: w.T, lambda w: w.T)
    if arch == "bloom" and "attn_qkv" in name:
        shape = (config["n_head"], 3, config["hidden_size"] // config["n_head"], -1)
        apart = (3, shape[0], shape[2], -1)
        return (
            lambda w: w.reshape(shape).swapaxes(0, 1).reshape(w.shape),
            lambda w: w.reshape(apart).swapaxes(0, 1).reshape(w.shape),
        )
    if arch in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return (lambda w: w + 1, lambda w: w - 1)
    return (lambda w: w, lambda w: w)


def _interleaved(w: Array, heads: int) -> Array:
    """Rows of each head: first half and second half of the rotary pairs, put in turns."""
    out = np.empty_like(w)
    size = len(w) // heads
    for head in range(heads):
        for k in range(size // 2):
            out[head * size + 2 * k] = w[head * size + k]
            out[head * size + 2 * k + 1] = w[head * size + size // 2 + k]
    return out


def _halves(w: Array, heads: int) -> Array:
    out = np.empty_like(w)
    size = len(w) // heads
    for head in range(heads):
        for k in range(size // 2):
            out[head * size + k] = w[head * size + 2 * k]
            out[head * size + size // 2 + k] = w[head * size + 2 * k + 1]
    return out


def _quantised(values: Array, name: str, kind: str) -> tuple[tuple[NDArray[Any], Any], Array]:
    """((what is stored, its type), the numbers that it stands for)."""
    types = gguf.GGMLQuantizationType
    if values.ndim < 2 or kind == "F32":
        return (values, types.F32), values
    if kind == "F16":
        half = values.astype(np.float16)
        return (half, types.F16), half.astype(np.float32)
    type_ = types[kind]
    block, size = gguf.GGML_QUANT_SIZES[type_]
    if values.shape[-1] % block:
        return (values, types.F32), values
    if kind in MADE_BLOCKS:
        data = _made_blocks(values.shape, kind, block, size, seed=sum(name.encode()))
    else:
        data = gguf.quants.quantize(values, type_)
    return (data, type_), gguf.quants.dequantize(data, type_).reshape(values.shape)


def _made_blocks(shape: tuple[int, ...], kind: str, block: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Random blocks whose numbers spread as a trained matrix's do: their scales are set by what comes of them."""
    rng = np.random.default_rng(seed)
    n = shape[-1] // block
    data = rng.integers(0, 256, (*shape[:-1], n, size), dtype=np.uint8)
    spread = 1.0
    for _ in range(2):
        for at in MADE_BLOCKS[kind]:
            scales = np.full((*shape[:-1], n, 1), 1e-3 / spread, np.float16)
            data[..., at : at + 2] = scales.view(np.uint8)
        raw = data.reshape(*shape[:-1], n * size)
        values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
        spread = float(values.std()) * shape[-1] ** 0.5 * spread
    return raw


def _add_keys(writer: Any, arch: str, config: Mapping[str, Any], file_type: int) -> None:
    writer.add_name("tiny")
    writer.add_type("model")
    writer.add_file_type(file_type)
    writer.add_context_length(
        _get(config, "max_position_embeddings", "n_positions", "seq_length") if arch != "bloom" else 2048
    )
    writer.add_embedding_length(_get(config, "hidden_size", "n_embd"))
    writer.add_block_count(_get(config, "num_hidden_layers", "n_layer"))
    heads = _get(config, "num_attention_heads", "n_head")
    writer.add_head_count(heads)
    if arch in ("gpt2", "bloom"):
        writer.add_feed_forward_length(4 * _get(config, "hidden_size", "n_embd"))
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    if arch == "stablelm":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_vocab_size(config["vocab_size"])
    if arch.startswith("gemma"):
        writer.add_sliding_window(config["sliding_window"])
    for name, add in (
        ("final_logit_softcapping", writer.add_final_logit_softcapping),
        ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
    ):
        if config.get(name):
            add(float(config[name]))


def _add_tokenizer(writer: Any, folder: Path) -> None:
    file = json.loads((folder / "tokenizer.json").read_text())
    ids = dict(file["model"]["vocab"]) | {t["content"]: t["id"] for t in file["added_tokens"]}
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokens = [f"[PAD{k}]" for k in range(size)]
    for token, k in ids.items():
        tokens[k] = token
    special = {t["id"] for t in file["added_tokens"] if t["special"]}
    types = [3 if k in special else 5 if t == f"[PAD{k}]" else 1 for k, t in enumerate(tokens)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = file["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    writer.add_bos_token_id(ids[settings["bos_token"]])
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_add_bos_token(bool((file.get("post_processor") or {}).get("special_tokens")))


def _add(writer: Any, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[type(value)](key, value)
