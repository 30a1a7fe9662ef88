"""What is written to the terminal, replayed by a small terminal of our own."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.color import Color, ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

from kltui.tui.terminal.row_diff import ScreenFrame

WIDTH, HEIGHT = 12, 4
CSI = re.compile(r"\x1b\[([\d;]*)([HGm])")


class Replay:
    """Cells as (character, style codes), moved by CUP, CHA and SGR."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.cells = [[(" ", "")] * width for _ in range(height)]

    def feed(self, data: str) -> None:
        x = y = 0
        pen: dict[str, str] = {}
        at = 0
        while at < len(data):
            match = CSI.match(data, at)
            if match and match[2] == "H":
                y, x = (int(v) - 1 for v in match[1].split(";"))
            elif match and match[2] == "G":
                x = int(match[1]) - 1
            elif match:
                pen = sgr(match[1], pen)
            else:
                assert data[at] != "\x1b"
                x += self.put(y, x, data[at], repr(sorted(pen.items())))
            at = match.end() if match else at + 1
        assert not pen

    def put(self, y: int, x: int, char: str, style: str) -> int:
        """Writes a character and returns its cells; of a wide one that it covers half of, nothing stays."""
        row, cells = self.cells[y], cell_len(char)
        if row[x][0] == TAIL:
            row[x - 1] = BROKEN
        if x + cells < len(row) and row[x + cells][0] == TAIL:
            row[x + cells] = BROKEN
        row[x : x + cells] = [(char, style), (TAIL, style)][:cells]
        return cells


TAIL, BROKEN = "tail of a wide character", ("half a wide character", "")
ENDS = {"22": "12", "23": "3", "24": "4", "27": "7"}


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


STYLES = [
    Style(color=Color.from_ansi(39), bgcolor=Color.from_ansi(234)),
    Style(color=Color.from_ansi(222), bgcolor=Color.from_ansi(234), bold=True),
    Style(color=Color.from_ansi(222), bgcolor=Color.from_ansi(24)),
    Style(underline=True),
    Style(bold=True, dim=True),
    Style(dim=True, reverse=True),
]


def row_of(rng: random.Random, letters: str = "ab ") -> Strip:
    """A row of random runs of letters and styles."""
    segments, used = [], 0
    while used < WIDTH:
        text = "".join(rng.choice(letters) for _ in range(min(rng.randint(1, 6), WIDTH - used)))
        while used + cell_len(text) > WIDTH:
            text = text[:-1] or " "
        segments.append(Segment(text, rng.choice(STYLES)))
        used += cell_len(text)
    return Strip(segments)


def screen_of(rng: random.Random, letters: str = "ab ") -> list[Strip]:
    return [row_of(rng, letters) for _ in range(HEIGHT)]


def part_of(rng: random.Random, screen: list[Strip], letters: str) -> ChopsUpdate:
    """An update of a random part of a random row, and the screen brought up to date with it."""
    row = row_of(rng, letters)
    y, x1 = rng.randrange(HEIGHT), rng.randrange(WIDTH)
    x2 = rng.randint(x1 + 1, WIDTH)
    chops: list[dict[int, Strip | None]] = [{0: None} for _ in range(HEIGHT)]
    chops[y] = {0: row}
    screen[y] = Strip.join([screen[y].crop(0, x1), row.crop(x1, x2), screen[y].crop(x2, WIDTH)])
    return ChopsUpdate(chops, [(y, x1, x2)], [[WIDTH]] * HEIGHT)


def full(screen: list[Strip]) -> LayoutUpdate:
    return LayoutUpdate([[row] for row in screen], Region(0, 0, WIDTH, HEIGHT))


def each_of_sixty(check: Callable[[random.Random], None]) -> Callable[[], None]:
    """A test that runs a check with sixty generators; it fails with the seed of the first that does."""

    def all_of_them() -> None:
        for seed in range(60):
            try:
                check(random.Random(seed))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error

    all_of_them.__name__ = check.__name__
    return all_of_them


@each_of_sixty
def test_differences_lead_to_the_same_screen_as_writing_it_whole(rng: random.Random) -> None:
    one, two = screen_of(rng), screen_of(rng)
    by_steps, whole, frame = Replay(), Replay(), ScreenFrame()
    by_steps.feed(frame.write(full(one), WIDTH, HEIGHT))
    by_steps.feed(frame.write(full(two), WIDTH, HEIGHT))
    whole.feed(ScreenFrame().write(full(two), WIDTH, HEIGHT))
    assert by_steps.cells == whole.cells


