"""Loads a model folder. Its contents are checked first, and incomplete models are errors."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kltui.errors import KltuiError
from kltui.kernels import native
from kltui.registry import layout, passed_on
from kltui.registry.formats import unreadable
from kltui.registry.gguf_file import is_gguf
from kltui.registry.parameters import has_own_head, is_embedding
from kltui.registry.tensors import open_tensors
from kltui.scoring import device_map, families, gguf, lean_imports, quantize, used_tensors
from kltui.scoring.device import DeviceInUse, computed_dtype, device_in_use
from kltui.scoring.load_errors import package_error

if TYPE_CHECKING:
    import torch

# Names of the number of positions in configurations; ALiBi and state-space models have no such limit.
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_UNBOUNDED = {"bloom", "mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma"}


# Names, in the headers of weight files, of dtypes that a model can be computed in.
_COMPUTED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

WHOLE = device_map.DeviceLayout("none")


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, its configuration, attention implementation, and notes.

    `left_out`: the names of modules that texts do not pass through, and which were removed.
    """

    model: Any
    config: Any
    attention: str
    dtype: torch.dtype
    notes: tuple[str, ...]
    left_out: tuple[str, ...] = ()


class _TooLargeError(KltuiError):
    """Raised for a model that does not fit on its device."""


def pick_device(device: str) -> torch.device:
    """The torch device that `device` names; "auto" is the first GPU that torch can use, otherwise the CPU."""
    return torch_device(device_in_use(device), device)


def torch_device(in_use: DeviceInUse, asked: str) -> torch.device:
    """The torch device; without an index if `asked` has none."""
    import torch

    return torch.device(in_use.device if ":" in asked else in_use.device.partition(":")[0])


def compute_dtype(dtype: str, device: torch.device) -> tuple[torch.dtype, tuple[str, ...]]:
    """(dtype to compute in, notes): float32 instead of float16 on a CPU, and a note if bfloat16 is slow on this one."""
    import torch

    if computed_dtype(dtype, device.type) != dtype:
        return torch.float32, (
            "float16 was requested or stored; on a CPU the weights are upcast and computed in float32",
        )
    if dtype == "bfloat16" and device.type == "cpu" and not native.info()["bf16_products"]:
        return torch.bfloat16, (
            "this processor has no bfloat16 instructions: float32 is faster here, and more precise",
        )
    return getattr(torch, dtype), ()


def stored_dtype(folder: Path, config: Any) -> str:
    """The dtype for `dtype = "auto"`: that of most of the folder's parameters, or float32 if it is not a dtype for computing.

    For pickled weights, whose dtypes are unknown before they are opened, the dtype in config.json.
    """
    if is_gguf(folder):
        return gguf.stored_dtype(folder)
    try:
        tensors = open_tensors(folder, as_indexed=False).values()
    except KltuiError:
        stated = str(getattr(config.get_text_config(), "dtype", "")).removeprefix("torch.")
        return stated if stated in _COMPUTED.values() else "float32"
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.dtype] += tensor.n_elements
    return _COMPUTED.get(counts.most_common(1)[0][0], "float32") if counts else "float32"


