"""`kltui --completion SHELL`: what a shell needs to complete kltui's options, printed; made from the parser by shtab."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")
# What options take, by the name that --help gives it.
FILES = {"JOB", "PATH", "FILE", "MODEL", "WORKSPACE"}  # the interface takes a job file in a workspace's place
FOLDERS = {"DIR", "FOLDER"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of one of SHELLS for `parser`, which afterwards knows what its options complete to."""
    import shtab

    for action in parser._actions:
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


class PrintCompletion(argparse.Action):
    """Prints the script of the shell named, and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        sys.stdout.write(script(parser, str(values)) + "\n")
        parser.exit()
