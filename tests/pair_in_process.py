"""A stand-in for the executor that compares two models in the process that asks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from kltui.jobs.worker import _compared, _outcome


class InThisProcess:
    """What LocalExecutor does, without the seconds that another process needs to import torch."""

    tasks = 0

    def __init__(self, setup: object, workers: int) -> None:
        self._setup, self._messages = setup, []

    def submit(self, task: object) -> None:
        InThisProcess.tasks += 1
        report = SimpleNamespace()
        work: Callable[[object], object] = lambda _: _compared(self._setup, task, lambda p: None)  # noqa: E731
        self._messages.append(_outcome(work, 0, report, lambda text: None))

    def wait(self, _: float) -> list[object]:
        messages, self._messages = self._messages, []
        return messages

    def stop(self) -> None:
        """Nothing runs."""
