"""Tracks what the terminal shows, and writes a short text that updates it.

Textual repaints whole widgets; a terminal at the far end of an SSH line should get only what changed.
`ScreenFrame` stores every row as written and writes only the differences, with as few style codes as possible. It
also writes no control characters but its own, and in ASCII mode only ASCII.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from kltui.sanitize import ascii_cells, safe_text
from kltui.tui.terminal.textual_private import ChopsUpdate, CompositorUpdate, LayoutUpdate

Codes = tuple[str, str, str]
Run = tuple[str, Codes]  # text in one style

OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "7": "27", "9": "29"}
MIN_JUMP = 7  # cells; a cursor movement takes about as many bytes as fewer unchanged cells
MAX_STYLES = 4096  # in the cache of style codes

_PLAIN: Codes = ("", "39", "49")
_NONE: Codes = ("", "", "")  # of cells whose content is unknown


class ScreenRow(NamedTuple):
    """A row as runs of text, neighbours in different styles; `starts` are the cells where they start, then the row's width."""

    runs: list[Run]
    starts: list[int]


class ScreenFrame:
    """The rows as last written to the terminal. Call `forget` after something else may have written to it."""

    def __init__(
        self, system: ColorSystem | None = ColorSystem.EIGHT_BIT, *, ascii_only: bool = False
    ) -> None:
        self._codes = _StyleCodes(system, ascii_only)
        self._rows: list[ScreenRow] = []
        self._width = 0

    def forget(self) -> None:
        """Makes the next update write everything."""
        self._rows = []

    def write(self, update: CompositorUpdate, width: int, height: int) -> str:
        """The text that changes what the terminal shows to what `update` has; "" if nothing changed."""
        if width != self._width or len(self._rows) != height:
            self._rows, self._width = [_unknown(width) for _ in range(height)], width
        out: list[str] = []
        writer = _StyleWriter()
        for y, x, cells, segments in _pieces(update):
            if 0 <= y < height and cells:
                self._piece(out, writer, y, x, cells, _row(self._codes.runs(segments)))
        if out:
            out.append(writer.reset())
        return "".join(out)

    def _piece(
        self, out: list[str], writer: _StyleWriter, y: int, x: int, cells: int, new: ScreenRow
    ) -> None:
        if x == 0 and cells >= self._width:
            old, self._rows[y] = self._rows[y], new
        else:
            x, old, new = self._put(y, x, cells, new)
        if old.runs == new.runs:
            return
        for i, (skipped, middle) in enumerate(_differences(old, new)):
            column = x + skipped + 1
            out.append(f"\x1b[{column}G" if i else f"\x1b[{y + 1};{column}H")
            out.extend(map(writer.text, middle))

    def _put(self, y: int, x: int, cells: int, new: ScreenRow) -> tuple[int, ScreenRow, ScreenRow]:
        """Puts a piece into a row; returns (its first cell, the cells there before, the piece).

        If it covers one half of a wide character, it is extended by a space over the other half.
        """
        row, end = self._rows[y], x + cells
        if codes := _halved(row, x):
            x, new = x - 1, _joined(_row([(" ", codes)]), new)
        if codes := _halved(row, end):
            end, new = end + 1, _joined(new, _row([(" ", codes)]))
        width = row.starts[-1]
        self._rows[y] = _joined(_between(row, 0, x), new, _between(row, end, width))
        return x, _between(row, x, end), new


Piece = tuple[int, int, int, Iterable[Segment]]


def _pieces(update: CompositorUpdate) -> Iterator[Piece]:
    """(row, column, number of cells, segments) of all parts of an update; adjacent parts are joined."""
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


def _unknown(width: int) -> ScreenRow:
    """A row that differs from every other row in every cell."""
    return ScreenRow([("\0" * width, _NONE)], [0, width])


def _halved(row: ScreenRow, at: int) -> Codes | None:
    """The style of the wide character whose second half is at cell `at`; None if there is none."""
    runs, starts = row
    if at >= starts[-1]:
        return None
    i = bisect_right(starts, at) - 1
    text, codes = runs[i]
    if text.isascii():
        return None
    one, two = _split(text, at - starts[i])
    return codes if one + two != text else None


