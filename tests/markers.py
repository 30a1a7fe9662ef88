"""What a test costs, told by what its module and its fixtures use: markers by which a run is chosen.

process  starts processes of its own: kltui itself, workers, a terminal, a compiler
model    builds tiny models and has torch compute with them
ray      starts a Ray cluster
quick    none of these, nor gpu or slow: `pytest -m quick` touches every package within a minute
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
PROCESSES = ("subprocess", "multiprocessing", "fault_kit", "command", "terminal", "budgets", "lives")
MODELS = ("tiny_models",)
COSTLY = ("process", "model", "ray", "gpu", "slow")


def mark(item: pytest.Item) -> None:
    """Adds the markers of a test."""
    for name in costs(item):
        item.add_marker(name)
    if not any(item.get_closest_marker(name) for name in COSTLY):
        item.add_marker("quick")


def costs(item: pytest.Item) -> set[str]:
    """Those of process, model and ray that fit."""
    used = {name for scope in _scopes(item) for name in _modules(scope)}
    found = {"process"} if used.intersection(PROCESSES) else set()
    if used.intersection(MODELS):
        found.add("model")
    if "ray" in item.path.stem.split("_"):
        found.add("ray")
    return found


def _scopes(item: pytest.Item) -> Iterator[Mapping[str, Any]]:
    """The names that a test's module knows, and those that the modules of its fixtures know, if they lie here."""
    if isinstance(item, pytest.Function):
        yield item.function.__globals__
    fixtures = getattr(item, "_fixtureinfo", None)
    for definitions in fixtures.name2fixturedefs.values() if fixtures else ():
        scope = getattr(definitions[-1].func, "__globals__", {})
        if HERE in Path(scope.get("__file__") or "/").parents:
            yield scope


def _modules(scope: Mapping[str, Any]) -> Iterator[str]:
    """Modules that were imported there, or something of them."""
    for value in list(scope.values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str):
            yield name
