"""Models in formats other than transformers' own, recognised by file names, with advice on converting them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kltui.registry.layout import CONFIG, SAFETENSORS, is_checkpoint_folder
from kltui.sanitize import safe_text

_CONVERT = "convert it to a transformers folder with safetensors"


@dataclass(frozen=True, slots=True)
class Format:
    """A format's name, the patterns of files or folders (ending in "/") that identify it, and what to do about it."""

    name: str
    patterns: tuple[str, ...]
    way_out: str


# In this order: formats that trainers write in addition to others come first.
FORMATS = (
    Format(
        "an adapter (PEFT)",
        ("adapter_config.json", "adapter_model.*"),
        "an adapter is adapter_config.json and adapter_model.safetensors in one folder; or merge it into its base model and save that",
    ),
    Format(
        "DeepSpeed shards",
        ("global_step*/", "zero_to_fp32.py", "*mp_rank_*_model_states.pt", "*zero_pp_rank_*_states.pt"),
        "python zero_to_fp32.py FOLDER OUT --safe_serialization writes them as one model",
    ),
    Format(
        "FSDP shards (torch.distributed.checkpoint)",
        ("pytorch_model_fsdp*/", "pytorch_model_fsdp.bin", "*.distcp", "__*.distcp", ".metadata"),
        "accelerate merge-weights SHARDS OUT writes them as one model; put config.json and the tokenizer beside it",
    ),
    Format(
        "Megatron shards",
        ("mp_rank_*/", "model_optim_rng.pt", "latest_checkpointed_iteration.txt"),
        "convert it to a transformers folder with Megatron's own tools",
    ),
    Format(
        "consolidated weights in Meta's or Mistral's own layout",
        ("consolidated*.pth", "consolidated*.safetensors", "consolidated*.pt"),
        "use the same model in transformers' layout (its repository often ends in -hf), or convert it with "
        "transformers' convert_llama_weights_to_hf.py or convert_mistral_weights_to_hf.py",
    ),
    Format(
        "GGUF (llama.cpp)",
        ("*.gguf",),
        'select files with files = ["*Q4_K_M*"] in the [[models]] entry, or use the model from which they were made',
    ),
    Format("TensorFlow", ("*.h5", "*.ckpt.index", "*.data-00000-of-*"), _CONVERT),
    Format("Flax", ("*.msgpack",), _CONVERT),
    Format("Orbax (JAX)", ("_CHECKPOINT_METADATA", "ocdbt.process_*/", "manifest.ocdbt"), _CONVERT),
    Format("ONNX", ("*.onnx", "onnx/"), "name the model it was exported from"),
    Format("OpenVINO", ("openvino_model*",), "name the model it was exported from"),
    Format("Core ML", ("*.mlpackage/", "*.mlmodel"), "name the model it was exported from"),
    Format("TensorRT", ("*.engine", "*.plan"), "name the model it was exported from"),
    Format("MLX", ("weights*.npz",), _CONVERT),
    Format(
        "NeMo",
        ("*.nemo", "model_weights/", "*.nemo/"),
        "convert it to a transformers folder with NeMo's own tools",
    ),
    Format("Lightning", ("*.ckpt", "*.ckpt/"), "load it and save its model with save_pretrained"),
    Format("raw PyTorch", ("*.pth", "*.pt"), "load it and save its model with save_pretrained"),
    Format(
        "safetensors under another name",
        ("*.safetensors",),
        f"transformers reads {' or '.join(SAFETENSORS)}: rename it, or save the model with save_pretrained",
    ),
)


def formats_in(folder: Path) -> list[Format]:
    """Other formats indicated by the names in a folder, the most probable first; none for a folder that can be read."""
    return formats_of([path.name + ("/" if path.is_dir() else "") for path in folder.iterdir()])


def formats_of(listed: Iterable[str]) -> list[Format]:
    """Other formats indicated by these names, the most probable first; folders end in a slash."""
    names = [name.lower() for name in listed]
    names = [name for name in names if not fnmatchcase(name, "model*.safetensors")]
    found = [f for f in FORMATS if any(fnmatchcase(n, p.lower()) for p in f.patterns for n in names)]
    specific = [f for f in found if f.name not in ("raw PyTorch", "safetensors under another name")]
    return specific or found


def unreadable(folder: Path) -> tuple[str, str]:
    """(What a folder that is not a model contains, what to do about it)."""
    formats = formats_in(folder)
    if formats:
        return f"contains {' and '.join(f.name for f in formats[:3])}", formats[0].way_out
    config = (folder / CONFIG).is_file()
    seen = f"has {CONFIG} but no weights" if config else f"has no {CONFIG}" + _weights(folder)
    return (
        seen,
        "a model folder contains config.json, model.safetensors (or its index and shards) and a tokenizer",
    )


def unreadable_run(run: Path, folders: Iterable[Path]) -> tuple[str, str] | None:
    """(What the step folders of a run contain instead of models, what to do about it); None if there are no step folders."""
    seen = {folder.name: unreadable(folder) for folder in folders if not is_checkpoint_folder(folder)}
    if not seen:
        return None
    first = next(iter(seen))
    more = f", and {len(seen) - 1} more folders contain no model either" if len(seen) > 1 else ""
    return f"{safe_text(first)} {seen[first][0]}{more}", seen[first][1]


def _weights(folder: Path) -> str:
    return (
        " beside its weights" if any((folder / name).is_file() for name in SAFETENSORS) else " and no weights"
    )
