"""An endless job under endless faults: `python tests/faults/soak.py --minutes 60 [--pause 1] [--folder DIR] [--seed 1]`.

With `--job JOB` the real scorer runs that job file, the demo's for one (`kltui --demo` leaves it in its folder), and the
truth is one run of it that nothing disturbs. Else every round makes a job over light checkpoints. It gives it lives, each ended by something else: kill -9 at a random
moment, SIGTERM, ctrl-C, a full disk (RLIMIT_FSIZE), a worker killed, or nothing. After every life all vectors stored are
compared bit for bit with the truth, and everything acknowledged so far must be there. A round ends when its job is
complete; its workspace must then hold every vector. Counts at the end, or at ctrl-C; exit code 1 if anything was lost or
wrong. Runs at the lowest priority; `--pause` leaves the machine to others between lives.
"""

from __future__ import annotations

import argparse
import contextlib
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

from command import kltui_command  # noqa: E402
from fault_kit import behave, ends, light_env, truths, vectors, write_job  # noqa: E402

FATES = ("kill", "kill", "kill", "terminate", "interrupt", "disk full", "worker killed", "none")
CHECKPOINTS = 60
FAULTS = ("vectors wrong", "vectors lost", "stores unreadable", "tracebacks", "lives that hung")


class Soak:
    """One run of the soak: what happened, counted."""

    def __init__(self, folder: Path, seed: int, pause_s: float, job: Path | None = None) -> None:
        self.folder, self.chance, self.pause_s, self.job = folder, random.Random(seed), pause_s, job
        self.counts: Counter[str] = Counter()
        self.truth = self.undisturbed(job) if job else {}
        self.longest_s = 30.0 if job else 2.5

    def undisturbed(self, job: Path) -> dict[str, bytes]:
        """Every vector of the given job from one run of its own."""
        subprocess.run(self.batch(job, "truth"), env=self.environment(), check=True)
        return vectors(self.folder / "truth")

    def batch(self, job: Path, workspace: str) -> list[str]:
        """The command that scores into a workspace of the soak's folder."""
        return kltui_command("--batch", str(job), "--json", "--set", f'workspace="{self.folder / workspace}"')

    def environment(self) -> dict[str, str]:
        """The real scorer on one thread a worker, or the light one."""
        return {**os.environ, "OMP_NUM_THREADS": "1"} if self.job else light_env(KLTUI_LIGHT_SECONDS="0.03")

    def prepared(self) -> tuple[Path, dict[str, bytes]]:
        """The round's job and its true vectors by name."""
        if self.job:
            return self.job, self.truth
        tokens = "[scoring]\ntokens = true\n" if self.chance.random() < 0.5 else ""
        job = write_job(self.folder, CHECKPOINTS, texts=self.chance.randrange(5, 200), extra=tokens)
        return job, truths(job)

    def round(self, until: float) -> None:
        """One job from nothing to its end, or to the end of time."""
        shutil.rmtree(self.folder / "ws", ignore_errors=True)
        (job, right), acknowledged = self.prepared(), set[str]()
        complete = False
        while not complete and time.monotonic() < until:
            out = self.life(job)
            reported = {name for name, end in ends(out).items() if end["status"] in ("done", "kept")}
            acknowledged |= reported
            stored = self.stored()
            self.counts["vectors acknowledged"] += sum(not e.get("kept") for e in ends(out).values())
            self.counts["vectors compared"] += len(stored)
            self.counts["vectors wrong"] += sum(value != right[name] for name, value in stored.items())
            self.counts["vectors lost"] += len(acknowledged - set(stored))
            complete = len(stored) == len(right)
        self.counts["jobs completed"] += complete

    def stored(self) -> dict[str, bytes]:
        """What the workspace holds; nothing, and counted, where it cannot be read."""
        try:
            return vectors(self.folder / "ws")
        except Exception as error:
            self.counts["stores unreadable"] += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return {}

    def life(self, job: Path) -> str:
        """The events of one life, ended by a random fate."""
        time.sleep(self.pause_s)
        fate = self.chance.choice(FATES)
        self.counts[f"lives: {fate}"] += 1
        if fate == "worker killed" and not self.job:
            behave(job, self.chance.randrange(CHECKPOINTS), "once kill")
        limit = self.chance.randrange(20_000, 2_000_000) if fate == "disk full" else 0
        said = self.folder / "err"
        with (self.folder / "out").open("w") as out, said.open("w") as err:
            process = subprocess.Popen(
                ["prlimit", f"--fsize={limit or 'unlimited'}", *self.batch(job, "ws")],
                cwd=self.folder, env=self.environment(), stdout=out, stderr=err,
            )  # fmt: skip
        self.end(process, fate)
        if "Traceback" in said.read_text():
            self.counts["tracebacks"] += 1
            print(said.read_text(), file=sys.stderr)
        self.counts[f"exit code {process.returncode}"] += 1
        return (self.folder / "out").read_text()

    def end(self, process: subprocess.Popen[bytes], fate: str) -> None:
        number = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}.get(fate)
        if fate == "worker killed" and self.job:
            self.kill_a_worker(process)
        try:
            process.wait(self.chance.uniform(0.08, 1) * self.longest_s if number else 40 * self.longest_s)
        except subprocess.TimeoutExpired:
            if number is None:
                self.counts["lives that hung"] += 1
            process.send_signal(number or signal.SIGKILL)
            process.wait(120)

    def kill_a_worker(self, process: subprocess.Popen[bytes]) -> None:
        """kill -9 of one child of the job at a random moment, if it has one then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.uniform(0.3, 1) * self.longest_s)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with contextlib.suppress(OSError):
            workers = children.read_text().split()
            if workers:
                os.kill(int(self.chance.choice(workers)), signal.SIGKILL)
                self.counts["workers killed"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Random kills, full disks and resumes; see the module's words."
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between lives")
    parser.add_argument("--seed", type=int, default=os.getpid())
    parser.add_argument("--folder", type=Path)
    parser.add_argument(
        "--job", type=Path, help="a job file for the real scorer instead of light checkpoints"
    )
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kltui-soak-"))
    os.nice(19)
    started = time.monotonic()
    soak = Soak(folder, arguments.seed, arguments.pause, arguments.job and arguments.job.resolve())
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() < started + arguments.minutes * 60:
            soak.round(started + arguments.minutes * 60)
    return tell(
        soak.counts, (time.monotonic() - started) / 60, arguments.seed, folder, arguments.folder is None
    )


def tell(counts: Counter[str], minutes: float, seed: int, folder: Path, passing: bool) -> int:
    """Prints the counts, the sum of them in the last line; 1 where something was lost or wrong, else 0."""
    for what in sorted(counts):
        print(f"{counts[what]:8d}  {what}")
    lives = sum(n for what, n in counts.items() if what.startswith("lives: "))
    bad = sum(counts[f] for f in FAULTS)
    if passing and not bad:
        shutil.rmtree(folder, ignore_errors=True)
    elif bad:
        print(f"the last workspace is kept: {folder}")
    print(
        f"soak of {minutes:.1f} minutes, seed {seed}: {lives} lives, {counts['jobs completed']} jobs completed, "
        f"{counts['vectors acknowledged']} vectors acknowledged, {counts['vectors compared']} comparisons, "
        f"{counts['vectors wrong']} wrong, {counts['vectors lost']} lost, {bad} faults in all"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
