"""Writes changed cells with few bytes: the order in which they are written decides how many styles and moves it takes.

A change of colour takes about 11 bytes and a move in a row 3 to 6. So where colours alternate, all cells of one colour
are written before those of the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from kltui.tui.terminal.style_codes import PLAIN, StyleTable

FEW_PARTS = 250  # so many are written in three orders, of which the shortest one is taken
STYLE, MOVE = 11, 4  # bytes of a change of colour and of a move within a row, about
APART = 8  # cells between the starts of parts in two columns, at least

Part = tuple[int, int, str]  # the first cell, the one after the last, the style that all are written in


class Changed(NamedTuple):
    """What is in a row's cells, their styles, and the parts of it to write, from left to right.

    `odd`: the row has, or had, characters that do not take one column each, or may not on some terminals.
    """

    y: int
    cells: str | list[str]
    styles: str
    parts: list[Part]
    odd: bool


def written(rows: Sequence[Changed], table: StyleTable, width: int) -> str:
    """The text that writes the parts of these rows of a screen so many cells wide, with default style before and after."""
    writer = _Writer(table, width)
    for row in rows:
        writer.row(row)
    text = writer.text()
    if len(rows) < 3 or sum(len(row.parts) for row in rows) > FEW_PARTS or any(row.odd for row in rows):
        return text
    ways = [text]
    for down_columns in (False, True):
        writer = _Writer(table, width)
        writer.by_style(rows, down_columns)
        ways.append(writer.text())
    return min(ways, key=_size)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _by_style_is_shorter(parts: Sequence[Part]) -> bool:
    """Whether a row takes fewer bytes style by style than from left to right, as far as their numbers tell."""
    styles = len({style for _, _, style in parts})
    return STYLE * (len(parts) - styles) > MOVE * len(parts)


def _groups(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """{style: its parts} in the order in which styles are met."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part[2], []).append(part)
    return groups


class _Writer:
    """The text so far, the style and the place in which the next cell would be written."""

    def __init__(self, table: StyleTable, width: int) -> None:
        self._table, self._width = table, width
        self._out: list[str] = []
        self._pen = PLAIN
        self._y = self._x = -1  # unknown

    def text(self) -> str:
        """All that was written, and the default style."""
        return "".join(self._out) + ("\x1b[0m" if self._pen != PLAIN else "")

    def row(self, row: Changed) -> None:
        """Writes a row from left to right, or style by style."""
        parts = row.parts
        if row.odd or len(parts) < 3 or not _by_style_is_shorter(parts):
            self._parts(row, parts, bytearray())
            return
        waiting = _waiting(row, self._width)
        for group in _groups(parts).values():
            self._parts(row, group, waiting)

    def by_style(self, rows: Sequence[Changed], down_columns: bool) -> None:
        """Writes all parts of one style before those of the next; row by row, or down one column after the other."""
        waiting = [_waiting(row, self._width) for row in rows]
        groups: dict[str, list[tuple[int, Part]]] = {}
        for i, row in enumerate(rows):
            for part in row.parts:
                groups.setdefault(part[2], []).append((i, part))
        for group in groups.values():
            if down_columns:
                column = _columns(part[0] for _, part in group)
                group.sort(key=lambda placed: column[placed[1][0]])
            for i, part in group:
                self._parts(rows[i], (part,), waiting[i])

    def _parts(self, row: Changed, parts: Sequence[Part], waiting: bytearray) -> None:
        """Writes some parts of a row; `waiting` is 1 for each cell that is yet to be written, or empty."""
        out, table, cells, y = self._out, self._table, row.cells, row.y
        pen, last = self._pen, -1 if row.odd else self._width
        for start, end, style in parts:
            if start != self._x or y != self._y:
                self._pen = pen
                out.append(self._gone_to(row, start, waiting))
            if style != pen:
                sequence, pen = table.changes.get(pen + style) or table.change(pen, style)
                out.append(sequence)
            text = cells[start:end]
            out.append(text if isinstance(text, str) else "".join(text))
            if waiting:
                waiting[start:end] = bytes(end - start)
            # In the last column a terminal waits before it goes on, and after odd characters some are elsewhere.
            self._y, self._x = y, end if end < last else -1
        self._pen = pen

    def _gone_to(self, row: Changed, column: int, waiting: bytearray) -> str:
        """What goes to a column of a row: the cells between, where that is shorter than a move."""
        move = _move(self._y, self._x, row.y, column)
        if row.y == self._y and 0 <= self._x < column <= self._x + len(move):
            between = self._between(row, column, waiting)
            if between is not None and _size(between) <= len(move):
                return between
        return move

    def _between(self, row: Changed, column: int, waiting: bytearray) -> str | None:
        """What can be written in the present style up to a column; None if nothing can.

        A cell that is yet to be written may have anything in it.
        """
        text = ""
        pen = self._pen
        own = pen, self._table.blank[pen]
        for at in range(self._x, column):
            if waiting and waiting[at]:
                text += " "
            elif row.styles[at] in own:
                text += row.cells[at]
            else:
                return None
        return text


def _columns(starts: Iterable[int]) -> dict[int, int]:
    """{first cell of a part: number of the column that it belongs to}; parts with starts close together form a column."""
    found: dict[int, int] = {}
    number, before = -1, -APART
    for start in sorted(set(starts)):
        number += start - before >= APART
        found[start], before = number, start
    return found


def _waiting(row: Changed, width: int) -> bytearray:
    waiting = bytearray(width)
    for start, end, _ in row.parts:
        waiting[start:end] = b"\1" * (end - start)
    return waiting


@lru_cache(maxsize=1 << 16)
def _move(y: int, x: int, to_y: int, to_x: int) -> str:
    """The shortest sequence from a row and column, -1 where unknown, to another."""
    if y == to_y:
        ways = [f"\x1b[{to_x + 1}G" if to_x else "\x1b[G"]
        if x >= 0:
            ways.append(_across(x, to_x))
        return min(ways, key=len)
    ways = [f"\x1b[{to_y + 1};{to_x + 1}H" if to_x else f"\x1b[{to_y + 1}H"]
    if y >= 0 and x >= 0:
        down = _down(to_y - y)
        ways.append(down + _across(x, to_x))
        if to_y > y:
            ways.append("\r" + down + _by(to_x, "C", "D"))
    return min(ways, key=len)


def _down(rows: int) -> str:
    """The shortest sequence that moves so many rows down, or up if negative, in the same column.

    Terminals treat a vertical tab as a line feed, but the driver puts no carriage return before it.
    """
    return "\v" * rows if 0 < rows <= 3 else _by(rows, "B", "A")


def _across(x: int, to_x: int) -> str:
    """The shortest sequence from a column to another one in the row."""
    ways = [_by(to_x - x, "C", "D")]
    if to_x < x:
        ways += ["\b" * (x - to_x), "\r" + _by(to_x, "C", "D")]
    return min(ways, key=len)


def _by(cells: int, forward: str, back: str) -> str:
    """The sequence that moves so many cells forward, or back if negative; "" for none."""
    count = abs(cells)
    return f"\x1b[{count if count > 1 else ''}{forward if cells > 0 else back}" if count else ""
