"""The interface starts light: no torch ever, and nothing heavy before the first frame."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from full_store import fill

import kltui

SCREENS = ("registry", "jobs", "map", "diffusion", "matrix", "compare", "layers", "scale", "report")
PACKAGE = Path(kltui.__file__).resolve().parent.parent


def modules_after(*steps: str) -> list[set[str]]:
    """Names of all modules that are loaded after each step, in one new interpreter."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE)!r})\n"
    code += "\n".join(f"{step}\nprint(*sys.modules)" for step in steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return [set(line.split()) for line in done.stdout.splitlines()]


def loaded_after(*steps: str) -> list[set[str]]:
    """The same, with the names of top-level packages only."""
    return [{name.partition(".")[0] for name in names} for names in modules_after(*steps)]


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


# What the command line does before Textual is imported, and then what is there when the first frame is drawn.
COMMAND = (
    "from pathlib import Path\nimport kltui.cli as cli\nfolder = Path({folder!r})\n"
    "parser = cli.build_parser()\ncli.check_options(parser, cli._parsed(parser, ['ws']))\ncli.one_blas_thread.__enter__()\n"
    "from kltui.tui import main, opening, read_ahead, ui_state\nmain._state_folder(), opening.target_of({folder!r}, Path('/'))"
)
FRAME = (
    "main.prepare_environment()\nimport kltui.tui.app, kltui.tui.keymap, kltui.tui.views.registry, kltui.tui.terminal.driver\n"
    "app = kltui.tui.app.KltuiApp(Path('/none'))"
)


def test_neither_the_command_line_nor_the_first_frame_waits_for_the_store(tmp_path: Path) -> None:
    fill(tmp_path)
    command, frame = modules_after(COMMAND.format(folder=str(tmp_path)), FRAME)
    for store in ("kltui.store.rows", "kltui.store.store", "kltui.workspace", "kltui.registry", "kltui.jobs"):
        assert store not in command | frame
    assert not (command | frame) & {"sqlite3", "_sqlite3", "threadpoolctl", "secrets", "hmac", "_hashlib"}
    assert not command & {"asyncio", "textual", "rich"}
    own = {name for name in frame if name.startswith("kltui")}
    assert len(own) <= 69, f"{len(own)} modules of kltui are imported before the first frame: {sorted(own)}"


def test_what_was_read_ahead_needs_no_store(tmp_path: Path) -> None:
    fill(tmp_path)
    frame, told = modules_after(
        f"{COMMAND.format(folder=str(tmp_path))}\nread_ahead.has_idle_core = lambda: True\n"
        f"ahead = main._read_ahead(folder, None, 'conditional', ui_state.Memory(None))\n{FRAME}",
        "read = ahead.result()\nassert len(read.rows) == len(read.losses) == 3, read",
    )
    assert "kltui.store.rows" in told - frame
    assert not told & {"sqlite3", "_sqlite3", "kltui.store.store", "kltui.workspace.workspace"}


def test_few_classes_of_the_first_frame_are_written_by_dataclasses(tmp_path: Path) -> None:
    """Each takes a millisecond or two to make, a named tuple a fifth of that."""
    fill(tmp_path)
    made = (
        "print(*{f'{c.__module__}.{c.__name__}' for name, module in list(sys.modules.items()) if name.startswith('kltui')"
        " for c in list(vars(module).values()) if isinstance(c, type) and '__dataclass_fields__' in vars(c)"
        " and c.__module__.startswith('kltui')})"
    )
    code = f"import sys; sys.path.insert(0, {str(PACKAGE)!r})\n{COMMAND.format(folder=str(tmp_path))}\n{FRAME}\n{made}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    names = done.stdout.split()
    assert 0 < len(names) <= 12, sorted(names)
