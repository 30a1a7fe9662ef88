"""Scores adapters with peft on a base that stays loaded: the tensors of one adapter replace those of the previous one."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kltui.errors import KltuiError
from kltui.registry import adapters
from kltui.registry.adapters import Adapted, AdaptedReading
from kltui.registry.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, weight_names
from kltui.registry.parameters import is_embedding
from kltui.registry.reading import Hashed, Reading
from kltui.registry.tensors import read_header
from kltui.sanitize import safe_text
from kltui.scoring.loading import Loaded, first_line, quiet_transformers

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]
_Places = dict[str, tuple[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Adapter:
    """An adapter with its base, both with their hashes, and the adapter's tensors by name."""

    adapted: Adapted
    state: State

    @property
    def folder(self) -> Path:
        """The adapter's folder."""
        return self.adapted.adapter.folder

    @property
    def settings(self) -> dict[str, Any]:
        """Its configuration for peft."""
        return adapters.passed_on(adapters.adapter_config(self.folder))

    def make(self, quantization: str) -> str:
        """Equal for adapters that can replace each other: base, variant, settings, names and shapes of the tensors, as JSON."""
        shapes = {name: [str(t.dtype), *t.shape] for name, t in sorted(self.state.items())}
        base = self.adapted.base
        return json.dumps([base.weights, str(base.folder), quantization, self.settings, shapes])

    def key(self) -> dict[str, str]:
        """Additional fields of a vector's key: both fingerprints, the settings and peft's version."""
        from importlib.metadata import version

        return {
            "base": self.adapted.base.weights,
            "adapter": self.adapted.adapter.weights,
            "adapter_config": json.dumps(self.settings, sort_keys=True),
            "peft": version("peft"),
        }


@dataclass(frozen=True)
class AdaptedModel:
    """A base model with an adapter: `loaded` is the base's model, whose layers peft has wrapped.

    `make` is that of adapters that can replace this one. `plain` is the base as it was loaded, from the files `base` in the
    variant `quantization`, and `places` are the addresses of its tensors.
    """

    make: str
    loaded: Loaded
    peft_model: Any
    plain: Loaded
    base: Hashed
    quantization: str
    places: _Places
    only_factors: bool

    def swap(self, adapter: Adapter) -> None:
        """Replaces this adapter's tensors by another's with the same names and shapes. Raises KltuiError if they do not fit."""
        _fill(self.peft_model, adapter, self.loaded.left_out)

    def taken_off(self, base: Hashed, quantization: str) -> Loaded | None:
        """The model with the adapter removed, if that is certain to be `base` in this variant; otherwise None.

        Biases and full embeddings overwrite those of the base, so only adapters that consist of factors can be removed.
        """
        mine, other = ((h.folder, h.weights, h.stamps) for h in (self.base, base))
        if not self.only_factors or not base.weights or (mine, self.quantization) != (other, quantization):
            return None
        try:
            model = self.peft_model.unload()
            whole = model is self.plain.model and _places(model) == self.places
        except Exception as error:  # peft raises various types: some methods cannot be removed
            log.debug("an adapter was not removed", exc_info=error)
            return None
        return self.plain if whole else None


def _places(model: Any) -> _Places:
    """{name: (address, shape)} of a model's tensors."""
    tensors = model.state_dict(keep_vars=True).items()
    return {name: (tensor.data_ptr(), tuple(tensor.shape)) for name, tensor in tensors}


def read_adapter(
    adapted: Adapted, allow_bin: bool, ahead: Mapping[str, torch.Tensor] | None = None
) -> Adapter:
    """The adapter with its tensors, which are those read `ahead` if given.

    Raises KltuiError if they are damaged, or pickled and not allowed, or if peft is not installed.
    """
    adapters.check_peft()
    folder = adapted.adapter.folder
    if ahead is None:
        return Adapter(adapted, read_state(folder, allow_bin))
    adapters.check_adapter(folder, allow_bin)
    return Adapter(adapted, dict(ahead))


def adapter_of(reading: Reading, allow_bin: bool) -> Adapter | None:
    """The adapter to be scored, with its tensors; None if a model without an adapter is scored."""
    return read_adapter(reading.adapted, allow_bin) if isinstance(reading, AdaptedReading) else None


def read_state(folder: Path, allow_bin: bool) -> State:
    """The tensors in an adapter's folder. Raises KltuiError if they are damaged, or pickled and not allowed."""
    adapters.check_adapter(folder, allow_bin)
    path = folder / weight_names(folder)[0]
    try:
        if path.name == ADAPTER_WEIGHTS[0]:
            from safetensors.torch import load_file

            read_header(path)
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except KltuiError:
        raise
    except Exception as error:  # safetensors and torch raise various types for a damaged file
        raise KltuiError(
            f"the adapter's weights {safe_text(str(path))} cannot be read: {safe_text(first_line(error))}",
            "copy or save it again",
        ) from error
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise KltuiError(
            f"{safe_text(str(path))} contains more than tensors", "save the adapter as safetensors"
        )
    return {str(name): tensor for name, tensor in found.items()}


def adapted_config(config: Any, adapter: Adapter | None) -> Any:
    """The base's configuration, with the vocabulary size of the adapter's own embeddings if it has any."""
    rows = None if adapter is None else _embedding_rows(adapter.state)
    if rows is None or rows == config.get_text_config().vocab_size:
        return config
    made = copy.deepcopy(config)
    made.get_text_config().vocab_size = rows
    return made


