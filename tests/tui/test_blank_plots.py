"""Plots, texts and lines without anything to show: each says why, and so do their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fake_workspace import FakeWorkspace, checkpoints
from odd_workspace import OddWorkspace, as_is, long_names, same
from rich.cells import cell_len
from screen_text import lines_of, text_of

from kltui.tui.app import KltuiApp
from kltui.tui.widgets.canvas import spelled

MakeApp = Callable[..., KltuiApp]


async def test_values_that_a_log_axis_cannot_show_are_no_empty_axes(make_app: MakeApp, until) -> None:
    last = [c for c in checkpoints() if c.step == 1400 and c.run in ("tiny", "tiny-seed2")][:2]
    app = make_app(OddWorkspace(2, 60, same, last))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4")
        panel = next(p for p in app.view.panels if p.panel.key == "between")
        await until(pilot, lambda: panel.drawn and "cannot show" in panel.note)
        assert panel.scene is None
        app.view.focus_on(panel)
        await pilot.press("Y")
        await until(pilot, lambda: panel.scene is not None)


async def test_undefined_kls_are_no_kls_above_a_level(make_app: MakeApp, until) -> None:
    app = make_app(OddWorkspace(20, 1, as_is))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("4")
        await until(pilot, lambda: "its last KL is undefined" in text_of(app))
        assert "is above" not in text_of(app)
        panel = app.view.panels[0]
        assert panel.drawn and panel.scene is None and "two or more texts" in panel.note
        await pilot.press("6")
        await until(pilot, lambda: "every KL is undefined" in text_of(app))
        await pilot.press("l")
        await until(pilot, lambda: "too few texts in common" in text_of(app))


async def test_a_picture_that_is_refused_is_not_said_to_have_stopped(make_app: MakeApp, until) -> None:
    app = make_app(OddWorkspace(48, 60, same))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3", "v")
        await until(pilot, lambda: "vectors are equal" in lines_of(app)[2])
        while app.view.method != "tsne":
            await pilot.press("v")
        await until(pilot, lambda: "no t-SNE of these vectors" in text_of(app))
        assert "press r" not in text_of(app)


async def test_a_line_that_is_too_long_ends_in_a_sign(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        pane = app.view.detail
        strip = pane._strip_of([("x" * 200, app.look())])
        assert strip.text.rstrip().endswith("x…") and strip.cell_length == pane.size.width


async def test_nothing_is_suggested_where_there_is_no_pair(make_app: MakeApp, until) -> None:
    alone = [replace(checkpoints()[0], run=run, step=None, seed=None, size="") for run in ("one", "two")]
    for names, said in ((alone, "Mark two checkpoints with a and b"), (alone[:1], "Two scored checkpoints")):
        app = make_app(FakeWorkspace(names=names))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda app=app: app.snapshot.loaded)
            await pilot.press("7")
            await until(pilot, lambda app=app, said=said: said in text_of(app))
            assert "suggests" not in text_of(app)


async def test_keys_without_anything_to_act_on_say_so(make_app: MakeApp, until) -> None:
    workspace = FakeWorkspace(names=[replace(checkpoints()[0], step=None)])
    workspace.job_rows = []
    app = make_app(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for screen, keys, said in (
            ("2", "pRK", "there is no job yet"),
            ("4", "+-=HJ", "no plot here"),
            ("5", "+-=HJ", "no plot here"),
            ("8", "+-=HJ", "no plot here"),
            ("7", "o", "no texts to order"),
        ):
            await pilot.press(screen)
            await app.workers.wait_for_complete()
            for key in keys:
                app.say("")
                await pilot.press(key)
                await until(pilot, lambda said=said: said in app.message)


async def test_the_read_out_of_the_map_keeps_the_end_of_a_long_name(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(names=long_names()))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.cursor >= 0)
        read = "".join(text for text, _ in app.view.plot.readout())
        assert f"@{app.selection.cursor.partition('@')[2]}" in read
        assert cell_len(read) <= app.view.plot.body_width  # so that nothing cuts it again


async def test_read_outs_of_long_names_fit_in_ascii_too(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(names=long_names()), ascii_only=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("j", "3")
        await until(pilot, lambda: app.view.plot.cursor >= 0)
        await pilot.press("]")
        for _ in range(2):
            pane = app.view.plot if app.screen_name == "map" else app.view.heat
            said = "".join(text for text, _ in spelled(pane.body_line(pane.body_height - 1), app.look))
            assert "+-" in said and cell_len(said) <= pane.body_width, said
            await pilot.press("6")
            await until(pilot, lambda: app.view.heat.order)
            await pilot.press("l")
