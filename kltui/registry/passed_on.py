"""What is passed to transformers of a model folder: the files that were hashed, and settings that refer to nothing else.

Files in a folder can make transformers read more than its weights: `transformers_weights` and `configuration_files` name
other files, `auto_map` code, an attention implementation can be a kernel of the hub, an adapter adds other weights, and a
new release may add more. Therefore transformers gets a temporary folder, with links to the hashed files and with JSON files
from which everything except plain settings of a model is removed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.registry.gguf_file import is_gguf, read_model
from kltui.registry.layout import (
    CONFIG,
    TOKENIZER_CONFIG,
    is_adapter_folder,
    tokenizer_names,
    unique_keys,
    weight_entry,
    weight_names,
)
from kltui.sanitize import safe_text

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

# Keys of a config.json that replace the hashed weights or configuration by others.
REFUSED = {
    "transformers_weights": "another weight file",
    "configuration_files": "another configuration",
    "gguf_file": "another weight file",
    "backbone": "another model",
}
# Keys that are removed: the model's origin, code that kltui never runs, and how transformers computes, which kltui decides
# itself.
LEFT_OUT = frozenset({
    "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash", "_configuration_file",
    "_experts_implementation_internal", "_flash_attn_2_enabled", "_from_auto", "_from_pipeline", "_name_or_path",
    "adapter_config", "attn_implementation", "auto_map", "backbone_kwargs", "base_model_name_or_path", "cache_dir",
    "code_revision", "compile_config", "custom_pipelines", "device_map", "distributed_config",
    "experts_implementation", "force_download", "fusion_config", "kernel_config", "local_files_only", "name_or_path",
    "proxies", "revision", "state_dict", "subfolder", "timm_backbone", "token", "trust_remote_code",
    "use_auth_token", "use_kernels", "use_pretrained_backbone", "use_safetensors", "use_timm_backbone", "variant",
})  # fmt: skip
# Names of methods and attributes of a configuration object, whose behaviour such keys would change.
METHODS = frozenset({
    "_attn_implementation", "_auto_class", "_check_received_keys", "_decode_special_floats", "_dict_from_json_file",
    "_encode_special_floats", "_experts_implementation", "_get_config_dict", "_get_files_timestamps",
    "_get_generation_parameters", "_getattr_without_heterogeneous_validation",
    "_hasattr_without_heterogeneous_validation", "_iter_config_keys_with_heterogeneous_adjustment",
    "_remove_keys_not_serialized", "_update_heterogeneous_to_dict_output", "_upload_modified_files",
    "_validate_axial_rope_parameters", "_validate_default_rope_parameters", "_validate_dynamic_rope_parameters",
    "_validate_linear_rope_parameters", "_validate_llama3_rope_parameters", "_validate_longrope_rope_parameters",
    "_validate_proportional_rope_parameters", "_validate_yarn_rope_parameters",
    "allow_global_per_layer_attribute_access", "attribute_map", "base_config_key", "base_model_ep_plan",
    "base_model_fsdp_plan", "base_model_pp_plan", "base_model_tp_plan", "convert_rope_params_to_dict",
    "default_config_fields", "default_rope_type", "default_theta", "dict_dtype_to_str", "extra_config_files",
    "extra_files", "from_dict", "from_json_file", "from_pretrained", "get_config_dict", "get_mtp_config",
    "get_text_config", "ignore_keys_at_rope_validation", "is_custom_code", "is_heterogeneous", "is_remote_code",
    "nested_rope_parameter_keys", "per_layer_attributes", "push_to_hub", "register_for_auto_class",
    "save_pretrained", "serialize_explicit_per_layer_config", "standardize_rope_params", "sub_configs",
    "sub_configs_defaults", "to_dict", "to_diff_dict", "to_json_file", "to_json_string", "update",
    "update_from_string", "validate", "validate_architecture", "validate_layer_type", "validate_output_attentions",
    "validate_rope", "validate_token_ids",
})  # fmt: skip
# A plain setting: an activation, a kind of layer, a pattern of them. A path, URL, module or repository would contain a
# slash, a colon or a dot.
_WORDS = re.compile(r"[\w+*|,=()\[\] -]*")
_VERSION = re.compile(r"\d[\w.+-]*")
QUANTIZATION = "quantization_config"
_DTYPE_KEYS = frozenset({"dtype", "torch_dtype"})
# Spellings of dtypes, and torch's names.
_DTYPES = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32", "fp64": "float64",
    "double": "float64",
}  # fmt: skip

# Keys of a tokenizer_config.json by which another file, class or repository could be named.
_TOKENIZER_LEFT_OUT = re.compile(
    r"_.*|auto_map|init_inputs|name_or_path|.*_(file|files|path|object|dir)|slow_tokenizer_class|fast_tokenizer_files"
    r"|trust_remote_code|gguf_file|subfolder|revision|backend"
)


def check_folder(folder: Path) -> None:
    """Raises KltuiError if a folder's files refer to other weights than its own, or a GGUF file is damaged."""
    if is_gguf(folder):
        read_model(folder)
        return
    if is_adapter_folder(folder):
        raise KltuiError(
            f"{safe_text(str(folder))} contains an adapter and not its base model",
            "Add it as a separate [[models]] entry with its base.",
        )
    model_config(folder)
    names = {path.name for path in folder.iterdir()}
    if weight_entry(names) is not None:
        check_no_adapter(safe_text(str(folder)), names)


