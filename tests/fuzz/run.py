"""Fuzzes the readers of what comes from outside, each target in processes of its own, from the kept seeds.

    python tests/fuzz/run.py [--seconds 60] [--jobs 2] [TARGET ...]
    python tests/fuzz/run.py TARGET --input FILE      one input, without the fuzzer
    python tests/fuzz/run.py --make-seeds             writes the seeds that the targets make

Inputs that a target fails on are kept in a folder that is printed. What is mended gets its input among the seeds.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
SHOWN_BYTES = 3000
WAIT_S = 600  # what starts and ends slowly is not hanging: an input that hangs is reported long before
DONE = re.compile(r"^Done (\d+) runs", re.MULTILINE)
COVERED = re.compile(r"cov: (\d+)")


@dataclass(frozen=True)
class Outcome:
    """How one target's run ended: what it said, and the inputs that it failed on."""

    name: str
    code: int
    said: str
    seconds: float
    failures: tuple[Path, ...]

    @property
    def is_well(self) -> bool:
        return self.code == 0 and not self.failures

    def line(self) -> str:
        runs, covered = DONE.findall(self.said), COVERED.findall(self.said)
        counts = f"{runs[-1] if runs else '?'} inputs, {covered[-1] if covered else '?'} edges"
        return f"{'ok    ' if self.is_well else 'FAILED'} {self.name:15} {counts}, {self.seconds:.0f} s"


def fuzz(name: str, seconds: int, seed: int, found: Path) -> Outcome:
    """One target for so many seconds."""
    place = found / name
    place.mkdir(parents=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kltui-fuzz-") as new:
        command = [sys.executable, str(HERE / "one.py"), name, str(seconds), str(seed), str(place), new]
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds + WAIT_S,
            )
            code, said = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            code, said = -1, (late.stdout or b"") + b"\nit did not end in time"
    (place / "words").unlink(missing_ok=True)
    failures = tuple(sorted(place.iterdir()))
    return Outcome(name, code, said.decode(errors="replace"), time.monotonic() - begun, failures)


def explain(outcome: Outcome) -> None:
    """Prints why a target failed and how to see it again."""
    print(outcome.said[-6000:])
    for path in outcome.failures:
        data = path.read_bytes()
        if len(data) <= SHOWN_BYTES:
            print(f"{path.name}, base64: {base64.b64encode(data).decode()}")
        print(f"again: python tests/fuzz/run.py {outcome.name} --input {path}")


def fuzz_all(names: list[str], seconds: int, jobs: int, seed: int) -> int:
    """Every target, `jobs` at a time; 1 where one fails."""
    found = Path(tempfile.mkdtemp(prefix="kltui-fuzz-found-"))
    print(f"fuzzing {len(names)} targets for {seconds} s each, {jobs} at a time, seed {seed}", flush=True)
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(lambda name: fuzz(name, seconds, seed, found), names):
            print(outcome.line(), flush=True)
            if not outcome.is_well:
                failed.append(outcome.name)
                explain(outcome)
    if failed:
        print(f"failed: {', '.join(failed)}; the inputs are in {found}")
        return 1
    for folder in [*found.iterdir(), found]:
        folder.rmdir()
    return 0


def load(name: str) -> object:
    """The module of a target."""
    return importlib.import_module(f"targets.{name}")


def make_seeds(names: list[str]) -> None:
    """Writes what the targets start from; seeds that came from failures stay."""
    for name in names:
        folder = SEEDS / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed, data in load(name).seeds().items():  # type: ignore[attr-defined]
            (folder / seed).write_bytes(data)


def main() -> int:
    from targets import NAMES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 31))
    parser.add_argument("--input", type=Path)
    parser.add_argument("--make-seeds", action="store_true")
    arguments = parser.parse_args()
    names = arguments.targets or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if arguments.make_seeds:
        make_seeds(names)
        return 0
    if arguments.input:
        warnings.simplefilter("error")
        load(names[0]).one_input(arguments.input.read_bytes())  # type: ignore[attr-defined]
        return 0
    if find_spec("atheris") is None:
        print(
            "no atheris here (pip install '.[fuzz]', CPython before 3.13): only pytest reads the kept inputs"
        )
        return 0 if sys.version_info >= (3, 13) else 2
    return fuzz_all(names, arguments.seconds, arguments.jobs, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
