"""Pictures of real pixels on terminals that can: which protocol one answers to, and the text that shows an image by it.

Kitty's and iTerm2's protocols take a PNG as it is, sixels are made by textual-image. Through tmux everything is
wrapped so that the terminal outside gets it, which tmux lets pass where `allow-passthrough` is on.
"""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from kltui.errors import KltuiError

Protocol = Literal["kitty", "iTerm2", "sixel"]

PATIENCE_S = 1.0  # how long a terminal may take to answer
AFTER_S = 0.3  # and how much later than tmux the terminal outside of it
CHUNK = 4096  # characters of an image in one message of kitty's protocol
USUAL_CELL = (9, 18)  # pixels, where a terminal does not say
_IMAGE = 7_000_000 + os.getpid() % 1_000_000  # the number under which the terminal keeps the picture

_KITTY = re.compile(rb"\x1b_Gi=31;([^\x1b]*)\x1b\\")
_ITERM2 = re.compile(rb"\x1b\]1337;ReportCellSize=([\d.]+);([\d.]+)(?:;([\d.]+))?(?:\x07|\x1b\\)")
_CELL = re.compile(rb"\x1b\[6;(\d+);(\d+)t")
_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_REPLIES = (_KITTY, _ITERM2, _CELL, _ATTRIBUTES)


@dataclass(frozen=True)
class Ability:
    """How a terminal shows pixels, and the width and height of its cells in pixels."""

    protocol: Protocol
    cell: tuple[int, int] = USUAL_CELL


@dataclass(frozen=True)
class Place:
    """The position of an image on the screen (column and line from 0) and its size, in cells."""

    x: int
    y: int
    width: int
    height: int


def check_libraries() -> None:
    """Raises KltuiError where what draws figures, or what makes sixels, is not installed."""
    missing = [name for name in ("matplotlib", "textual_image") if find_spec(name) is None]
    if missing:
        raise KltuiError(
            f"pixels need {' and '.join(missing).replace('_', '-')}, not installed here",
            "pip install '.[pixels]'",
        )


def in_tmux() -> bool:
    """Whether tmux stands between this program and the terminal."""
    return bool(os.environ.get("TMUX"))


def through(text: str, tmux: bool) -> str:
    """`text` for the terminal itself, wrapped where tmux would keep it."""
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
        """Takes what was sent; whether the last question is answered."""
        self._data += data
        return _ATTRIBUTES.search(self._data) is not None

    def rest(self) -> bytes:
        """What was no reply."""
        left = self._data
        for reply in _REPLIES:
            left = reply.sub(b"", left)
        return left

    def ability(self) -> Ability | None:
        """What the terminal can; None where it shows no pixels."""
        kitty, iterm2 = _KITTY.search(self._data), _ITERM2.search(self._data)
        attributes = _ATTRIBUTES.search(self._data)
        cell = self._cell(iterm2)
        if kitty and kitty.group(1) == b"OK":
            return Ability("kitty", cell)
        if iterm2:
            return Ability("iTerm2", cell)
        if attributes and b"4" in attributes.group(1).split(b";"):
            return Ability("sixel", cell)
        return None

    def _cell(self, iterm2: re.Match[bytes] | None) -> tuple[int, int]:
        found = _CELL.search(self._data)
        height, width = (float(v) for v in found.groups()) if found else (0.0, 0.0)
        if not found and iterm2:
            scale = float(iterm2.group(3) or 1)
            height, width = float(iterm2.group(1)) * scale, float(iterm2.group(2)) * scale
        known = 2 <= width <= 200 and 2 <= height <= 400
        return (round(width), round(height)) if known else USUAL_CELL


def pixel_size(ability: Ability, place: Place) -> tuple[int, int]:
    """Width and height in pixels of an image that fills a place; sixels come in bands of six."""
    width, height = place.width * ability.cell[0], place.height * ability.cell[1]
    return (width, height // 6 * 6) if ability.protocol == "sixel" else (width, height)


def shown(png: bytes, ability: Ability, place: Place, tmux: bool) -> str:
    """The text that shows an image at its place, the cursor staying where it is."""
    left, top = _corner() if tmux else (0, 0)
    at = f"\x1b7\x1b[{place.y + top + 1};{place.x + left + 1}H"
    messages = _MESSAGES[ability.protocol](png, place)
    if not tmux:
        return f"{at}{''.join(messages)}\x1b8"
    # A message at a time, each from the corner: tmux moves the cursor between any two.
    return "".join(through(f"{at}{message}\x1b8", tmux) for message in messages)


def gone(ability: Ability, tmux: bool) -> str:
    """The text that takes the image away, where writing over its cells does not."""
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

    # The encoder alone: its package's other modules ask the terminal when they are imported.
    from kltui.tui.terminal.textual_private import image_to_sixels

    with Image.open(io.BytesIO(png)) as image:
        return [image_to_sixels(image.convert("RGB"))]


_MESSAGES = {"kitty": _kitty, "iTerm2": _iterm2, "sixel": _sixel}


def _corner() -> tuple[int, int]:
    """Column and line at which this tmux pane begins on the terminal."""
    wanted = "#{pane_left} #{pane_top} #{?#{==:#{status-position},top},#{?#{==:#{status},off},0,1},0}"
    found = _tmux("display-message", "-p", "-t", os.environ.get("TMUX_PANE", ""), wanted).split()
    if len(found) != 3 or not all(word.isdigit() for word in found):
        return 0, 0
    left, top, status = map(int, found)
    return left, top + status


def redraw_tmux() -> None:
    """Makes tmux redraw the whole screen, because it does not know about cells covered by an image."""
    _tmux("refresh-client")


def _tmux(*words: str) -> str:
    try:
        made = subprocess.run(["tmux", *words], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return made.stdout
