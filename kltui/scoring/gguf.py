"""GGUF files as models and tokenizers, by transformers' reader; what that leaves out is checked against the file."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kltui.errors import KltuiError
from kltui.registry.gguf_file import TOKENS, GGUFError, GGUFModel, read_model
from kltui.registry.gguf_merge import merge
from kltui.registry.layout import CONFIG, TOKENIZER_CONFIG, TOKENIZER_JSON, read_json_object
from kltui.registry.tokenizer_json import read_tokenizer_json
from kltui.sanitize import safe_text
from kltui.scoring.tokenizer_backends import Backend, FileBackend, first_line

SOURCE = "gguf"  # the source of token ids in a vector's key
NAME = "model.gguf"  # name of the file in the staged folder
INSTALL = "pip install '.[gguf]'"
COMPARED_TEXTS = 32
MAX_OTHER_TOKENS = 0.01  # share of a vocabulary: spellings of a few special tokens differ between tools

# Fields of a configuration by which models are compared.
_SHAPES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)
# (family in a file, family in transformers) with the same tensors, which llama.cpp has under one name.
_ALIKE = {("llama", "mistral")}
# Keys, after the architecture's name, that transformers' reader ignores for some families, and their names in transformers.
_LEFT_OUT = {
    "attention.key_length": "head_dim",
    "context_length": "n_positions",
    "feed_forward_length": "n_inner",
    "final_logit_softcapping": "final_logit_softcapping",
    "attn_logit_softcapping": "attn_logit_softcapping",
}
# Layers of the models whose attention is scaled by their width for each head, in place of the size of a head (Gemma 27B).
_PER_HEAD = {"gemma2": 46, "gemma3": 62}
# Keys that change what a model computes, the values without an effect, and names of the same settings in transformers.
_WITH_EFFECT: tuple[tuple[str, tuple[float, ...], tuple[str, ...]], ...] = (
    ("attention.causal", (1.0,), ()),
    ("rope.scale_linear", (0.0, 1.0), ()),
    ("logit_scale", (0.0, 1.0), ("logits_scaling", "logit_scale")),
    ("embedding_scale", (0.0, 1.0), ("embedding_multiplier", "scale_emb")),
    ("residual_scale", (0.0, 1.0), ("residual_multiplier",)),
    ("final_logit_softcapping", (0.0,), ("final_logit_softcapping",)),
    ("attn_logit_softcapping", (0.0,), ("attn_logit_softcapping",)),
    ("attention.clamp_kqv", (0.0,), ("clip_qkv",)),
    ("attention.temperature_length", (0.0,), ("floor_scale",)),
    ("use_parallel_residual", (0.0,), ("use_parallel_residual",)),
    ("expert_weights_scale", (0.0, 1.0), ("routed_scaling_factor",)),
)
# (family, key) that llama.cpp does not read, and for which it and transformers look at which tensors there are.
_FROM_TENSORS = {("stablelm", "use_parallel_residual")}
_COMPUTED = {"F16": "float16", "BF16": "bfloat16"}


def check_installed() -> None:
    """Raises KltuiError if the library that dequantises tensors is not installed."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise KltuiError(f"GGUF files need {' and '.join(missing)}, not installed here", INSTALL)


def load_config(path: Path, original: Any | None) -> Any:
    """The configuration of the model in a GGUF file.

    `original` is the configuration of the model whose tokenizer is used. If both have the same family and shape, it is
    used instead, because a file's header lacks some settings. The head is tied if the file has none.
    """
    check_installed()
    model = read_model(path)
    own = _config_of(path, model)
    fits = original is not None and _is_same_model(own, original)
    config: Any = original if fits else own
    text = config.get_text_config()
    if not fits:
        _complete(text, model)
        _check_positions(path, model, text)
        _check_effects(path, model, text)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config  # it describes the original's own files
    config.tie_word_embeddings = text.tie_word_embeddings = own.tie_word_embeddings
    rows = next((t.shape[0] for t in model.tensors if t.name == "token_embd.weight"), None)
    text.vocab_size = rows or text.vocab_size
    config.name_or_path = path
    return config


