"""Small random models of many families, and a tokenizer, as ordinary safetensors folders: built offline.

    folder = write_model(tmp_path / "m", "llama", seed=3)
    run = write_run(tmp_path / "run", "gpt_neox", steps=(0, 8, 64))

Weights are larger than a fresh initialisation's, biases and norms included, so that every one shows.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WIDTH = 32
VOCAB = 384
CONTEXT = 256
END = "<|endoftext|>"
BEGIN = "<s>"

TEXTS: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "いろはにほへと ちりぬるを",
    "A text with <|endoftext|> and <s> inside it, which are text.",
    "x",
    "Two words",
    "0 1 1 2 3 5 8 13 21 34 55 89 144",
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer",
    "tabs\tand\r\nline ends\n\n",
    "🙂 emoji and e\u0301 combining marks",
    "the the the the the the the the the the the the",
)


def build_tokenizer(*, prepend_bos: bool = False, vocab: int = VOCAB) -> Any:
    """Byte-level BPE tokenizer of at most `vocab` entries; `prepend_bos` adds <s> as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END, BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    if prepend_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A",
            pair=f"{BEGIN} $A {BEGIN} $B",
            special_tokens=[(BEGIN, core.token_to_id(BEGIN))],
        )
    bos = BEGIN if prepend_bos else END
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=END, unk_token=END, clean_up_tokenization_spaces=False
    )


def _llama_like(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 0,
        **more,
    }


def _gpt2_like(**more: Any) -> dict[str, Any]:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return {
        "vocab_size": VOCAB,
        "n_positions": CONTEXT,
        "n_embd": WIDTH,
        "n_layer": 3,
        "n_head": 4,
        **ends,
        **more,
    }


# family -> (configuration class, its arguments)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox": (
        "GPTNeoXConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "rotary_pct": 0.5,
        },
    ),
    "gpt2": ("GPT2Config", _gpt2_like()),
    "gptj": ("GPTJConfig", _gpt2_like(rotary_dim=4)),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "vocab_size": VOCAB,
            "max_position_embeddings": CONTEXT,
            "hidden_size": WIDTH,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 8,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "ffn_dim": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
            "pad_token_id": 1,
        },
    ),
    "opt_pre": (
        "OPTConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "ffn_dim": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
            "word_embed_proj_dim": 32,
            "pad_token_id": 1,
        },
    ),
    "bloom": (
        "BloomConfig",
        {"vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": 3, "n_head": 4, "pad_token_id": 0},
    ),
    "falcon": (
        "FalconConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "multi_query": True,
            "parallel_attn": True,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "llama": ("LlamaConfig", _llama_like()),
    "llama_tied": ("LlamaConfig", _llama_like(tie_word_embeddings=True)),
    "mistral": ("MistralConfig", _llama_like(sliding_window=12)),
    "qwen2": ("Qwen2Config", _llama_like()),
    "qwen3": ("Qwen3Config", _llama_like(head_dim=8)),
    "mixtral": ("MixtralConfig", _llama_like(num_local_experts=4, num_experts_per_tok=2)),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        _llama_like(
            num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=24
        ),
    ),
    "gemma2": (
        "Gemma2Config",
        _llama_like(
            head_dim=8,
            sliding_window=12,
            final_logit_softcapping=3.0,
            attn_logit_softcapping=5.0,
            bos_token_id=1,
        ),
    ),
    "gemma3": ("Gemma3TextConfig", _llama_like(head_dim=8, sliding_window=12, final_logit_softcapping=3.0)),
    "phi": ("PhiConfig", _llama_like(num_key_value_heads=4)),
    "olmo2": ("Olmo2Config", _llama_like()),
    "stablelm": ("StableLmConfig", _llama_like()),
    "cohere": ("CohereConfig", _llama_like(logit_scale=0.25)),
    "granite": (
        "GraniteConfig",
        _llama_like(
            logits_scaling=4.0, embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.2
        ),
    ),
    "mamba": (
        "MambaConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "state_size": 8,
            "use_mambapy": False,
        },
    ),
    "mamba2": (
        "Mamba2Config",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 16,
            "pad_token_id": None,
        },
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "lru_width": WIDTH,
            "attention_window_size": 16,
            "logits_soft_cap": 3.0,
            "pad_token_id": None,
        },
    ),
}


