"""Keys, bytes, resizes and mouse at random against the real program: `random_keys.py [SECONDS] [SEED]`."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# As tests/conftest.py does for pytest: helpers of all tests are found by their names.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from restless import Restless
from terminal import Terminal

HERE = Path(__file__).resolve().parent
PATIENCE_S = 60.0
WIDTHS = (119, 121, 120)  # all different: of two that come at once the program sees the last
LETTERS = [bytes([c]) for c in range(0x20, 0x7F) if c != ord("q")]
SEQUENCES = [
    b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[H", b"\x1b[F", b"\x1b[5~", b"\x1b[6~", b"\x1b[3~", b"\x1b[Z", b"\t",
    b"\r", b"\r", b"\x1b", b"\x1b", b"\x7f", b"\x01", b"\x05", b"\x0b", b"\x15", b"\x17", b"\x1a", b"\x1bOP", b"\x1b[15~", b"\x1bx",
    b"\x1b[<0;10;5M", b"\x1b[<0;10;5m", b"\x1b[<64;30;9M", b"\x1b[<65;30;9M", b"\x1b[I", b"\x1b[O", b"\x1b[?62c", b"\x1b[12;40R",
    "é".encode(), "模".encode(), "👩‍👦".encode(), b"\xff", b"\xc3", b"\x80\x81", b"\xf0\x9f", b"\x1b[200~pasted \xff text\n\x1b[201~",
]  # fmt: skip
WORDS = [
    b"/run:tiny\r",
    b"/step>=100 | small\r",
    b":noise\r",
    b"2K\x1b",
    b"ajjb7",
    b"0G",
    b"obits\r",
    b"UUU",
    b"3v>}",
    b"\x1b\x1b\x1b",
]
SIZES = [(80, 24), (120, 40), (200, 60), (60, 15), (30, 8), (1, 1), (300, 20), (81, 100)]
BUG = b"a bug in kltui"
LOG = "interface.log"  # what the program leaves of a bug that it outlives
STACKS = "stacks.txt"


@dataclass
class Storm:
    """What was sent, so that it can be sent again."""

    seed: int
    folder: Path
    keys: int = 0
    starts: int = 0
    sent: list[bytes] = field(default_factory=list)
    shown: bytes = b""

    def send(self, terminal: Terminal, data: bytes, wait_s: float = 0.0) -> None:
        """Types it, and reads what the program has drawn, or draws within `wait_s`."""
        self.sent = [*self.sent[-400:], data]
        self.keys += 1
        with suppress(OSError):  # it has just ended
            os.write(terminal.fd, data)
        self.read(terminal, 0.0, wait_s)

    def read(self, terminal: Terminal, quiet: float, maximum: float) -> bytes:
        """What the program draws, the first of it within `maximum` seconds."""
        data = terminal.read(quiet, max(maximum, 0.02), patience=maximum).data
        self.shown = (self.shown + data)[-50_000:]
        return data

    def no_bug(self) -> None:
        """Raises AssertionError where the program has said, logged or died of a bug."""
        if BUG in self.shown or self.logs():
            raise AssertionError(self.account("a bug"))

    def logs(self) -> list[str]:
        """The ends of what was logged of bugs."""
        return [path.read_text(errors="replace")[-4000:] for path in self.folder.rglob(LOG)]

    def account(self, what: str) -> str:
        """What went wrong, with the traceback, and how to see it again."""
        _, mark, failure = self.shown.decode(errors="replace").rpartition("Traceback")
        stacks = self.folder / STACKS
        found = [*self.logs(), mark + failure if mark else "", stacks.read_text() if stacks.exists() else ""]
        return "\n".join(
            [what, *found, f"seed {self.seed}, after {self.keys} keys; the last were {self.sent[-60:]!r}"]
        )


@contextmanager
def started(folder: Path, storm: Storm) -> Iterator[Terminal]:
    """The program on a workspace that changes by itself."""
    storm.starts += 1
    command = [sys.executable, str(HERE / "restless_app.py"), str(folder / "ws"), str(folder / STACKS)]
    home: Any = dict.fromkeys(("XDG_STATE_HOME", "XDG_CONFIG_HOME", "HOME"), str(folder))
    terminal = Terminal(command, 120, 40, **home)
    group = terminal.pid
    try:
        terminal.until("Registry", 60.0)
        yield terminal
    finally:
        terminal.close()
        with suppress(ProcessLookupError):  # it has started processes of its own
            os.killpg(group, signal.SIGKILL)


def run(folder: Path, seconds: float, seed: int) -> Storm:
    """Sends keys for so many seconds. Raises AssertionError with what was sent where the program dies, hangs or says a bug."""
    storm, chance = Storm(seed, folder), random.Random(seed)
    restless = Restless(folder / "ws", seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with started(folder, storm) as terminal:
            while not _has_ended(terminal) and time.monotonic() < end:
                _some_keys(terminal, storm, chance)
                restless.stir()
            code = _left(terminal, storm)
            storm.no_bug()
            assert code == 0, storm.account(f"it ended with {code}")
    return storm


def _some_keys(terminal: Terminal, storm: Storm, chance: random.Random) -> None:
    """Sixty keys and now and then a stop, after which the program must still draw, unless one of them has left it."""
    stops_at = chance.randrange(240)
    for at in range(60):
        if at == stops_at:
            _stop_and_go_on(terminal, storm)
        kind = chance.random()
        if kind < 0.02:
            terminal.resize(*chance.choice(SIZES))
        data = chance.choice(LETTERS if kind < 0.6 else SEQUENCES if kind < 0.93 else WORDS)
        storm.send(terminal, data, chance.choice((0.0, 0.0, 0.02)))
    drawn = [_drawn_at(width, terminal, storm) for width in WIDTHS]
    storm.no_bug()
    if not any(drawn[1:]) and not _has_ended(terminal):
        raise AssertionError(_hung(terminal, storm, f"nothing was drawn for {PATIENCE_S:g} s"))


def _stop_and_go_on(terminal: Terminal, storm: Storm) -> None:
    """Stops it, as ctrl+z below a shell does, and has it go on, as fg does."""
    with suppress(ProcessLookupError):
        os.kill(terminal.pid, signal.SIGTSTP)
        end = time.monotonic() + PATIENCE_S
        while not (_has_ended(terminal) or _is_stopped(terminal)):
            if time.monotonic() > end:
                raise AssertionError(_hung(terminal, storm, f"not stopped within {PATIENCE_S:g} s"))
            storm.read(terminal, 0.0, 0.1)
        os.kill(terminal.pid, signal.SIGCONT)
        _until_it_is_back(terminal, storm, end)
    storm.sent.append(b"<stopped, continued>")


def _until_it_is_back(terminal: Terminal, storm: Storm, end: float) -> None:
    """Waits until it has the terminal again: before that, a ctrl+z is the terminal's own and stops it once more."""
    while termios.tcgetattr(terminal.fd)[3] & termios.ICANON and not _has_ended(terminal):
        if time.monotonic() > end:
            raise AssertionError(_hung(terminal, storm, f"not back within {PATIENCE_S:g} s"))
        storm.read(terminal, 0.0, 0.1)


