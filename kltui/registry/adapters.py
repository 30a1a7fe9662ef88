"""Adapters (PEFT): their configuration, their base, and the check of both against their hashes.

An adapter's `adapter_config.json` may name a base, a module to import and other adapters. The base is resolved here; of
the other keys, only settings of the method are passed to peft.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kltui.errors import KltuiError
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.registry.gguf_file import is_gguf_variant
from kltui.registry.layout import (
    ADAPTER_CONFIG,
    SETTINGS_MAX_BYTES,
    has_tokenizer,
    is_adapter_folder,
    is_checkpoint_folder,
    unique_keys,
    weight_names,
)
from kltui.registry.names import check_repo, check_revision
from kltui.registry.reading import Hashed, Reading
from kltui.sanitize import expanded, safe_text

INSTALL = "pip install '.[adapters]' (in kltui's folder)"

# Methods that add tokens to a text or mix several adapters.
_REFUSED_METHODS = {
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"),
        "adds learned tokens to a text, so it cannot be merged or scored as a change of weights",
    ),
    **dict.fromkeys(("XLORA", "POLY"), "mixes several adapters"),
}
# Initialisations that change the base's own weights, so that its files are no longer those of the base.
_MOVES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)
_REFUSED_KEYS = {
    "layer_replication": "it repeats the base's layers",
    "alora_invocation_tokens": "it is active only after certain tokens of a chat",
    "megatron_config": "it is for Megatron models",
}
# Keys on the adapter's origin and initialisation, and names of modules to import.
_LEFT_OUT = frozenset({
    "auto_mapping", "base_model_name_or_path", "revision", "megatron_core", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "runtime_config", "arrow_config", "peft_version", "inference_mode", "qalora_group_size_config",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapted:
    """An adapter and its base, each as hashed. The tokenizer is the adapter's own if it has one.

    `base_hub` is the source of the base's files for a machine that does not see its folder.
    """

    base: Hashed
    adapter: Hashed
    base_hub: HubSource | None = None

    @property
    def tokenizer(self) -> Path:
        """The folder from which the tokenizer is read."""
        if has_tokenizer(self.adapter.folder):
            return self.adapter.folder
        return self.adapter.tokenizer or self.base.tokenizer or self.base.folder

    @property
    def weights(self) -> str:
        """The identity of both in a vector's key: a hex SHA-256."""
        return joined_weights(self.base.weights, self.adapter.weights)


def joined_weights(base: str, adapter: str) -> str:
    """The identity of an adapter on its base in a vector's key, from those of both: a hex SHA-256."""
    return hashlib.sha256(f"kltui adapter 1\n{base}\n{adapter}".encode()).hexdigest()


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is an adapter: on this machine if its folder contains one, on the hub if it has a base.

    False if the folder cannot be read, as for another user's models in a shared workspace.
    """
    source = checkpoint.source
    if isinstance(source, HubSource):
        return bool(checkpoint.base) and not is_gguf_variant(checkpoint.quantization)
    try:
        return isinstance(source, LocalSource) and source.path.is_dir() and is_adapter_folder(source.path)
    except OSError:
        return False


class AdaptedReading(Reading):
    """Guards the files of a base and an adapter from before they are read until scoring ends."""

    def __init__(self, adapted: Adapted) -> None:
        self.adapted = adapted
        self._adapter = Reading(adapted.adapter)
        try:
            super().__init__(adapted.base)
        except BaseException:
            self._adapter.__exit__()
            raise

    @property
    def tokenizer(self) -> Path:
        """The folder from which the tokenizer is read."""
        return self.adapted.tokenizer

    def __exit__(self, *error: object) -> None:
        self._adapter.__exit__(*error)
        super().__exit__(*error)

    def check(self) -> None:
        """Call this when everything is loaded. Raises ChangedError if a file of either has changed."""
        super().check()
        self._adapter.check()

    def check_used(self, *, by_name: bool = False) -> None:
        """Call this after the last forward pass. Raises ChangedError if a file of either was written to."""
        super().check_used(by_name=by_name)
        self._adapter.check_used(by_name=by_name)


def adapter_config(folder: Path) -> dict[str, Any]:
    """The contents of the folder's adapter_config.json. Raises KltuiError if it is not a JSON object or is not supported."""
    path = folder / ADAPTER_CONFIG
    where = safe_text(str(path))
    try:
        if path.stat().st_size > SETTINGS_MAX_BYTES:
            raise ValueError("it is too large for a settings file")
        config = json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        said = safe_text(str(error), 200)
        raise KltuiError(
            f"{where} cannot be read: {type(error).__name__}: {said}",
            "The file may be incomplete: download or save it again.",
        ) from error
    if not isinstance(config, dict):
        raise KltuiError(
            f"{where} is not a JSON object", "The file may be incomplete: download or save it again."
        )
    _check_method(where, config)
    return config


