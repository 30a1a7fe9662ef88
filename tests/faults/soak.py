"""An endless job under endless faults: `python tests/faults/soak.py --minutes 60 [--folder DIR] [--seed 1]`.

Every round makes a job over light checkpoints and gives it lives, each ended by something else: kill -9 at a random
moment, SIGTERM, ctrl-C, a full disk (RLIMIT_FSIZE), a worker killed, or nothing. After every life all vectors stored are
compared bit for bit with the truth, and everything acknowledged so far must be there. A round ends when its job is
complete; its workspace must then hold every vector. Counts at the end; exit code 1 if anything was lost or wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from fault_kit import behave, command, ends, light_env, truths, vectors, write_job  # noqa: E402

FATES = ("kill", "kill", "kill", "terminate", "interrupt", "disk full", "worker killed", "none")
CHECKPOINTS = 60


class Soak:
    """One run of the soak: what happened, counted."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.counts: Counter[str] = Counter()

    def round(self, until: float) -> None:
        """One job from nothing to its end, or to the end of time."""
        tokens = "[scoring]\ntokens = true\n" if self.chance.random() < 0.5 else ""
        job = write_job(self.folder, CHECKPOINTS, texts=self.chance.randrange(5, 200), extra=tokens)
        shutil.rmtree(self.folder / "ws", ignore_errors=True)
        right, acknowledged = truths(job), set[str]()
        complete = False
        while not complete and time.monotonic() < until:
            out = self.life(job)
            told = {name for name, end in ends(out).items() if end["status"] == "done"}
            acknowledged |= told
            stored = vectors(self.folder / "ws")
            self.counts["vectors acknowledged"] += sum(not e.get("kept") for e in ends(out).values())
            self.counts["vectors compared"] += len(stored)
            self.counts["vectors wrong"] += sum(value != right[name] for name, value in stored.items())
            self.counts["vectors lost"] += len(acknowledged - set(stored))
            complete = len(stored) == len(right)
        self.counts["jobs completed"] += complete

    def life(self, job: Path) -> str:
        """The events of one life, ended by a random fate."""
        fate = self.chance.choice(FATES)
        self.counts[f"lives: {fate}"] += 1
        if fate == "worker killed":
            behave(job, self.chance.randrange(CHECKPOINTS), "once kill")
        limit = self.chance.randrange(20_000, 2_000_000) if fate == "disk full" else 0
        said = self.folder / "err"
        with (self.folder / "out").open("w") as out, said.open("w") as err:
            process = subprocess.Popen(
                ["prlimit", f"--fsize={limit or 'unlimited'}", *command("--batch", str(job), "--json")],
                cwd=self.folder, env=light_env(KLTUI_LIGHT_SECONDS="0.03"), stdout=out, stderr=err,
            )  # fmt: skip
        self.end(process, fate)
        if "Traceback" in said.read_text():
            self.counts["tracebacks"] += 1
            print(said.read_text(), file=sys.stderr)
        self.counts[f"exit code {process.returncode}"] += 1
        return (self.folder / "out").read_text()

    def end(self, process: subprocess.Popen[bytes], fate: str) -> None:
        number = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}.get(fate)
        try:
            process.wait(self.chance.uniform(0.2, 2.5) if number else 120)
        except subprocess.TimeoutExpired:
            if number is None:
                self.counts["lives that hung"] += 1
            process.send_signal(number or signal.SIGKILL)
            process.wait(120)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Random kills, full disks and resumes; see the module's words."
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=os.getpid())
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kltui-soak-"))
    soak = Soak(folder, arguments.seed)
    started = time.monotonic()
    while time.monotonic() < started + arguments.minutes * 60:
        soak.round(started + arguments.minutes * 60)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, seed {arguments.seed}")
    for what in sorted(soak.counts):
        print(f"{soak.counts[what]:8d}  {what}")
    faults = ("vectors wrong", "vectors lost", "tracebacks", "lives that hung")
    if arguments.folder is None:
        shutil.rmtree(folder)
    return int(any(soak.counts[f] for f in faults))


if __name__ == "__main__":
    sys.exit(main())
