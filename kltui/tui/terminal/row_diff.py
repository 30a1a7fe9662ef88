"""Tracks what the terminal shows, and writes a short text that updates it.

Textual repaints whole widgets; a terminal at the far end of an SSH line should get only what changed.
`ScreenFrame` stores every cell as written and writes only those that differ, with as few codes as possible. It also
writes no control characters but its own, and in ASCII mode only ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.segment import Segment
from textual.strip import Strip

from kltui.sanitize import ascii_cells, safe_text
from kltui.tui.terminal.cell_writer import Changed, Part, written
from kltui.tui.terminal.style_codes import UNKNOWN, StyleTable
from kltui.tui.terminal.textual_private import ChopsUpdate, CompositorUpdate, LayoutUpdate

MAX_KEPT = 1000  # pieces of rows whose cells are kept
TAIL = "\0"  # the second cell of a wide character
CLUSTERS = range(0xF0000, 0xFFFFE)  # private characters, which `safe_text` lets nobody else use

_one_cell = set(map(chr, range(0x20, 0x7F)))  # the characters met so far that take exactly one cell
_LETTERS = dict.fromkeys(range(0x21, 0x7F), UNKNOWN)
_SPACES_OR_NOT = re.compile(" +|[^ ]+")
_ALIKE = re.compile(r"(.)\1*", re.DOTALL)
# Cells that differ: with gaps that take as many bytes as a move, of ASCII and of other characters
_NEAR, _TOGETHER = re.compile(rb"[^\0]+(?:\0{1,4}[^\0]+)*"), re.compile(rb"[^\0]+(?:\0[^\0]+)*")


class CellRow(NamedTuple):
    """One character for each cell of a row, and the name of its style."""

    cells: str
    styles: str


class ScreenFrame:
    """The cells as last written to the terminal. Call `forget` after something else may have written to it."""

    def __init__(
        self, system: ColorSystem | None = ColorSystem.EIGHT_BIT, *, ascii_only: bool = False
    ) -> None:
        self._system = system
        self._table = StyleTable(system)
        self._ascii_only = ascii_only
        self._clusters = _Clusters()
        self._rows: list[CellRow] = []
        self._kept: dict[
            tuple[int, int], tuple[list[Segment], CellRow]
        ] = {}  # {(row, column): (drawn, its cells)}
        self._width = 0

    def forget(self) -> None:
        """Makes the next update write everything."""
        self._rows = []

    def write(self, update: CompositorUpdate, width: int, height: int) -> str:
        """The text that changes what the terminal shows to what `update` has; "" if nothing changed."""
        if self._table.is_full:
            self._table = StyleTable(self._system)
            self._kept.clear()
            self.forget()
        if width != self._width or len(self._rows) != height:
            self._rows, self._width = [CellRow(" " * width, UNKNOWN * width)] * height, width
        before: dict[int, CellRow] = {}
        for y, x, segments in _pieces(update):
            if 0 <= y < height and 0 <= x < width:
                before.setdefault(y, self._rows[y])
                self._rows[y] = self._with(self._rows[y], x, self._made(y, x, list(segments)))
        changed = [self._changed(y, old, self._rows[y]) for y, old in before.items() if old != self._rows[y]]
        return written(changed, self._table, width) if changed else ""

    def _made(self, y: int, x: int, segments: list[Segment]) -> CellRow:
        """The cells of segments; those of the last ones at this place are kept, because most are drawn again as they were."""
        kept = self._kept.get((y, x))
        if kept is not None and kept[0] == segments:
            return kept[1]
        if len(self._kept) > MAX_KEPT:
            self._kept.clear()
        found = self._row(segments)
        self._kept[y, x] = segments, found
        return found

    def _row(self, segments: Iterable[Segment]) -> CellRow:
        """The cells of segments, without control segments; text is made safe."""
        cells: list[str] = []
        styles: list[str] = []
        known, names = self._table.known, self._table.names
        is_plain = frozenset().issuperset if self._ascii_only else _one_cell.issuperset
        for text, style, control in segments:
            if control or not text:
                continue
            if not (text.isprintable() if text.isascii() else is_plain(text)):
                text = self._safe(text)
            cells.append(text)
            _, own, blank = known.get(id(style)) or names(style)
            if blank == own or " " not in text:
                styles.append(own * len(text))
            elif text.isspace():
                styles.append(blank * len(text))
            elif text.isascii():
                styles.append(text.translate(_LETTERS).replace(" ", blank).replace(UNKNOWN, own))
            else:
                styles += [
                    (blank if part[0] == " " else own) * len(part) for part in _SPACES_OR_NOT.findall(text)
                ]
        return CellRow("".join(cells), "".join(styles))

    def _safe(self, text: str) -> str:
        """A text without control characters, one character for each cell."""
        text = text if text.isprintable() else safe_text(text)
        text = ascii_cells(text) if self._ascii_only else text
        _one_cell.update(char for char in text if cell_len(char) == 1)
        return text if _one_cell.issuperset(text) else self._clusters.cells(text)

    def _with(self, row: CellRow, x: int, piece: CellRow) -> CellRow:
        """A row with a piece put into it; of a wide character that it covers one half of, a space is left."""
        end = min(self._width, x + len(piece.cells))
        if x == 0 and end == self._width == len(piece.cells):
            return piece
        cells = row.cells[:x] + piece.cells[: end - x] + row.cells[end:]
        styles = row.styles[:x] + piece.styles[: end - x] + row.styles[end:]
        at_edge = {x - 1} if x < end and row.cells[x] == TAIL else set()
        if x < end < self._width and row.cells[end] == TAIL:
            at_edge.add(end)
        if piece.cells[end - x : end - x + 1] == TAIL:
            at_edge.add(end - 1)
        for at in at_edge:
            cells = f"{cells[:at]} {cells[at + 1 :]}"
            styles = styles[:at] + self._table.blank[styles[at]] + styles[at + 1 :]
        return CellRow(cells, styles)

    def _changed(self, y: int, old: CellRow, new: CellRow) -> Changed:
        """What is to be written of a row; of a wide character both cells are, or none."""
        differs = bytearray(_different(old, new))
        odd = not (new.cells.isprintable() and old.cells.isprintable())
        if odd:
            for tail in re.finditer(TAIL, new.cells):
                at = tail.start()
                differs[at - 1] = differs[at] = differs[at - 1] | differs[at]
        cells = self._clusters.spelled(new.cells) if odd else new.cells
        return Changed(y, cells, new.styles, _parts(differs, new, self._table), odd)


class _Clusters:
    """Characters that are written over others, as accents are, make one cell with them: one private character stands for both."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._texts = {TAIL: ""}

    def cells(self, text: str) -> str:
        """One character for each cell; TAIL after a wide one."""
        cells: list[str] = []
        cluster = ""
        for char in text:
            if cell_len(char):
                cells.append(self._named(cluster))
                cluster = char
            elif cluster:
                cluster += char
        return "".join([*cells, self._named(cluster)])

    def _named(self, cluster: str) -> str:
        name = cluster
        if len(cluster) > 1:
            if cluster not in self._names and len(self._names) == len(CLUSTERS):
                return self._named(cluster[0])
            name = self._names.setdefault(cluster, chr(CLUSTERS[len(self._names)]))
            self._texts[name] = cluster
        return name + TAIL * (cell_len(cluster) - 1)

    def spelled(self, cells: str) -> list[str]:
        """What is written for each cell."""
        return [self._texts.get(cell, cell) for cell in cells]


