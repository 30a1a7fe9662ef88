"""A small terminal of our own, which says what is visible in each cell after what was written to it."""

from __future__ import annotations

import re

from rich.cells import cell_len

CSI = re.compile(r"\x1b\[([\d;]*)([A-DGHm])")
CONTROLS = {"\b": "D", "\v": "B", "\r": "\r"}  # the same as these sequences


class Replay:
    """Cells as (character, style codes), moved by CUP, CHA, CUU, CUD, CUF, CUB, backspace, carriage return and vertical tab; SGR."""

    def __init__(self, width: int, height: int) -> None:
        self.cells = [[(" ", "")] * width for _ in range(height)]

    def feed(self, data: str) -> None:
        x = y = 0
        pen: dict[str, str] = {}
        at = 0
        while at < len(data):
            match = CSI.match(data, at)
            if match and match[2] == "m":
                pen = sgr(match[1], pen)
            elif match:
                y, x = moved(y, x, match[1], match[2], len(self.cells[0]))
            elif data[at] in CONTROLS:
                how = CONTROLS[data[at]]
                y, x = (y, 0) if how == "\r" else moved(y, x, "", how, len(self.cells[0]))
                assert y < len(self.cells), "a vertical tab in the last row would scroll"
            else:
                assert data[at] != "\x1b"
                x += self.put(y, x, data[at], pen)
            at = match.end() if match else at + 1
        assert not pen

    def put(self, y: int, x: int, char: str, pen: dict[str, str]) -> int:
        """Writes a character and returns its cells; of a wide one that it covers half of, nothing stays."""
        row, cells = self.cells[y], cell_len(char)
        style = seen(char, pen)
        if not cells:
            head, own = row[x - 1]
            row[x - 1] = head + char, own
            if grown := cell_len(head + char) - 1:  # by a variation selector
                row[x : x + 2] = [(TAIL, own), *[BROKEN if c[0] == TAIL else c for c in row[x + 1 : x + 2]]]
            return grown
        if row[x][0] == TAIL:
            row[x - 1] = BROKEN
        if x + cells < len(row) and row[x + cells][0] == TAIL:
            row[x + cells] = BROKEN
        row[x : x + cells] = [(char, style), (TAIL, style)][:cells]
        return cells


def moved(y: int, x: int, numbers: str, how: str, width: int) -> tuple[int, int]:
    """The row and column after a move."""
    count, _, column = numbers.partition(";")
    number = int(count or 1)
    if how == "H":
        return number - 1, int(column or 1) - 1
    if how == "G":
        return y, number - 1
    assert 0 <= x < width, "in the last column, terminals differ in where a relative move leads"
    y, x = y + {"A": -number, "B": number}.get(how, 0), x + {"C": number, "D": -number}.get(how, 0)
    assert y >= 0 and 0 <= x < width
    return y, x


ON_SPACES = {"48", "a4", "a7", "a9"}  # the ground, underlined, reversed, struck through
TAIL, BROKEN = "tail of a wide character", ("half a wide character", "")
ENDS = {"22": "12", "23": "3", "24": "4", "27": "7", "29": "9"}


def sgr(codes: str, pen: dict[str, str]) -> dict[str, str]:
    pen, parts = dict(pen), codes.split(";")
    while parts:
        part = parts.pop(0)
        if part in ("0", ""):
            pen = {}
        elif part in ("38", "48"):
            assert parts.pop(0) == "5"
            pen[part] = parts.pop(0)
        elif part in ENDS:
            for code in ENDS[part]:
                pen.pop("a" + code, None)
        elif part in ("39", "49"):
            pen.pop({"39": "38", "49": "48"}[part], None)
        else:
            pen["a" + part] = part
    return pen


def seen(char: str, pen: dict[str, str]) -> str:
    """What is visible of a style: of a space not the ink, nor how letters would be drawn."""
    return repr(sorted((k, v) for k, v in pen.items() if char != " " or k in ON_SPACES))


def visible(lines: list[str]) -> list[list[tuple[str, str]]]:
    """The characters of each line and what is visible of their styles, which go on from line to line."""
    found: list[list[tuple[str, str]]] = []
    pen: dict[str, str] = {}
    for line in lines:
        cells: list[tuple[str, str]] = []
        at = 0
        while at < len(line):
            if match := CSI.match(line, at):
                pen, at = sgr(match[1], pen), match.end()
            else:
                cells.append((line[at], seen(line[at], pen)))
                at += 1
        found.append(cells)
    return found