def _is_stopped(terminal: Terminal) -> bool:
    return Path(f"/proc/{terminal.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _drawn_at(width: int, terminal: Terminal, storm: Storm) -> bytes:
    """What is drawn at a new size; the first time, what was asked for before may be among it."""
    terminal.resize(width, 40)
    return storm.read(terminal, 0.05, PATIENCE_S / 2)


def _left(terminal: Terminal, storm: Storm) -> int:
    """The exit code after ctrl+c, which closes a question first where one is open."""
    for patience in (0.1, *[8.0] * 8):
        with suppress(AssertionError):
            return terminal.wait(patience)
        storm.send(terminal, b"\x1b")
        storm.read(terminal, 0.1, 1.0)
        storm.send(terminal, b"\x03")
        storm.read(terminal, 0.1, 1.0)
    raise AssertionError(_hung(terminal, storm, "ctrl+c did not end it"))


def _hung(terminal: Terminal, storm: Storm, what: str) -> str:
    """The account, with where all threads of the program are."""
    os.kill(terminal.pid, signal.SIGUSR1)
    time.sleep(1.0)
    return storm.account(f"{what}; states of its processes: {_states(terminal.pid)}")


def _states(group: int) -> dict[int, str]:
    """{process: state} of a process group; T is stopped."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                found[int(path.parent.name)] = fields[0]
    return found


def _has_ended(terminal: Terminal) -> bool:
    """Whether the program is there no more, without taking its exit code."""
    return os.waitid(os.P_PID, terminal.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    seconds, seed = [*sys.argv[1:3], *("120", "1")[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as name:
        made = run(Path(name), float(seconds), int(seed))
    print(f"{made.keys} keys, {made.starts} starts, no bug")
