"""The real program on a pseudo-terminal: signals, stops, lines that go away, and what no keyboard sends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import HERE, Terminal

NO_KEYS = (
    b"\xfc\xdf",  # two letters of latin-1
    b"\xff\xfe\x80\xc3",
    b"\x1b[200~\xed\xa0\x80\x1b[201~",
    b"\x1b[9999999u",  # beyond the last character
    b"\x1b[55296u",  # half a character
    b"\x1b[97:65;2u",
    b"\x1b[1;99999999999999999999u",
    b"\x1b[48;0;0;0;0t\x1b[<35;5;5M",  # the mouse on a screen of no size
    b"\x1b[48;999999;999999;1;1t",
    b"\x1b[<35;99999999999999999999;5M",
)


class Threads:
    """The names of a program's threads, which it writes to a file when it is asked."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "threads"
        self.environment = {"THREADS_FILE": str(self.file)}
        self._read = 0

    def of(self, process: Terminal | int) -> str:
        """The names, sorted, with a blank between them."""
        os.kill(process if isinstance(process, int) else process.pid, signal.SIGUSR1)
        wait_until(lambda: self.file.exists() and self.file.read_text().count("\n") > self._read)
        lines = self.file.read_text().splitlines()
        self._read = len(lines)
        return lines[-1]


def test_what_no_keyboard_sends_does_not_end_the_program() -> None:
    terminal = Terminal.of_fake(0, 80, 24)
    try:
        terminal.until("84 checkpoints")
        terminal.read(0.5)
        for sent in NO_KEYS:
            os.write(terminal.fd, sent)
            terminal.read(0.15)
        os.write(terminal.fd, b"2")
        terminal.until("Jobs")
        os.write(terminal.fd, b"q")
        assert terminal.wait() == 0
    finally:
        terminal.close()


def test_two_strings_that_come_in_one_piece_are_both_found() -> None:
    terminal = Terminal(["sh", "-c", "printf 'one two three'; sleep 5"], 80, 24)
    try:
        assert [terminal.until(word)[1] for word in ("one", "two")] == [b"one", b" two"]
        assert terminal.read(0.2).data == b" three"
    finally:
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_restore_the_terminal(number: signal.Signals) -> None:
    terminal = Terminal.of_fake(0, 80, 24)
    try:
        terminal.until("84 checkpoints")
        os.kill(terminal.pid, number)
        code, rest = terminal.ended()
        assert code == 128 + number
        assert b"\x1b[?1049l" in rest and b"\x1b[?25h" in rest
    finally:
        terminal.close()


def test_a_hung_up_line_ends_the_program() -> None:
    terminal = Terminal.of_fake(0, 80, 24)
    try:
        terminal.until("84 checkpoints")
        terminal.hang_up()
        assert terminal.wait() == 128 + signal.SIGHUP
    finally:
        terminal.close()


@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.15, 0.25, 0.5])
def test_a_line_hung_up_while_it_is_written_to_ends_the_program(after: float) -> None:
    """The kernel follows the hang-up by a SIGCONT, which must not start the screen again on a dead line."""
    terminal = Terminal.of_fake(0, 120, 40)
    try:
        terminal.until("\x1b[?1049h")
        time.sleep(after)
        terminal.hang_up()
        assert terminal.wait() in (128 + signal.SIGHUP, -signal.SIGHUP)
    finally:
        terminal.close()


def test_a_line_that_goes_without_a_signal_ends_the_program() -> None:
    """As under a program that opened the terminal for it and is no session's leader."""
    terminal = Terminal.of_fake(0, 80, 24, controlling=False)
    try:
        terminal.until("84 checkpoints")
        terminal.hang_up()
        assert terminal.wait() == 128 + signal.SIGHUP
    finally:
        terminal.close()