def _config_of(path: Path, model: GGUFModel) -> Any:
    from transformers import AutoConfig

    family = safe_text(model.first.architecture, 60)
    with staged(path) as folder:
        try:
            return AutoConfig.from_pretrained(folder, gguf_file=NAME, local_files_only=True)
        except Exception as error:  # for an unsupported family, transformers raises ValueError, KeyError, ...
            said = first_line(error).replace(str(folder / NAME), path.name)
            if "not supported" in said or "nrecognized" in said:
                raise GGUFError(
                    f"{safe_text(str(path))} is of the family {family}, which transformers {version('transformers')} does not"
                    " read from GGUF files",
                    "Score the model it was made from, or serve the file with llama.cpp and name its endpoint.",
                ) from error
            raise GGUFError(
                f"the header of {safe_text(str(path))} (family {family}) gives no valid configuration: {said}",
                "Check that it is complete and belongs to a language model.",
            ) from error


def _is_same_model(own: Any, other: Any) -> bool:
    """Whether two configurations have the same family and shape."""
    a, b = own.get_text_config(), other.get_text_config()
    if a.model_type != b.model_type and (a.model_type, b.model_type) not in _ALIKE:
        return False
    pairs = [(getattr(a, name, None), getattr(b, name, None)) for name in _SHAPES]
    return all(x == y for x, y in pairs if isinstance(x, int) and isinstance(y, int))


def _complete(text: Any, model: GGUFModel) -> None:
    """Adds to a configuration the header's settings that transformers' reader ignored."""
    for key, name in _LEFT_OUT.items():
        value = model.first.keys.get(f"{model.first.architecture}.{key}")
        if isinstance(value, int | float) and hasattr(text, name):
            setattr(text, name, value)
    if hasattr(text, "query_pre_attn_scalar"):
        # Headers of Gemma 2 and 3 lack it, and llama.cpp takes the size of a head; of the 27B models, the width for each head.
        wide = _PER_HEAD.get(model.first.architecture) == text.num_hidden_layers
        text.query_pre_attn_scalar = text.hidden_size // text.num_attention_heads if wide else text.head_dim


def _check_positions(path: Path, model: GGUFModel, text: Any) -> None:
    """Raises GGUFError if the header scales positions or has an attention window, which the reader silently ignores."""
    header = model.first
    prefix = f"{header.architecture}.rope.scaling"
    kind, factor = header.words(f"{prefix}.type"), header.keys.get(f"{prefix}.factor", 1.0)
    scaled = kind not in ("", "none") and not (isinstance(factor, int | float) and math.isclose(factor, 1.0))
    window = header.number(f"{header.architecture}.attention.sliding_window")
    seen = window in (None, 0, getattr(text, "sliding_window", None))
    factors = any(t.name.startswith("rope_f") for t in model.tensors)
    if scaled or factors or not seen:
        what = f"scales its rotary positions ({safe_text(kind, 40) or 'rope_freqs'})"
        raise GGUFError(
            f"{safe_text(str(path))} {what if scaled or factors else f'attends through a window of {window} tokens'}, which"
            " transformers does not read from GGUF files of its family",
            "Name the model from which it was made, whose config.json has these settings: parent = NAME in the job, or tokenizer ="
            " its folder or repository.",
        )


def _check_effects(path: Path, model: GGUFModel, text: Any) -> None:
    """Raises GGUFError if the header has a setting with an effect that the reader silently ignores."""
    keys, prefix = model.first.keys, model.first.architecture
    for key, without, names in (*_WITH_EFFECT, *_by_heads(text)):
        value = keys.get(f"{prefix}.{key}")
        if not isinstance(value, int | float) or value in without or (prefix, key) in _FROM_TENSORS:
            continue
        ours = [getattr(text, name, None) for name in names]
        if not any(isinstance(x, int | float) and math.isclose(x, value, rel_tol=1e-5) for x in ours):
            raise GGUFError(
                f"{safe_text(str(path))} has {safe_text(prefix, 40)}.{key} = {value:g}, which transformers does not read from GGUF"
                " files of its family",
                "Name the model from which it was made, whose config.json has this setting: parent = NAME in the job, or"
                " tokenizer = its folder or repository.",
            )


