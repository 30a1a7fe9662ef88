"""Writes a random GPT-NeoX model as a GGUF file for llama.cpp, with the same weights and without a vocabulary."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def write_neox(path: Path, model: Any) -> None:
    """Writes the model to `path`: matrices in its dtype (float32, float16), vectors in float32, as llama.cpp requires."""
    library: Any = importlib.import_module("gguf")
    config = model.config
    writer = library.GGUFWriter(path, "gptneox")
    _add_facts(writer, config)
    names = library.get_tensor_name_map(library.MODEL_ARCH.GPTNEOX, config.num_hidden_layers)
    for name, values in model.state_dict().items():
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is not None:  # a buffer that the file does not need
            writer.add_tensor(there, _laid(name, values, config.num_attention_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_facts(writer: Any, config: Any) -> None:
    """Adds the model's shape and a vocabulary that consists only of ids."""
    width = config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_rope_dimension_count(int(width * config.rope_parameters["partial_rotary_factor"]))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")


def _laid(name: str, values: torch.Tensor, heads: int) -> NDArray[Any]:
    """The tensor in the file's layout: queries of all heads, then keys, then values; GPT-NeoX orders them by head."""
    if "query_key_value" in name:
        by_head = values.reshape(heads, 3, -1, *values.shape[1:])
        values = by_head.transpose(0, 1).reshape(values.shape)
    wide = values.float() if values.ndim == 1 else values
    return np.ascontiguousarray(wide.cpu().numpy())
