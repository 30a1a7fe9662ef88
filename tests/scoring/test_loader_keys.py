"""What the installed transformers reads from a configuration while it loads a model, against what kltui knows of.

A new release that looks at another key, or opens files in another place, fails here until someone has seen what it does.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kltui.registry.passed_on import LEFT_OUT, METHODS, QUANTIZATION, REFUSED, _settings

ROOT = Path(transformers.__file__).parent

# The modules between `from_pretrained` and a model in memory.
LOADERS = (
    "configuration_utils.py", "modeling_utils.py", "models/auto/auto_factory.py", "models/auto/configuration_auto.py",
    "dynamic_module_utils.py", "quantizers/auto.py", "core_model_loading.py", "backbone_utils.py", "fusion_mapping.py",
    "integrations/hub_kernels.py", "conversion_mapping.py", "distributed/checkpoint.py",
)  # fmt: skip
# Keys that say how a model computes, and names of the library's own: nothing is opened by them.
HARMLESS = frozenset(["0", "AutoConfig", "__class__", "_experts_implementation_internal", "_out_features", "_out_indices", "architectures", "attention_dropout", "backbone_config", "bos_token_id", "config", "dequantize", "disk", "dtype", "eos_token_id", "features_only", "first_k_dense_replace", "gradient_checkpointing", "head_dim", "hidden_size", "init_std", "initializer_factor", "initializer_range", "layer_types", "llama4", "load_in_4bit", "load_in_8bit", "mlp_layer_types", "model_type", "mtp_layer_types", "mtp_mlp_layer_types", "mtp_per_layer_config", "num_attention_heads", "num_channels", "num_key_value_heads", "num_mtp_layers", "out_features", "out_indices", "output_hidden_states", "pad_token_id", "per_layer_config", "quant_method", "sep_token_id", "set_output_features_output_indices", "sliding_window", "stage_names", "text_config", "tie_word_embeddings", "verify_out_features_out_indices", "vision_config", "vocab_size", "num_labels", "output_attentions", "rope_scaling", "rope_theta", "torch_dtype", "quantization_config"])  # fmt: skip
# Arguments of functions that have the word in their names but never hold what a config.json says.
ARGUMENTS = frozenset(["adapter_kwargs", "adapter_name", "allow_all_kernels", "commit_message", "config", "create_pr", "cu_seqlens", "device", "device_mesh", "force_cpu", "generation_config", "key_mapping", "max_memory", "offload_buffers", "offload_folder", "output_loading_info", "repo_id", "return_unused_kwargs", "seq_idx", "tags", "tp_plan", "tp_size", "tqdm_class"])  # fmt: skip


def keys_read(path: Path) -> Iterator[str]:
    """Constant names by which a module asks a configuration, or keyword arguments that a config.json may fill."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func)
            if function in ("getattr", "hasattr") and "config" in ast.unparse(node.args[0]).lower():
                yield from _constant(node.args[1])
            whose, _, method = function.rpartition(".")
            if method in ("get", "pop", "setdefault") and ("config" in whose.lower() or whose == "kwargs"):
                yield from _constant(node.args[0])
        elif isinstance(node, ast.Subscript) and "config" in ast.unparse(node.value).lower():
            yield from _constant(node.slice)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
            "config",
            "self.config",
            "model.config",
        ):
            yield node.attr
        elif isinstance(node, ast.Compare) and "config" in ast.unparse(node.comparators[0]).lower():
            yield from _constant(node.left)


def _constant(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)


@pytest.mark.parametrize("name", LOADERS)
def test_every_key_that_the_loaders_read_is_known(name: str) -> None:
    known = HARMLESS | ARGUMENTS | METHODS | LEFT_OUT | REFUSED.keys()
    found = {key for key in keys_read(ROOT / name) if not key.startswith("__")}
    assert not found - known, (
        "does it name a file, code, a kernel or a repository? then kltui.registry.passed_on"
    )


def test_what_a_configuration_object_has_for_itself_never_passes() -> None:
    settings = {
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "rope_scaling",
    }
    settings |= {"torch_dtype", "use_return_dict"}
    own = {name for name in dir(PreTrainedConfig) if not name.startswith("__")} - settings
    assert own - {field.name for field in fields(PreTrainedConfig)} == METHODS


def test_the_settings_of_every_causal_model_pass() -> None:
    """What transformers itself writes for a family reaches it again, whole."""
    lost = []
    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = json.loads(CONFIG_MAPPING[family]().to_json_string(use_diff=False))
        except Exception:  # a few need sub-configurations and have no defaults
            continue
        if _settings(config) != _without_names(config):
            lost.append(family)
    assert not lost


def _without_names(value: Any) -> Any:
    """The same without `_name_or_path`, at any depth."""
    if isinstance(value, dict):
        return {key: _without_names(inner) for key, inner in value.items() if key != "_name_or_path"}
    return [_without_names(inner) for inner in value] if isinstance(value, list) else value


def test_no_causal_model_opens_files_of_its_own() -> None:
    """Outside of examples in docstrings, and of what builds a model of two others."""
    opens = re.compile(
        r"^(?!\s*(>>>|\.\.\.|#)).*\b(load_backbone|hf_hub_download|snapshot_download|cached_file|torch\.load|timm\.create_model)\("
    )
    modules = {CONFIG_MAPPING[f].__module__.split(".")[2] for f in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    found = {
        path.name
        for module in modules
        for path in (ROOT / "models" / module).glob("modeling_*.py")
        if any(opens.match(line) for line in path.read_text().splitlines())
    }
    assert found <= {"modeling_perception_lm.py"}  # in an example
    assert QUANTIZATION == "quantization_config"
