"""Tests are marked by what they cost, and the quick ones touch every package."""

from __future__ import annotations

from pathlib import Path

import markers
import pytest

# Folders that mirror no package of kltui, or one that only processes show: what may go wrong, GPUs, the style of the sources.
NOT_A_PACKAGE = {"conventions", "faults", "gpu"}


def test_quick_tests_touch_every_package(request: pytest.FixtureRequest) -> None:
    """Seen where the whole suite was collected, or all that is quick; else there is only this one to look at."""
    assert request.node.get_closest_marker("quick")
    folders = {path.parent.name for path in markers.HERE.glob("*/test_*.py")} - NOT_A_PACKAGE
    touched, quick = set(), set()
    for item in request.session.items:
        touched.add(item.path.parent.name)
        if item.get_closest_marker("quick"):
            quick.add(item.path.parent.name)
    if len(touched) > len(folders) / 2:
        assert not folders - quick


@pytest.mark.parametrize(
    ("line", "costs"),
    [
        ("import subprocess", {"process"}),
        ("from command import Cli", {"process"}),
        ("    from tiny_models import write_model", {"model"}),
        ("import torch.nn", {"model"}),
        ("from kltui.demo import adapters, pretrain", {"model"}),
        ("from kltui.tui.app import KltuiApp", {"screen"}),
        ("import torchless, subprocessing", set()),
        ("# import subprocess", set()),
    ],
)
def test_imports_tell_what_a_file_costs(tmp_path: Path, line: str, costs: set[str]) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(f"def f():\n{line}\n")
    assert markers.costs_of_file(path) == costs
