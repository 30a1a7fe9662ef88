"""Model folders made of a few bytes, for tests that load no model."""

import json
from pathlib import Path


def make_model(folder: Path, *, weights: bytes = b"weights", kind: str = "gpt_neox") -> Path:
    """A folder that looks like a model of type `kind`; the weights are just these bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def make_sharded(folder: Path, shards: dict[str, bytes], index_names: list[str] | None = None) -> Path:
    """A sharded model folder whose index names `index_names` (by default the shards that exist)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    names = list(shards) if index_names is None else index_names
    index = {"weight_map": {f"tensor{k}": name for k, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, data in shards.items():
        (folder / name).write_bytes(data)
    return folder
