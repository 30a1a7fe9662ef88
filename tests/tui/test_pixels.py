"""Key `I`: what a terminal is asked, what its answers mean, and the bytes of a picture by each protocol."""

from __future__ import annotations

import base64
import fcntl
import io
import os
import re
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from terminal import Terminal

from kltui.errors import KltuiError
from kltui.figures.picture import FigureAxis, Panel, PaperFigure
from kltui.tui.terminal import pixels
from kltui.tui.terminal.pixels import Ability, Place, TerminalReplies
from kltui.tui.widgets.picture_pane import fitted

sys.path.insert(0, str(Path(__file__).parents[1] / "view"))  # small_workspace

Image = pytest.importorskip("PIL.Image")
KITTY, ITERM2 = b"\x1b_Gi=31;OK\x1b\\", b"\x1b]1337;ReportCellSize=18.0;9.5;2.0\x1b\\"
CELL, SIXEL, PLAIN = b"\x1b[6;20;10t", b"\x1b[?62;4;22c", b"\x1b[?1;2c"


@pytest.mark.parametrize(
    ("replies", "wanted"),
    [
        (KITTY + CELL + SIXEL, Ability("kitty", (10, 20))),
        (ITERM2 + PLAIN, Ability("iTerm2", (19, 36))),
        (CELL + SIXEL, Ability("sixel", (10, 20))),
        (SIXEL, Ability("sixel", pixels.USUAL_CELL)),
        (b"\x1b_Gi=31;EINVAL: no\x1b\\" + PLAIN, None),
        (b"\x1b[?64;14;24c", None),  # 14 and 24 are no 4
        (b"\x1b[6;0;0t" + SIXEL, Ability("sixel", pixels.USUAL_CELL)),
        (b"", None),
    ],
)
def test_answers_tell_what_a_terminal_can(replies: bytes, wanted: Ability | None) -> None:
    for cut in range(0, len(replies) + 1, 5):  # however they are cut into pieces, and with keys between them
        answers = TerminalReplies()
        answers.feed(b"j" + replies[:cut])
        assert answers.feed(replies[cut:] + b"\x1b[A") == (b"c" in replies[-1:])
        assert answers.ability() == wanted
        assert answers.rest() == b"j\x1b[A"


def a_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (width, height), (255, 255, 255))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    image.save(file, "PNG")
    return file.getvalue()


def test_a_kitty_picture_is_whole_after_its_pieces_are_joined() -> None:
    png = os.urandom(10_000)
    text = pixels.shown(png, Ability("kitty"), Place(3, 4, 20, 10), tmux=False)
    assert text.startswith("\x1b7\x1b[5;4H\x1b_Ga=T,f=100,") and text.endswith("\x1b8")
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "c=20,r=10,C=1" in pieces[0][0]
    assert [how[-3:] for how, _ in pieces] == ["m=1"] * (len(pieces) - 1) + ["m=0"]
    assert all(len(piece) <= 4096 for _, piece in pieces)
    assert base64.b64decode("".join(piece for _, piece in pieces)) == png
    assert pixels.gone(Ability("kitty"), tmux=False).startswith("\x1b_Ga=d,d=I,")
    assert pixels.gone(Ability("sixel"), tmux=False) == ""


def test_an_iterm2_picture_fills_its_cells() -> None:
    png = a_png(20, 12)
    text = pixels.shown(png, Ability("iTerm2"), Place(0, 0, 20, 10), tmux=False)
    found = re.search(r"\]1337;File=inline=1;size=(\d+);width=20;height=10;[^:]*:([^\x07]*)\x07", text)
    assert found and int(found.group(1)) == len(png) and base64.b64decode(found.group(2)) == png


def test_a_sixel_picture_has_its_size_and_colours() -> None:
    pytest.importorskip("textual_image")
    ability, place = Ability("sixel", (10, 20)), Place(0, 0, 3, 2)
    size = pixels.pixel_size(ability, place)
    assert size == (30, 36)  # bands of six below 40
    text = pixels.shown(a_png(*size), ability, place, tmux=False)
    assert '"1;1;30;36' in text and ";2;100;0;0" in text and ";2;100;100;100" in text


