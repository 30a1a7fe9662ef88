"""Checks that a loaded model uses what its files contain: nothing missing, no trained tensor of its layers left out, no codes read as values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.registry.parameters import has_own_head
from kltui.registry.tensors import BESIDE_CODES, CODES, TensorFile, is_buffer, open_tensors
from kltui.sanitize import safe_text
from kltui.scoring import quantize
from kltui.scoring.load_errors import prefix_error, prefix_of

_OTHER_TASK = re.compile(
    r"For(?!CausalLM)(\w*Classification|\w*Reward\w*|\w*Value\w*|QuestionAnswering|MultipleChoice)\b"
)
# The classes of transformers without a head, such as LlamaModel.
_BODY_ALONE = re.compile(r"\w+(?<!LMHead)Model")
# Tensors of layers that do not change what they compute: masks, states of libraries, and scales for a cache of keys and values.
_NO_PARAMETER = re.compile(
    r"\.((attn|attention|self_attn|self_attention)\.bias|attn\.causal_mask|_extra_state|[qkv]_scale|kv_scale)$"
)
# Names of the number of further layers with which some families predict later tokens, and which they do not use for the next one.
_EXTRA_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers", "num_mtp_modules")


def check_complete(folder: Path, config: Any, model: Any, info: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on unused tensors. Raises KltuiError if the model would be partly random, or not the one in the files.

    `config` is the folder's configuration before loading, `info` what transformers reports.
    """
    missing, unused = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    _check_decoder(folder, config, unused)
    if missing:
        raise _missing_error(folder, config, type(model).__name__, missing, unused)
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    if mismatched:
        raise KltuiError(
            f"tensors in {folder} have the wrong shape: {mismatched[0]}",
            "check that config and weights belong to the same model",
        )
    if info["error_msgs"]:
        raise KltuiError(
            f"the weights in {folder} did not load: {info['error_msgs'][0]}",
            "check that its files are complete",
        )
    if not quantize.stored(config):
        _check_trained(folder, model, unused)
    n = len(unused)
    said = "1 tensor in the files is" if n == 1 else f"{n} tensors in the files are"
    return (f"{said} not used by the model, first {safe_text(unused[0], 120)}",) if unused else ()


def check_files(folder: Path, config: Any) -> tuple[str, ...]:
    """A note if safetensors hold float8 weights without scales. Raises KltuiError if their tensors cannot be those of the model.

    That is for codes of quantised weights without a `quantization_config`, which transformers would read as values, and for a
    model of another task, whose tied output head was not trained.
    """
    tensors = open_tensors(folder, as_indexed=False)
    stated = " ".join(str(name) for name in getattr(config, "architectures", None) or ())
    if (task := _OTHER_TASK.search(stated)) and not has_own_head(tensors):
        raise KltuiError(
            f"config.json in {folder} says that the model is a {safe_text(stated, 80)}, and its files contain no output head for tokens",
            f"kltui scores only causal models, and what {safe_text(task[0], 60)} computes is no probability of a text",
        )
    notes = _without_a_head(stated, tensors)
    if quantize.stored(config):
        return notes
    codes = next((t for name, t in tensors.items() if name.endswith("weight") and t.dtype in CODES), None)
    if codes is not None:
        raise _codes_error(folder, f"{codes.name} is stored as {codes.dtype}")
    if eights := sum(t.dtype.startswith("F8_") for t in tensors.values()):
        notes += (f"{eights} tensors are stored in float8 without scales, and used as they are",)
    return notes


def _without_a_head(stated: str, tensors: Mapping[str, TensorFile]) -> tuple[str, ...]:
    """A note on a model saved as its body alone, such as one of embeddings of texts, for which transformers then uses a tied head."""
    if not _BODY_ALONE.fullmatch(stated) or has_own_head(tensors):
        return ()
    return (
        f"config.json says that the model is a {safe_text(stated, 60)}, without an output head for tokens: scored with its embeddings as"
        " the head, which means something only if it was trained so",
    )