def passed_on(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of an adapter's configuration that are passed to peft: settings of its method, with sorted sets of names."""
    kept = {key: value for key, value in config.items() if key not in _LEFT_OUT and not key.startswith("_")}
    for key in ("target_modules", "modules_to_save", "exclude_modules", "target_parameters"):
        if isinstance(kept.get(key), list):
            kept[key] = sorted(kept[key])
    return kept | {"inference_mode": True}


def _check_method(where: str, config: dict[str, Any]) -> None:
    method, task = str(config.get("peft_type") or ""), str(config.get("task_type") or "CAUSAL_LM")
    if not method:
        raise KltuiError(f"{where} names no peft_type", "Save the adapter again with peft's save_pretrained.")
    if method in _REFUSED_METHODS:
        raise KltuiError(
            f"{where}: {safe_text(method, 40)} {_REFUSED_METHODS[method]}",
            "kltui supports LoRA and similar methods that change weights.",
        )
    if task != "CAUSAL_LM":
        raise KltuiError(
            f"{where}: the adapter is for {safe_text(task, 40)}, not for a causal language model",
            "kltui scores only causal models.",
        )
    for key, why in _REFUSED_KEYS.items():
        if config.get(key):
            raise KltuiError(
                f"{where} sets {key}: {why}, which kltui does not support",
                "Merge the adapter and save the result, if peft supports it.",
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and _MOVES_BASE.search(start):
        raise KltuiError(
            f"{where}: init_lora_weights = {safe_text(start, 40)} changes the base's own weights",
            "Save it as an ordinary LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )


def check_adapter(folder: Path, allow_bin: bool = False) -> None:
    """Raises KltuiError if the adapter in `folder` cannot be scored, as far as can be known without peft."""
    adapter_config(folder)
    names = weight_names(folder)
    if names[0].endswith(".bin") and not allow_bin:
        raise KltuiError(
            f"{safe_text(str(folder))} contains only a pickled adapter ({names[0]}), which can run code when it is opened",
            "Save it as safetensors, or set allow_bin = true in [scoring] if you trust it.",
        )


def check_peft() -> None:
    """Raises KltuiError if peft is not installed."""
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise KltuiError("adapters need peft, not installed here", INSTALL)


def _named_base(folder: Path) -> tuple[str, str]:
    """(folder or repository, revision) of the base that the adapter in `folder` names. Raises KltuiError if it names none."""
    config = adapter_config(folder)
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        raise KltuiError(
            f"{safe_text(str(folder / ADAPTER_CONFIG))} does not name its base",
            'Name it in the [[models]] entry: base = "FOLDER or OWNER/NAME".',
        )
    return named, str(config.get("revision") or "main")


def base_source(folder: Path, job_folder: Path) -> LocalSource | HubSource:
    """The base that the adapter in `folder` names: a folder, relative to the adapter's or the job's, or a hub repository.

    Raises KltuiError if it names none, or a folder that does not exist.
    """
    named, revision = _named_base(folder)
    where = safe_text(str(folder / ADAPTER_CONFIG))
    shown = safe_text(named, 120)
    for root in (folder, job_folder):
        if is_checkpoint_folder(here := Path(root, expanded(named))):
            return LocalSource(here.resolve())
    try:
        check_repo(named)
        check_revision(revision)
    except KltuiError as error:
        raise KltuiError(
            f"{where} names the base {shown}, which is neither a model folder here nor a hub repository",
            'Name it in the [[models]] entry: base = "FOLDER or OWNER/NAME".',
        ) from error
    return HubSource(named, revision)
