"""Pixel images on terminals that can show them: detects the protocol, and encodes an image in it.

Kitty's and iTerm2's protocols take PNG data; sixels are made by textual-image. In tmux everything is wrapped so that
tmux passes it to the terminal outside, which needs tmux's option `allow-passthrough`.
"""

from __future__ import annotations

import base64
import fcntl
import io
import os
import re
import struct
import subprocess
import termios
from importlib.util import find_spec
from typing import Literal, NamedTuple

from kltui.errors import KltuiError

Protocol = Literal["kitty", "iTerm2", "sixel"]

PATIENCE_S = 1.0  # timeout for a terminal's replies
AFTER_S = 0.3  # how much later than tmux's own reply those of the terminal outside may come
CHUNK = 4096  # characters of an image in one message of kitty's protocol
USUAL_CELL = (9, 18)  # width and height in pixels, assumed for a terminal that does not report them
_IMAGE = 7_000_000 + os.getpid() % 1_000_000  # kitty's id of the image

_KITTY = re.compile(rb"\x1b_Gi=31;([^\x1b]*)\x1b\\")
_ITERM2 = re.compile(rb"\x1b\]1337;ReportCellSize=([\d.]+);([\d.]+)(?:;([\d.]+))?(?:\x07|\x1b\\)")
_CELL = re.compile(rb"\x1b\[6;(\d+);(\d+)t")
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_REPLIES = (_KITTY, _ITERM2, _CELL, _ATTRIBUTES)


class Ability(NamedTuple):
    """The protocol by which a terminal shows images, and the width and height of its cells in pixels."""

    protocol: Protocol
    cell: tuple[int, int] = USUAL_CELL


class Place(NamedTuple):
    """The position of an image on the screen (column and line from 0) and its size, in cells."""

    x: int
    y: int
    width: int
    height: int


def check_libraries() -> None:
    """Raises KltuiError if matplotlib or textual-image is not installed."""
    missing = [name for name in ("matplotlib", "textual_image") if find_spec(name) is None]
    if missing:
        raise KltuiError(
            f"pixels need {' and '.join(missing).replace('_', '-')}, not installed here",
            "pip install '.[pixels]'",
        )


def in_tmux() -> bool:
    """Whether this program runs inside tmux."""
    return bool(os.environ.get("TMUX"))


def through(text: str, tmux: bool) -> str:
    """`text`, wrapped if `tmux` so that tmux passes it to the terminal outside."""
    doubled = text.replace("\x1b", "\x1b\x1b")
    return f"\x1bPtmux;{doubled}\x1b\\" if tmux else text


def question(tmux: bool) -> str:
    """The query for kitty's protocol, iTerm2's protocol, the size of a cell, and the terminal's attributes (sixel).

    Every terminal answers the last query, which marks the end of the replies.
    """
    kitty = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
    return f"{through(kitty, tmux)}{through(chr(27) + ']1337;ReportCellSize' + chr(7), tmux)}\x1b[16t\x1b[c"


