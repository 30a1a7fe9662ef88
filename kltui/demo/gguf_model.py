"""Writes the demo's Llama as a GGUF file in the layout of llama.cpp's converter, its matrices quantised to four bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KIND = "Q4_0"


def write_gguf(tensors: Mapping[str, NDArray[np.float32]], config: Any, path: Path) -> None:
    """Writes a model, given as tensors (transformers' names) and LlamaConfig, to `path`, which appears when it is complete."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    aside = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(aside, "llama")
    _add_keys(writer, config, gguf.LlamaFileType.MOSTLY_Q4_0)
    for name, values in tensors.items():
        laid = _interleaved(name, values, config)
        kind = gguf.GGMLQuantizationType[KIND if laid.ndim > 1 else "F32"]
        writer.add_tensor(_name(names, name), gguf.quants.quantize(laid, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    aside.replace(path)


def _name(names: Any, name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{names.get_name(stem)}.{suffix}"


def _add_keys(writer: Any, config: Any, file_type: int) -> None:
    writer.add_type("model")
    writer.add_file_type(file_type)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)


def _interleaved(name: str, values: NDArray[np.float32], config: Any) -> NDArray[np.float32]:
    """Rows of query and key matrices with the two entries of each rotary pair adjacent, as llama.cpp expects; others unchanged."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    n = next((n for part, n in heads.items() if part in name), 0)
    if not n:
        return values
    return np.ascontiguousarray(
        values.reshape(n, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    )
