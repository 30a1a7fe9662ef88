"""Small random models of the families that also read images or sound, from the defaults of transformers' own configurations.

    folder = write_shrunken(tmp_path / "m", "voxtral", seed=3)

Sizes are replaced by their names; what a family requires beyond that is in CHANGES. Files have the layout of the hub's.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from tiny_models import CONTEXT, VOCAB, WIDTH, build_tokenizer

_SIZES: dict[str, Any] = {
    **dict.fromkeys(
        (
            "hidden_size", "d_model", "embed_dim", "out_hidden_size", "output_dim", "projection_dim", "mm_hidden_size",
            "text_hidden_size", "vision_hidden_size", "cross_attention_hidden_size",
        ),
        WIDTH,
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "mlp_dim", "d_ff", "ffn_hidden_size", "d_inner"), 48
    ),
    **dict.fromkeys(("num_attention_heads", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_hidden_layers", "n_layers"), 3),
    **dict.fromkeys(("depth", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "n_groups"), 1),
    **dict.fromkeys(
        (
            "head_dim", "global_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "index_head_dim", "mamba_head_dim",
            "ssm_state_size", "linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input", "laurel_rank",
        ),
        8,
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "num_mel_bins", "n_mels"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("image_token_id", "image_token_index"), 7),
    **dict.fromkeys(("video_token_id", "video_token_index"), 8),
    **dict.fromkeys(("audio_token_id", "audio_token_index"), 9),
    **dict.fromkeys(("vision_start_token_id", "image_start_token_id"), 10),
    **dict.fromkeys(("vision_end_token_id", "image_end_token_id"), 11),
    "max_position_embeddings": CONTEXT, "max_source_positions": 32, "num_position_embeddings": 4, "sliding_window": 12,
    "image_size": 28, "patch_size": 14, "index_n_heads": 16, "index_topk": 64, "mamba_num_heads": 4, "linear_num_value_heads": 4,
    "encoder_layerdrop": 0, "num_kv_shared_layers": 0, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
_ABSENT = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)  # are None in some families' defaults, and set nevertheless
DROP = object()  # the configuration's own value


def _axes(*section: int, **more: Any) -> dict[str, Any]:
    """Rotary positions of several axes, with so many of a head's frequencies each."""
    return {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [*section],
            **more,
        }
    }


_HALF = _axes(1, 1, 0, partial_rotary_factor=0.5)
_LINEAR = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_CONVOLUTIONS = {
    "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
}  # fmt: skip
_PLAIN_ROTARY = {"rope_type": "default", "rope_theta": 10_000.0}
_GRANITE_SPEECH = {
    "encoder_config": {
        "input_dim": 8, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "dim_head": 8, "output_dim": 4, "context_size": 8,
        "max_pos_emb": 16, "conv_kernel_size": 3,
    },
    "projector_config": {"encoder_hidden_size": 16},
}  # fmt: skip
# family -> {part of its configuration ("" for itself): changes}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    # read by transformers' table of causal models, or by it too
    "gemma3": {},
    "gemma4": {"": {"pad_token_id": 0}, "text_config": {"pad_token_id": 0}},
    "got_ocr2": {},
    "git": {},
    "fuyu": {},
    "llama4": {
        "text_config": {
            "layer_types": ["chunked_attention", "chunked_attention", "full_attention"], "attention_chunk_size": 16,
            "moe_layers": [1], "no_rope_layers": [1, 1, 0],
        }
    },
    "mllama": {"text_config": {"cross_attention_layers": [1], "pad_token_id": 0}},
    "emu3": {
        "": {
            "pad_token_id": 0,
            "vocabulary_map": {
                "<image>": 7, "<|visual token 000000|>": 20, "<|visual token 000001|>": 21, "<|extra_200|>": 22,
            },
        },
        "text_config": {"pad_token_id": 0},
        "vq_config": {**_CONVOLUTIONS, "codebook_size": 4, "attn_resolutions": [2], "hidden_size": 32},
    },
    "qwen3_5": {"text_config": {**_LINEAR, **_axes(2, 1, 1)}},
    "qwen3_5_moe": {"text_config": {**_LINEAR, **_axes(2, 1, 1)}},
    "phi4_multimodal": {},
    # images and text
    "aria": {},
    "chameleon": {
        "": {"vocabulary_map": {"<image>": 7, "IMGIMGA1Z": 5, "IMGIMGB2Z": 6}},
        "vq_config": {**_CONVOLUTIONS, "embed_dim": 8, "num_embeddings": 4, "latent_channels": 8, "resolution": 32},
    },
    "cohere_compass": {
        "text_config": {
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": _PLAIN_ROTARY, "sliding_attention": _PLAIN_ROTARY},
        }
    },
    "cosmos3_edge": {"text_config": _axes(2, 1, 1)},
    "cosmos3_omni": {},
    "deepseek_ocr2": {
        "text_config": {
            "mlp_layer_types": ["dense", "sparse", "sparse"], "num_key_value_heads": 4, "num_experts_per_tok": 2,
            "n_group": None, "topk_group": None,
        }
    },
    "deepseek_vl": {},
    "deepseek_vl_hybrid": {},
    "ernie4_5_vl_moe": {"text_config": _axes(1, 1, 2)},
    "glm46v": {"text_config": _HALF},
    "glm4v_moe": {"text_config": _HALF},
    "glm_ocr": {"text_config": _HALF},
    "granite_docling": {},
    "hy_v4_vl": {"text_config": _axes(2, 1, 1)},
    "hyperclovax_vision_v2": {},
    "inkling2": {"text_config": {"unpadded_vocab_size": VOCAB}},
    "inkling2_loop": {"text_config": {"unpadded_vocab_size": VOCAB}},
    "inkling_mm_model": {},
    "janus": {
        "vq_config": {
            **_CONVOLUTIONS, "embed_dim": 8, "num_embeddings": 16, "latent_channels": 8, "num_patches": 4, "projection_dim": 32,
            "image_token_embed_dim": 8,
        }
    },
    "kimi_k25": {"text_config": {"num_key_value_heads": 4, "head_dim": DROP}},
    "lfm3_vl": {},
    "lighton_ocr": {},
    "llava_next_video": {},
    "minicpm_ocr": {"text_config": _LINEAR},
    "minicpmv4_6": {"text_config": {**_LINEAR, **_axes(2, 1, 1)}},
    "minimax_m3_vl": {},
    "mistral_large4": {"text_config": {"num_key_value_heads": 4, "head_dim": DROP}},
    "muse_glimmer": {},
    "muse_spark": {"audio_config": {"num_hidden_layers": 4, "hidden_sizes": [8] * 4, "depths": [1] * 4}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "ovis2": {},
    "paddleocr_vl": {"text_config": _axes(2, 1, 1)},
    "pp_chart2table": {},
    "qianfan_ocr": {},
    "qwen2_5_omni_thinker": {"text_config": _axes(2, 1, 1)},
    "qwen3_omni_moe_thinker": {"text_config": _axes(2, 1, 1)},
    "step3p7": {"": {"pad_token_id": 0}, "text_config": {"pad_token_id": 0, "sliding_window": 12}},
    "unlimited_ocr": {"text_config": {"num_key_value_heads": 4}},
    "video_llama_3": {},
    "video_llava": {},
    # sound and text
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "glmasr": {},
    "granite_speech": _GRANITE_SPEECH,
    "granite_speech_plus": _GRANITE_SPEECH,
    "omniasr": {},
    "qwen2_audio": {},
    "qwen3_asr": {"": {"pad_token_id": 0}},
    "voxtral": {},
}  # fmt: skip
# Of every kind: the language model alone in place of the whole, embeddings larger than the head, an encoder that stays.
VARIED = ("gemma3", "llama4", "mllama", "emu3", "qwen3_5", "chameleon", "qwen2_audio", "voxtral")


