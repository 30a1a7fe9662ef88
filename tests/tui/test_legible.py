"""Every word of a form or dialog can be read on its ground, on both palettes; test_palette.py holds the screens' inks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fake_workspace import FakeWorkspace, checkpoints
from rich.color import Color
from screen_text import lines_of, text_of

from kltui.tui.app import KltuiApp
from kltui.tui.views.scale import HERE, QUARTILES, STRIP
from kltui.view.palette import linear

MakeApp = Callable[..., KltuiApp]
MIN_CONTRAST = 3.0  # WCAG's for large text and marks; running text is held to more by test_palette.py


def luminance(color: Color) -> float:
    """Relative luminance of WCAG 2, 0 to 1."""
    return sum(
        share * linear(c) for share, c in zip((0.2126, 0.7152, 0.0722), color.get_truecolor(), strict=True)
    )


def illegible(app: KltuiApp) -> Iterator[tuple[str, float]]:
    """(text, contrast) of each run of cells with words in it that is too near its ground; under a question all is dimmed."""
    sheets = list(app.screen.query(".sheet"))
    rows = range(sheets[0].region.y, sheets[0].region.bottom) if sheets else range(app.size.height)
    for y, strip in enumerate(app.screen._compositor.render_strips()):
        for text, style, _ in strip if y in rows else ():
            if (
                style is None
                or style.color is None
                or style.bgcolor is None
                or not any(map(str.isalnum, text))
            ):
                continue
            dark, bright = sorted((luminance(style.color), luminance(style.bgcolor)))
            contrast = (bright + 0.05) / (dark + 0.05)
            if contrast < MIN_CONTRAST:
                yield text, contrast


async def test_every_word_of_a_question_can_be_read(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for palette in ("dark", "light"):
            assert app.look.palette.name == palette
            for key in (":", "f", "E", "?"):
                await pilot.press(key)
                assert len(app.screen_stack) == 2
                found = list(illegible(app))
                assert not found, (palette, key, found[:5])
                await pilot.press("escape")
            await pilot.press("C")


async def test_long_names_keep_the_ends_that_tell_them_apart(make_app: MakeApp, until) -> None:
    family = [replace(c, run=f"a-family-of-models-with-{c.run}") for c in checkpoints() if not c.parent]
    app = make_app(FakeWorkspace(names=family))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("G")
        last = app.selection.cursor
        assert last.endswith("-with-small@1400") and "with-small@1400" in lines_of(app)[-2]
        await pilot.press("6")
        await until(pilot, lambda: "a-family-" in lines_of(app)[6])
        labels = [line.split()[1] for line in lines_of(app)[6:-3]]
        assert len(labels) == len(set(labels)) and all("@" in label or "+" in label for label in labels)
        await pilot.press("4")
        await until(pilot, lambda: "settled at step" in text_of(app))
        assert "-small settled" in text_of(app)


async def test_a_variant_is_not_taken_for_its_original(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.cursor = "tiny@1400+bnb-8bit"
        await pilot.press("3")
        await until(pilot, lambda: "@1400+bnb-8bit" in "".join(line[:40] for line in lines_of(app)[3:-3]))


@pytest.mark.parametrize(("width", "with_quartiles"), [(80, False), (200, True)])
async def test_medians_of_the_scale_are_shown_whole_beside_a_chart_that_can_be_read(
    width: int, with_quartiles: bool, make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(width, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("9")
        table = app.view.table
        await until(pilot, lambda: table.rows)
        table.show_rows([replace(r, median=0.00988, q25=0.00917, q75=0.0105) for r in table.rows])
        widths = table.widths()
        assert widths[HERE] >= len("0.00988") and widths[STRIP] >= 20
        assert widths[QUARTILES] == (len("[0.00917, 0.0105]") if with_quartiles else 0)
        said = ["".join(t for t, _ in table._row(i)) for i, r in enumerate(table.rows) if r.n > 1]
        assert said and all("0.00988" in line for line in said)
        assert all(("0.00988   [0.00917, 0.0105]" in line) == with_quartiles for line in said)


async def test_questions_stand_below_the_view_and_help_in_its_middle(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for key in (":", "f", "/"):
            await pilot.press(key)
            sheet = app.screen.query_one(".sheet").region
            assert sheet.bottom == 40 and sheet.y > 10, key
            assert "tiny@0" in text_of(app) or "@0" in text_of(app)  # the view is seen behind it
            await pilot.press("escape")
        await pilot.press("?")
        sheet = app.screen.query_one(".sheet").region
        assert sheet.y == 40 - sheet.bottom and sheet.x > 0


async def test_columns_stay_below_their_titles_in_ascii(make_app: MakeApp, until) -> None:
    app = make_app(ascii_only=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("9")
        await until(pilot, lambda: app.view.table.rows and app.view.pair_table.pairs)
        at = next(i for i, line in enumerate(lines_of(app)) if line.startswith("  KL, bits/byte "))
        title, row = lines_of(app)[at : at + 2]
        assert "+-" in row and row[title.index(" A ") :][:2].strip() and row[title.index(" A ")] == " "
