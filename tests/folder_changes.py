"""Changes to model folders that were written for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Writes model.safetensors again after `change` of {name: tensor}."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    """Replaces entries of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
