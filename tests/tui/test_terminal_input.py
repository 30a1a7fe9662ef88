"""Whatever bytes a terminal sends, the interface goes on; whatever ends it, the terminal is put back."""

from __future__ import annotations

import os
import random
import signal
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from terminal import Terminal
from textual import events

from kltui.tui.terminal import input
from kltui.tui.terminal.input import Input

PASTE, END = b"\x1b[200~", b"\x1b[201~"
# Of every kind that a terminal or a lost line may send; none of them holds a key that leaves.
ODD = [
    b"caf\xe9 \xfc\xdf",  # Latin-1
    b"\xff" * 5000,
    b"\xe2\x82",  # the head of a character
    b"\xed\xa0\x80\xf5\x80\x80\x80\xc0\xaf",  # a surrogate, beyond Unicode, overlong
    b"\x00" * 300,
    b"\x1b[<0;999999;999999M\x1b[<0;999999;999999m",
    b"\x1b[<64;-5;-7M\x1b[<35;0;0M\x1b[<999;1;1M\x1b[<0;1;1;1M",
    b"\x1b[M \xff\xfe\x1b[M\x00\x00\x00",  # mouse reports of the old form
    b"\x1b[<" + b"9" * 60 + b";1M",
    b"\x1b[1114112u\x1b[55296u\x1b[4294967296u\x1b[1;1;55296u\x1b[97:65;2:1u\x1b[;;u",
    b"\x1b[48;0;0;0;0t\x1b[<0;3;3M",
    b"\x1b[48;9999;9999;1;1t\x1b[48;99999999;99999999;1;1t",
    b"\x1b[999999999;999999999R\x1b[?2048;9$y\x1b[?2026;9$y",
    b"\x1b[I\x1b[O\x1b[?1;2c\x1bP!|00000000\x1b\\\x1b]11;rgb:0/0/0\x07",
    b"\x1b" * 400,
    b"\x1b[" + b";" * 400,
    PASTE + b"\xff\x00\x1b[A" * 2000 + END,
    PASTE + b"x" * 200_000 + END,
]


def test_nothing_is_raised_and_keys_still_come_after_it() -> None:
    rng = random.Random(7)
    for data in [*ODD, *(rng.randbytes(200) for _ in range(300))]:
        source = Input()
        cut = rng.randrange(len(data))
        for part in (data[:cut], data[cut:]):
            list(source.feed(part))
            list(source.tick())
        list(source.feed(END))
        keys = [e.key for e in source.feed(b"\x1b[A zj") if isinstance(e, events.Key)]
        assert keys[-2:] == ["z", "j"], data


def test_bytes_that_are_no_text_are_no_keys() -> None:
    keys = [e.character for e in Input().feed(b"a\xffb\xe9c\xe2\x82") if isinstance(e, events.Key)]
    assert keys == ["a", "b", "c"]
    assert [e.character for e in Input().feed("é日".encode()) if isinstance(e, events.Key)] == ["é", "日"]
    source, found = Input(), []
    for byte in "日本".encode():
        found += [e.character for e in source.feed(bytes([byte])) if isinstance(e, events.Key)]
    assert found == ["日", "本"]


def test_a_paste_whose_end_is_lost_is_over_after_a_while() -> None:
    now = [0.0]
    source = Input(clock=lambda: now[0])
    assert list(source.feed(PASTE + b"some text")) == []
    now[0] = 1.0
    assert list(source.tick()) == [] and list(source.feed(b" more")) == []
    now[0] = 2.5
    assert list(source.tick()) == []
    now[0] = 3.5
    assert [e.text for e in source.tick() if isinstance(e, events.Paste)] == ["some text more"]
    assert [e.key for e in source.feed(b"j") if isinstance(e, events.Key)] == ["j"]
    assert list(source.tick()) == []


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_paste_is_followed_over_marks_that_come_in_pieces(cut: int) -> None:
    now = [0.0]
    source = Input(clock=lambda: now[0])
    found = []
    for part in (PASTE[:cut], PASTE[cut:], b"text", END[:cut], END[cut:]):
        found += list(source.feed(part))
    assert [e.text for e in found if isinstance(e, events.Paste)] == ["text"]
    now[0] = 9.0
    assert list(source.tick()) == []


def test_a_paste_without_end_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input, "MAX_PASTED", 10_000)
    source, pasted = Input(), []
    list(source.feed(PASTE))
    for _ in range(10):
        pasted += [e for e in source.feed(b"\xff" * 4096) if isinstance(e, events.Paste)]
    assert len(pasted) == 1 and len(pasted[0].text) <= 10_000 + 4096