def _between(row: ScreenRow, begin: int, end: int) -> ScreenRow:
    """The cells of a row from `begin` to `end`, which must not cut a wide character."""
    runs, starts = row
    end = min(end, starts[-1])
    if begin >= end:
        return ScreenRow([], [0])
    i, j = bisect_right(starts, begin) - 1, bisect_left(starts, end)
    part, places = runs[i:j], [start - begin for start in starts[i : j + 1]]
    if places[-1] > end - begin:
        text, codes = part[-1]
        part[-1] = _split(text, end - starts[j - 1])[0], codes
        places[-1] = end - begin
    if places[0] < 0:
        text, codes = part[0]
        part[0] = _split(text, begin - starts[i])[1], codes
        places[0] = 0
    return ScreenRow(part, places)


def _split(text: str, at: int) -> tuple[str, str]:
    if text.isascii():
        return text[:at], text[at:]
    one, two = Segment(text).split_cells(at)
    return one.text, two.text


def _joined(*rows: ScreenRow) -> ScreenRow:
    """The rows joined end to end."""
    runs: list[Run] = []
    starts = [0]
    for more, places in rows:
        if not more:
            continue
        at, taken = starts[-1], 0
        if runs and runs[-1][1] is more[0][1]:
            runs[-1] = runs[-1][0] + more[0][0], more[0][1]
            starts[-1] = at + places[1]
            taken = 1
        runs += more[taken:]
        starts += [at + place for place in places[taken + 1 :]]
    return ScreenRow(runs, starts)


def _row(runs: Iterable[Run]) -> ScreenRow:
    """The row of these runs; adjacent runs of equal style are joined."""
    merged: list[Run] = []
    starts = [0]
    at, last = 0, None
    for run in runs:
        text, codes = run
        at += len(text) if text.isascii() else cell_len(text)
        if codes is last:
            merged[-1] = merged[-1][0] + text, codes
            starts[-1] = at
        else:
            merged.append(run)
            starts.append(at)
            last = codes
    return ScreenRow(merged, starts)


def _differences(old: ScreenRow, new: ScreenRow) -> list[tuple[int, list[Run]]]:
    """(first cell, runs) of every part of `new` that differs from `old`."""
    (olds, old_starts), (news, new_starts) = old, new
    if old_starts[-1] != new_starts[-1]:
        return [(0, news)]
    found = []
    i = j = 0  # index in `olds` and `news` at which the present difference starts
    places = dict(zip(old_starts, range(len(olds)), strict=False))
    for at in range(len(news)):
        start = new_starts[at]
        if new_starts[at + 1] - start < MIN_JUMP:
            continue
        there = places.get(start, -1)
        # An unchanged run that is long enough to jump over ends the difference.
        if there >= 0 and olds[there] == news[at]:
            if at > j and (stretch := _trimmed(old, new, i, there, j, at)):
                found.append(stretch)
            i, j = there + 1, at + 1
    if len(news) > j and (stretch := _trimmed(old, new, i, len(olds), j, len(news))):
        found.append(stretch)
    return found


def _trimmed(
    old: ScreenRow, new: ScreenRow, i: int, i_end: int, j: int, j_end: int
) -> tuple[int, list[Run]] | None:
    """(first cell, runs) of news[j:j_end] without the start and end that it shares with olds[i:i_end]; None if equal."""
    olds, news = old.runs, new.runs
    while i < i_end and j < j_end and olds[i] == news[j]:
        i, j = i + 1, j + 1
    while i < i_end and j < j_end and olds[i_end - 1] == news[j_end - 1]:
        i_end, j_end = i_end - 1, j_end - 1
    if j == j_end:
        return None
    skipped, middle = new.starts[j], news[j:j_end]
    if i == i_end:
        return skipped, middle
    first, last = olds[i], olds[i_end - 1]
    if shared := _shared(first, middle[0], 1):
        skipped += shared
        middle[:1] = _rest(middle[0], shared)
        if i == i_end - 1:
            last = last[0][shared:], last[1]
    if middle and (shared := _shared(last, middle[-1], -1)):
        middle[-1:] = _rest(middle[-1], 0, -shared)
    return (skipped, middle) if middle else None


