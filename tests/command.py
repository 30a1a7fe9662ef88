"""The kltui command as its users run it: in a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Cli = Callable[..., subprocess.CompletedProcess[str]]


def kltui_command(*arguments: str) -> list[str]:
    """The command line of the kltui that the tests import, wherever it is installed."""
    from kltui.jobs.process import python_command

    return python_command("kltui.cli", "main", *arguments)
