"""Turns the signals TERM, INT and HUP into an exception, so that unfinished work is cleaned up before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EndedError(BaseException):
    """A signal has asked this process to end; `exit_code` is 128 + its number, as in shells. Only `main` may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def ending_undoes() -> Iterator[None]:
    """Context in which the first of the signals ENDING raises EndedError in the main thread; further ones are ignored.

    In another thread it has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise EndedError(number)

    # Signals that are ignored, as HUP under nohup, or that have a handler already are left as they are.
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {n: signal.getsignal(n) for n in ENDING if signal.getsignal(n) in defaults}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Context in which the signals ENDING are deferred: the first takes effect at its end. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    handlers = {n: signal.getsignal(n) for n in ENDING}
    before = {n: handler for n, handler in handlers.items() if handler is not None}
    for number in before:
        signal.signal(number, lambda n, frame: noted.append(n))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if noted:
            signal.raise_signal(noted[0])
