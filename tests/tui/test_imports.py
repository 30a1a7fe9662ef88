"""The interface starts light: no torch ever, and nothing heavy before the first frame."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from full_store import fill

import kltui

SCREENS = ("registry", "jobs", "map", "diffusion", "matrix", "compare", "layers", "scale", "report")
PACKAGE = Path(kltui.__file__).resolve().parent.parent


def loaded_after(*steps: str) -> list[set[str]]:
    """Top-level names of all modules that are loaded after each step, in one new interpreter."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE)!r})\n"
    code += "\n".join(f"{step}\nprint(*{{name.partition('.')[0] for name in sys.modules}})" for step in steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_the_first_frame_needs_no_numpy_and_no_screen_torch() -> None:
    first_frame, screens = loaded_after(
        "import kltui.tui.app, kltui.tui.views.registry, kltui.tui.views.report",
        f"import {', '.join(f'kltui.tui.views.{s}' for s in SCREENS)}\n"
        "import kltui.tui.export, kltui.tui.embed_worker, kltui.tui.widgets.token_lines, kltui.view.cell_buffer, kltui.jobs.launch",
    )
    assert not first_frame & {"torch", "transformers", "numpy", "sklearn", "pydantic"}
    assert not screens & {"torch", "transformers"}


def test_the_first_tree_of_runs_needs_no_numpy_and_views_no_textual(tmp_path: Path) -> None:
    fill(tmp_path)
    tree, views = loaded_after(
        "import asyncio\nfrom pathlib import Path\nfrom kltui.tui.data import SnapshotReader\n"
        f"reader = SnapshotReader(Path({str(tmp_path)!r}))\nread = asyncio.run(reader.snapshot())\nreader.close()\n"
        "assert len(read.rows) == len(read.losses) == 3, read",
        "import kltui.view.cell_buffer, kltui.view.palette, kltui.view.ticks",
    )
    assert "sqlite3" in tree and not tree & {"numpy", "sklearn", "pydantic"}
    assert "textual" not in views


def test_textual_s_own_palette_is_not_loaded_with_it_and_can_be_had_afterwards() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r})\n"
        "from kltui.tui.main import prepare_environment\nprepare_environment()\n"
        "import kltui.tui.app, kltui.tui.views.registry\n"
        "unwanted = 'textual.command', 'textual.widgets._directory_tree', 'kltui.tui.dialogs.prompts', 'kltui.scoring.settings'\n"
        "print([name for name in unwanted if name in sys.modules])\n"
        "from textual.command import CommandPalette\nprint(CommandPalette.__mro__[1].__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split("\n")[:2] == ["[]", "SystemModalScreen"]
