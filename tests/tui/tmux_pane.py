"""A tmux server with one pane, read as a person would read it."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import time
import uuid
from pathlib import Path

from terminal import PATHS


class ControlClient:
    """A client of a tmux server that stays, and writes and reads commands by tmux's control mode: no process for each."""

    def __init__(self, socket: str) -> None:
        command = ["tmux", "-u", "-L", socket, "-C", "attach-session"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._read = b""
        self._answer()  # to attach-session itself

    def ask(self, *words: str) -> str:
        """What a command prints. Raises CalledProcessError where tmux refuses it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{shlex.join(words)}\n".encode())
        self._process.stdin.flush()
        end, lines = self._answer()
        if end != b"%end":
            raise subprocess.CalledProcessError(1, words, b"\n".join(lines))
        return b"\n".join(lines).decode()

    def _answer(self) -> tuple[bytes, list[bytes]]:
        """(%end or %error, the lines before it) of the next answer; what the panes write meanwhile is passed over."""
        while not (line := self._line()).startswith(b"%begin "):
            pass
        number = line.split()[1:3]
        lines: list[bytes] = []
        while True:
            line = self._line()
            word, *rest = line.split()[:3] if line.startswith(b"%") else [b""]
            if word in (b"%end", b"%error") and rest == number:
                return word, lines
            lines.append(line)

    def _line(self) -> bytes:
        while b"\n" not in self._read:
            self._read += self._more()
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _more(self) -> bytes:
        assert self._process.stdout is not None
        more = os.read(self._process.stdout.fileno(), 1 << 16)
        if not more:
            raise EOFError("the tmux server has ended")
        return more

    def changed(self, seconds: float) -> None:
        """Waits until a pane has written something since the last answer, for so many seconds at most."""
        assert self._process.stdout is not None
        if self._read or select.select([self._process.stdout], [], [], seconds)[0]:
            time.sleep(0.01)  # for what comes with it
            if not self._read:
                self._read += self._more()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Pane:
    """A tmux server of its own with one pane."""

    def __init__(self, width: int, height: int, command: list[str], tmp: Path) -> None:
        self.socket = f"kltui-test-{uuid.uuid4().hex[:8]}"
        line = f"env -u NO_COLOR HOME={tmp} PYTHONPATH={PATHS} {shlex.join(command)}; echo ENDED $?; sleep 60"
        size = ("-x", str(width), "-y", str(height))
        started = ["tmux", "-L", self.socket, "-f", "/dev/null", "new-session", "-d", "-c", str(tmp)]
        subprocess.run([*started, *size, line], check=True)
        self._client = ControlClient(self.socket)

    def tmux(self, *arguments: str) -> str:
        return self._client.ask(*arguments)

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def text(self, *options: str) -> str:
        """What the pane shows now; with -e colours too."""
        return self.tmux("capture-pane", "-p", *options)

    def other_than(self, before: str, seconds: float = 200.0) -> None:
        """Waits until the pane shows, colours included, something else."""
        end = time.monotonic() + seconds
        while self.text("-e") == before:
            assert time.monotonic() < end, f"still shown:\n{before}"
            self._client.changed(0.2)

    def shows(self, *wanted: str, seconds: float = 200.0) -> str:
        """The pane's text once all of `wanted` are in it."""
        end = time.monotonic() + seconds
        while True:
            text = self.text()
            if all(w in text for w in wanted):
                return text
            assert time.monotonic() < end, f"{wanted} not shown:\n{text}"
            self._client.changed(0.2)

    def gone(self, unwanted: str, seconds: float = 200.0) -> None:
        """Waits until `unwanted` is no longer shown."""
        end = time.monotonic() + seconds
        while unwanted in self.text():
            assert time.monotonic() < end, f"{unwanted} still shown"
            self._client.changed(0.2)

    def settled(self, seconds: float = 0.5) -> list[str]:
        """Lines with their colours, to the last column, once nothing has changed for a while."""
        before, now = "", self.tmux("capture-pane", "-p", "-e", "-N")
        while now != before:
            time.sleep(seconds)
            before, now = now, self.tmux("capture-pane", "-p", "-e", "-N")
        return now.splitlines()

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, check=False)
        self._client.close()