def load_config(folder: Path, tokenizer: Path | None = None) -> Any:
    """The folder's configuration. Raises KltuiError that says what the folder contains if that is no model to score.

    For a GGUF file, it may be the one next to its `tokenizer`.
    """
    from transformers import AutoConfig

    if is_gguf(folder):
        beside = tokenizer if tokenizer and (tokenizer / "config.json").is_file() else None
        return gguf.load_config(folder, load_config(beside) if beside else None)

    if not (folder / "config.json").is_file():
        what, way_out = unreadable(folder)
        raise KltuiError(f"{folder} has no config.json; it {what}", way_out)
    passed_on.check_folder(folder)
    with passed_on.staged_config(folder) as where:
        try:
            config = AutoConfig.from_pretrained(where, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises various types for settings of the wrong type
            raise _config_error(folder, where, error) from error
    config.name_or_path = folder
    if any(getattr(config, key, None) for key in passed_on.REFUSED):
        raise KltuiError(
            f"the configuration in {folder} refers to another file", "kltui uses only the files in the folder"
        )
    _check_windows(folder, config.get_text_config())
    return config


def _check_windows(folder: Path, text: Any) -> None:
    """Raises KltuiError for a window of attention that no token is in, of which transformers' implementations compute different values."""
    kinds = getattr(text, "layer_types", None)
    for name, kind in (
        ("sliding_window", "sliding_attention"),
        ("attention_chunk_size", "chunked_attention"),
    ):
        width = getattr(text, name, None)
        if type(width) is int and width <= 0 and (kinds is None or kind in kinds):
            raise KltuiError(
                f"config.json in {folder} has {name} = {width}, in which a token attends to none, itself included",
                f'for attention without a window, set "{name}": null in config.json',
            )


def _config_error(folder: Path, where: Path, error: Exception) -> KltuiError:
    if passed_on.wants_own_code(folder):
        return KltuiError(
            f"the model in {folder} needs custom Python code, which kltui never runs",
            "use a version of the model that transformers supports without custom code",
        )
    return KltuiError(
        f"the configuration in {folder} cannot be read: {_said(error, where, folder)}",
        "check that config.json is complete",
    )


def _said(error: Exception, staged: Path, folder: Path) -> str:
    """An error's first line, with the path of the staged folder replaced by the real one."""
    return first_line(error).replace(str(staged), str(folder))


def weight_files(folder: Path, allow_bin: bool) -> tuple[list[Path], bool]:
    """(weight files, whether they are safetensors). Raises KltuiError that names the format for any other one."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    entry = layout.weight_entry(names)
    if entry in layout.SAFETENSORS or (entry is not None and allow_bin):
        files = [
            folder / n for n in layout.weight_names(folder, allow_bin) if not n.endswith(layout.INDEX_SUFFIX)
        ]
        return files, entry in layout.SAFETENSORS
    if entry is not None:
        raise layout.pickled_error(folder, entry)
    what, way_out = unreadable(folder)
    raise KltuiError(f"{folder} {what}", way_out)


def context_length(config: Any) -> int | None:
    """The maximum number of positions of the model; None if it has no such limit.

    YaRN's is its factor times the number of positions before it, where that is more: many configurations keep the old number. For
    linear and dynamic scaling the number may be the one before or after it, so that it is not multiplied: within it,
    dynamic frequencies are also the same for every length.
    """
    text = config.get_text_config()
    if text.model_type in _UNBOUNDED or getattr(text, "alibi", False):
        return None
    for name in _CONTEXT_NAMES:
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return max(value, _yarn_positions(text))
    return None


def _yarn_positions(text: Any) -> int:
    """The number of positions that YaRN scales to; 0 without it."""
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict) or rope.get("rope_type") != "yarn":
        return 0
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not isinstance(original, int) or not math.isfinite(factor):
        return 0
    return int(factor * original)


def load_model(
    folder: Path,
    config: Any,
    dtype: str,
    quantization: str,
    device: torch.device,
    allow_bin: bool,
    spreading: device_map.DeviceLayout = WHOLE,
) -> Loaded:
    """The folder's model on `device`, or spread over several. Raises KltuiError for missing or mismatched tensors."""
    use_safetensors = not is_gguf(folder) and weight_files(folder, allow_bin)[1]
    if dtype == "auto":
        dtype = stored_dtype(folder, config)
    picked, notes = compute_dtype(dtype, device)
    config, more = quantize.as_stored(folder, config, quantization)
    notes += (*more, *notes_of_code(folder, config))
    family = families.family_of(config)
    notes += family.notes
    options: dict[str, Any] = {
        "config": config,
        "dtype": picked,
        "attn_implementation": family.attention,
        "use_safetensors": use_safetensors,
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
        **quantize.options(quantization, picked, device),
        **spreading.options(quantization, device),
        **(gguf.options(config) if is_gguf(folder) else {}),
    }
    with _naming_quantization(quantization):
        model, info = _from_pretrained(folder, family.loader, allow_bin, options, spreading)
        left_out = families.leave_out_encoders(model) if family.reads else ()
        if not quantize.is_quantized(quantization) and spreading.device_map == "none":
            _move(model, device, folder)
    notes += used_tensors.check_complete(folder, config, model, info) + quantize.note(quantization, model)
    if use_safetensors:
        notes += (
            used_tensors.check_files(folder, config) + _check_head(folder, model) + _other_weights(folder)
        )
    elif is_gguf(folder):
        notes += gguf.check_used(folder, model, config)
    if (where := device_map.engine_device(model, device)).type != device.type:
        picked, more = _beside_the_gpu(model, where, dtype)
        notes += more
    model.eval()
    model.config.use_cache = False
    notes += device_map.note(model)
    return Loaded(model, config, family.attention, picked, notes, left_out)


@contextlib.contextmanager
def _naming_quantization(quantization: str) -> Iterator[None]:
    """Context that adds the quantisation, if there is one, to the message of an error other than of a model's size."""
    try:
        yield
    except _TooLargeError:
        raise
    except KltuiError as error:
        if not quantize.is_quantized(quantization):
            raise
        raise KltuiError(
            f"{error.message} (as {quantization})",
            "check that it loads unquantised; not every family supports this quantisation",
        ) from error


def _beside_the_gpu(model: Any, where: torch.device, dtype: str) -> tuple[torch.dtype, tuple[str, ...]]:
    """(dtype, notes) for a model that is on the CPU because it does not fit on the GPUs."""
    picked, notes = compute_dtype(dtype, where)
    model.to(picked)
    said = "the model does not fit on the GPUs: it is scored from main memory on the CPU, which is slow"
    return picked, (said, *notes)


def _move(model: Any, device: torch.device, folder: Path) -> None:
    try:
        model.to(device)
    except RuntimeError as error:
        raise _load_error(folder, folder, error, WHOLE) from error


def _from_pretrained(
    folder: Path, loader: Any, allow_bin: bool, options: dict[str, Any], spreading: device_map.DeviceLayout
) -> tuple[Any, dict[str, Any]]:
    # Offloaded weights are read from the files while the model is used.
    files = gguf.staged(folder) if is_gguf(folder) else passed_on.staged(folder, allow_bin, spreading.scratch)
    with files as where:
        try:
            loaded: Any = _loaded_from(loader, where, options)
        except Exception as error:  # transformers and the file formats raise various types
            missing = package_error(folder, options["config"], error)
            raise missing or _load_error(folder, where, error, spreading) from error
    model, info = loaded
    model.config.name_or_path = folder
    return model, info


def _loaded_from(models: Any, where: Path | str, options: dict[str, Any]) -> Any:
    """The model that transformers loads; tried again if it needed a part that lean imports had left out."""
    with quiet_transformers():
        try:
            return models.from_pretrained(where, **options)
        except Exception as error:
            if not lean_imports.completes(error):
                raise
        return models.from_pretrained(where, **options)


def _load_error(
    folder: Path, where: Path, error: Exception, spreading: device_map.DeviceLayout
) -> KltuiError:
    said = _said(error, where, folder)
    text = str(error)
    if "dispatched on the CPU or the disk" in text:
        return _TooLargeError(
            f"{folder} does not fit on the GPUs, and quantised weights cannot be kept in main memory or on disk",
            "use more GPUs, fewer bits, or score it without quantization",
        )
    if "out of memory" in text.lower() or "alloc" in text.lower():
        return _TooLargeError(
            f"{folder} does not fit in memory: {said}",
            f"use a smaller dtype or another device; {device_map.memory_hint(spreading.device_map)}",
        )
    if "mismatch" in text.lower() or "ignore_mismatched_sizes" in text:
        return KltuiError(
            f"the weights in {folder} do not have the shapes required by its config.json",
            "check that both belong to the same model",
        )
    if "safetensor" in type(error).__name__.lower() or "header" in text.lower():
        return KltuiError(f"a weight file in {folder} is damaged: {said}", "fetch or copy it again")
    return KltuiError(f"the model in {folder} cannot be loaded: {said}", "check that its files are complete")


def _check_head(folder: Path, model: Any) -> tuple[str, ...]:
    """A note if the files have an output head although config.json ties it. Raises KltuiError if transformers ignores it."""
    text = model.config.get_text_config()
    # transformers goes by the model's own configuration, also if that of its text says otherwise
    if not getattr(model.config, "tie_word_embeddings", getattr(text, "tie_word_embeddings", False)):
        return ()
    tensors = open_tensors(folder, as_indexed=False)
    # Saving without a copy of tied tensors may keep them under the name of the head: it is then loaded for both.
    if not has_own_head(tensors) or not any(is_embedding(name) for name in tensors):
        return ()
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        raise KltuiError(
            f"the files in {folder} contain a separate output head, but transformers would use the embeddings instead",
            'set "tie_word_embeddings": false in config.json, to match the files',
        )
    return (
        "the files contain a separate output head, which was used, although config.json says that it is tied",
    )


def notes_of_code(folder: Path, config: Any) -> tuple[str, ...]:
    """A note if config.json names Python code of the model's own, in place of which transformers' is used."""
    if is_gguf(folder) or not passed_on.has_own_model(folder):
        return ()
    return (
        f"config.json names custom Python code, which kltui never runs: scored as transformers' own {config.model_type}",
    )


def _other_weights(folder: Path) -> tuple[str, ...]:
    """A note if a folder contains weights both in one file, which is loaded, and in several, which are left over or newer."""
    whole, index = layout.SAFETENSORS
    if not ((folder / whole).is_file() and (folder / index).is_file()):
        return ()
    with contextlib.suppress(KltuiError):  # a damaged index of files that are not read
        if layout.shard_names(folder / index) == [whole]:
            return ()
    return (f"{whole} was scored; the folder also contains {index}, whose files may be other weights",)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Context in which transformers shows no progress bars, and it and accelerate log only errors."""
    import transformers

    logging: Any = transformers.utils.logging
    accelerate = getLogger("accelerate")
    level, level_beside = logging.get_verbosity(), accelerate.level
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    accelerate.setLevel("ERROR")
    logging.disable_progress_bar()
    try:
        with gguf.quiet():
            yield
    finally:
        logging.set_verbosity(level)
        accelerate.setLevel(level_beside)
        if bars:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """`Type: first line of its message`, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