def adapt(loaded: Loaded, adapter: Adapter, make: str, quantization: str) -> AdaptedModel:
    """The base, loaded in this variant, with the adapter applied. Raises KltuiError if peft cannot, or if tensors do not match."""
    import peft

    folder, places = adapter.folder, _places(loaded.model)
    notes = _resize(loaded.model, adapter.state, folder)
    with tempfile.TemporaryDirectory(prefix="kltui-adapter-") as made:
        (Path(made) / ADAPTER_CONFIG).write_text(json.dumps(adapter.settings))
        try:
            settings = peft.PeftConfig.from_pretrained(made)
            # any initial values are replaced by the file's tensors
            if hasattr(settings, "init_lora_weights"):
                settings.init_lora_weights = True
            with warnings.catch_warnings(), quiet_transformers():
                warnings.simplefilter("ignore")
                model = peft.get_peft_model(loaded.model, settings)
        except Exception as error:  # peft and the libraries that it uses raise various types
            said = safe_text(first_line(error)).replace(made, str(folder))
            raise KltuiError(
                f"peft cannot apply the adapter in {safe_text(str(folder))} to its base: {said}",
                "check that it is for this base (otherwise set `base` in the [[models]] entry) and that this version of peft supports it",
            ) from error
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _fill(model, adapter, loaded.left_out)
    note = f"scored by peft {peft.__version__} on {safe_text(str(adapter.adapted.base.folder))}"
    only_factors = all(".lora_" in name for name in adapter.state)
    return AdaptedModel(
        make, replace(loaded, notes=(*loaded.notes, note, *notes)), model, loaded, adapter.adapted.base, quantization,
        places, only_factors,
    )  # fmt: skip


def _fill(model: Any, adapter: Adapter, left_out: tuple[str, ...]) -> None:
    """Copies the adapter's tensors into the model. Raises KltuiError unless they match its adapter parameters exactly.

    Except for those of the modules `left_out`, which no text passes through.
    """
    import peft

    folder = safe_text(str(adapter.folder))
    state = {n: t for n, t in adapter.state.items() if not any(f".{part}." in n for part in left_out)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
            _check_names(own, state, folder)
            result: Any = peft.set_peft_model_state_dict(model, state)
    except KltuiError:
        raise
    except KeyError as error:
        raise _incomplete(folder, [str(error.args[0])]) from error
    except RuntimeError as error:
        said = next(
            (line.strip() for line in str(error).splitlines() if "size mismatch" in line), first_line(error)
        )
        raise KltuiError(
            f"the adapter in {folder} does not fit its base: {safe_text(said, 300)}",
            "check that its configuration, weights and base belong together",
        ) from error
    if result.unexpected_keys:
        raise _left_over(folder, sorted(result.unexpected_keys))


def _check_names(own: set[str], state: State, folder: str) -> None:
    """Raises KltuiError unless the file has the tensors that peft would save of this model; it may also have whole embeddings."""
    if lacking := sorted(own - state.keys()):
        raise _incomplete(folder, lacking)
    if over := sorted(name for name in state.keys() - own if not _is_whole_embedding(name)):
        raise _left_over(folder, over)


def _incomplete(folder: str, lacking: list[str]) -> KltuiError:
    return KltuiError(
        f"the adapter in {folder} lacks {len(lacking)} of its tensors, first {safe_text(lacking[0], 160)}",
        "kltui never scores random weights: check that its configuration, weights and base belong together",
    )


def _left_over(folder: str, over: list[str]) -> KltuiError:
    return KltuiError(
        f"{len(over)} tensors of the adapter in {folder} do not exist in its base, first {safe_text(over[0], 160)}",
        "check that it is for this base; otherwise set `base` in the [[models]] entry",
    )


def _is_whole_embedding(name: str) -> bool:
    """Whether a tensor is a whole embedding or output head, which peft saves with an adapter if they were resized."""
    return ".lora_" not in name and is_embedding(name.replace(".base_layer.", "."), or_head=True)


def _embedding_rows(state: State) -> int | None:
    """Vocabulary size of the whole embeddings in an adapter; None if it has none."""
    rows = {t.shape[0] for name, t in state.items() if _is_whole_embedding(name) and t.ndim == 2}
    return rows.pop() if len(rows) == 1 else None


def _resize(model: Any, state: State, folder: Path) -> tuple[str, ...]:
    """Resizes the model to the vocabulary of the adapter's own embeddings; returns a note if that changes its size."""
    rows, before = _embedding_rows(state), model.get_input_embeddings().weight.shape[0]
    if rows is None or rows == before:
        return ()
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embeddings.weight
    whole = sum(_is_whole_embedding(name) for name in state)
    if not tied and whole < 2:
        raise KltuiError(
            f"the adapter in {safe_text(str(folder))} has {rows} entries of the vocabulary where its base has {before},"
            " and only one of embeddings and output head",
            "save it with both: save_pretrained(..., save_embedding_layers=True)",
        )
    model.resize_token_embeddings(rows, mean_resizing=False)
    return (
        f"its vocabulary has {rows} entries, that of its base {before}: the adapter's own embeddings are used",
    )
