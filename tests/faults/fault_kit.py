"""Light jobs, lives and truths for the tests of faults: no torch, a batch in a few hundredths of a second."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from model_folders import make_model
from warm_process import KLTUI, MAPS, WARM, warm_process

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

READ_WHEN_USED = ("HF_HUB_OFFLINE", "COLUMNS", "LINES", "XDG_CACHE_HOME")  # others may be read at an import
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


def run_cli(
    *arguments: str, cwd: Path, timeout: float = 60, cold: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    """A finished `kltui ARGUMENTS` with light workers; its processes are forks but where `cold` or `env` forbid it."""
    environment = light_env(**env)
    if not cold and all(name.startswith("KLTUI_LIGHT") or name in READ_WHEN_USED for name in env):
        environment |= _light_forks()
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


@functools.cache
def _light_forks() -> dict[str, str]:
    """The environment in which kltui and its light workers are forks of one process, which ends with this one."""
    folder = Path(tempfile.mkdtemp(prefix="kltui-light-"))
    forks = warm_process(folder / "socket", (*KLTUI, *MAPS), light_env())
    environment = forks.__enter__()
    atexit.register(lambda: (forks.__exit__(None, None, None), shutil.rmtree(folder, ignore_errors=True)))
    return environment and {
        "KLTUI_TEST_WARM": environment["KLTUI_TEST_WARM"],
        "KLTUI_TEST_WARM_MAIN": "1",
        "PYTHONPATH": os.pathsep.join([str(LIGHT), str(WARM), str(ROOT)]),
    }


def command(*arguments: str) -> list[str]:
    """The command line of kltui in this checkout or installation."""
    from kltui.jobs.process import python_command

    return python_command("kltui.cli", "main", *arguments)


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
    """A process that runs batches in forked children; see lives.py."""

    def __init__(self, scratch: Path, **env: str) -> None:
        self._scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "lives.py"), *MAPS],
            env=light_env(**env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *arguments: str,
        inline: bool = True,
        kill_after: float | None = None,
        limit: int = 0,
        arm: tuple[int, int, int] | None = None,
        count: bool = False,
        trace: Path | None = None,
    ) -> Life:
        """One life of `kltui ARGUMENTS` with the faults asked for; the shim's record goes to `trace`."""
        out, err, writes = (self._scratch / name for name in ("out", "err", "writes"))
        for path in (out, err, writes):
            path.unlink(missing_ok=True)
        asked = {
            "arguments": arguments, "out": str(out), "err": str(err), "inline": inline, "limit": limit,
            "kill_after": kill_after, "arm": arm, "count": str(writes) if count else "",
            "trace": str(trace or ""),
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        seen = int(writes.read_text()) if writes.exists() else 0
        return Life(
            code,
            out.read_text() if out.exists() else "",
            err.read_text() if err.exists() else "",
            seen,
        )

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


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