def send(terminal: Terminal, data: bytes) -> None:
    """Types it, reading meanwhile what the program draws."""
    for at in range(0, len(data), 1024):
        os.write(terminal.fd, data[at : at + 1024])
        terminal.read(0.0, 0.05)


def left_by_q(terminal: Terminal) -> int:
    """The exit status after q, which goes into the paste under way until that has been silent for long enough."""
    for _ in range(20):
        with suppress(AssertionError):
            return terminal.wait(input.PASTE_PATIENCE_S + 0.5)
        send(terminal, b"q")
    return terminal.wait()


def test_no_bytes_end_the_interface() -> None:
    terminal = Terminal.of_fake(0, 100, 30)
    try:
        terminal.until("84 checkpoints")
        for data in ODD:
            send(terminal, data)
            send(terminal, END + b"\x1b\x1b")
        terminal.read(0.5)
        send(terminal, b"1")
        terminal.read(0.3)
        send(terminal, b"6")
        terminal.until("bits/byte")
        assert os.waitpid(terminal.pid, os.WNOHANG) == (0, 0)
        send(terminal, PASTE + b"never ended")
        assert left_by_q(terminal) == 0
    finally:
        terminal.close()


# -- whatever ends it ------------------------------------------------------------------------------


@contextmanager
def interface(folder: Path) -> Iterator[Terminal]:
    terminal = Terminal([sys.executable, "-m", "kltui", str(folder)], 90, 24, HOME=str(folder))
    try:
        terminal.until("Registry")
        yield terminal
    finally:
        terminal.close()


def child_of(terminal: Terminal) -> int:
    return int(Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()[0])


has_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc for the child")


@has_proc
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGKILL])
def test_whatever_ends_it_the_terminal_is_put_back(tmp_path: Path, number: signal.Signals) -> None:
    with interface(tmp_path) as terminal:
        assert not termios.tcgetattr(terminal.fd)[3] & termios.ICANON
        os.kill(child_of(terminal), number)
        code, rest = terminal.ended()
        assert code == 128 + number
        assert termios.tcgetattr(terminal.fd)[3] & termios.ICANON
        for leave in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?2004l", b"\x1b[?1006l", b"\x1b[<u"):
            assert leave in rest
        after = rest.rpartition(b"\x1b[?1049l")[2].decode()
        assert f"the interface was ended by {number.name}" in after and "Jobs are not affected" in after
        assert ("was truncated" in after) == (number is signal.SIGBUS)


@has_proc
def test_signals_reach_it_through_its_parent(tmp_path: Path) -> None:
    with interface(tmp_path) as terminal:
        child = child_of(terminal)
        os.kill(terminal.pid, signal.SIGTSTP)
        for pid in (terminal.pid, child):
            wait_for(pid, "T")
        assert termios.tcgetattr(terminal.fd)[3] & termios.ICANON, "left as it was found"
        terminal.read(0.2)
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.until("\x1b[?1049h")
        terminal.read(0.5)
        for pid in (terminal.pid, child):
            wait_for(pid, "S")
        os.kill(terminal.pid, signal.SIGTERM)
        code, rest = terminal.ended()
        assert code == 128 + signal.SIGTERM and b"\x1b[?1049l" in rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_every_signal_that_ends_it_leaves_the_terminal_as_it_was(
    tmp_path: Path, number: signal.Signals
) -> None:
    with interface(tmp_path) as terminal:
        terminal.read(0.3)
        os.kill(terminal.pid, number)
        code, rest = terminal.ended()
        assert code == 128 + number
        assert b"\x1b[?1049l" in rest and b"\x1b[?25h" in rest and b"Traceback" not in rest
        assert termios.tcgetattr(terminal.fd)[3] & termios.ICANON


@has_proc
def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    with interface(tmp_path) as terminal:
        child = child_of(terminal)
        os.kill(terminal.pid, signal.SIGKILL)
        os.waitpid(terminal.pid, 0)
        terminal.pid = 0
        end = time.monotonic() + 60
        while Path(f"/proc/{child}").exists() and state(child) != "Z":
            terminal.read(0.05, 0.1)
            assert time.monotonic() < end


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def wait_for(pid: int, wanted: str) -> None:
    end = time.monotonic() + 60
    while state(pid) != wanted:
        assert time.monotonic() < end, f"{pid} is in state {state(pid)}"
        time.sleep(0.02)