def check_no_adapter(where: str, names: set[str]) -> None:
    """Raises KltuiError if the files of a full model include an adapter."""
    found = next((name for name in ADAPTER_FILES if name in names), None)
    if found is not None:
        raise KltuiError(
            f"{where} contains an adapter ({found}) and full weights, so it is ambiguous",
            "To score the weights as they are, take the adapter's files away (or name a copy without them); to score both"
            " together, merge the adapter into the weights and save that.",
        )


def model_config(folder: Path) -> dict[str, Any]:
    """The settings in a folder's config.json that are passed on. Raises KltuiError if it names other files or is invalid."""
    path = folder / CONFIG
    config = _read_object(path)
    _check_names_nothing(path, config)
    return _settings(config)


def wants_own_code(folder: Path) -> bool:
    """Whether config.json refers to custom Python code."""
    return "auto_map" in _read_object(folder / CONFIG)


def has_own_model(folder: Path) -> bool:
    """Whether config.json refers to custom Python code of the model itself, not only of its tokenizer or configuration."""
    stated = _read_object(folder / CONFIG).get("auto_map")
    return isinstance(stated, dict) and "AutoModelForCausalLM" in stated


@contextmanager
def staged(folder: Path, allow_bin: bool = False, scratch: Path | None = None) -> Iterator[Path]:
    """Context with a temporary folder of the model's files that are passed to transformers.

    In `scratch` it is not deleted at the end, for models that are read again while they are used.
    """
    made = Path(tempfile.mkdtemp(prefix="kltui-model-", dir=scratch))
    try:
        for name in weight_names(folder, allow_bin):
            (made / name).symlink_to((folder / name).absolute())
        (made / CONFIG).write_text(json.dumps(model_config(folder)))
        yield made
    finally:
        if scratch is None:
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def staged_config(folder: Path) -> Iterator[Path]:
    """Context with a temporary folder that contains only the filtered config.json."""
    with tempfile.TemporaryDirectory(prefix="kltui-config-") as made:
        (Path(made) / CONFIG).write_text(json.dumps(model_config(folder)))
        yield Path(made)


@contextmanager
def staged_tokenizer(folder: Path) -> Iterator[Path]:
    """Context with a temporary folder of the filtered tokenizer files of `folder`, and of the config.json next to them."""
    with tempfile.TemporaryDirectory(prefix="kltui-tokenizer-") as text:
        made = Path(text)
        for name in tokenizer_names([path.name for path in folder.iterdir() if path.is_file()]):
            if name != TOKENIZER_CONFIG:
                (made / name).symlink_to((folder / name).absolute())
        if (folder / TOKENIZER_CONFIG).is_file():
            config = _read_object(folder / TOKENIZER_CONFIG)
            kept = {key: value for key, value in config.items() if not _TOKENIZER_LEFT_OUT.fullmatch(key)}
            (made / TOKENIZER_CONFIG).write_text(json.dumps(kept))
        if (folder / CONFIG).is_file():
            (made / CONFIG).write_text(json.dumps(model_config(folder)))
        yield made


def _read_object(path: Path) -> dict[str, Any]:
    where = safe_text(str(path))
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise KltuiError(
            f"{where} cannot be read: {type(error).__name__}: {safe_text(str(error), 200)}",
            "The file may be incomplete: download or save it again.",
        ) from error
    if not isinstance(found, dict):
        raise KltuiError(
            f"{where} is not a JSON object", "The file may be incomplete: download or save it again."
        )
    return found


def _check_names_nothing(path: Path, config: dict[str, Any]) -> None:
    for key, value in config.items():
        if key in REFUSED and value:
            raise KltuiError(
                f"{safe_text(str(path))} names {REFUSED[key]}: {key} = {safe_text(json.dumps(value), 80)}",
                f"kltui scores the weights in the folder under their usual names. Remove {key}, or replace the"
                " weights by those that it names.",
            )
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _check_names_nothing(path, inner)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The plain settings in a configuration, and in configurations inside it."""
    return {
        key: value if key == QUANTIZATION else _inner_settings(value)
        for key, value in _with_plain_dtypes(config).items()
        if not key.startswith("__")
        and key not in LEFT_OUT | METHODS
        and (key == QUANTIZATION or _is_plain(value))
    }


def _with_plain_dtypes(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with torch's names of the dtypes in it; without those that are none a model is computed in.

    transformers ends with an error for other spellings, though kltui decides in which dtype it computes.
    """
    stated = {key: str(config[key]).removeprefix("torch.").lower() for key in _DTYPE_KEYS & config.keys()}
    plain = {key: _DTYPES.get(name, name) for key, name in stated.items()}
    kept = {
        key: config[key] if config[key] is None else name
        for key, name in plain.items()
        if config[key] is None or name in _DTYPES.values()
    }
    return {key: value for key, value in config.items() if key not in _DTYPE_KEYS} | kept


def _inner_settings(value: Any) -> Any:
    if isinstance(value, dict):
        # This is how transformers writes an infinite number.
        return value if value.keys() == {"__float__"} else _settings(value)
    return [_inner_settings(inner) for inner in value] if isinstance(value, list) else value


def _is_plain(value: object) -> bool:
    """Whether a value is a number, a plain string, a list of these, or an object, whose items are checked separately."""
    if isinstance(value, str):
        return bool(_WORDS.fullmatch(value) or _VERSION.fullmatch(value))
    if isinstance(value, list):
        return all(_is_plain(inner) for inner in value)
    return True