def _rest(run: Run, start: int, stop: int | None = None) -> list[Run]:
    text = run[0][start:stop]
    return [(text, run[1])] if text else []


def _shared(one: Run, two: Run, step: int) -> int:
    """The number of cells that two runs of one style share at their start (`step` 1) or end (-1)."""
    (a, style), (b, other) = one, two
    end = 0 if step > 0 else -1
    if not a or a[end] != b[end] or style != other or not (_narrow(a) and _narrow(b)):
        return 0
    minimum = min(len(a), len(b))
    if step < 0:
        a, b = a[-minimum:][::-1], b[-minimum:][::-1]
    return next((i for i in range(minimum) if a[i] != b[i]), minimum)


@lru_cache(maxsize=8192)
def _narrow(text: str) -> bool:
    """Whether every character takes exactly one cell, so that cells can be counted as characters."""
    return text.isascii() or (cell_len(text) == len(text) and all(cell_len(c) == 1 for c in text))


class _StyleCodes:
    """The codes of style objects, cached by identity, because computing a style's hash is slower than everything else."""

    def __init__(self, system: ColorSystem | None, ascii_only: bool) -> None:
        self._system = system
        self._ascii_only = ascii_only
        # The cache refers to the styles, so that none is freed and its id reused.
        self._known: dict[int, tuple[Style | None, Codes]] = {}
        self._same: dict[Codes, Codes] = {_PLAIN: _PLAIN}

    def runs(self, segments: Iterable[Segment]) -> Iterator[Run]:
        """(text, codes) of segments without control segments and empty ones; text is made safe. Equal codes are one object."""
        known = self._known
        for text, style, control in segments:
            if control or not text:
                continue
            entry = known.get(id(style)) or self._coded(style)
            text = text if text.isprintable() else safe_text(text)
            yield (ascii_cells(text) if self._ascii_only else text), entry[1]

    def _coded(self, style: Style | None) -> tuple[Style | None, Codes]:
        if len(self._known) >= MAX_STYLES:
            self._known.clear()
        codes = _codes(style, self._system) if style else _PLAIN
        entry = self._known[id(style)] = style, self._same.setdefault(codes, codes)
        return entry


class _StyleWriter:
    """Writes text with only the style codes that differ from the style last written."""

    def __init__(self) -> None:
        self._now = _PLAIN

    def text(self, run: Run) -> str:
        text, codes = run
        if codes is self._now:
            return text
        change = _change(self._now, codes)
        self._now = codes
        return change + text

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
    """The SGR codes that change the attributes `before` to `after`."""
    had, has = set(before.split(";")) - {""}, set(after.split(";")) - {""}
    off = {OFF[code] for code in had - has}
    # One code turns off both bold and dim, so the one that stays must be turned on again.
    kept = {code for code in had if OFF[code] not in off}
    return sorted(off) + sorted(has - kept)


@lru_cache(maxsize=8192)
def _codes(style: Style, system: ColorSystem | None) -> Codes:
    """(attributes, text colour, background) as SGR parameters; default colours without a colour system."""
    flags = ((style.bold, "1"), (style.dim, "2"), (style.italic, "3"), (style.underline, "4"),
             (style.reverse, "7"), (style.strike, "9"))  # fmt: skip
    attributes = ";".join(code for on, code in flags if on)
    if system is None:
        return attributes, "39", "49"
    ink = style.color.downgrade(system).get_ansi_codes() if style.color else ("39",)
    ground = style.bgcolor.downgrade(system).get_ansi_codes(foreground=False) if style.bgcolor else ("49",)
    return attributes, ";".join(ink), ";".join(ground)
