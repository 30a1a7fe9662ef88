"""The Python parts of tests/gpu/run.sh on a machine without a GPU, as far as they go. Usage: python tests/gpu/dry_run.py [OUT]

Scoring tests run on the processor for a few families, the end-to-end benchmark on a tiny shape, and the table is made
of what came out.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
FEW = "(gpt_neox or gemma2 or mamba2) and float32 or exact_kl or killed or two_workers or halved or bit_variants"


def main(out: Path) -> int:
    """0 when every part ran and the table holds its rows."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [_tests(), _bench(out)]
    (out / "card.txt").write_text("a dry run on the processor\n")
    (out / "parts.txt").write_text("".join(f"{name} {code} {seconds}\n" for name, code, seconds in parts))
    code = subprocess.run([sys.executable, str(HERE / "table.py"), str(out)], check=False).returncode
    return (
        code
        or int(any(part[1] for part in parts))
        or int("papers' loop" not in (out / "table.md").read_text())
    )


def _tests() -> tuple[str, int, int]:
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "-k", FEW, str(HERE)]
    code = subprocess.run(command, env={**os.environ, "KLTUI_GPU_TESTS": "cpu"}, check=False).returncode
    return "tests", code, round(time.monotonic() - begun)


def _bench(out: Path) -> tuple[str, int, int]:
    from kltui.bench import endtoend, shapes, sweep

    begun = time.monotonic()
    shapes.VOCABULARY, sweep.CHECKPOINTS, sweep.TEXTS["cpu"] = 1000, 2, 4
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = endtoend.run("cpu", True, [shapes.ModelShape("70m", 32, 2, 4, 8)])
    (out / "endtoend.json").write_text(printed.getvalue())
    return "bench", code, round(time.monotonic() - begun)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)))
