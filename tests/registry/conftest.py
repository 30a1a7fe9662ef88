"""Makes the helpers of these tests importable, however pytest was started, and starts a hub."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # model_folders, hub_server
sys.path.insert(0, str(Path(__file__).resolve().parent))  # hub_net

from hub_net import REPO, Net, model
from hub_server import FakeHub


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # other tests import it offline
    with FakeHub() as server:
        server.add(REPO, "main", model())
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield Net(server, tmp_path / "cache")
