"""The real program in tmux, read off the pane as a person would."""

from __future__ import annotations

import os
import random
import select
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from terminal import HERE, PATHS

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


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
        """Lines with their colours, once nothing has changed for a while."""
        before, now = "", self.tmux("capture-pane", "-p", "-e")
        while now != before:
            time.sleep(seconds)
            before, now = now, self.tmux("capture-pane", "-p", "-e")
        return now.splitlines()

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, check=False)
        self._client.close()


narrow = pytest.mark.parametrize("pane", [(80, 24)], ids=["80x24"], indirect=True)
wide = pytest.mark.parametrize("pane", [(120, 40)], ids=["120x40"], indirect=True)
both = pytest.mark.parametrize("pane", [(80, 24), (120, 40)], ids=["80x24", "120x40"], indirect=True)


@contextmanager
def new_interface(kept: list[Pane], size: tuple[int, int], tmp: Path) -> Iterator[Pane]:
    """A pane with a new interface: in the process of the one before where that has ended well, and is `kept`."""
    if kept:
        made = kept.pop()
        made.tmux("resize-window", "-x", str(size[0]), "-y", str(size[1]))
        made.keys("Enter")
    else:
        made = Pane(*size, [sys.executable, str(HERE / "big_app.py"), "0", "again"], tmp)
    yield made
    if "ENDED 0" in made.text():
        kept.append(made)
    else:
        made.close()


@pytest.fixture(scope="module")
def panes() -> Iterator[list[Pane]]:
    """At most one pane, in which an interface has ended as it should."""
    kept: list[Pane] = []
    yield kept
    for pane in kept:
        pane.close()


@pytest.fixture
def pane(request: pytest.FixtureRequest, panes: list[Pane], tmp_path: Path) -> Iterator[Pane]:
    with new_interface(panes, request.param, tmp_path) as made:
        yield made


def leave(pane: Pane) -> str:
    """What is shown once the interface has ended."""
    pane.keys("q")
    return pane.shows("ENDED 0")


@both
def test_every_screen_by_its_key(pane: Pane) -> None:
    pane.shows("84 checkpoints", "▾ ● tiny")
    pane.keys("j", "a", "j", "b")
    pane.shows("A tiny@1", "B tiny@2")
    pane.keys("2")
    pane.shows("tiny@16", "queued", "43%")
    pane.keys("3")
    pane.shows("Map", "83 checkpoints", "◉")
    pane.keys("]")
    pane.shows("tiny@4", "KL from @2", "bits/byte")
    pane.keys("+", "v")
    pane.shows("PCA")
    pane.keys("5")
    pane.shows("likelihood c =", "weights c =")
    pane.keys("6")
    pane.shows("KL, bits/byte", "enter compares")
    pane.keys("7")
    pane.shows("A tiny@1", "half of it lies in")
    pane.keys("8")
    pane.shows("KL to the previous layer")
    pane.keys("9")
    pane.shows("later pretraining", "published")
    pane.keys("?")
    pane.shows("Keys on the Scale screen")
    pane.keys("Escape")  # alone: right before a letter it would be that letter with alt
    pane.gone("Keys on the Scale screen")
    text = leave(pane)
    assert "Registry" not in text  # the shell's own screen is back


@wide
def test_the_cursor_row_and_filter_in_tmux(pane: Pane) -> None:
    pane.shows("84 checkpoints")
    pane.keys("/")
    pane.shows("run:NAME")
    pane.keys("run:small", "Enter")
    text = pane.shows("/run:small", "◆ small")
    assert "tiny-seed2" not in text
    pane.keys("Escape")
    pane.shows("▾ ● tiny")
    leave(pane)


@narrow
def test_keys_typed_ahead_reach_what_they_were_meant_for(pane: Pane) -> None:
    """All in one burst, as a slow line delivers them: nothing falls through to the screen below a question."""
    pane.shows("84 checkpoints")
    pane.keys("/", "x", "q", "C-u", *"run:small", "Enter", "j", "a", "j", "b")
    pane.shows("/run:small", "A small@1", "B small@2")
    pane.keys("Escape")
    pane.gone("/run:small")
    pane.keys(":", *"screen matrix", "Enter")
    pane.shows("KL, bits/byte")
    pane.keys("1", "/", *"step", "Left", "Left", "C-a", *"-", "End", *">=4", "Enter", "3")
    pane.shows("/-step>=4", "Map")
    leave(pane)


@wide
def test_after_a_storm_of_sizes_it_is_as_if_drawn_whole(pane: Pane) -> None:
    rng = random.Random(5)
    pane.shows("84 checkpoints")
    for turn in range(60):
        pane.tmux("resize-window", "-x", str(rng.randint(30, 220)), "-y", str(rng.randint(8, 70)))
        if turn % 6 == 0:
            pane.keys(rng.choice("13587j]l"))
        time.sleep(rng.choice([0, 0.01, 0.05]))
    pane.keys("1", "g")
    for width in ("90", "130"):
        pane.tmux("resize-window", "-x", width, "-y", "40")
    pane.shows("@100", "Details", "variant")
    stormy = pane.settled()
    pane.keys("C")
    pane.shows("palette: light")
    pane.keys("C")  # twice, and every cell has been written again
    pane.shows("palette: dark")
    whole = pane.settled()
    assert "palette: dark" in whole[-2]
    assert stormy[:-2] + stormy[-1:] == whole[:-2] + whole[-1:]
    leave(pane)


def test_back_to_the_shell_and_in_again(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, str(HERE / "big_app.py"), "0"])
    pane = Pane(100, 30, ["PS1=ready:", "bash", "--norc", "--noprofile"], tmp_path)
    try:
        pane.shows("ready:")
        pane.keys(command, "Enter")
        pane.shows("84 checkpoints", "▾ ● tiny")
        pane.keys("C-z")
        assert "84 checkpoints" not in pane.shows("Stopped", "ready:")
        pane.keys("echo the-shell-is-well", "Enter")
        pane.shows("\nthe-shell-is-well")
        pane.keys("fg", "Enter")
        pane.shows("84 checkpoints", "▾ ● tiny", "run / step")
        pane.keys("2")
        pane.shows("queued")
        pane.keys("q")
        pane.shows("the-shell-is-well", "ready:")
    finally:
        pane.close()


@narrow
def test_without_a_shell_it_is_not_stopped(pane: Pane) -> None:
    pane.shows("84 checkpoints", "▾ ● tiny")
    pane.keys("C-z")
    pane.shows("cannot suspend: there is no shell to return to; q quits, and jobs continue")
    leave(pane)
