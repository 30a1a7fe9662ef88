"""A signal at any moment of the interface's start ends it with 128 + its number and leaves the terminal as it was."""

from __future__ import annotations

import os
import signal
import sys
import termios
from pathlib import Path

import pytest
from terminal import HERE, Terminal

RUN = "textual.app:App.run"
PLACES = (
    "kltui.tui.ui_state:Memory.__init__",
    "kltui.tui.app:KltuiApp.__init__",
    RUN,
    "textual.app:App.run_async",
    "textual.app:App._process_messages",
    "textual.app:App._get_default_css",
    "kltui.tui.terminal.driver:TerminalDriver.__init__",
    "kltui.tui.terminal.driver:TerminalDriver.start_application_mode",
    "kltui.tui.app:KltuiApp.first_view",
    "kltui.tui.app:KltuiApp.started",
    "kltui.tui.app:KltuiApp.show_screen",
    "kltui.tui.app:KltuiApp.text_of",
)
STARTS = [
    (when, place) for place in PLACES for when in ("before", "after") if (when, place) != ("after", RUN)
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("when", "place"), STARTS)
def test_a_signal_as_the_interface_starts_is_its_exit_status(
    when: str, place: str, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "ws").mkdir()
    words = [str(HERE / "signalled_start.py"), when, place, str(int(number)), str(tmp_path / "ws")]
    terminal = Terminal([sys.executable, *words], 80, 24, HOME=str(tmp_path))
    try:
        before = termios.tcgetattr(terminal.fd)
        code, rest = terminal.ended()
        assert code == 128 + number, rest
        assert termios.tcgetattr(terminal.fd) == before
        assert rest.count(b"\x1b[?1049h") <= rest.count(b"\x1b[?1049l")
        assert b"Traceback" not in rest
    finally:
        terminal.close()


def test_a_key_that_interrupts_before_there_is_a_child_ends_it_too(tmp_path: Path) -> None:
    """The terminal then sends the signal to the parent only."""
    (tmp_path / "ws").mkdir()
    words = [str(HERE / "signalled_start.py"), "awaited", "os:fork", str(int(signal.SIGINT))]
    terminal = Terminal([sys.executable, *words, str(tmp_path / "ws")], 80, 24, HOME=str(tmp_path))
    try:
        terminal.until("press ctrl+c")
        os.write(terminal.fd, b"\x03")
        assert terminal.wait() == 128 + signal.SIGINT
    finally:
        terminal.close()
