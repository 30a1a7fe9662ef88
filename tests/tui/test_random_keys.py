"""Keys, bytes and resizes at random, on a workspace that changes meanwhile, never end, hang or break the interface."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from random_keys import run

SECONDS = float(os.environ.get("KLTUI_RANDOM_KEYS_S", "30"))
SEED = 19


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 270)
def test_the_interface_outlives_random_keys(tmp_path: Path) -> None:
    assert run(tmp_path, SECONDS, SEED).keys > 60
