"""The interface starts light: no torch ever, and nothing heavy before the first frame."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kltui
from kltui.store import Store

SCREENS = ("registry", "jobs", "map", "diffusion", "matrix", "compare", "layers", "scale", "report")
PACKAGE = Path(kltui.__file__).resolve().parent.parent


def loaded_after(code: str) -> set[str]:
    """Top-level names of all modules that `code` loads in a new interpreter."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE)!r})\n{code}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_first_frame_needs_no_numpy() -> None:
    loaded = loaded_after("import kltui.tui.app, kltui.tui.views.registry, kltui.tui.views.report")
    assert not loaded & {"torch", "transformers", "numpy", "sklearn", "pydantic"}


def test_the_first_tree_of_runs_needs_no_numpy(tmp_path: Path) -> None:
    Store.write(tmp_path).close()
    loaded = loaded_after(
        f"from kltui.workspace import Workspace\nws = Workspace.open({str(tmp_path)!r})\nws.checkpoints(), ws.jobs()"
    )
    assert "sqlite3" in loaded and not loaded & {"numpy", "sklearn", "pydantic"}


@pytest.mark.parametrize("modules", [", ".join(f"kltui.tui.views.{s}" for s in SCREENS)])
def test_no_screen_imports_torch(modules: str) -> None:
    used = "kltui.tui.export, kltui.tui.embed_worker, kltui.tui.widgets.token_lines, kltui.view.cell_buffer, kltui.jobs.launch"
    assert not loaded_after(f"import {modules}, {used}") & {"torch", "transformers"}


def test_the_view_room_knows_no_textual() -> None:
    assert "textual" not in loaded_after(
        "import kltui.view.cell_buffer, kltui.view.palette, kltui.view.ticks"
    )
