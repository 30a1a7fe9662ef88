"""Serves batches to a test: each lives in a forked child, so that its life costs no start-up, and ends as asked.

Reads one JSON object a line from standard input, answers with one a line. Started by fault_kit.Lives with the modules that
commands other than `--batch ... --json` import: they are imported here once such a command comes.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import kltui.jobs.batch
import kltui.store.filesystem
import kltui.view.report
from kltui.cli import main
from kltui.jobs.executors.local import LocalExecutor
from kltui.jobs.messages import Message, Setup, Task, TaskScored
from kltui.registry.reading import Reading
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import Progress


class InlineExecutor:
    """Scores in the batch process itself: no worker to start."""

    can_expect, expected = False, None

    def __init__(self, setup: Setup, workers: int, devices: tuple[str, ...] = ()) -> None:
        self._scorer = Scorer(setup.texts, setup.corpus_sha256, setup.settings)
        self._task: Task | None = None

    @property
    def idle(self) -> int:
        return int(self._task is None)

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, timeout_s: float) -> list[Message]:
        if self._task is None:
            return []
        task, self._task = self._task, None
        hashed = task.hashed
        with Reading(hashed) as reading:
            result = self._scorer.score(hashed.folder, task.quantization, hashed.weights, _unheard, reading)
        return [TaskScored(task.index, result)]

    def stop(self) -> None: ...


def _unheard(progress: Progress) -> None: ...


def live(asked: dict[str, Any]) -> int:
    """One life, in the child: faults are armed, the command runs, its exit code is returned (70: traceback)."""
    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    err = os.open(asked["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(err, 2)
    kltui.jobs.batch.LocalExecutor = InlineExecutor if asked["inline"] else LocalExecutor  # type: ignore
    if asked["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], asked["limit"]))
    if asked["trace"]:
        os.environ["FAULT_TRACE"] = asked["trace"]
    shim: Any = ctypes.CDLL(None) if asked["arm"] or asked["count"] else None
    if shim:
        shim.fault_arm(*(asked["arm"] or (0, 0, 0)))
    try:
        code = main(asked["arguments"])
    except BaseException:
        traceback.print_exc()
        code = 70
    if asked["count"]:
        shim.fault_arm.restype = None
        shim.fault_count.restype = ctypes.c_long
        Path(asked["count"]).write_text(str(shim.fault_count()))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve(modules: list[str]) -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "--json" not in asked["arguments"]:
            for name in modules:
                importlib.import_module(name)
        pid = os.fork()
        if pid == 0:
            os._exit(live(asked))
        if asked["kill_after"] is not None:
            time.sleep(asked["kill_after"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    if "FAULT_MOUNTS" in os.environ:
        kltui.store.filesystem.MOUNTS = Path(os.environ["FAULT_MOUNTS"])
    serve(sys.argv[1:])
