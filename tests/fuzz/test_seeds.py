"""Every kept input of every fuzz target once, without the fuzzer: what was mended stays so, and no seed rots."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from targets import NAMES

SEEDS = Path(__file__).parent / "seeds"


def kept(name: str) -> list[Path]:
    """The kept inputs of a target."""
    return sorted(path for path in (SEEDS / name).iterdir() if path.is_file())


def test_every_folder_of_seeds_has_its_target() -> None:
    assert sorted(path.name for path in SEEDS.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize(
    "path", [p for name in NAMES for p in kept(name)], ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_a_kept_input_is_read_or_refused(path: Path) -> None:
    importlib.import_module(f"targets.{path.parent.name}").one_input(path.read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_what_a_target_makes_is_kept(name: str) -> None:
    target = importlib.import_module(f"targets.{name}")
    assert set(target.seeds()) <= {path.name for path in kept(name)}
