"""Children that have ended while another process still holds their pipes, which keeps nobody waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from kltui.errors import KltuiError
from kltui.tui.child_output import output_of
from kltui.tui.report_source import ReportProcess

# A child whose own child keeps the pipe; it writes a line with that one's process id, and then waits.
LEAVES_ONE = """
import subprocess, sys, time
held = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(held.pid))
print("a line", flush=True)
if sys.argv[2] == "waits":
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A file for the process id of who keeps the pipe, which is ended afterwards."""
    yield tmp_path / "pid"
    with suppress(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def command(held: Path, what: str) -> list[str]:
    return [sys.executable, "-c", LEAVES_ONE, str(held), what]


def test_the_end_of_the_child_is_the_end_of_its_output(held: Path) -> None:
    with Popen(command(held, "ends"), stdout=PIPE) as child:
        assert output_of(child, child.stdout).read() == b"a line\n"


def test_all_that_a_child_wrote_is_read() -> None:
    program = "import os; [os.write(1, bytes([i % 256]) * 5000) for i in range(100)]"
    with Popen([sys.executable, "-c", program], stdout=PIPE) as child:
        got = output_of(child, child.stdout).read()
    assert got == b"".join(bytes([i % 256]) * 5000 for i in range(100))


async def test_ending_the_report_waits_for_nobody_who_keeps_its_pipe(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kltui.jobs.process.python_command", lambda *_: command(held, "waits"))
    report = ReportProcess()
    request: Any = "any"
    asked = asyncio.create_task(report.section(request, lambda _: None))
    while not held.exists() or not held.read_text():
        await asyncio.sleep(0.01)
    report.end()
    with pytest.raises(KltuiError, match="was ended by signal 9"):
        await asked
