"""Light jobs, lives and truths for the tests of faults: no torch, a batch in a few hundredths of a second."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from command import finished
from command import start as start_kltui
from forked import PIPE, Fork, Started
from model_folders import make_model
from warm_process import WARM

import kltui
from kltui.errors import StoreError
from kltui.jobs.messages import TaskScored
from kltui.scoring.settings import ScoreResult

HERE = Path(__file__).parent
LIGHT = HERE / "light"
ROOT = Path(kltui.__file__).parents[1]

sys.path.insert(0, str(LIGHT))
import light_scorer  # noqa: E402

loglik = functools.cache(light_scorer.loglik)

# What is read each time that it is used, or anew in a fork; others may be read at an import.
READ_WHEN_USED = ("KLTUI_LIGHT", "FAULT_", "HF_", "HUGGING_FACE_", "COLUMNS", "LINES", "XDG_CACHE_HOME")
JOB = """\
workspace = "ws"
[corpus]
source = "texts.json"
[[models]]
path = "run"
"""


def light_env(**more: str) -> dict[str, str]:
    """Environment in which kltui's workers score lightly."""
    paths = os.pathsep.join([str(LIGHT), str(ROOT)])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KLTUI_TEST_WARM")}
    return kept | {"PYTHONPATH": paths, "KLTUI_LIGHT": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | more


def write_job(folder: Path, checkpoints: int = 6, texts: int = 20, extra: str = "") -> Path:
    """A job file in `folder` over a run of light checkpoints, steps 0, 1, 2, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(checkpoints):
        make_model(folder / "run" / f"step{step}", weights=f"weights {step}".encode() * 5)
    (folder / "texts.json").write_text(json.dumps([f"text {i}" + " more" * (i % 5) for i in range(texts)]))
    job = folder / "job.toml"
    job.write_text(JOB + extra)
    return job


def behave(job: Path, step: int, what: str) -> None:
    """Makes one checkpoint of the job misbehave when it is scored."""
    (job.parent / "run" / f"step{step}" / "behaviour").write_text(what)


def truths(job: Path) -> dict[str, bytes]:
    """The bytes of every final vector that the job must end with."""
    texts = json.loads((job.parent / "texts.json").read_text())
    found = {}
    for folder in (job.parent / "run").iterdir():
        weights = (folder / "model.safetensors").read_bytes()
        values = np.array([loglik(weights, t) for t in texts])
        found[f"run@{folder.name.removeprefix('step')}"] = values.tobytes()
    return found


def vectors(folder: Path) -> dict[str, bytes]:
    """The bytes of every final vector in a workspace; none where it is not there or empty."""
    try:
        with kltui.open(folder) as ws:
            m = ws.map()
            return {name: m.loglik_KN[k].tobytes() for k, name in enumerate(m.names)}
    except StoreError as error:
        empty = ("no kltui workspace", "nothing is scored", "contains no kltui tables")
        if not error.message.startswith(empty) and empty[2] not in error.message:
            raise
        return {}


def check_stored(job: Path, acknowledged: Sequence[str] = ()) -> int:
    """How many vectors are stored, after checking that each is right and that none acknowledged is missing."""
    stored, right = vectors(job.parent / "ws"), truths(job)
    wrong = [name for name, value in stored.items() if value != right[name]]
    assert not wrong, f"wrong bits in {wrong}"
    lost = set(acknowledged) - set(stored)
    assert not lost, f"acknowledged and lost: {lost}"
    return len(stored)


def ends(lines: str) -> dict[str, dict[str, Any]]:
    """The end of every checkpoint by name, out of a batch's events; a last line cut by a kill is left out."""
    whole = lines[: lines.rfind("\n") + 1]
    events = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return {e["name"]: e for e in events if e["event"] == "checkpoint"}


def start(
    *arguments: str,
    cwd: Path,
    cold: bool = False,
    session: bool = False,
    stdout: int | IO[Any] = PIPE,
    stderr: int | IO[Any] = PIPE,
    **env: str,
) -> Started:
    """A running `kltui ARGUMENTS` with light workers; its processes are forks but where `cold` or `env` forbid it."""
    environment = light_env(**env)
    if not cold and all(name.startswith(READ_WHEN_USED) for name in env):
        environment |= forks()
    return start_kltui(
        *arguments, cwd=cwd, env=environment, cold=cold, stdout=stdout, stderr=stderr, session=session
    )


def run_cli(
    *arguments: str, cwd: Path, timeout: float = 60, cold: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    """A finished `kltui ARGUMENTS` with light workers."""
    return finished(start(*arguments, cwd=cwd, cold=cold, **env), timeout)


def forks() -> dict[str, str]:
    """The environment in which kltui and its light workers are forks of one process, where there is one."""
    if "KLTUI_TEST_LIGHT" not in os.environ:
        return {}
    paths = os.pathsep.join([str(LIGHT), str(WARM), str(ROOT)])
    return {"KLTUI_TEST_WARM": os.environ["KLTUI_TEST_LIGHT"], "PYTHONPATH": paths}


@dataclass(frozen=True)
class Life:
    """How a batch ended: exit code (negative: a signal), events, words, number of writes and syncs."""

    code: int
    out: str
    err: str
    writes: int

    @property
    def acknowledged(self) -> list[str]:
        """Names of the checkpoints whose storage was told."""
        return [name for name, end in ends(self.out).items() if end["status"] in ("done", "kept")]


@dataclass(frozen=True)
class Op:
    """One call that the shim recorded: W(rite), T(runcate), S(ync), U(nlink), A(cknowledged)."""

    kind: str
    path: str = ""
    at: int = 0
    data: bytes = b""


def read_trace(path: Path) -> list[Op]:
    """The shim's record, in order."""
    raw, at, ops = path.read_bytes(), 0, []
    while at < len(raw):
        end = raw.index(b"\n", at)
        kind, *words = raw[at:end].decode().split(" ")
        at = end + 1
        size = int(words[-1]) if kind in "WA" else 0
        data, at = raw[at : at + size], at + size
        ops.append(Op(kind, words[0] if kind != "A" else "", int(words[1]) if kind in "WT" else 0, data))
    return ops


class Lives:
    """Runs batches in forks of the light process, with faults; see lives.py."""

    def __init__(self, scratch: Path, **env: str) -> None:
        self._scratch, self._env = scratch, env

    def run(
        self,
        *arguments: str,
        inline: bool = True,
        kill_after: float | None = None,
        limit: int = 0,
        arm: tuple[int, int, int] | None = None,
        count: bool = False,
        struck: tuple[str, int] | None = None,
        backwards: bool = False,
        **env: str,
    ) -> Life:
        """One life of `kltui ARGUMENTS` with the faults asked for.

        `struck` is (method of the result writer, signal); `backwards` is how the clock runs.
        """
        out, err, writes = (self._scratch / name for name in ("out", "err", "writes"))
        writes.unlink(missing_ok=True)
        asked = {
            "arguments": arguments, "inline": inline, "limit": limit, "arm": arm, "struck": struck,
            "backwards": backwards, "count": str(writes) if count else "",
        }  # fmt: skip
        with out.open("w") as told, err.open("w") as said:
            fork = Fork(
                os.environ["KLTUI_TEST_LIGHT"], "lives", [json.dumps(asked)],
                cwd=self._scratch, env=light_env(**forks(), **self._env, **env), stdout=told, stderr=said,
            )  # fmt: skip
        try:
            code = fork.wait(kill_after)
        except subprocess.TimeoutExpired:
            fork.kill()
            code = fork.wait()
        return Life(code, out.read_text(), err.read_text(), int(writes.read_text()) if count else 0)


class OneWorker:
    """Stands for a job's executor: one worker in this process, whose answer a subclass gives."""

    can_expect, expected = False, None

    def __init__(self, *_: object) -> None:
        self.task: Any = None

    @property
    def idle(self) -> int:
        """How many workers wait for a task."""
        return int(self.task is None)

    def submit(self, task: Any) -> None:
        """Takes a task."""
        self.task = task

    def answer(self, task: Any) -> ScoreResult:
        """What comes of a task."""
        raise NotImplementedError

    def wait(self, timeout_s: float) -> list[TaskScored]:
        """The result of the task, at once."""
        task, self.task = self.task, None
        return [TaskScored(task.index, self.answer(task))] if task else []

    def stop(self) -> None: ...
