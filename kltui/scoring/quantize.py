"""Quantised variants: the options of transformers for each name, and the packages that they need."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.registry.gguf_file import is_gguf_variant
from kltui.registry.tensors import holds_codes, open_tensors
from kltui.scoring import gguf

if TYPE_CHECKING:
    import torch

QUANTIZATIONS = ("none", "bnb-8bit", "bnb-fp4", "bnb-nf4", "torchao-int8", "torchao-int4")

# Methods whose files always hold codes: plain weights beside them are no longer quantised, as after merging an adapter. Others, as
# bitnet's "online" mode or compressed-tensors with dynamic activations alone, quantise plain weights or their inputs in each pass.
_HOLD_CODES = (
    "bitsandbytes", "fp8", "fbgemm_fp8", "mxfp4", "gptq", "awq", "auto-round", "aqlm", "vptq", "spqr", "eetq",
)  # fmt: skip
_NEEDS = {
    "bnb": (("bitsandbytes", "accelerate"), "pip install '.[quant]'"),
    "torchao": (("torchao", "accelerate"), "pip install torchao accelerate"),
}


def is_quantized(quantization: str) -> bool:
    """Whether kltui quantises the weights for this variant. Raises an error for an unknown name.

    False for GGUF files, which are already quantised.
    """
    if is_gguf_variant(quantization):
        return False
    if quantization not in QUANTIZATIONS:
        raise KltuiError(f"unknown quantization {quantization!r}", f"one of: {', '.join(QUANTIZATIONS)}")
    return quantization != "none"


def stored(config: Any) -> str:
    """How the files are already quantised according to their configuration, such as "gptq 4-bit"; "" if they are not."""
    fields = _fields(config)
    if not fields:
        return ""
    bits = fields.get("bits") or (
        8 if fields.get("load_in_8bit") else 4 if fields.get("load_in_4bit") else ""
    )
    method = str(fields.get("quant_method") or ("bitsandbytes" if bits else "an unnamed method"))
    return f"{method} {bits}-bit" if bits else method


def _fields(config: Any) -> dict[str, Any]:
    """A model's `quantization_config`; {} if it has none."""
    reported = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if not reported:
        return {}
    return reported if isinstance(reported, dict) else dict(reported.to_dict())


def as_stored(folder: Path, config: Any, quantization: str) -> tuple[Any, tuple[str, ...]]:
    """(configuration to load the files with, notes on how they are quantised). Raises KltuiError if they cannot be scored.

    A `quantization_config` beside plain weights is left out of the configuration: merged adapters often have that of their
    base, whose library would take the weights for codes and fail when it computes.
    """
    found = stored(config)
    if not found:
        return config, ()
    method = found.split()[0]
    if _must_hold_codes(method, _fields(config)) and _are_values(folder):
        said = f"config.json says that the weights are stored quantised ({found}), but the files hold none that are"
        return _without_quantization(config), (f"{said}: they were scored as they are",)
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if method not in AUTO_QUANTIZER_MAPPING and method != "bitsandbytes":
        raise KltuiError(
            f"the weights in {folder} are stored quantised ({found}), which this version of transformers does not support",
            "use the unquantised model, or a version of transformers that supports it",
        )
    if is_quantized(quantization):
        raise KltuiError(
            f"the weights in {folder} are stored quantised already ({found}), so {quantization} cannot be applied",
            'score them with quantization = ["none"], or use the unquantised model',
        )
    return config, (f"the weights are stored quantised ({found}) and were scored in that form",)


def _must_hold_codes(method: str, fields: Mapping[str, Any]) -> bool:
    """Whether the weights of files with this `quantization_config` are stored as codes, so that plain ones are not of its method."""
    if not {"quant_method", "load_in_4bit", "load_in_8bit"} & fields.keys():
        return False
    if method != "compressed-tensors":
        return method in _HOLD_CODES
    groups = fields.get("config_groups")
    every = list(groups.values()) if isinstance(groups, dict) else []
    weights = bool(every) and all(isinstance(group, dict) and group.get("weights") for group in every)
    return weights and fields.get("quantization_status") == "compressed" and not fields.get("sparsity_config")


def _are_values(folder: Path) -> bool:
    """Whether a folder's files are safetensors without any quantised weight."""
    try:
        return not holds_codes(open_tensors(folder, as_indexed=False))
    except KltuiError:
        return False