# One family of every kind: learned, rotary and linear positions; a projection behind the layers, tuples out of them; windows
# and caps; experts; states in place of attention. Sweeps over FAMILIES that only --full runs have these in every run.
VARIED = ("gpt_neox", "gpt2", "opt", "bloom", "falcon", "gemma2", "qwen2_moe", "mamba", "recurrent_gemma")


def build_config(family: str, **changes: Any) -> Any:
    """Configuration of a tiny model of `family` (a key of FAMILIES), with `changes` on top."""
    import transformers

    name, arguments = FAMILIES[family]
    return getattr(transformers, name)(**{**arguments, **changes})


def build_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """Random float32 model of `family` in evaluation mode, its parameters scaled to be visible."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(build_config(family, **changes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.7 / parameter.shape[-1] ** 0.5)
            elif not name.endswith(("A_log", "dt_bias", "recurrent_param", ".D")):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def write_model(
    folder: Path,
    family: str,
    *,
    seed: int = 0,
    prepend_bos: bool = False,
    tokenizer: Any = None,
    **changes: Any,
) -> Path:
    """The folder, now holding a random model of `family` as safetensors, and its tokenizer."""
    build_model(family, seed=seed, **changes).save_pretrained(folder)
    (tokenizer or build_tokenizer(prepend_bos=prepend_bos)).save_pretrained(folder)
    return folder


def write_run(
    folder: Path, family: str = "gpt_neox", steps: Sequence[int] = (0, 1, 2, 4), seed: int = 0
) -> list[Path]:
    """Checkpoint folders `step{n}` below `folder`: one random start that drifts a little at every step."""
    import torch

    model = build_model(family, seed=seed)
    tokenizer = build_tokenizer()
    drift = torch.Generator().manual_seed(seed + 1)
    folders = []
    for step in steps:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=drift) * 0.01)
        model.save_pretrained(folder / f"step{step}")
        tokenizer.save_pretrained(folder / f"step{step}")
        folders.append(folder / f"step{step}")
    return folders


def true_logliks(
    folder: Path, texts: Sequence[str], *, prefix: Sequence[int] = (), layers: bool = True
) -> list[list[float]]:
    """Log-likelihoods by a float64 loop, one text at a time: row 0 final, row 1 + k the model truncated to k layers.

    Without `layers` row 0 is all. NaN where a text has nothing to score. Ids by the tokenizers library; full logits, log_softmax, gather, sum.
    """
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    ids = [[*prefix, *tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    first = max(1, len(prefix))
    model = load_float64(folder)
    rows = []
    whole = model.config.num_hidden_layers
    for depth in range(whole, -1 if layers else whole - 1, -1):
        _truncate(model, depth)
        with torch.no_grad():
            rows.append([true_loglik(model, row, first) for row in ids])
    return [rows[0], *reversed(rows)] if layers else rows


def load_float64(folder: Path) -> Any:
    """The folder's model in float64, with the plain implementations of attention and experts."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options = {"dtype": torch.float64, "attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def true_loglik(model: Any, ids: list[int], first: int) -> float:
    """The log-likelihood of ids[first:] after ids[:first] in nats, summed in float64; NaN if there are none."""
    import torch

    if len(ids) <= first:
        return float("nan")
    row = torch.tensor(ids)
    logp = model(input_ids=row[None], use_cache=False).logits[0].double().log_softmax(-1)
    return float(logp[first - 1 : -1].gather(1, row[first:, None]).sum())


def _truncate(model: Any, depth: int) -> None:
    """Cut the model's list of layers to its first `depth`."""
    import torch

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == model.config.num_hidden_layers:
                setattr(module, name, child[:depth])
                model.config.num_hidden_layers = depth
                return
