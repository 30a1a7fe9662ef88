"""Keys, bytes and resizes at random, on a workspace that changes meanwhile, never end, hang or break the interface."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from random_keys import run

SECONDS = 30.0 if "CI" in os.environ else 10.0
ASKED = "KLTUI_RANDOM_KEYS_S"  # seconds of the long form
SEED = 19


def test_the_interface_outlives_random_keys(tmp_path: Path) -> None:
    assert run(tmp_path, SECONDS, SEED).keys > 60


@pytest.mark.slow
@pytest.mark.skipif(ASKED not in os.environ, reason=f"{ASKED}=300 sends keys for so many seconds")
@pytest.mark.timeout(float(os.environ.get(ASKED, "0")) + 270)
def test_the_interface_outlives_many_random_keys(tmp_path: Path) -> None:
    assert run(tmp_path, float(os.environ[ASKED]), SEED + 1).keys > 60
