"""What the real program writes to a pseudo-terminal: few bytes and nothing while idle, no evil strings, no colours unasked."""

from __future__ import annotations

import base64
import os
import re
import statistics
from pathlib import Path

import budgets
import pytest
from big_workspace import write_workspace
from terminal import Answer, Terminal

CSI = re.compile(rb"\x1b\[[\x30-\x3f]*[\x20-\x2f]*[\x40-\x7e]")
COPY = re.compile(rb"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07")
# Bytes are always held; times only on a quiet machine, by whoever asks: KLTUI_TEST_SLOWNESS=1 holds the budgets.
SLOW = float(os.environ.get("KLTUI_TEST_SLOWNESS", "inf"))


def press_all(terminal: Terminal, keys: list[str], quiet: float = 0.12) -> tuple[float, float]:
    """Medians over the keys: milliseconds to the first byte, and bytes."""
    answers: list[Answer] = [terminal.shown_for(k, quiet) for k in keys]
    assert all(a.data for a in answers), [k for k, a in zip(keys, answers, strict=True) if not a.data]
    return 1000 * statistics.median(a.first for a in answers), statistics.median(len(a.data) for a in answers)


def test_budgets_with_two_thousand_checkpoints() -> None:
    terminal = Terminal.of_fake(2000, 200, 60, "50")
    try:
        first_frame, _ = terminal.until("Registry")
        terminal.until("501/501")
        terminal.read(1.0)
        milliseconds, size = press_all(terminal, ["j", "j", "k"] * 3)
        assert size <= 2000 and milliseconds <= 30 * SLOW
        terminal.press("3v", 3.0)  # PCA at once: t-SNE of 2,000 is another process's work
        terminal.press("l", 0.5)
        milliseconds, size = press_all(terminal, ["]"] * 6)
        assert size <= 2000 and milliseconds <= 30 * SLOW
        milliseconds, size = press_all(terminal, ["+", "-", "m"] * 2, 0.3)
        assert size <= 35_000 and milliseconds <= 60 * SLOW
        # What was asked for last may take its time; after it there is silence, though the clock goes on.
        assert any(not terminal.read(3.5, 3.5).data for _ in range(20)), "idle, yet something was written"
        assert first_frame <= 0.5 * SLOW
    finally:
        terminal.close()


def test_bytes_and_idleness_on_a_workspace_on_disk(tmp_path: Path) -> None:
    folder = write_workspace(tmp_path / "ws", 200, 100)
    terminal = budgets.interface(folder, tmp_path)
    try:
        terminal.until(" scored")
        terminal.press("3v", 3.0)
        rows = [*budgets.keys_on_screens(terminal, times=1), budgets.idle(terminal, 3.5), budgets.ticking()]
    finally:
        terminal.close()
    over = [str(row) for row in rows if not row.held and (row.unit == "bytes" or float("inf") > SLOW)]
    assert not over, "\n".join(over)


def test_cursor_moves_of_diffusion_and_along_a_row_of_the_matrix_keep_their_budget(tmp_path: Path) -> None:
    folder = write_workspace(tmp_path / "ws", 200, 100)
    terminal = budgets.interface(folder, tmp_path)
    try:
        terminal.until(" scored")
        budgets.show_map(terminal)
        for screen, keys in (("5", "ljhk"), ("6", "lh")):
            terminal.shown_for(screen, 1.0)
            budgets.calm(terminal)
            sizes = {key: budgets.press_one(terminal, screen, key).size for key in keys}
            assert max(sizes.values()) <= budgets.MOVED_BYTES, sizes
            assert sum(size > 0 for size in sizes.values()) > 1, sizes
    finally:
        terminal.close()


@pytest.mark.parametrize("size", [(60, 15), (200, 50)])
def test_evil_strings_do_not_reach_the_terminal(size: tuple[int, int]) -> None:
    terminal = Terminal.of_fake(0, *size, "evil")
    try:
        _, data = terminal.until("84 checkpoints")
        for keys in (
            "jjj",
            "E",
            "\x1b",
            "s",
            "\x1b",
            "e",
            "\x1b",
            "y",
            "2",
            "\tG\r",
            "3",
            "v",
            "l]",
            "4",
            "5",
            "ljo",
            "1",
            "aj",
            "b",
            "c",
            "jjj",
            "7",
            "8",
            "jj",
            "?",
        ):
            data += terminal.press(keys, 0.4).data
        start = data.index(b"\x1b[1;1H")
        copied = [base64.b64decode(body).decode("utf-8") for body in COPY.findall(data)]
        shown = CSI.sub(b"", COPY.sub(b"", data[start:])).decode("utf-8")
        bad = {c for c in "".join(copied) if not c.isprintable()}
        # Three of them move the interface's own cursor; after these words they would be an evil string's.
        bad |= {c for c in shown if not c.isprintable() and c not in "\r\b\v"}
        bad |= {words for words in ("break\r", "tab\b", "back\v") if words in shown}
        assert copied and not bad, bad
        assert "\u202e" not in shown and "]0;owned" in shown  # shown, as harmless letters
    finally:
        terminal.close()


def test_no_color_writes_no_colours() -> None:
    terminal = Terminal.of_fake(0, 80, 24, NO_COLOR="1")
    try:
        _, data = terminal.until("84 checkpoints")
        data += terminal.shown_for("j").data
        assert not re.search(rb"\x1b\[[\d;]*[34]8;", data)
    finally:
        terminal.close()


def test_over_ssh_frames_are_few_and_animations_off() -> None:
    terminal = Terminal.of_fake(0, 80, 24, SSH_CONNECTION="10.0.0.1 1 10.0.0.2 22")
    try:
        terminal.until("84 checkpoints")
        terminal.read(0.5)
        whole = terminal.shown_for("j" * 40, 0.5)
        assert whole.data.count(b"\x1b[0m") <= 12
    finally:
        terminal.close()
