"""Small random models of images and text, as ordinary safetensors folders: built offline, like those of `tiny_models`.

    folder = write_model(tmp_path / "m", "llava", seed=3)

The token of an image is one of the vocabulary. Everything is random, so that an image encoder that took part would show.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_models import CONTEXT, VOCAB, WIDTH, build_tokenizer, true_loglik

_TEXT: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT, "pad_token_id": None, "bos_token_id": 1,
    "eos_token_id": 0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_QWEN_VISION = {
    "depth": 2,
    "embed_dim": WIDTH,
    "hidden_size": WIDTH,
    "num_heads": 4,
    "intermediate_size": 48,
    "patch_size": 14,
}
_TOKENS = {"image_token_id": 7, "video_token_id": 8, "vision_start_token_id": 9, "vision_end_token_id": 10}
_IMAGE = {"image_token_id": 7}


def _text(kind: str, **more: Any) -> dict[str, Any]:
    return {"text_config": {"model_type": kind, **_TEXT, **more}}


def _vision(kind: str, **more: Any) -> dict[str, Any]:
    return {"vision_config": {"model_type": kind, **_VISION, **more}}


def _axes(*section: int) -> dict[str, Any]:
    """Rotary positions of three axes: time, height and width, with so many of a head's frequencies each."""
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(section)}
    }


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_SIGLIP = _vision("siglip_vision_model")
_QWEN3_VISION = {
    "vision_config": {
        **_QWEN_VISION, "out_hidden_size": WIDTH, "num_position_embeddings": 4, "deepstack_visual_indexes": [0, 1],
    }
}  # fmt: skip
_GLM_VISION = {"vision_config": {**_QWEN_VISION, "out_hidden_size": WIDTH, "image_size": 28}}
# family -> arguments of its configuration
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral3": {**_text("mistral", sliding_window=None), **_vision("pixtral"), "image_token_id": 7},
    "llava": {**_text("llama"), **_vision("clip_vision_model"), **_IMAGE},
    "llava_next": {**_text("mistral", sliding_window=12), **_vision("clip_vision_model"), **_IMAGE},
    "llava_onevision": {**_text("qwen2", tie_word_embeddings=True), **_SIGLIP, **_IMAGE, "video_token_id": 8},
    "vipllava": {**_text("llama"), **_vision("clip_vision_model"), **_IMAGE, "vision_feature_layers": [-1, -2]},
    "qwen2_vl": {**_text("qwen2_vl_text", **_axes(2, 1, 1)), "vision_config": _QWEN_VISION, **_TOKENS},
    "qwen2_5_vl": {
        **_text("qwen2_5_vl_text", **_axes(2, 1, 1)),
        "vision_config": {**_QWEN_VISION, "out_hidden_size": WIDTH, "fullatt_block_indexes": [1]}, **_TOKENS,
    },
    "qwen3_vl": {**_text("qwen3_vl_text", **_axes(2, 1, 1)), **_QWEN3_VISION, **_TOKENS},
    "qwen3_vl_moe": {**_text("qwen3_vl_moe_text", **_axes(2, 1, 1), **_EXPERTS), **_QWEN3_VISION, **_TOKENS},
    "glm4v": {
        **_text("glm4v_text", rope_parameters={**_axes(1, 1, 0)["rope_parameters"], "partial_rotary_factor": 0.5}),
        **_GLM_VISION, **_TOKENS,
    },
    "internvl": {**_text("qwen2"), **_vision("internvl_vision", image_size=[28, 28], patch_size=[14, 14]), **_IMAGE},
    "idefics2": {
        **_text("mistral", sliding_window=None), **_vision("idefics2_vision"),
        "perceiver_config": {
            "hidden_size": WIDTH, "resampler_depth": 1, "resampler_n_heads": 4, "resampler_head_dim": 8,
            "num_key_value_heads": 2, "resampler_n_latents": 4,
        },
        **_IMAGE,
    },
    "idefics3": {**_text("llama"), **_vision("idefics3_vision"), **_IMAGE, "scale_factor": 1},
    "smolvlm": {
        **_text("llama", tie_word_embeddings=True), **_vision("smolvlm_vision"), **_IMAGE, "scale_factor": 1,
        "tie_word_embeddings": True,
    },
    "aya_vision": {**_text("cohere2", sliding_window=12, logit_scale=0.25), **_SIGLIP, **_IMAGE},
    "cohere2_vision": {**_text("cohere2", sliding_window=12, logit_scale=0.25), **_SIGLIP, **_IMAGE},
    "lfm2_vl": {
        **_text("lfm2", layer_types=["conv", "full_attention", "conv"]), **_vision("siglip2_vision_model", num_patches=4),
        **_IMAGE,
    },
    "exaone4_5": {
        **_text("exaone4", sliding_window=12, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        "vision_config": {**_QWEN_VISION, "num_key_value_heads": 2, "out_hidden_size": WIDTH, "fullatt_block_indexes": [1]},
        **_TOKENS,
    },
}  # fmt: skip
# Those of every kind: a plain decoder, windows, three axes of positions, experts, a convolution, a scale behind the head.
VARIED = ("mistral3", "llava_onevision", "qwen2_5_vl", "qwen3_vl_moe", "aya_vision", "lfm2_vl")


def build_config(family: str, **changes: Any) -> Any:
    """Configuration of a tiny model of `family` (a key of FAMILIES), with `changes` on top."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[family](**{**FAMILIES[family], **changes})


def build_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """Random float32 model of `family` in evaluation mode, its parameters scaled to be visible."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = build_config(family, **changes)
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.7 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def write_model(folder: Path, family: str, *, seed: int = 0, **changes: Any) -> Path:
    """The folder, now holding a random model of `family` as safetensors, and a tokenizer."""
    build_model(family, seed=seed, **changes).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def load_float64(folder: Path) -> Any:
    """The folder's whole model in float64 by transformers alone, with the plain implementations of attention and experts."""
    import torch
    from transformers import AutoModelForImageTextToText

    options = {"dtype": torch.float64, "attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForImageTextToText.from_pretrained(folder, **options).eval()


def true_logliks(
    folder: Path, texts: Sequence[str], *, prefix: Sequence[int] = (), context: int | None = None
) -> list[list[float]]:
    """Log-likelihoods by a float64 loop, one text at a time: row 0 final, row 1 + k the model with its first k layers alone.

    Ids by the tokenizers library, given to a newly loaded model; full logits, log_softmax, gather, sum. NaN without a target.
    """
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    ids = [[*prefix, *tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    model = load_float64(folder)
    decoder = model.get_decoder()
    layers, rows = decoder.layers, []
    for depth in range(len(layers), -1, -1):
        decoder.layers = layers[:depth]
        decoder.config.num_hidden_layers = depth
        with torch.no_grad():
            rows.append([true_loglik(model, row, max(1, len(prefix))) for row in ids])
    return [rows[0], *reversed(rows)]
