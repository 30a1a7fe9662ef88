"""What is written to the terminal, replayed by a small terminal of our own."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

import pytest
from replay import CSI, Replay
from rich.cells import cell_len
from rich.color import Color, ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

from kltui.tui.terminal import style_codes
from kltui.tui.terminal.row_diff import ScreenFrame

WIDTH, HEIGHT = 12, 4


STYLES = [
    Style(color=Color.from_ansi(39), bgcolor=Color.from_ansi(234)),
    Style(color=Color.from_ansi(222), bgcolor=Color.from_ansi(234), bold=True),
    Style(color=Color.from_ansi(222), bgcolor=Color.from_ansi(24)),
    Style(underline=True),
    Style(bold=True, dim=True),
    Style(dim=True, reverse=True),
    Style(color=Color.from_ansi(39), bgcolor=Color.from_ansi(234), italic=True),
    Style(color=Color.from_ansi(39), bgcolor=Color.from_ansi(234), strike=True),
]
INKS = [Style(color=Color.from_ansi(100 + i), bgcolor=Color.from_ansi(234)) for i in range(8)]
GROUNDS = [Style(color=Color.from_ansi(16), bgcolor=Color.from_ansi(100 + i)) for i in range(24)]


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


@lru_cache
def picture(rows: tuple[tuple[tuple[str, Style], ...], ...]) -> LayoutUpdate:
    strips = [Strip([Segment(text, style) for text, style in row]) for row in rows]
    return LayoutUpdate([[strip] for strip in strips], Region(0, 0, strips[0].cell_length, len(strips)))


def sizes(*pictures: list[list[tuple[str, Style]]]) -> list[int]:
    """Bytes that each picture takes after the one before; the last is compared with what it should be."""
    frame, found = ScreenFrame(), []
    by_steps, whole = Replay(200, 60), Replay(200, 60)
    for rows in pictures:
        update = picture(tuple(map(tuple, rows)))
        text = frame.write(update, 200, 60)
        found.append(len(text.encode()))
        by_steps.feed(text)
    whole.feed(ScreenFrame().write(update, 200, 60))
    assert by_steps.cells == whole.cells
    return found


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
    by_steps, whole, frame = Replay(WIDTH, HEIGHT), Replay(WIDTH, HEIGHT), ScreenFrame()
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
    by_steps, whole, frame = Replay(WIDTH, HEIGHT), Replay(WIDTH, HEIGHT), ScreenFrame()
    by_steps.feed(frame.write(full(screen), WIDTH, HEIGHT))
    for _ in range(8):
        by_steps.feed(frame.write(part_of(rng, screen, letters), WIDTH, HEIGHT))
    whole.feed(ScreenFrame().write(full(screen), WIDTH, HEIGHT))
    assert by_steps.cells == whole.cells


@each_of_sixty
def test_what_is_not_known_is_written(rng: random.Random) -> None:
    screen = [Strip([Segment("a" * WIDTH, STYLES[0])])] * HEIGHT
    by_steps, whole, frame = Replay(WIDTH, HEIGHT), Replay(WIDTH, HEIGHT), ScreenFrame()
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
    assert written == "\x1b[1H\x1b[1mab\x1b[22;4mcd\x1b[0m"


def test_wide_characters_keep_their_place() -> None:
    frame = ScreenFrame(ColorSystem.EIGHT_BIT)
    frame.write(LayoutUpdate([[Strip([Segment("日本 a")])]], Region(0, 0, 6, 1)), 6, 1)
    assert frame.write(LayoutUpdate([[Strip([Segment("日本 b")])]], Region(0, 0, 6, 1)), 6, 1).endswith("b")


def test_the_ink_of_spaces_is_not_written() -> None:
    empty = [[(" " * 200, STYLES[0])]] * 60
    other = [[(" " * 100, INKS[1]), (" " * 100, INKS[2])]] * 60
    assert sizes(empty, other)[1] == 0


def test_a_space_whose_ink_is_visible_is_written() -> None:
    for seen in (STYLES[3], STYLES[5], STYLES[7]):
        row = [[("ab", STYLES[0]), (" ", seen), ("cd", STYLES[0])]]
        assert sizes([[("ab cd", STYLES[0])]], row, [[("ab cd", STYLES[0])]])[1] > 0


def test_colours_that_alternate_are_written_one_after_the_other() -> None:
    row = [("⣿", INKS[i % 2]) for i in range(200)]
    assert sizes([row] * 60)[0] <= 62_000


def test_a_plot_of_eight_runs_keeps_its_budget_however_they_are_mixed() -> None:
    rng = random.Random(5)
    for share in (0.1, 0.3):
        rows = [
            [
                (rng.choice("⠁⠂⠄⣿"), rng.choice(INKS)) if rng.random() < share else (" ", INKS[0])
                for _ in range(140)
            ]
            for _ in range(56)
        ]
        assert sizes(rows)[0] <= 35_000


def test_a_matrix_of_two_cells_a_pair_keeps_its_budget() -> None:
    rng = random.Random(6)
    heat = [[("  ", GROUNDS[max(0, min(23, int(rng.gauss(12, 5))))]) for _ in range(64)] for _ in range(55)]
    crossed = [[*row[:30], ("··" if y % 2 else "..", row[30][1]), *row[31:]] for y, row in enumerate(heat)]
    first, second, back = sizes(heat, crossed, heat)
    assert first <= 35_000 and second <= 2000 and back <= 2000


def test_a_few_letters_that_change_in_many_places_are_reached_by_short_moves() -> None:
    def screen(letter: str) -> list[list[tuple[str, Style]]]:
        return [[("x" * 20 + letter + "x" * 30 + letter + "x" * 148, INKS[y % 3])] for y in range(60)]

    assert sizes(screen("a"), screen("b"))[1] <= 60 * 16 + 20


def test_two_columns_of_a_table_that_scrolls_are_written_one_after_the_other() -> None:
    """As the tree beside a plot: steps and losses change in every row, the state between them does not."""

    def screen(first: int) -> list[list[tuple[str, Style]]]:
        steps = range(first, first + 55)
        return [
            [
                (f"{k:<20}", INKS[0]),
                (f"{'scored':<10}", INKS[1]),
                (f"{3 + (7 * k) % 10 / 10:.1f}{k}", INKS[0]),
            ]
            for k in steps
        ]

    # a row: the letters of a step and of a loss that differ, and to each a move of a byte down and some back
    assert sizes(screen(100), screen(211))[1] <= 55 * 15


@each_of_sixty
def test_marks_over_letters_and_wide_characters_stay_together(rng: random.Random) -> None:
    letters = ["a", "e\u0301", "日", " ", "❤\ufe0f", "⣿"]
    rows = [[(rng.choice(letters), rng.choice(STYLES)) for _ in range(5)] for _ in range(2)]
    screens = [Strip([Segment(t, s) for t, s in row]).adjust_cell_length(WIDTH) for row in rows]
    by_steps, whole, frame = Replay(WIDTH, HEIGHT), Replay(WIDTH, HEIGHT), ScreenFrame()
    for strip in screens:
        update = LayoutUpdate([[strip]], Region(0, 0, WIDTH, 1))
        by_steps.feed(frame.write(update, WIDTH, 1))
    whole.feed(ScreenFrame().write(update, WIDTH, 1))
    assert by_steps.cells == whole.cells


@pytest.mark.parametrize("system", [None, ColorSystem.EIGHT_BIT])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_without_colours_and_in_ascii_the_screen_is_the_same_as_written_whole(
    system: ColorSystem | None, ascii_only: bool
) -> None:
    for seed in range(30):
        rng, letters = random.Random(seed), "ab é⠃" if ascii_only else "ab é⠃日"
        screen = screen_of(rng, letters)
        by_steps, whole = Replay(WIDTH, HEIGHT), Replay(WIDTH, HEIGHT)
        frame = ScreenFrame(system, ascii_only=ascii_only)
        by_steps.feed(frame.write(full(screen), WIDTH, HEIGHT))
        for _ in range(6):
            text = frame.write(part_of(rng, screen, letters), WIDTH, HEIGHT)
            assert text.isascii() or not ascii_only
            by_steps.feed(text)
        whole.feed(ScreenFrame(system, ascii_only=ascii_only).write(full(screen), WIDTH, HEIGHT))
        assert by_steps.cells == whole.cells


def test_more_styles_than_a_table_holds_start_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_codes, "MOST", 5)
    frame, replay, whole = ScreenFrame(), Replay(WIDTH, HEIGHT), Replay(WIDTH, HEIGHT)
    for style in INKS:
        update = LayoutUpdate([[Strip([Segment("x" * WIDTH, style)])]] * HEIGHT, Region(0, 0, WIDTH, HEIGHT))
        replay.feed(frame.write(update, WIDTH, HEIGHT))
    whole.feed(ScreenFrame().write(update, WIDTH, HEIGHT))
    assert replay.cells == whole.cells
