"""The example notebook and the page on notebooks, run block by block over a workspace laid out as the demo's."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scored_run import Run

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(autouse=True)
def beside_the_workspace(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the folder in which a reader would be who has run `kltui --demo`; torch on one thread."""
    monkeypatch.chdir(run.workspace.parent)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cell_value(source: str, names: dict[str, Any]) -> Any:
    """What a cell shows: the value of its last line, where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None


def test_the_notebook_runs_cell_by_cell() -> None:
    notebook = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, Any] = {}
    values = [cell_value("".join(cell["source"]), names) for cell in cells]
    shown = [type(value).__name__ for value in values]
    assert shown == [
        "NotebookWorkspace", "NotebookMap", "DataFrame", "DataFrame", "KL", "Figure", "Section", "ScoredTexts", "KL", "KL",
    ]  # fmt: skip
    assert all(len(repr(v)) < 200 and "\n" not in repr(v) for v in values if type(v).__name__ != "DataFrame")
    assert all(v._repr_html_() for v in values[1:] if type(v).__name__ != "Figure")
    assert values[6].status == "shown" and values[8].value == values[9].value > 0
    names["ws"].close()


def test_the_page_s_blocks_run() -> None:
    page = (DOCS / "notebook.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        names: dict[str, Any] = {}
        cell_value(block, names)
        if "ws" in names:
            names["ws"].close()
