"""What a test costs, told by what its module and the modules of its fixtures import: markers by which a run is chosen.

process  starts processes of its own: kltui itself, workers, a terminal, a compiler
model    has torch compute, mostly with tiny models that it builds
screen   runs the whole interface
ray      starts a Ray cluster
quick    none of these, nor gpu, slow or full: `pytest -m quick` touches every package within a minute
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
IMPORTED = re.compile(r"^\s*(?:from ([\w.]+) import ([\w, ]*)|import ([\w.]+))", re.MULTILINE)
TELLING = {
    "process": (
        "subprocess",
        "multiprocessing",
        "fault_kit",
        "forked",
        "command",
        "terminal",
        "budgets",
        "warm_process",
        "random_keys",
        "kltui.tui.embedding",
        "kltui.tui.map_cache",
        "kltui.workspace.weight_process",
    ),
    "model": (
        "torch",
        "transformers",
        "tiny_models",
        "chat_pairs",
        "pair_in_process",
        "kltui.demo.adapters",
        "kltui.demo.pretrain",
    ),
    "screen": ("kltui.tui.app", "kltui.tui.main"),
}
COSTLY = (*TELLING, "ray", "gpu", "slow", "full")
# What every test has of the root's conftest.py is told by the fixtures that it asks for.
FIXTURES = {"cli": "process", "emulated_cuda": "process"}


def mark(item: pytest.Item) -> None:
    """Adds the markers of a test."""
    for name in costs(item):
        item.add_marker(name)
    if not any(item.get_closest_marker(name) for name in COSTLY):
        item.add_marker("quick")


def _imported(source: str) -> Iterator[str]:
    """The modules that a source imports, and what it imports out of them, which may be modules."""
    for package, names, module in IMPORTED.findall(source):
        yield package or module
        yield from (f"{package}.{name.split()[0]}" for name in names.split(",") if name.strip())


def only_quick(config: pytest.Config) -> bool:
    """Whether a run is of the quick tests alone."""
    return str(config.getoption("markexpr", "")).strip() == "quick"


def all_quick(config: pytest.Config) -> bool:
    """Whether it is of all of them: files of which none is quick are not even imported then."""
    if hasattr(
        config, "workerinput"
    ):  # whose arguments are the controlling process's, named by the user or not
        return bool(config.workerinput["all_quick"])
    return only_quick(config) and config.args_source is not pytest.Config.ArgsSource.ARGS


def costs(item: pytest.Item) -> set[str]:
    """Those of process, model, screen and ray that fit."""
    found = {name for costly in (costs_of_file(item.path), *_of_fixtures(item)) for name in costly}
    found |= {FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES}
    if "ray" in item.path.stem.split("_"):
        found.add("ray")
    return found


def _of_fixtures(item: pytest.Item) -> Iterator[frozenset[str]]:
    """What the files of the test's fixtures tell."""
    fixtures = getattr(item, "_fixtureinfo", None)
    for definitions in fixtures.name2fixturedefs.values() if fixtures else ():
        yield _of_fixture_file(getattr(definitions[-1].func, "__globals__", {}).get("__file__") or "/")


@cache
def _of_fixture_file(file: str) -> frozenset[str]:
    """What a file in a folder below this one tells; of others nothing."""
    path = Path(file)
    return costs_of_file(path) if HERE in path.parents and path.parent != HERE else frozenset()


@cache
def costs_of_file(path: Path) -> frozenset[str]:
    """What a file's imports tell, those within functions among them."""
    source = path.read_text(encoding="utf-8") if path.suffix == ".py" else ""
    imported = [name.removeprefix("tests.") for name in _imported(source)]
    return frozenset(
        cost
        for cost, modules in TELLING.items()
        if any(name == module or name.startswith(f"{module}.") for name in imported for module in modules)
    )
