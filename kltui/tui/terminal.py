"""What the terminal shows, cell runs at a time, and the shortest text that brings it up to date.

Textual repaints whole widgets; a terminal at the far end of an SSH line should get only what changed.
`Frame` remembers every row as written, compares, and writes the difference with as few style codes as
will do. It is also the last gate: no control character leaves it but its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.strip import Strip

from kltui.safe import safe_text

Codes = tuple[str, str, str]

OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "7": "27", "9": "29"}
LEAST_JUMP = 7  # cells; to jump over fewer takes as many bytes as to write them again

_PLAIN: Codes = ("", "39", "49")


class Frame:
    """The rows last written to the terminal. `forget` after anything else may have written there."""

    def __init__(self, system: ColorSystem | None = ColorSystem.EIGHT_BIT) -> None:
        self._system = system
        self._rows: list[list[Segment]] = []
        self._width = 0

    def forget(self) -> None:
        """Makes the next update write everything."""
        self._rows = []

    def write(self, update: CompositorUpdate, width: int, height: int) -> str:
        """The text that turns what is shown into what `update` says; "" where nothing changed."""
        if width != self._width or len(self._rows) != height:
            self._rows, self._width = [[] for _ in range(height)], width
        out: list[str] = []
        pen = _Pen(self._system)
        for y, x, cells, segments in _pieces(update):
            if 0 <= y < height and cells:
                self._piece(out, pen, y, x, cells, _merged(segments))
        if out:
            out.append(pen.reset())
        return "".join(out)

    def _piece(self, out: list[str], pen: _Pen, y: int, x: int, cells: int, new: list[Segment]) -> None:
        if x == 0 and cells >= self._width:
            old, self._rows[y] = self._rows[y], new
        else:
            old = self._put(y, x, cells, new)
        if old == new:
            return
        for i, (skipped, middle) in enumerate(_differences(old, new)):
            column = x + skipped + 1
            out.append(f"\x1b[{column}G" if i else f"\x1b[{y + 1};{column}H")
            out.extend(pen.text(segment) for segment in middle)

    def _put(self, y: int, x: int, cells: int, new: list[Segment]) -> list[Segment]:
        """Puts a piece into a row and returns what was there before."""
        left, rest = _cut(self._rows[y], x)
        old, right = _cut(rest, cells)
        self._rows[y] = _merged([*left, *new, *right])
        return old if sum(_cells(s.text) for s in old) == cells else []


Piece = tuple[int, int, int, Iterable[Segment]]


def _pieces(update: CompositorUpdate) -> Iterator[Piece]:
    """(row, column, cells, segments) of everything that an update wants shown, neighbours in one piece."""
    if isinstance(update, LayoutUpdate):
        for y, line in enumerate(update.strips, update.region.y):
            strips = list(line)
            cells = sum(strip.cell_length for strip in strips)
            yield y, update.region.x, cells, chain.from_iterable(strips)
    elif isinstance(update, ChopsUpdate):
        for y, x1, x2 in update.spans:
            yield from _chops(y, x1, x2, update)


def _chops(y: int, x1: int, x2: int, update: ChopsUpdate) -> Iterator[Piece]:
    begun, reached = 0, -1
    joined: list[Strip] = []
    for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
        if strip is None or x >= x2 or end <= x1:
            continue
        left, right = max(x, x1), min(end, x2)
        if (left, right) != (x, end) or strip.cell_length != right - left:
            strip = strip.crop(left - x, right - x)
        if joined and left != reached:
            yield y, begun, reached - begun, chain.from_iterable(joined)
            joined = []
        if not joined:
            begun = left
        joined.append(strip)
        reached = left + strip.cell_length
    if joined:
        yield y, begun, reached - begun, chain.from_iterable(joined)


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _cut(row: list[Segment], at: int) -> tuple[list[Segment], list[Segment]]:
    """A row in two at a cell; a wide character in between gives way to blanks."""
    for i, segment in enumerate(row):
        cells = _cells(segment.text)
        if cells > at:
            if not at:
                return row[:i], row[i:]
            one, two = segment.split_cells(at)
            return [*row[:i], one], [two, *row[i + 1 :]]
        at -= cells
    return row, []


def _merged(strip: Iterable[Segment]) -> list[Segment]:
    """Segments with equal neighbours joined, empty ones and controls dropped, text made safe."""
    merged: list[Segment] = []
    last: Style | None = None
    for segment in strip:
        text, style, control = segment
        if control or not text:
            continue
        if not text.isprintable():
            text = safe_text(text)
            segment = Segment(text, style)
        if merged and (style is last or style == last):
            merged[-1] = Segment(merged[-1].text + text, style)
        else:
            merged.append(segment)
            last = style
    return merged


def _differences(old: list[Segment], new: list[Segment]) -> list[tuple[int, list[Segment]]]:
    """(cells before it, its segments) of every stretch of `new` that differs from `old`."""
    if sum(_cells(s.text) for s in old) != sum(_cells(s.text) for s in new):
        return [(0, new)]
    found, begun = [], (0, 0, 0)
    for i, j, cells, width in _kept_stretches(old, new):
        skipped, middle = _trimmed(old[begun[0] : i], new[begun[1] : j])
        if middle:
            found.append((begun[2] + skipped, middle))
        begun = (i + 1, j + 1, cells + width)
    return found


def _kept_stretches(old: list[Segment], new: list[Segment]) -> Iterator[tuple[int, int, int, int]]:
    """(index in old, index in new, cells before, cells) of segments that stay and are worth a jump; last, the end."""
    places, at = {}, 0
    for i, segment in enumerate(old):
        places[at] = i
        at += _cells(segment.text)
    at = 0
    for j, segment in enumerate(new):
        width, there = _cells(segment.text), places.get(at, -1)
        if width >= LEAST_JUMP and there >= 0 and old[there] == segment:
            yield there, j, at, width
        at += width
    yield len(old), len(new), at, 0


def _trimmed(old: list[Segment], new: list[Segment]) -> tuple[int, list[Segment]]:
    """Cells that `new` shares with `old` at its start, and its segments between there and the shared end."""
    skipped, old, new = _without_common_start(old, new)
    return skipped, _without_common_end(old, new)


def _without_common_start(old: list[Segment], new: list[Segment]) -> tuple[int, list[Segment], list[Segment]]:
    same = 0
    for one, two in zip(old, new, strict=False):
        if one != two:
            break
        same += 1
    cells = sum(_cells(s.text) for s in new[:same])
    old, new = old[same:], new[same:]
    if old and new and (shared := _shared(old[0], new[0], 1)):
        old = [*_rest(old[0].text[shared:], old[0].style), *old[1:]]
        new = [*_rest(new[0].text[shared:], new[0].style), *new[1:]]
        cells += shared
    return cells, old, new


def _without_common_end(old: list[Segment], new: list[Segment]) -> list[Segment]:
    same = 0
    for one, two in zip(reversed(old), reversed(new), strict=False):
        if one != two:
            break
        same += 1
    old, new = old[: len(old) - same], new[: len(new) - same]
    if old and new and (shared := _shared(old[-1], new[-1], -1)):
        new = [*new[:-1], *_rest(new[-1].text[:-shared], new[-1].style)]
    return new


def _rest(text: str, style: Style | None) -> list[Segment]:
    return [Segment(text, style)] if text else []


def _shared(one: Segment, two: Segment, step: int) -> int:
    """Cells that two segments of one style share at their start (`step` 1) or end (-1)."""
    if one.style != two.style or one.text[::step][:1] != two.text[::step][:1]:
        return 0
    if not (_narrow(one.text) and _narrow(two.text)):
        return 0
    count = 0
    for a, b in zip(one.text[::step], two.text[::step], strict=False):
        if a != b:
            break
        count += 1
    return count


def _narrow(text: str) -> bool:
    """Whether every character takes exactly one cell, so that characters may be counted as cells."""
    return text.isascii() or (cell_len(text) == len(text) and all(cell_len(c) == 1 for c in text))


class _Pen:
    """Style codes as differences from the style last written."""

    def __init__(self, system: ColorSystem | None) -> None:
        self._system = system
        self._now = _PLAIN

    def text(self, segment: Segment) -> str:
        codes = _codes(segment.style, self._system) if segment.style else _PLAIN
        if codes is self._now:
            return segment.text
        change = _change(self._now, codes)
        self._now = codes
        return change + segment.text

    def reset(self) -> str:
        return "" if self._now == _PLAIN else "\x1b[0m"


@lru_cache(maxsize=8192)
def _change(before: Codes, after: Codes) -> str:
    """The shortest escape sequence from one style to another."""
    if after == before:
        return ""
    colors = [new for new, old in zip(after[1:], before[1:], strict=True) if new != old]
    return f"\x1b[{';'.join([*_attributes(before[0], after[0]), *colors])}m"


def _attributes(before: str, after: str) -> list[str]:
    """The codes that take attributes off and put others on."""
    had, has = set(before.split(";")) - {""}, set(after.split(";")) - {""}
    off = {OFF[code] for code in had - has}
    # Bold and dim end by one code: what stays of them is said again.
    kept = {code for code in had if OFF[code] not in off}
    return sorted(off) + sorted(has - kept)


@lru_cache(maxsize=8192)
def _codes(style: Style, system: ColorSystem | None) -> Codes:
    """(attributes, ink, ground) as SGR parameters; no colours without a colour system."""
    flags = ((style.bold, "1"), (style.dim, "2"), (style.italic, "3"), (style.underline, "4"),
             (style.reverse, "7"), (style.strike, "9"))  # fmt: skip
    attributes = ";".join(code for on, code in flags if on)
    if system is None:
        return attributes, "39", "49"
    ink = style.color.downgrade(system).get_ansi_codes() if style.color else ("39",)
    ground = style.bgcolor.downgrade(system).get_ansi_codes(foreground=False) if style.bgcolor else ("49",)
    return attributes, ";".join(ink), ";".join(ground)