@pytest.mark.parametrize("stop", [signal.SIGSTOP, signal.SIGTSTP])
def test_stopped_and_continued_it_takes_the_terminal_up_again(stop: signal.Signals, tmp_path: Path) -> None:
    threads = Threads(tmp_path)
    terminal = Terminal.of_fake(0, 80, 24, **threads.environment)
    try:
        terminal.until("84 checkpoints")
        terminal.read(0.5)
        running = threads.of(terminal)
        assert {"textual-input", "textual-output"} <= set(running.split())
        for _ in range(2):
            os.kill(terminal.pid, stop)
            wait_for_state(terminal, "T")
            terminal.read(0.2)
            if stop is signal.SIGTSTP:
                assert termios.tcgetattr(terminal.fd)[3] & termios.ICANON, "left as it was found"
            attributes = termios.tcgetattr(terminal.fd)
            attributes[3] |= termios.ECHO | termios.ICANON  # as a shell does
            termios.tcsetattr(terminal.fd, termios.TCSANOW, attributes)
            os.kill(terminal.pid, signal.SIGCONT)
            terminal.until("\x1b[?1049h")
            shown = terminal.until("84 checkpoints")[1] + terminal.read(0.5).data
            assert b"Registry" in shown
            assert not termios.tcgetattr(terminal.fd)[3] & (termios.ECHO | termios.ICANON)
        wait_until(lambda: threads.of(terminal) == running)
        os.write(terminal.fd, b"2")
        terminal.until("Jobs")
        terminal.press("q")
        assert terminal.wait() == 0
    finally:
        terminal.close()


@pytest.mark.parametrize("gaps", [[0.001] * 5, [0.05, 0.01, 0.1, 0.001]])
def test_continued_several_times_at_once_there_is_one_of_everything(
    gaps: list[float], tmp_path: Path
) -> None:
    threads = Threads(tmp_path)
    terminal = Terminal.of_fake(0, 80, 24, **threads.environment)
    try:
        before = termios.tcgetattr(terminal.fd)[3]
        terminal.until("84 checkpoints")
        terminal.read(0.5)
        running = threads.of(terminal)
        assert {"textual-input", "textual-output"} <= set(running.split())
        os.kill(terminal.pid, signal.SIGSTOP)
        wait_for_state(terminal, "T")
        for gap in gaps:
            os.kill(terminal.pid, signal.SIGCONT)
            time.sleep(gap)
        terminal.read(1.0)
        wait_until(lambda: threads.of(terminal) == running)
        terminal.press("q")
        assert terminal.wait() == 0
        assert termios.tcgetattr(terminal.fd)[3] == before
    finally:
        terminal.close()


def test_stopped_in_the_background_it_waits_for_the_foreground(tmp_path: Path) -> None:
    threads = Threads(tmp_path)
    patient = {"PS1": "ready:", "ESCDELAY": "30000"}  # milliseconds in which the rest of an arrow may come
    patient |= threads.environment
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], 80, 24, **patient)
    try:
        shell.until("ready:")
        program = shlex.join([sys.executable, str(HERE / "big_app.py"), "0"])
        os.write(shell.fd, f"sh -c 'echo its pid=$$.; exec {program}'\r".encode())
        shown = shell.until("84 checkpoints")[1]
        pid = int(re.findall(rb"its pid=(\d+)\.", shown)[0])
        shell.read(0.5)
        running = threads.of(pid)
        os.kill(pid, signal.SIGSTOP)
        shell.until("ready:")
        for _ in range(2):
            shell.read(0.2)
            os.write(shell.fd, b"bg\r")
            shell.until("ready:")
            wait_for_state(pid, "T")
        shell.read(0.2)
        os.write(shell.fd, b"fg\r")
        shell.until("84 checkpoints")
        shell.read(0.5)
        wait_until(lambda: threads.of(pid) == running)
        for half in ["\x1b", "[B"] * 6:  # arrows in two pieces, which two readers would tear apart
            os.write(shell.fd, half.encode())
            time.sleep(0.002)
        shell.until("@100")  # the seventh of the run
        os.write(shell.fd, b"q")
        shell.until("ready:")
        os.write(shell.fd, b"stty -a\r")
        shell.until(" icanon")
    finally:
        shell.close()


def test_to_the_shell_and_back_under_a_wrapper_in_the_same_group() -> None:
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], 80, 24, PS1="ready:")
    try:
        shell.until("ready:")
        program = shlex.join([sys.executable, str(HERE / "big_app.py"), "0"])
        os.write(shell.fd, f"sh -c '{program}; echo wrapper ends'\r".encode())
        shell.until("84 checkpoints")
        shell.read(0.5)
        for _ in range(2):
            os.write(shell.fd, b"\x1a")
            shell.until("Stopped")
            shell.read(0.5)
            os.write(shell.fd, b"fg\r")
            shell.until("84 checkpoints")
            shell.read(0.5)
        os.write(shell.fd, b"q")
        shell.until("wrapper ends")
    finally:
        shell.close()


def wait_for_state(process: Terminal | int, state: str) -> None:
    """Waits until a process is in a state (T: stopped)."""
    stat = Path(f"/proc/{process if isinstance(process, int) else process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == state)


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits until something holds; fails after a minute, which only a mistake takes."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