def _by_heads(text: Any) -> list[tuple[str, tuple[float, ...], tuple[str, ...]]]:
    """Settings whose value without an effect depends on the size of the heads: the scale of attention, and rotated entries."""
    width, heads = getattr(text, "hidden_size", None), getattr(text, "num_attention_heads", None)
    size = getattr(text, "head_dim", None) or (width // heads if width and heads else None)
    if not isinstance(size, int) or getattr(text, "qk_rope_head_dim", None):
        return []
    rope = getattr(text, "rope_parameters", None)
    share = rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    share = share or getattr(text, "partial_rotary_factor", None) or 1.0
    scalar = getattr(text, "query_pre_attn_scalar", None) or size
    # The header has float32 numbers.
    scale = float(np.float32(scalar**-0.5))
    found: list[tuple[str, tuple[float, ...], tuple[str, ...]]] = [
        ("attention.scale", (0.0, scale), ("attention_multiplier",))
    ]
    if rope is not None:
        found.append(("rope.dimension_count", (0.0, float(int(size * share))), ()))
    return found


def options(config: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a staged GGUF file, whose weights are dequantised while loading.

    `config` temporarily gets the family name of the file, by which the reader finds the tensors; `check_used` undoes that.
    """
    from transformers import GgufConfig

    config.model_type = next(
        (ours for ours, theirs in _ALIKE if theirs == config.model_type), config.model_type
    )
    return {"gguf_file": NAME, "quantization_config": GgufConfig(dequantize=True)}


def stored_dtype(path: Path) -> str:
    """The dtype for `dtype = "auto"`: that of most of the file's values, or float32 if these are quantised."""
    counts: Counter[str] = Counter()
    for tensor in read_model(path).tensors:
        counts[tensor.type] += tensor.n_elements
    return _COMPUTED.get(counts.most_common(1)[0][0], "float32")


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which transformers' GGUF reader shows no progress bar, which no setting can turn off."""
    from transformers import modeling_gguf_pytorch_utils

    reader: Any = modeling_gguf_pytorch_utils
    bar = reader.tqdm
    reader.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        reader.tqdm = bar


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Context with a temporary folder that contains only the model's file as `NAME`: a link to it, or its merged parts."""
    model = read_model(path)
    with tempfile.TemporaryDirectory(prefix="kltui-gguf-") as folder:
        if len(model.parts) == 1:
            (Path(folder) / NAME).symlink_to(model.first.path.absolute())
        else:
            merge(model, Path(folder) / NAME)
        yield Path(folder)


def check_used(path: Path, model: Any, asked: Any) -> tuple[str, ...]:
    """A note on tensors of the file that the loaded model does not use. Raises GGUFError if they belong to its layers."""
    found = read_model(path)
    unused = _unused(found, model)
    for config in (model.config, asked):  # `options` had set it
        config.__dict__.pop("model_type", None)
    model.is_quantized = False  # its weights have been dequantised
    layers = [name for name in unused if name.startswith("blk.")]
    if layers:
        raise GGUFError(
            f"{safe_text(str(path))} has {len(layers)} tensors in its layers that transformers' {safe_text(found.first.architecture, 60)}"
            f" does not use, first {safe_text(layers[0], 80)}",
            "It would be scored without them: name the model it was made from, or serve the file with llama.cpp.",
        )
    others = [name for name in unused if not name.startswith("rope_f")]
    return (
        (f"{len(others)} tensors of the file are not used, first {safe_text(others[0], 80)}",)
        if others
        else ()
    )


def _unused(found: GGUFModel, model: Any) -> list[str]:
    from transformers.integrations.gguf.utils import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    architecture = found.first.architecture
    if is_gguf_arch_supported(architecture):  # its loader reports unused tensors itself
        return []
    make: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    places = get_gguf_hf_weights_map(model, make(config=model.config.to_dict()))
    names = [t.name for t in found.tensors]
    own_head = {"output.weight"} if architecture == "gpt2" else set()
    return [
        n for n in names if n not in places and n.removesuffix(".weight") not in places and n not in own_head
    ]


def load_backend(path: Path) -> Backend:
    """The tokenizer in a GGUF file, converted by transformers to a tokenizer.json. Raises GGUFError if that fails."""
    check_installed()
    from transformers import AutoTokenizer

    with staged(path) as folder:
        try:
            made = AutoTokenizer.from_pretrained(folder, gguf_file=NAME, local_files_only=True)
            made.backend_tokenizer.save(str(folder / TOKENIZER_JSON))
        except Exception as error:  # transformers and the tokenizers library raise various types
            said = first_line(error).replace(str(folder / NAME), path.name)
            raise GGUFError(
                f"no tokenizer can be made from {safe_text(str(path))}: {said}",
                'Name one in its [[models]] entry: tokenizer = "FOLDER" or "OWNER/NAME", or the parent.',
            ) from error
        named = {"bos_token": made.bos_token} if made.bos_token else {}
        (folder / TOKENIZER_CONFIG).write_text(json.dumps(named))
        return FileBackend(read_tokenizer_json(folder), folder, SOURCE)


def config_notes(config: Any, tokenizer: Path | None) -> tuple[str, ...]:
    """A note if the configuration next to the tokenizer belongs to another model, so that the file's header is used."""
    beside = read_json_object(tokenizer / CONFIG) if tokenizer else {}
    text = config.get_text_config()
    same = beside.get("model_type") in (config.model_type, text.model_type)
    if not beside or (same and beside.get("hidden_size", text.hidden_size) == text.hidden_size):
        return ()
    return (
        f"the config.json next to its tokenizer belongs to another model ({safe_text(str(beside.get('model_type')), 40)}),"
        " so the file's own header was used",
    )


def keys_digest(path: Path) -> str:
    """Hex SHA-256 over the metadata of a GGUF file, which contains its tokenizer."""
    header = read_model(path).first
    with path.open("rb") as file:
        file.seek(header.keys_start)
        return hashlib.sha256(file.read(header.keys_end - header.keys_start)).hexdigest()


def tokenizer_notes(path: Path, used: Backend, texts: Sequence[str]) -> tuple[str, ...]:
    """Notes on the tokenizer used for a GGUF file. Raises GGUFError if an external one belongs to another model.

    The tokens of both are compared by id, and the ids of both on some texts.
    """
    if used.source == SOURCE:
        return ("its tokenizer was converted from the file by transformers",)
    tokens = read_model(path, keep=(TOKENS,)).first.keys.get(TOKENS)
    notes = _token_notes(path, used, tokens) if isinstance(tokens, list) else ()
    try:
        own = load_backend(path) if tokens else None
    except KltuiError as error:
        logging.getLogger(__name__).debug("no comparison with the tokenizer in %s: %s", path, error)
        own = None
    shown = list(texts[:COMPARED_TEXTS])
    differ = sum(a != b for a, b in zip(own.ids(shown), used.ids(shown), strict=True)) if own else 0
    if own and own.frame()[0] != used.frame()[0]:
        does = (
            "ask for one and the tokenizer adds none"
            if own.frame()[0]
            else "ask for none and the tokenizer adds one"
        )
        notes += (f"of a beginning-of-text token the file's own keys {does}: the tokenizer is used",)
    if differ:
        notes += (
            f"the tokenizer converted from the file by transformers would give {differ} of {len(shown)} texts"
            " different ids",
        )
    return notes


def _token_notes(path: Path, used: Backend, tokens: list[Any]) -> tuple[str, ...]:
    core = getattr(used, "core", None)
    if core is None:
        return ()
    pairs = [(i, token, core.id_to_token(i)) for i, token in enumerate(tokens)]
    known = [(i, a, b) for i, a, b in pairs if b is not None]
    other = [(i, a, b) for i, a, b in known if a != b]
    if not other and len(known) > 0.5 * len(tokens):
        return ()
    if not other or len(other) > MAX_OTHER_TOKENS * len(known):
        i, a, b = (other or [(0, str(tokens[0]), "nothing")])[0]
        raise GGUFError(
            f"the tokenizer is not that of {safe_text(str(path))}: {len(other) + len(tokens) - len(known)} of its"
            f" {len(tokens)} tokens differ, id {i} is {safe_text(repr(a), 40)} there and {safe_text(repr(b), 40)} here",
            "Name the tokenizer of the model from which it was made, or omit `tokenizer` and `parent` to use the one in the file.",
        )
    return (f"{len(other)} of the file's {len(tokens)} tokens are spelt differently in the tokenizer",)
