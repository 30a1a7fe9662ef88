"""Every cell of every screen and form: readable on its ground, without colours where none are wanted, ASCII where asked for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace, checkpoints
from rich.color import Color
from rich.segment import Segment
from screen_text import lines_of
from textual._compositor import LayoutUpdate
from textual.geometry import Region
from textual.pilot import Pilot

from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.sanitize import ascii_cells, in_ascii
from kltui.tui.app import KltuiApp
from kltui.view.palette import linear

MakeApp = Callable[..., KltuiApp]
SCREENS = "123456789"  # Report is made by a process of its own: test_report.py
FORMS = ("o", "/", "?", ":", "f", "A", "s", "P", "E", "D", "e", "c")
GRAPHICS = 0x2500  # from here on: lines, blocks, marks, braille
COLOURED = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[\d;]*)?m")


def few() -> list[Checkpoint]:
    """One run with steps enough for exponents, and ends of the others: few enough for a map by PCA."""
    steps = (0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224)
    made = checkpoints(steps)
    return [c for c in made if c.run == "tiny" or c.step in steps[-2:] or c.run == "tuned"]


class Foreign(FakeWorkspace):
    """Names and texts in other alphabets than ASCII's."""

    def __init__(self) -> None:
        elsewhere = LocalSource(Path("/modèles/“x”"))
        named = [
            replace(c, run=c.run.replace("tiny", "Größe模"), source=elsewhere, parent=None) for c in few()
        ]
        super().__init__(60, names=named)

    def texts(self, sha256: str | None = None) -> list[str]:
        return [f"‘{i}’ — “naïve” … 文章\u0301 \U0001f469 ≥ é" for i in range(self.n_texts)]


async def every_picture(
    app: KltuiApp, pilot: Pilot[int], until, forms: Sequence[str] = FORMS
) -> AsyncIterator[str]:
    """The name of each picture while it is shown: forms over the first screen, then the screens."""
    await until(pilot, lambda: app.snapshot.loaded)
    await pilot.press("j", "j", "space")
    for key in forms:
        await pilot.press(key)
        await until(pilot, lambda: len(app.screen_stack) > 1)
        yield f"form {key}"
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
    await pilot.press("a", "j", "b")
    for key in SCREENS:
        await pilot.press(key)
        await until(pilot, lambda: not any("omputing" in line for line in lines_of(app)))
        yield f"screen {key}"


def segments(app: KltuiApp) -> list[Segment]:
    return [segment for strip in app.screen._compositor.render_strips() for segment in strip]


def written(app: KltuiApp) -> str:
    """What is sent to a terminal that shows nothing yet."""
    app._frame.forget()
    width, height = app.size
    strips = app.screen._compositor.render_strips()
    return app.text_of(LayoutUpdate([[strip] for strip in strips], Region(0, 0, width, height)))


def luminance(color: Color) -> float:
    red, green, blue = (linear(c) for c in color.get_truecolor())
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def too_pale(segment: Segment) -> tuple[str, float] | None:
    """(what, its contrast) where it is below that of its kind."""
    text, style = segment.text.strip(), segment.style
    if not text:
        return None
    assert style is not None and style.color is not None and style.bgcolor is not None, segment
    low, high = sorted((luminance(style.color), luminance(style.bgcolor)))
    found = (high + 0.05) / (low + 0.05)
    if set(text) <= set("▀ "):
        return None  # two cells of a matrix, one above the other
    graphic = all(ord(c) >= GRAPHICS or c == " " for c in text)
    return (text, found) if found < (3.0 if graphic else 4.5) else None


@pytest.mark.parametrize(("keys", "forms"), [("", FORMS), ("C", "f?")], ids=["dark", "light"])
async def test_all_can_be_read_on_its_ground(make_app: MakeApp, until, keys: str, forms: str) -> None:
    app = make_app(FakeWorkspace(60, names=few()))
    async with app.run_test(size=(160, 40)) as pilot:
        await pilot.press(*keys)
        async for name in every_picture(app, pilot, until, forms):
            pale = {found for s in segments(app) if (found := too_pale(s)) is not None}
            assert not pale, f"{name}: {sorted(pale, key=lambda f: f[1])[:5]}"


async def test_no_colour_is_written_where_none_is_wanted(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(60, names=few()), color=False)
    async with app.run_test(size=(120, 40)) as pilot:
        async for name in every_picture(app, pilot, until, "fc"):
            assert not (found := COLOURED.search(written(app))), f"{name}: {found}"


async def test_ascii_is_all_that_is_written_where_nothing_else_may_be(make_app: MakeApp, until) -> None:
    app = make_app(Foreign(), ascii_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        async for name in every_picture(app, pilot, until):
            text = written(app)
            assert text.isascii(), f"{name}: {[line for line in text.splitlines() if not line.isascii()][:2]}"
            assert all(s.cell_length == 120 for s in app.screen._compositor.render_strips()), name


def test_what_is_spelled_in_ascii_can_be_read() -> None:
    assert in_ascii("0.4 ± 0.1 → ≤ √τ “q” ‘r’ Größe 模") == "0.4 +- 0.1 -> <= sqrttau \"q\" 'r' Gro?e ??"
    assert ascii_cells("…±e\u0301") == "~?e"


async def test_what_colours_say_is_said_without_them(make_app: MakeApp, until) -> None:
    app = make_app(color=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("2", "tab")  # the job that is looked at has no focus
        await until(pilot, lambda: any(line.startswith(" >") for line in lines_of(app)))
        await pilot.press("5")
        plot = app.view.window_plot
        await until(pilot, lambda: plot.exponent is not None)
        assert [text.strip() for text, _ in plot.readout()][::3] == ["q", "w"]
        await pilot.press("f")
        await until(pilot, lambda: len(app.screen_stack) > 1)
        assert any(line.startswith(f" {app.screen.question} ───") for line in lines_of(app))
        (cursor, *_) = [s for s in segments(app) if s.style and s.style.reverse]
        assert cursor.cell_length == 1
        assert any(" (runs, checkpoints or filters" in line for line in lines_of(app))


async def test_titles_stand_over_their_columns_in_ascii(make_app: MakeApp, until) -> None:
    app = make_app(ascii_only=True)
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        title = next(line for line in lines_of(app) if "+- s.e." in line)
        row = next(line for line in lines_of(app) if "/models/" in line)
        assert title.index("source") == row.index("/models/")


async def test_a_variant_s_name_is_whole_where_its_column_says_the_rest(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("/", *"quant:8bit", "enter", "o", *"bits", "enter")
        await until(pilot, lambda: any("by bits/byte" in line for line in lines_of(app)))
        rows = [line for line in lines_of(app) if "bnb-8bit" in line]
        assert rows and not any("…" in row[:30] for row in rows)


async def test_nothing_is_said_of_a_noise_floor_before_it_is_known(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(60))
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: app.view.exponents)
        view = app.view
        view.noise = True
        said = ["".join(text for text, _ in line) for line in view._medians(44)]
        assert "computing …" in said and not any("nothing" in line for line in said)
        view.update_data()
        await until(pilot, lambda: view.made_with == (view.window, True))
        assert not any("computing" in "".join(t for t, _ in line) for line in view._medians(44))
