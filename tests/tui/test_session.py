"""The interface's modules: no import circle, types included, and one class that only `main` and `app` know."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import kltui.tui

FOLDER = Path(kltui.tui.__file__).parent
FILES = {
    ".".join(("kltui.tui", *path.relative_to(FOLDER).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(FOLDER.rglob("*.py"))
}


@cache
def imported_by(module: str) -> set[str]:
    """Modules of the interface that `module` imports anywhere: at its head, in functions, and for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= named & FILES.keys() or {node.module} & FILES.keys()
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & FILES.keys()
    return found - {module}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imported_by(module) for module in FILES}
    while free := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in free:
            del graph[module]
    assert not graph, f"in a circle, or importing one: {', '.join(sorted(graph))}"


def test_only_main_and_app_know_the_class_of_the_application() -> None:
    knowing = {m for m in FILES if imported_by(m) & {"kltui.tui.app", "kltui.tui.app_core"}}
    assert knowing == {"kltui.tui.app", "kltui.tui.main"}
