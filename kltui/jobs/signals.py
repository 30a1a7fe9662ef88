"""Signals to a batch: the first interrupt finishes the current checkpoint; the second, or TERM, stops at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """Catches INT, TERM, HUP and USR1 while open, and only records them.

    INT or USR1 once asks to finish the current checkpoint (USR1: then pause); INT again, TERM or HUP ask to
    stop at once. `received` is the last signal's number.
    """

    _CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self) -> None:
        self.finish_current = False
        self.stop_now = False
        self.received = 0
        self._news = self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def news(self) -> bool:
        """True once after each signal."""
        news, self._news = self._news, False
        return news

    def __enter__(self) -> Signals:
        for number in self._CAUGHT:
            self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._news = True
        again = number == signal.SIGINT and self._interrupted
        self._interrupted |= number == signal.SIGINT
        self.received = number
        if number in (signal.SIGTERM, signal.SIGHUP) or again:
            self.stop_now = True
        else:
            self.finish_current = True
