"""The kltui command as its users run it: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from forked import PIPE, Fork, Started

Cli = Callable[..., subprocess.CompletedProcess[str]]


def kltui_command(*arguments: str) -> list[str]:
    """The command line of the kltui that the tests import, wherever it is installed."""
    from kltui.jobs.process import python_command

    return python_command("kltui.cli", "main", *arguments)


def start(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    cold: bool = False,
    stdout: int | IO[Any] = PIPE,
    stderr: int | IO[Any] = PIPE,
    session: bool = False,
) -> Started:
    """A running `kltui ARGUMENTS`: a fork of the warm process that `env` names, else, or where it is `cold`, an interpreter.

    `session` makes it the first process of a session.
    """
    warm = env.get("KLTUI_TEST_WARM")
    if warm and not cold:
        return Fork(
            warm, "kltui.cli", arguments, cwd=cwd, env=env, stdout=stdout, stderr=stderr, session=session
        )
    return subprocess.Popen(
        kltui_command(*arguments),
        cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, start_new_session=session,
    )  # fmt: skip


def run_code(
    code: str, *, cwd: Path, env: Mapping[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """What a Python program has ended with: in a fork of the warm process that `env` names, else a new interpreter."""
    if warm := env.get("KLTUI_TEST_WARM"):
        return finished(Fork(warm, "", (), cwd=cwd, env=env, code=code), timeout)
    program = [sys.executable, "-P", "-c", code]
    return subprocess.run(program, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def finished(process: Started, timeout: float) -> subprocess.CompletedProcess[str]:
    """What the process has ended with; it is killed, and that is an error, after `timeout` seconds."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode is not None
    return subprocess.CompletedProcess((), process.returncode, out, err)
