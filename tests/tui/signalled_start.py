"""Runs the interface, which gets a signal as it starts: `signalled_start.py WHEN MODULE:FUNCTION NUMBER WORKSPACE`.

The process sends itself the signal at the first call of the function: WHEN it is "before" or "after" it. If it is "awaited",
the function is first called once the signal, which is blocked, has come from elsewhere.
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from operator import attrgetter
from typing import Any


def signal_at(when: str, place: str, number: int) -> None:
    """Makes the first call of a function send the signal to this process."""
    module, _, path = place.partition(":")
    owner_path, _, name = path.rpartition(".")
    owner: Any = importlib.import_module(module)
    if owner_path:
        owner = attrgetter(owner_path)(owner)
    whole, left = getattr(owner, name), [number]

    def called(*given: Any, **named: Any) -> Any:
        if when == "before" and left:
            signal.raise_signal(left.pop())
        if when == "awaited" and left:
            print("press ctrl+c", flush=True)
            while number not in signal.sigpending():
                time.sleep(0.01)
            left.clear()
        result = whole(*given, **named)
        if when == "after" and left:
            signal.raise_signal(left.pop())
        return result

    setattr(owner, name, called)


if __name__ == "__main__":
    signal_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    from kltui.cli import main

    raise SystemExit(main([sys.argv[4]]))