def test_through_tmux_every_message_goes_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_tmux", lambda *words: "40 2 1")  # the pane's corner, a status line above
    text = pixels.shown(os.urandom(9000), Ability("kitty"), Place(3, 4, 20, 10), tmux=True)
    messages = re.findall(r"\x1bPtmux;(.*?)(?<!\x1b)\x1b\\", text, re.DOTALL)
    inside = [m.replace("\x1b\x1b", "\x1b") for m in messages]
    assert len(inside) == 3
    assert all(m.startswith("\x1b7\x1b[8;44H\x1b_G") and m.endswith("\x1b8") for m in inside)
    asked = pixels.question(tmux=True)
    assert asked.startswith("\x1bPtmux;\x1b\x1b_Gi=31") and asked.endswith("\x1b[16t\x1b[c")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "find_spec", lambda name: None if name == "textual_image" else name)
    with pytest.raises(KltuiError, match="textual-image") as error:
        pixels.check_libraries()
    assert ".[pixels]" in error.value.hint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_workspace import suite

    path = tmp_path_factory.mktemp("pixels") / "work"
    suite(path).close()
    return path


@pytest.mark.slow
def test_a_terminal_that_answers_is_shown_the_figure_until_the_next_key(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("textual_image")
    code = "import sys; from kltui.cli import main; sys.exit(main(sys.argv[1:]))"
    terminal = Terminal([sys.executable, "-c", code, str(folder), "--read-only"], 100, 30)
    terminal.until("Checkpoints")
    terminal.until("small")
    started = terminal.press("6", quiet=1.0)
    assert b"\x1b_G" not in started.data and b"1337" not in started.data  # nothing is asked before `I`
    os.write(terminal.fd, b"I")
    terminal.until("\x1b[c")
    os.write(terminal.fd, b"x" + KITTY + CELL + PLAIN)
    out, end = b"", time.monotonic() + 60
    while b"m=0;" not in out and time.monotonic() < end:
        out += terminal.read(0.3).data
    data = b"".join(re.findall(rb"\x1b_G[^;]*;([^\x1b]*)\x1b\\", out))
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        image.load()
        columns, rows = (int(v) for v in re.search(rb"c=(\d+),r=(\d+)", out).groups())  # type: ignore[union-attr]
        assert image.size == (10 * columns, 20 * rows)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50  # something is drawn
    back = terminal.press("I", quiet=0.5).text
    assert "\x1b_Ga=d" in back and "╲" in back  # the diagonal
    terminal.press("q", quiet=0.3)
    assert terminal.wait() == 0


def a_figure(columns: int, *titles: str) -> PaperFigure:
    return PaperFigure(
        "f", "F", tuple(Panel(t, FigureAxis(""), FigureAxis(""), ()) for t in titles), columns=columns
    )


def test_a_figure_takes_the_pane_if_its_panels_are_readable_there_and_all_panes_if_not() -> None:
    pane, view = Place(0, 3, 80, 14), Place(0, 3, 120, 36)
    curves = a_figure(3, "KL", "Loss", "KL to last", "KL between runs, against tiny")
    assert fitted(a_figure(1, "Map"), (Place(0, 3, 60, 20), view), "", alone=False)[1].width == 60
    assert fitted(a_figure(1, "Scale"), (pane, view), "", alone=False)[1] is view, (
        "too flat for names below it"
    )
    assert fitted(a_figure(3, "q", "w", "c"), (Place(0, 3, 74, 17), view), "", alone=False) == (
        a_figure(3, "q", "w", "c"),
        view,
    )
    assert fitted(curves, (pane, view), "KL between", alone=False) == (curves, view)
    small = Place(0, 3, 80, 19)
    (only,) = fitted(curves, (Place(0, 3, 39, 8), small), "KL between", alone=False)[0].panels
    assert only.title == "KL between runs, against tiny", "of panels that do not fit, the focused one"
    assert len(fitted(curves, (view, view), "Loss", alone=True)[0].panels) == 1, "one that is enlarged"
    many = a_figure(3, *(f"p{k}" for k in range(7)))
    assert fitted(many, (pane, Place(0, 3, 200, 56)), "p3", alone=False)[0].columns == 3
    assert fitted(many, (pane, Place(0, 3, 200, 36)), "p3", alone=False)[0].columns == 4
    assert not fitted(a_figure(2), (pane, view), "", alone=False)[0].panels


def test_a_cell_that_is_not_reported_has_the_size_that_the_kernel_knows() -> None:
    ours, theirs = os.openpty()
    try:
        assert pixels.cell_of_window(theirs) == pixels.USUAL_CELL
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 960, 640))
        assert pixels.cell_of_window(theirs) == (8, 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert pixels.cell_of_window(theirs) == pixels.USUAL_CELL  # no terminal any more
    answers = TerminalReplies()
    answers.feed(KITTY + PLAIN)
    assert answers.ability((8, 16)) == Ability("kitty", (8, 16))
    answers.feed(CELL)
    assert answers.ability((8, 16)) == Ability("kitty", (10, 20))
