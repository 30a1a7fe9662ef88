"""A hub on loopback, an empty cache, and what fetching says and sleeps; `net` of conftest.py has one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import FakeHub

from kltui.errors import KltuiError
from kltui.registry import HubSource, hub
from kltui.registry.retry import RetryPolicy

REPO = "org/tiny"
BIG = bytes(range(256)) * 4000  # 1 MB


class Net:
    """A hub, an empty cache, and everything that fetching said and slept."""

    def __init__(self, server: FakeHub, cache: Path) -> None:
        self.server, self.cache = server, cache
        self.said: list[str] = []
        self.slept: list[float] = []

    def fetch(self, revision: str = "main", **options: object) -> Path:
        folder, self.source = self.fetch_both(HubSource(REPO, revision), **options)
        return folder

    def fetch_both(self, source: HubSource, **options: object) -> tuple[Path, HubSource]:
        retry = RetryPolicy(attempts=4, sleep=self.slept.append)
        defaults: dict[str, object] = {"progress": self.said.append, "cache_dir": self.cache, "retry": retry}
        return hub.fetch(source, **(defaults | options))  # type: ignore[arg-type]

    def fails(self, revision: str = "main", **options: object) -> KltuiError:
        with pytest.raises(KltuiError) as error:
            self.fetch(revision, **options)
        return error.value


def model(weights: bytes = b"weights", **more: bytes) -> dict[str, bytes]:
    files = {
        "config.json": b'{"model_type": "gpt_neox"}',
        "tokenizer.json": b'{"t": 1}',
        "model.safetensors": weights,
    }
    return (
        files
        | {"README.md": b"not needed", "pytorch_model.bin": b"not needed", "onnx/model.onnx": b"no"}
        | more
    )