def _codes_error(folder: Path, what: str) -> KltuiError:
    return KltuiError(
        f"the weights in {folder} are quantised ({safe_text(what, 160)}), but its config.json has no quantization_config",
        "without it, codes would be read as values: take config.json from the quantised model, or use the unquantised one",
    )


def _check_decoder(folder: Path, config: Any, unused: Sequence[str]) -> None:
    """Raises KltuiError for the decoder of a model that also has an encoder."""
    if getattr(config, "is_encoder_decoder", False) and any("encoder." in name for name in unused):
        raise KltuiError(
            f"the model in {folder} has an encoder and a decoder ({config.model_type}), and without an input for its encoder a text has"
            " no log-likelihood",
            "kltui scores only causal models",
        )


def _missing_error(
    folder: Path, config: Any, loaded: str, missing: list[str], unused: list[str]
) -> KltuiError:
    if prefix := prefix_of(missing, set(unused)):
        return prefix_error(folder, prefix, next(name for name in unused if prefix in name))
    said = f"the weights in {folder} lack {len(missing)} of the model's tensors, first {missing[0]}"
    if any(BESIDE_CODES.search(name) for name in unused) and not quantize.stored(config):
        return _codes_error(folder, f"{missing[0]} is missing")
    stated = " ".join(str(name) for name in getattr(config, "architectures", None) or ())
    if stated and loaded not in stated and "CausalLM" not in stated and "LMHead" not in stated:
        return KltuiError(
            f"{said}; its config.json says that it is a {safe_text(stated, 80)}",
            "kltui scores only causal models, with their output head for tokens",
        )
    if missing == ["lm_head.weight"]:
        return KltuiError(
            f"{said}, its output head, which its config.json does not tie to the embeddings",
            'if they are tied, set "tie_word_embeddings": true in config.json; otherwise the folder is incomplete',
        )
    return KltuiError(
        said, "the folder is incomplete or has another architecture; kltui never scores random weights"
    )


def _check_trained(folder: Path, model: Any, unused: Sequence[str]) -> None:
    """Raises KltuiError if unused tensors are parameters of the model's own layers or other modules, or scales of quantised ones."""
    import torch

    modules = dict(model.named_modules())
    stacks = {
        name: len(module)
        for name, module in modules.items()
        if isinstance(module, torch.nn.ModuleList) and ".".join(name.split(".")[:-1]) in modules
    }
    text = model.config.get_text_config()
    extra = max((n for name in _EXTRA_LAYERS if isinstance(n := getattr(text, name, 0), int)), default=0)
    prefix = f"{model.base_model_prefix}."
    left = [
        name
        for name in unused
        if not is_buffer(name, ())
        and not _NO_PARAMETER.search(name)
        and any(_belongs(n, modules, stacks, extra) for n in (name, prefix + name))
    ]
    if (beside := next((n for n in left if BESIDE_CODES.search(n)), None)) is not None:
        raise _codes_error(folder, f"{beside} belongs to quantised weights")
    zero = _zero_biases(folder) if left else set()
    if left := [name for name in left if name not in zero]:
        raise KltuiError(
            f"{len(left)} tensors in {folder} belong to layers of the model but are not used by transformers' {model.config.model_type}"
            f" with this config.json, first {safe_text(left[0], 120)}",
            "it would be scored without them: check that config.json belongs to these weights (model_type, number of layers, biases)",
        )


def _zero_biases(folder: Path) -> set[str]:
    """The biases that are zero everywhere, as conversions write them for layers without: they change nothing. None for pickles."""
    try:
        tensors = open_tensors(folder, as_indexed=False)
    except KltuiError:
        return set()
    return {name for name, t in tensors.items() if name.endswith(".bias") and not t.data.any()}


def _belongs(name: str, modules: Mapping[str, Any], stacks: Mapping[str, int], extra: int) -> bool:
    """Whether a tensor's name is in one of the model's lists of layers, or in a module that has parameters of its own."""
    for path, length in stacks.items():
        index = name.removeprefix(f"{path}.").partition(".")[0]
        if name.startswith(f"{path}.") and index.isdecimal():
            return not length <= int(index) < length + extra
    module = modules.get(name.rpartition(".")[0])
    return module is not None and next(module.parameters(recurse=False), None) is not None
