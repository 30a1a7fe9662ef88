"""Command lines for child processes with the same interpreter and the same package, whatever the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

from kltui import version

_BOOT = (
    "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.insert(0, root); "
    "from {module} import {function}; sys.exit({function}())"
)


def python_command(module: str, function: str, *arguments: str) -> list[str]:
    """The command line that calls `module.function()` in a new interpreter with `arguments` in sys.argv[1:].

    -P keeps a folder that happens to be called kltui in the current directory from being imported instead.
    """
    root = str(Path(version.__file__).resolve().parent.parent)
    boot = _BOOT.format(module=module, function=function)
    return [sys.executable, "-P", "-c", boot, root, *arguments]


def last_line(err: bytes) -> str:
    """The last line that a child process wrote, which usually says why it failed."""
    lines = err.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without output")