class TerminalReplies:
    """Separates a terminal's replies from keys pressed at the same time."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> bool:
        """Adds bytes from the terminal; whether the reply to the last query is among them."""
        self._data += data
        return _ATTRIBUTES.search(self._data) is not None

    def rest(self) -> bytes:
        """The bytes that are not part of a reply."""
        left = self._data
        for reply in _REPLIES:
            left = reply.sub(b"", left)
        return left

    def ability(self, usual: tuple[int, int] = USUAL_CELL) -> Ability | None:
        """The protocol and cell size according to the replies; None if the terminal cannot show images.

        `usual` is the cell size of a terminal that does not report it.
        """
        kitty, iterm2 = _KITTY.search(self._data), _ITERM2.search(self._data)
        attributes = _ATTRIBUTES.search(self._data)
        cell = self._cell(iterm2) or usual
        if kitty and kitty.group(1) == b"OK":
            return Ability("kitty", cell)
        if iterm2:
            return Ability("iTerm2", cell)
        if attributes and b"4" in attributes.group(1).split(b";"):
            return Ability("sixel", cell)
        return None

    def _cell(self, iterm2: re.Match[bytes] | None) -> tuple[int, int] | None:
        found = _CELL.search(self._data)
        height, width = (float(v) for v in found.groups()) if found else (0.0, 0.0)
        if not found and iterm2:
            scale = float(iterm2.group(3) or 1)
            height, width = float(iterm2.group(1)) * scale, float(iterm2.group(2)) * scale
        return _believed(width, height)


def cell_of_window(fd: int) -> tuple[int, int]:
    """Width and height in pixels of a cell as the kernel knows it, also within tmux; `USUAL_CELL` if it does not."""
    try:
        rows, columns, width, height = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return USUAL_CELL
    return _believed(width / max(columns, 1), height / max(rows, 1)) or USUAL_CELL


def _believed(width: float, height: float) -> tuple[int, int] | None:
    known = 2 <= width <= 200 and 2 <= height <= 400
    return (round(width), round(height)) if known else None


def pixel_size(ability: Ability, place: Place) -> tuple[int, int]:
    """Width and height in pixels of an image that fills a place; the height of sixels is a multiple of six."""
    width, height = place.width * ability.cell[0], place.height * ability.cell[1]
    return (width, height // 6 * 6) if ability.protocol == "sixel" else (width, height)


def shown(png: bytes, ability: Ability, place: Place, tmux: bool) -> str:
    """The escape sequences that show a PNG image at its place without moving the cursor."""
    left, top = _corner() if tmux else (0, 0)
    at = f"\x1b7\x1b[{place.y + top + 1};{place.x + left + 1}H"
    messages = _MESSAGES[ability.protocol](png, place)
    if not tmux:
        return f"{at}{''.join(messages)}\x1b8"
    # Each message sets the cursor again, because tmux moves it between two messages.
    return "".join(through(f"{at}{message}\x1b8", tmux) for message in messages)


def gone(ability: Ability, tmux: bool) -> str:
    """The escape sequence that removes the image; "" for protocols whose images are removed by writing over them."""
    return through(f"\x1b_Ga=d,d=I,i={_IMAGE},q=2\x1b\\", tmux) if ability.protocol == "kitty" else ""


def _kitty(png: bytes, place: Place) -> list[str]:
    data = base64.b64encode(png).decode()
    pieces = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    first = f"a=T,f=100,i={_IMAGE},p=1,c={place.width},r={place.height},C=1,q=2,"
    last = len(pieces) - 1
    return [f"\x1b_G{'' if k else first}m={int(k < last)};{piece}\x1b\\" for k, piece in enumerate(pieces)]


def _iterm2(png: bytes, place: Place) -> list[str]:
    how = f"inline=1;size={len(png)};width={place.width};height={place.height};preserveAspectRatio=0"
    return [f"\x1b]1337;File={how};doNotMoveCursor=1:{base64.b64encode(png).decode()}\x07"]


def _sixel(png: bytes, place: Place) -> list[str]:
    from PIL import Image

    # Only the encoder is imported: other modules of textual-image query the terminal on import.
    from kltui.tui.terminal.textual_private import image_to_sixels

    with Image.open(io.BytesIO(png)) as image:
        return [image_to_sixels(image.convert("RGB"))]


_MESSAGES = {"kitty": _kitty, "iTerm2": _iterm2, "sixel": _sixel}


def _corner() -> tuple[int, int]:
    """Column and line (from 0) of this tmux pane's first cell on the terminal."""
    wanted = "#{pane_left} #{pane_top} #{?#{==:#{status-position},top},#{?#{==:#{status},off},0,1},0}"
    found = _tmux("display-message", "-p", "-t", os.environ.get("TMUX_PANE", ""), wanted).split()
    if len(found) != 3 or not all(word.isdigit() for word in found):
        return 0, 0
    left, top, status = map(int, found)
    return left, top + status


def redraw_tmux() -> None:
    """Makes tmux redraw the whole screen, because it does not know which cells an image covers."""
    _tmux("refresh-client")


def _tmux(*words: str) -> str:
    try:
        made = subprocess.run(["tmux", *words], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return made.stdout