def _different(old: CellRow, new: CellRow) -> bytes:
    """For each cell 0 if it is the same in both rows.

    Both rows are compared as one large number each, with 32 bits for a cell.
    """
    bits = _bits(old.cells) ^ _bits(new.cells) | _bits(old.styles) ^ _bits(new.styles)
    bits |= bits >> 16
    bits |= bits >> 8
    return bits.to_bytes(4 * len(new.cells), "little")[::4]


def _bits(characters: str) -> int:
    return int.from_bytes(characters.encode("utf-32-le"), "little")


def _parts(differs: bytes | bytearray, row: CellRow, table: StyleTable) -> list[Part]:
    """The cells to write, from left to right, with the few between; spaces belong to a neighbour of the same ground."""
    found: list[Part] = []
    blank, styles = table.blank, row.styles
    mostly_ascii = len(row.cells.encode()) < 1.3 * len(row.cells)
    for stretch in (_NEAR if mostly_ascii else _TOGETHER).finditer(differs):
        begin, stop = stretch.span()
        start, end, style = begin, begin, ""
        has_gaps = differs.count(0, begin, stop) > 0
        for run in _ALIKE.finditer(styles, begin, stop):
            own, (first, last) = run[1], run.span()
            if has_gaps and last - first <= 4 and differs.count(0, first, last) == last - first:
                continue  # between two that differ, but in a style of its own
            if first == end and style and style == blank[own]:
                style = own
            elif first != end or not style or own != blank[style]:
                if style:
                    found.append((start, end, style))
                start, style = first, own
            end = last
        found.append((start, end, style))
    return found


Piece = tuple[int, int, Iterable[Segment]]


def _pieces(update: CompositorUpdate) -> Iterator[Piece]:
    """(row, column, segments) of all parts of an update."""
    if isinstance(update, LayoutUpdate):
        for y, line in enumerate(update.strips, update.region.y):
            yield y, update.region.x, chain.from_iterable(line)
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
            yield y, begun, chain.from_iterable(joined)
            joined = []
        if not joined:
            begun = left
        joined.append(strip)
        reached = left + strip.cell_length
    if joined:
        yield y, begun, chain.from_iterable(joined)
