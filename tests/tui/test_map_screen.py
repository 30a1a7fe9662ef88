"""The map, driven by keys, read as a person would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from fake_workspace import FakeWorkspace, fake_embedded
from screen_text import lines_of, opened, text_of

from kltui.analysis.embed import Picture
from kltui.analysis.map import Map
from kltui.tui.app import KltuiApp

MakeApp = Callable[..., KltuiApp]


async def test_map_walks_zooms_and_hides(make_app: MakeApp, until, monkeypatch) -> None:
    app = make_app()
    monkeypatch.setattr(app.map_cache, "embedded", fake_embedded)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3")
        await until(pilot, lambda: "t-SNE" in text_of(app) and "◉" in text_of(app))
        await pilot.press("]", "]")
        assert app.selection.cursor == "tiny@2"
        assert "KL from @1" in text_of(app) and "bits/byte" in text_of(app)
        before = text_of(app)
        await pilot.press("l")
        assert app.selection.cursor != "tiny@2"
        await pilot.press("+", "+")
        assert text_of(app) != before
        await pilot.press("=", "z")
        assert "hidden" in text_of(app)
        await pilot.press("Z", "v", "v")
        await until(pilot, lambda: "MDS" in text_of(app))
        await pilot.press("m", "m", "m")
        assert not any("⠀" < c <= "⣿" for c in text_of(app))


async def test_the_tree_slides_to_a_run_out_of_sight_with_the_steps_where_they_were(
    make_app: MakeApp, until
) -> None:
    app = make_app()
    async with app.run_test(size=(200, 30)) as pilot:
        await opened(app, pilot, until, "3")
        tree = app.view.runs
        await until(pilot, lambda: app.view.plot.map is not None and tree.size.height)
        before = [line[:24] for line in lines_of(app)]
        app.set_cursor("tuned@20")
        await until(pilot, lambda: "tuned" in "".join(line[:40] for line in lines_of(app)[:-3]))
        assert tree.top <= tree.cursor < tree.top + tree.body_height - 1
        steps = [(a, b) for a, b in zip(before, lines_of(app), strict=True) if "@" in a]
        assert sum(a == b[:24] for a, b in steps) > len(steps) / 2


async def test_the_nearest_stay_in_sight_until_the_next_are_known(
    make_app: MakeApp, until, monkeypatch
) -> None:
    app = make_app()
    monkeypatch.setattr(app.map_cache, "embedded", fake_embedded)
    async with app.run_test(size=(200, 60)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_cursor("tiny@4")
        await pilot.press("3")
        await until(pilot, lambda: "nearest to tiny@4 " in text_of(app))
        here = app.selection.cursor
        await pilot.press("]")
        assert app.selection.cursor != here and f"nearest to {here} " in text_of(app)
        await until(pilot, lambda: f"nearest to {app.selection.cursor} " in text_of(app))


async def test_map_shows_new_checkpoints_while_a_job_scores(make_app: MakeApp, until, monkeypatch) -> None:
    workspace = FakeWorkspace(scored=30)
    app = make_app(workspace)
    monkeypatch.setattr(app.map_cache, "embedded", fake_embedded)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3")
        await until(pilot, lambda: "30 checkpoints" in text_of(app))
        workspace.count, workspace.change = 35, 2
        await until(pilot, lambda: "35 checkpoints" in text_of(app))


async def test_a_random_walk_is_laid_beside_a_run(make_app: MakeApp, until, monkeypatch) -> None:
    app = make_app()
    monkeypatch.setattr(app.map_cache, "embedded", fake_embedded)
    async with app.run_test(size=(130, 40)) as pilot:
        await opened(app, pilot, until, "3")
        await until(pilot, lambda: "t-SNE" in text_of(app) and "KL from" not in text_of(app))
        await pilot.press("j", "w")
        await until(pilot, lambda: "random walk" in lines_of(app)[-2])
        run = app.view.null_run
        await until(pilot, lambda: "walks wind more" in text_of(app))
        assert f"{run} (random walks)" in text_of(app) and "turning" in text_of(app)
        plot = app.view.plot
        assert len(plot.picture.xyz_Kd) > len(plot.map) == plot.scene.n_points
        for method in ("PCA", "MDS", "t-SNE"):
            await pilot.press("v")
            await until(pilot, lambda m=method: m in lines_of(app)[2])
            await until(pilot, lambda: len(plot.picture.xyz_Kd) > len(plot.map))
        await pilot.press(*"jlkhjl")
        assert plot.cursor < len(plot.map)
        await pilot.press("w")
        await until(pilot, lambda: len(plot.picture.xyz_Kd) == len(plot.map))
        assert "walks wind more" not in text_of(app)


async def test_tsne_is_not_cut_short_by_every_new_checkpoint(make_app: MakeApp, until, monkeypatch) -> None:
    workspace = FakeWorkspace(scored=40)
    app = make_app(workspace)
    begun, go_on = [], asyncio.Event()

    async def slow(found: Map, method: str, dims: int, *, first: bool) -> AsyncIterator[tuple[Picture, bool]]:
        begun.append(len(found))
        await go_on.wait()
        yield Picture(method, found.coordinates("pca", dims)), True

    monkeypatch.setattr(app.map_cache, "embedded", slow)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3")
        await until(pilot, lambda: begun == [40] and "PCA" in lines_of(app)[2])
        workspace.count, workspace.change = 42, 2
        await pilot.press("r")
        await until(pilot, lambda: "42 checkpoints" in lines_of(app)[2])
        assert begun == [40] and "PCA" in lines_of(app)[2]
        go_on.set()
        await until(pilot, lambda: begun == [40, 42] and "t-SNE  42 checkpoints" in lines_of(app)[2])


async def test_too_few_checkpoints_for_tsne_are_shown_by_pca(make_app: MakeApp, until) -> None:
    app = make_app(FakeWorkspace(scored=3))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "3", "v", "v")
        await until(pilot, lambda: "PCA" in lines_of(app)[2] and "t-SNE needs 5 checkpoints" in text_of(app))
        assert app.message_ink != "bad"
