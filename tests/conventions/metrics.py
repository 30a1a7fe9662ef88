"""`python -m tests.conventions.metrics`: figures on kltui's own code, and what must be none: circles, private names, doubles."""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "kltui"
PRIVATE_FILE = "kltui.tui.terminal.textual_private"
Graph = dict[str, set[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef
Told = ast.Import | ast.ImportFrom | ast.ClassDef | Function


@cache
def trees() -> dict[str, ast.Module]:
    """{module: its syntax tree}; a package stands under its own name."""
    return {
        _name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
    }


@cache
def nodes() -> dict[str, list[Told]]:
    """{module: its imports, classes and functions}, wherever they stand."""
    return {name: [n for n in ast.walk(tree) if isinstance(n, Told)] for name, tree in trees().items()}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def module_graph() -> Graph:
    """{module: modules of kltui that it imports}, within functions and for type checking too."""
    known = nodes()
    graph: Graph = defaultdict(set)
    for module, found in known.items():
        for node in found:
            if isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = names & known.keys()
                graph[module] |= modules
                if len(modules) < len(names) and node.module in known:
                    graph[module].add(node.module)
        graph[module].discard(module)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Sets of nodes each of which leads to all others of its set (Tarjan, SIAM J. Comput. 1, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return sorted(found)


def duplicate_classes() -> dict[str, list[str]]:
    """{class name: the modules that define it}, of names that more than one does."""
    where: dict[str, list[str]] = defaultdict(list)
    for module, found in nodes().items():
        for node in found:
            if isinstance(node, ast.ClassDef):
                where[node.name].append(module)
    return {name: modules for name, modules in where.items() if len(modules) > 1}


def private_textual_imports() -> list[str]:
    """Imports of textual's private modules and names outside the one file that may have them."""
    found = []
    for module, of_module in nodes().items():
        for node in of_module:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "textual":
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                if module != PRIVATE_FILE and any(part.startswith("_") for part in parts):
                    found.append(f"{module}: {node.module}")
    return found


def functions() -> Iterator[Function]:
    """All functions and methods."""
    for found in nodes().values():
        yield from (n for n in found if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(function: Function) -> int:
    """Lines from its `def` to its end, less its docstring."""
    first = function.body[0]
    said = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return (function.end_lineno or 0) - function.lineno + 1 - said


def annotated(function: Function) -> bool:
    """Whether every argument and what is returned have a type."""
    a = function.args
    given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    given = given[1:] if given and given[0].arg in ("self", "cls") else given
    return function.returns is not None and all(x.annotation is not None for x in given)


def table() -> list[tuple[str, str]]:
    """What is measured, and its value."""
    every = list(functions())
    sizes = sorted(map(lines, every))
    sources = [path.read_text(encoding="utf-8").splitlines() for path in PACKAGE.rglob("*.py")]
    count = sum(map(len, sources))
    comments = sum(line.lstrip().startswith("#") for source in sources for line in source)
    by_package = Counter(
        {
            p.name: sum(len(f.read_text().splitlines()) for f in p.rglob("*.py"))
            for p in PACKAGE.iterdir()
            if p.is_dir()
        }
    )
    return [
        ("lines", f"{count:,}"),
        ("lines of packages", ", ".join(f"{name} {n:,}" for name, n in by_package.most_common() if n)),
        ("lines that are comments", f"{comments / count:.1%}"),
        ("functions", f"{len(every):,}"),
        ("lines of a function: median / 90 % / longest", f"{statistics.median(sizes):g} / {sizes[len(sizes) * 9 // 10]} / {sizes[-1]}"),
        ("functions annotated", f"{sum(map(annotated, every)) / len(every):.1%}"),
        ("functions with a docstring, of public ones", _documented(every)),
        ("import circles", str(len(circles(module_graph())))),
        ("private names of Textual outside one file", str(len(private_textual_imports()))),
        ("class names that come twice", str(len(duplicate_classes()))),
    ]  # fmt: skip


def _documented(every: list[Function]) -> str:
    public = [f for f in every if not f.name.startswith("_")]
    return f"{sum(ast.get_docstring(f) is not None for f in public) / len(public):.1%}"


if __name__ == "__main__":
    rows = table()
    width = max(len(what) for what, _ in rows)
    print("\n".join(f"{what:<{width}}  {value}" for what, value in rows))