def _without_quantization(config: Any) -> Any:
    """A copy of a configuration without its `quantization_config`."""
    plain = deepcopy(config)
    for part in (plain, plain.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return plain


def options(quantization: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for this variant: {} or its quantisation and device. Raises KltuiError if unsupported."""
    if not is_quantized(quantization):
        return {}
    check_installed(quantization)
    if quantization == "torchao-int4" and device.type == "cpu":
        raise KltuiError(
            "torchao does not support int4 on a CPU", "use torchao-int8, bnb-nf4 or bnb-fp4 here"
        )
    config = _bitsandbytes(quantization, dtype) if quantization.startswith("bnb") else _torchao(quantization)
    return {"quantization_config": config, "device_map": {"": str(device)}}


def check_installed(quantization: str) -> None:
    """Raises KltuiError if a package that the variant needs is not installed."""
    if is_gguf_variant(quantization):
        gguf.check_installed()
    if not is_quantized(quantization):
        return
    packages, command = _NEEDS[quantization.partition("-")[0]]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise KltuiError(
            f"quantization {quantization!r} needs {' and '.join(missing)}, not installed here", command
        )


def _bitsandbytes(quantization: str, dtype: torch.dtype) -> Any:
    """LLM.int8, or 4-bit fp4 or nf4 with computations in `dtype` (the papers' 4-bit is fp4)."""
    import transformers

    # Otherwise it warns of a cast to float16 at every layer of every batch; the variant's note says so once.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    make: Any = transformers.BitsAndBytesConfig
    if quantization == "bnb-8bit":
        return make(load_in_8bit=True)
    kind = quantization.removeprefix("bnb-")
    return make(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)


def _torchao(quantization: str) -> Any:
    """Weight-only int8 or int4 of torchao."""
    from transformers import TorchAoConfig

    try:
        ao: Any = import_module("torchao.quantization")
        kind = ao.Int8WeightOnlyConfig() if quantization == "torchao-int8" else ao.Int4WeightOnlyConfig()
    except (ImportError, AttributeError) as error:
        raise KltuiError(
            f"this version of torchao does not support {quantization}: {error}", "install a newer torchao"
        ) from error
    return TorchAoConfig(kind)


def quantized_share(model: Any) -> float:
    """Share, 0 to 1, of the weights of the model's layers that are quantised; embeddings and head do not count."""
    head = model.get_output_embeddings()
    apart = {id(p) for m in model.modules() if _is_embedding(m) for p in m.parameters(recurse=False)}
    apart |= {id(p) for p in head.parameters()} if head is not None else set()
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        if parameter.ndim >= 2 and id(parameter) not in apart:
            library = type(parameter).__module__.partition(".")[0]
            packed = 2 if type(parameter).__name__ == "Params4bit" else 1  # two weights in a byte
            sizes[library in ("bitsandbytes", "torchao")] += packed * parameter.numel()
    return sizes[True] / max(1, sum(sizes.values()))


def _is_embedding(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.Embedding)


def note(quantization: str, model: Any) -> tuple[str, ...]:
    """A note if only part of the model's weights are quantised. Raises KltuiError if none of them is."""
    if not is_quantized(quantization):
        return ()
    share = quantized_share(model)
    if share == 0.0:
        raise KltuiError(
            f"{quantization} changes no weight of this model, so it would be scored unquantised",
            "bnb-8bit, bnb-nf4 and bnb-fp4 support more kinds of layers",
        )
    if share > 0.95:
        return ()
    return (f"only {share:.0%} of its layers' weights are {quantization}; the rest is unchanged",)


# Number of weights along a row that a 4-bit variant packs together.
_BLOCKS = {"bnb-fp4": 64, "bnb-nf4": 64, "torchao-int4": 128}


def refusal(quantization: str, model: Any) -> str:
    """The hint if a quantised model does not run, with the layer widths that its kernel may not support."""
    block = _BLOCKS.get(quantization, 1)
    widths = {int(m.in_features) for m in model.modules() if hasattr(m, "in_features")}
    odd = ", ".join(str(width) for width in sorted(widths) if width % block)
    if odd:
        return (
            f"{quantization} packs {block} weights of a row together, and layers of this model are {odd} wide: "
            "score it as bnb-8bit or without quantization"
        )
    return (
        f"{quantization} does not run with this model's shapes on this device; score it without quantization"
    )


def versions(quantization: str) -> dict[str, str]:
    """{library: version} of the library that quantises or dequantises this variant, for the vector's key."""
    from importlib.metadata import version

    if is_gguf_variant(quantization):
        return {"gguf": version("gguf")}
    if not is_quantized(quantization):
        return {}
    name = _NEEDS[quantization.partition("-")[0]][0][0]
    return {name: version(name)}
