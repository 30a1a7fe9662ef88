"""`kltui --completion SHELL`: prints a completion script for a shell, made from the parser by shtab."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")
# Metavariables in --help of options whose values are completed as files or as folders.
FILES = {"JOB", "PATH", "FILE", "MODEL", "WORKSPACE"}  # WORKSPACE: the interface also opens a job file
FOLDERS = {"DIR", "FOLDER"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script for `parser` in the language of `shell`, one of SHELLS.

    Sets the attribute `complete` of those of the parser's actions that take a file or folder, and `choices` of those that
    take a name of a fixed list.
    """
    import shtab

    from kltui.figures.catalogue import FIGURES
    from kltui.view.report import section_names

    names = {"section": section_names(), "figure": list(FIGURES)}
    for action in parser._actions:
        action.choices = names.get(action.dest, action.choices)
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


class PrintCompletion(argparse.Action):
    """The action of --completion: prints the script for the named shell and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        sys.stdout.write(script(parser, str(values)) + "\n")
        sys.stdout.flush()
        parser.exit()