@each_of_sixty
def test_what_stays_in_the_middle_of_a_row_stays_where_it_is(rng: random.Random) -> None:
    columns = [[row_of(rng) for _ in range(3)] for _ in range(2)]
    kept = Strip([Segment("k" * rng.randint(1, 12), rng.choice(STYLES))])
    one, two = (Strip.join([c[0], kept, c[1], kept, c[2]]) for c in columns)
    width = one.cell_length
    by_steps, whole, frame = Replay(width, 1), Replay(width, 1), ScreenFrame()
    by_steps.feed(frame.write(LayoutUpdate([[one]], Region(0, 0, width, 1)), width, 1))
    by_steps.feed(frame.write(LayoutUpdate([[two]], Region(0, 0, width, 1)), width, 1))
    whole.feed(ScreenFrame().write(LayoutUpdate([[two]], Region(0, 0, width, 1)), width, 1))
    assert by_steps.cells == whole.cells


def test_two_changed_columns_of_a_table_do_not_write_the_one_between() -> None:
    def row(step: str, nats: str) -> LayoutUpdate:
        cells = [
            Segment(f"@{step}   ", STYLES[0]),
            Segment("● scored  ", STYLES[2]),
            Segment(nats, STYLES[0]),
        ]
        return LayoutUpdate([[Strip(cells)]], Region(0, 0, 20, 1))

    frame = ScreenFrame()
    frame.write(row("16", "-71.5"), 20, 1)
    assert frame.write(row("32", "-69.5"), 20, 1) == "\x1b[1;2H\x1b[38;5;39;48;5;234m32\x1b[18G69\x1b[0m"


@each_of_sixty
def test_a_part_of_a_row_changes_only_that_part(rng: random.Random) -> None:
    letters = rng.choice(["ab ", "ab 日本", "日 "])
    screen = screen_of(rng, letters)
    by_steps, whole, frame = Replay(), Replay(), ScreenFrame()
    by_steps.feed(frame.write(full(screen), WIDTH, HEIGHT))
    for _ in range(8):
        by_steps.feed(frame.write(part_of(rng, screen, letters), WIDTH, HEIGHT))
    whole.feed(ScreenFrame().write(full(screen), WIDTH, HEIGHT))
    assert by_steps.cells == whole.cells


@each_of_sixty
def test_what_is_not_known_is_written(rng: random.Random) -> None:
    screen = [Strip([Segment("a" * WIDTH, STYLES[0])])] * HEIGHT
    by_steps, whole, frame = Replay(), Replay(), ScreenFrame()
    frame.write(full(screen), WIDTH, HEIGHT)
    frame.forget()
    for _ in range(3):
        by_steps.feed(frame.write(part_of(rng, screen, "a "), WIDTH, HEIGHT))
    by_steps.feed(frame.write(full(screen), WIDTH, HEIGHT))
    whole.feed(ScreenFrame().write(full(screen), WIDTH, HEIGHT))
    assert by_steps.cells == whole.cells


def test_nothing_changed_writes_nothing() -> None:
    screen = [Strip([Segment("x" * WIDTH, STYLES[0])])] * HEIGHT
    frame = ScreenFrame()
    assert frame.write(full(screen), WIDTH, HEIGHT)
    assert frame.write(full(screen), WIDTH, HEIGHT) == ""
    frame.forget()
    assert frame.write(full(screen), WIDTH, HEIGHT)


def test_one_changed_letter_costs_a_move_a_style_and_a_letter() -> None:
    one = [Strip([Segment("abcdef", STYLES[0])])]
    two = [Strip([Segment("abXdef", STYLES[0])])]
    frame = ScreenFrame()
    frame.write(LayoutUpdate([[s] for s in one], Region(0, 0, 6, 1)), 6, 1)
    written = frame.write(LayoutUpdate([[s] for s in two], Region(0, 0, 6, 1)), 6, 1)
    assert written == "\x1b[1;3H\x1b[38;5;39;48;5;234mX\x1b[0m"


@pytest.mark.parametrize("evil", ["\x1b]0;title\x07", "\x9b31m", "a\x00b", "\u202eabc", "x\ny"])
def test_no_control_of_the_data_gets_through(evil: str) -> None:
    written = ScreenFrame().write(LayoutUpdate([[Strip([Segment(evil)])]], Region(0, 0, 20, 1)), 20, 1)
    assert CSI.sub("", written).isprintable()


def test_without_colours_only_attributes_are_written() -> None:
    row = Strip([Segment("ab", STYLES[1]), Segment("cd", STYLES[3])])
    written = ScreenFrame(None).write(LayoutUpdate([[row]], Region(0, 0, 4, 1)), 4, 1)
    assert written == "\x1b[1;1H\x1b[1mab\x1b[22;4mcd\x1b[0m"


def test_wide_characters_keep_their_place() -> None:
    frame = ScreenFrame(ColorSystem.EIGHT_BIT)
    frame.write(LayoutUpdate([[Strip([Segment("日本 a")])]], Region(0, 0, 6, 1)), 6, 1)
    assert frame.write(LayoutUpdate([[Strip([Segment("日本 b")])]], Region(0, 0, 6, 1)), 6, 1).endswith("b")
