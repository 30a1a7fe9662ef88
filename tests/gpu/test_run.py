"""run.sh without a GPU: with stand-ins for what it calls, all its parts are run, told in one table, and end in time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "run.sh"
PARTS = {"install", "sanitizer-build", "tests", "memcheck", "racecheck", "bench-native", "bench"}
# pip and pytest do nothing here; the table is made by the real Python
PYTHON = (
    f'#!/bin/sh\n[ "$1" = -m ] && {{ echo "$@"; exit ${{CODE_python:-0}}; }}\nexec {sys.executable} "$@"\n'
)


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    tools = folder / "tools"
    tools.mkdir()
    for name in ("nvcc", "compute-sanitizer", "kltui", "nvidia-smi", "python"):
        text = PYTHON if name == "python" else f"#!/bin/sh\nexit ${{CODE_{name.replace('-', '_')}:-0}}\n"
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), str(folder / "out")],
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_part_is_run_and_told_in_one_table(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in (tmp_path / "out" / "parts.txt").read_text().splitlines()} == PARTS
    assert all(f"| {name} | exit 0 after" in done.stdout for name in PARTS)
    asked = (tmp_path / "out" / "tests.log").read_text()
    for tests in (
        "tests/gpu/test_scoring.py",
        "tests/kernels/test_cuda.py",
        "tests/scoring/test_device_map.py",
    ):
        assert tests in asked
    assert ".[test,quant]" in (tmp_path / "out" / "install.log").read_text()


@pytest.mark.parametrize(
    ("broken", "failed"),
    [
        ("CODE_compute_sanitizer", {"memcheck", "racecheck"}),
        ("CODE_kltui", {"bench-native", "bench"}),
        ("CODE_python", {"install", "tests"}),
    ],
)
def test_a_part_that_fails_is_told_and_the_others_are_run(
    tmp_path: Path, broken: str, failed: set[str]
) -> None:
    done = run(tmp_path, **{broken: "3"})
    assert done.returncode == 1
    assert set(done.stderr.rpartition("failed:")[2].partition("(")[0].split()) == failed
    for name in PARTS:
        assert f"| {name} | exit {3 if name in failed else 0} after" in done.stdout


def test_its_limits_are_less_than_nine_minutes_in_all() -> None:
    """What runs beside something longer counts by that alone; and no part begins past the whole's limit."""
    script = SCRIPT.read_text()
    limits = {
        name: int(limit) for name, limit in re.findall(r"^\s*part ([a-z-]+) (\d+) ", script, re.MULTILINE)
    }
    assert limits.keys() == PARTS
    assert limits["sanitizer-build"] <= limits["install"]
    assert limits["memcheck"] + limits["racecheck"] <= limits["tests"]
    in_turn = limits["install"] + limits["tests"] + limits["bench-native"] + limits["bench"]
    whole = int(re.search(r"^whole=(\d+)", script, re.MULTILINE)[1])
    assert in_turn <= whole < 9 * 60
