"""Asks torch for its device in a separate process, so that the planning process never imports torch."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from kltui.jobs.process import last_line, python_command
from kltui.scoring.device import DeviceInUse

PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The device that torch would use, and the indices of usable GPUs; without a device, the reason and what to do."""

    device: DeviceInUse | None
    gpus: tuple[int, ...] = ()
    error: str = ""
    hint: str = ""


class DeviceProbe:
    """A pending query: importing torch takes seconds, so start it early and wait late."""

    def __init__(self, asked: str) -> None:
        self._process = subprocess.Popen(
            python_command("kltui.scoring.device", "main", asked),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def answer(self) -> Answer:
        """Waits for the answer and returns it."""
        try:
            out, err = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.stop()
            return Answer(None, error=f"torch did not respond within {PATIENCE_S:.0f} s")
        try:
            # the last line: importing torch may print others before it
            return _read(json.loads(out.decode(errors="replace").splitlines()[-1]))
        except (ValueError, IndexError, KeyError, TypeError):
            return Answer(
                None, error=f"torch cannot be used: {last_line(err)}", hint="Check that it is installed."
            )

    def stop(self) -> None:
        """Ends the query without waiting for the answer."""
        self._process.kill()
        self._process.communicate()


def _read(reported: dict[str, Any]) -> Answer:
    if "error" in reported:
        return Answer(None, error=str(reported["error"]), hint=str(reported["hint"]))
    return Answer(DeviceInUse(**reported["device"]), tuple(int(i) for i in reported["gpus"]))