def shrunken_config(family: str) -> Any:
    """The configuration of a small model of `family`, stating its architecture. Raises KeyError if transformers lacks it."""
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[family]
    config = kind(**_shrunken(kind(), CHANGES.get(family, {})))
    config.architectures = [whole_loader(config)._model_mapping[type(config)].__name__]
    return config


def _shrunken(config: Any, changes: dict[str, dict[str, Any]], part: str = "") -> dict[str, Any]:
    parts = getattr(type(config), "sub_configs", None) or {}
    own = {name: value for name, value in config.to_dict().items() if name not in parts}
    made: dict[str, Any] = {}
    for name, value in own.items():
        if name not in _SIZES or isinstance(value, bool) or (value is None and name not in _ABSENT):
            continue
        if isinstance(value, int | None):
            made[name] = _SIZES[name]
        elif name in ("image_size", "patch_size"):
            made[name] = [_SIZES[name]] * len(value)
    for name in parts:
        if hasattr(value := getattr(config, name, None), "to_dict"):
            made[name] = {**_shrunken(value, changes, name), "model_type": value.model_type}
    made |= changes.get(part, {})
    return {name: value for name, value in made.items() if value is not DROP}


def whole_loader(config: Any) -> Any:
    """transformers' class that loads the whole model of a configuration, encoders included."""
    import transformers

    for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        loader = getattr(transformers, name, None)
        if loader is not None and type(config) in loader._model_mapping:
            return loader
    return transformers.AutoModelForCausalLM


def build_shrunken(family: str, *, seed: int = 0) -> Any:
    """Random float32 model of `family` in evaluation mode, its parameters scaled to be visible."""
    import torch

    torch.manual_seed(seed)
    config = shrunken_config(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = whole_loader(config).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.7 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def write_shrunken(folder: Path, family: str, *, seed: int = 0) -> Path:
    """The folder, now holding a random model of `family` as safetensors, and a tokenizer."""
    build_shrunken(family, seed=seed).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def load_whole_float64(folder: Path) -> Any:
    """The folder's whole model in float64 by transformers alone; of Llama 4, whose whole model needs an image, the language model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    loader = AutoModelForCausalLM if config.model_type == "llama4" else whole_loader(config)
    options = {"dtype": torch.float64, "attn_implementation": "eager", "experts_implementation": "eager"}
    return loader.from_pretrained(folder, **options).eval()
