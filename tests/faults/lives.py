"""One batch with faults, in a fork of the light process (tests/warm_process.py): a life that costs no start-up.

Asked for by fault_kit.Lives, as one JSON object in the arguments.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kltui.jobs.batch
import kltui.store.filesystem
from kltui import cli
from kltui.jobs.messages import Message, Setup, Task, TaskScored
from kltui.jobs.result_writer import ResultWriter
from kltui.registry.reading import Reading
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import Progress


class InlineExecutor:
    """Scores in the batch process itself: no worker to start."""

    can_expect, expected = False, None

    def __init__(
        self, setup: Setup, workers: int, devices: tuple[str, ...] = (), begun: object = None
    ) -> None:
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


def strike(method: str, number: int) -> None:
    """Has the batch send itself a signal when its result writer is at that method: after `register`, before any other."""
    whole: Callable[..., None] = getattr(ResultWriter, method)

    def struck(*arguments: object) -> None:
        if method != "register":
            os.kill(os.getpid(), number)
        whole(*arguments)
        if method == "register":
            os.kill(os.getpid(), number)

    setattr(ResultWriter, method, struck)


def live(asked: dict[str, Any]) -> int:
    """The exit code of a life whose faults are armed (70: traceback)."""
    if asked["inline"]:
        kltui.jobs.batch.LocalExecutor = InlineExecutor  # type: ignore
        kltui.jobs.batch.begin_early = lambda *_: None  # no worker is to be forked
    if "FAULT_MOUNTS" in os.environ:
        kltui.store.filesystem.MOUNTS = Path(os.environ["FAULT_MOUNTS"])
    if asked["struck"]:
        strike(*asked["struck"])
    if asked["backwards"]:
        now, start = time.time, time.time()
        time.time = lambda: 2 * start - now() - 1e5
    if asked["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], asked["limit"]))
    shim: Any = ctypes.CDLL(None) if asked["arm"] or asked["count"] else None
    if shim:
        shim.fault_arm(*(asked["arm"] or (0, 0, 0)))
    try:
        code = cli.main(asked["arguments"])
    except BaseException:
        traceback.print_exc()
        code = 70
    if asked["count"]:
        shim.fault_count.restype = ctypes.c_long
        Path(asked["count"]).write_text(str(shim.fault_count()))
    return code


def main() -> int:
    """The exit code of the life that the arguments ask for."""
    return live(json.loads(sys.argv[1]))
