"""What `e` writes: figures for a paper of what is shown, texts, and a screenshot that every viewer shows alike."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace, checkpoints
from screen_text import text_of

sys.path.insert(0, str(Path(__file__).parents[1] / "view"))  # small_workspace

from small_workspace import suite

from kltui.figures.shown import ShownSubject, picture_of
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.tui.export import WAITED_S, exports, rows_of
from kltui.tui.screenshot import placed
from kltui.view.sections.context import Context, ReportChoice
from kltui.workspace import Workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of runs, seeds, a fine-tune, variants and layers."""
    path = tmp_path_factory.mktemp("export") / "work"
    suite(path).close()
    return path


@pytest.fixture
def opened(folder: Path) -> Iterator[Workspace]:
    with Workspace.open(folder) as ws:
        yield ws


async def written(app: KltuiApp, pilot, until, keys: str) -> Path:
    """The path that an export says after these keys."""
    await pilot.press(*keys.split())
    await until(pilot, lambda: app.message)
    assert app.message.startswith("written: "), app.message
    return Path(app.message.removeprefix("written: "))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


async def test_three_keys_from_the_start_write_the_matrix_as_it_is_shown(folder: Path, until) -> None:
    pytest.importorskip("matplotlib")
    app = KltuiApp(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.set_filter("run:small")
        path = await written(app, pilot, until, "6 e enter")
        shown = [app.view.heat.map.names[k] for k in app.view.heat.order]
    assert path.suffix == ".pdf" and path.read_bytes().startswith(b"%PDF")
    assert path.with_suffix(".py").is_file()
    names = [r["name"] for r in rows(path.with_suffix(".csv"))]
    assert len(shown) > 1 and names == [f"{a} | {b}" for a in shown for b in shown]


async def test_a_figure_is_made_of_the_map_that_the_screens_show(folder: Path, until) -> None:
    pytest.importorskip("matplotlib")
    app = KltuiApp(folder, basis=Basis(mode="clip", exclude=("small",)))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        path = await written(app, pilot, until, "6 e enter")
        found = app.view.heat.map
    assert "small" not in {p.run for p in found.points}
    pairs = [(r["name"].split(" | "), r["value"]) for r in rows(path.with_suffix(".csv"))]
    assert {a for (a, _), _ in pairs} == set(found.names)
    for (a, b), value in pairs[:40]:
        assert a == b or float(value) == pytest.approx(found.pair(a, b).value, rel=1e-9)


async def test_every_plot_is_a_figure(make_app, until, monkeypatch) -> None:
    figures = {"3": "trajectories", "4": "curves", "5": "diffusion", "6": "matrix", "7": "drivers", "8": "layers",
               "9": "scale"}  # fmt: skip
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        app.selection.a, app.selection.b, app.selection.cursor = "tiny@1", "small@100", "small@100"
        for key, figure in figures.items():
            await pilot.press(key)
            await until(pilot, lambda: app.view.shown_figure() is not None)
            assert app.view.has_figure and app.view.shown_figure().figure == figure
            assert exports(app)[0].name == "figure (pdf)"


async def test_the_figure_of_diffusion_is_of_the_runs_that_the_filter_shows(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: app.view.shown_figure() is not None)
        runs = {e.run for e in app.view.exponents}
        assert len(runs) > 1 and app.view.shown_figure().names == ()
        await pilot.press("/", *"run:small", "enter")
        await until(pilot, lambda: {e.run for e in app.view.exponents} == {"small"})
        points = app.view.found.points
        assert app.view.shown_figure().names == tuple(p.name for p in points if p.run == "small")


async def test_a_run_hidden_on_diffusion_is_neither_in_its_plots_nor_in_its_figure(make_app, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: app.view.shown_figure() is not None)
        view, runs = app.view, {e.run for e in app.view.exponents}
        assert app.selection.cursor.startswith("tiny@") and "small" in runs
        await pilot.press("z")
        assert app.message == "hidden: tiny; Z shows all"
        await until(pilot, lambda: {e.run for e in view.exponents} == runs - {"tiny"})
        assert {run for run, *_ in rows_of(app)} == {"run", *runs} - {"tiny"}
        assert view.window_plot.exponent.run != "tiny" and "tiny  hidden" in text_of(app)
        names = view.shown_figure().names
        assert names and {p.run for p in view.found.points if p.name in names} == runs - {"tiny"}
        app.selection.hidden |= runs
        app.selection_changed()
        await until(
            pilot, lambda: "every run is hidden or filtered out: press Z to show them" in text_of(app)
        )
        assert view.shown_figure() is None
        await pilot.press("Z")
        assert app.message == "all runs shown"
        await until(pilot, lambda: {e.run for e in view.exponents} == runs)
        assert view.shown_figure().names == ()


async def test_the_starts_of_a_quantised_run_are_its_checkpoints(make_app, until) -> None:
    quantised = [replace(c, quantization="bnb-8bit") for c in checkpoints() if c.run == "small"]
    app = make_app(FakeWorkspace(names=[*checkpoints(), *quantised]))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("5")
        await until(pilot, lambda: "small+bnb-8bit" in {e.run for e in app.view.exponents})
        app.set_cursor("small@500+bnb-8bit")
        await until(pilot, lambda: app.view.window_plot.exponent.run == "small+bnb-8bit")
        await pilot.press("l")
        assert app.selection.cursor in app.snapshot.by_name
        app.set_filter("quant:8bit")
        await until(pilot, lambda: {e.run for e in app.view.exponents} == {"small+bnb-8bit"})
        assert set(app.view.shown_figure().names) == {c.name for c in quantised}


async def test_without_matplotlib_the_choice_says_what_to_install(make_app, until, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6")
        assert "pip install '.[figures]'" in exports(app)[0].what
        await pilot.press("e", "enter")
        await until(pilot, lambda: "pip install" in app.message)


async def test_compare_writes_both_names_the_numbers_and_the_texts(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        names = [r.name for r in app.snapshot.rows if r.scored]
        app.selection.a, app.selection.b = names[0], names[-1]
        await pilot.press("7")
        await until(pilot, lambda: app.view.texts.order)
        drivers, found = app.view.texts.drivers, app.view.found
        table = rows(await written(app, pilot, until, "e r o w s enter"))
        await pilot.press("x", "x")
        await until(pilot, lambda: app.view.texts.order)
        read = (await written(app, pilot, until, "e t x t enter")).read_text()
    assert {(r["a"], r["b"]) for r in table} == {(names[0], names[-1])}
    assert sum(float(r["kl_bits_per_byte"]) for r in table) == pytest.approx(drivers.kl.value, rel=1e-12)
    for r in table[:3]:
        assert float(r["loglik_a_nats"]) == found.loglik_KN[found.row(names[0]), int(r["text"])]
        assert r["content"]
        assert r["content"].split("\n")[0] in read
    assert f"A  {names[0]}\nB  {names[-1]}\nKL {drivers.kl.value:.3g}"[:-1] in read


async def test_a_screen_that_says_why_it_is_empty_is_not_waited_for(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("7")
        start = time.monotonic()
        await pilot.press("e", "enter")
        await until(pilot, lambda: "nothing to draw" in app.message)
        assert "mark A and B with a and b" in app.message
        assert time.monotonic() - start < WAITED_S / 2


async def test_what_a_figure_lacks_is_said_where_it_is_written(folder: Path, until, monkeypatch) -> None:
    def write(made, path, look, notify):
        notify("3 letters drawn as boxes")
        return [path]

    monkeypatch.setattr("kltui.figures.files.write", write)
    app = KltuiApp(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        await pilot.press("6", "e", "enter")
        await until(pilot, lambda: app.message.endswith(".pdf (3 letters drawn as boxes)"))


def test_a_picture_on_screen_is_the_figure(opened: Workspace) -> None:
    whole = opened.map()
    names = whole.names[2:9]
    xy = whole.coordinates("pca")[2:9] * 3
    shown = ShownSubject("trajectories", names[::-1], method="tsne", xy_Kd=xy[::-1])
    made = picture_of(Context(opened, shown.choice(ReportChoice())), shown)
    places = {
        n: (x, y)
        for layer in made.panels[0].layers
        if len(layer.names) == len(layer.x)
        for n, x, y in zip(layer.names, layer.x, layer.y, strict=True)
        if n
    }
    assert places == {n: (x, y) for n, (x, y) in zip(names, xy, strict=True)}
    assert made.panels[0].title == "t-SNE"


def test_what_is_not_shown_is_prepared_along_but_not_drawn(opened: Workspace) -> None:
    from kltui.store.saved_maps import Preparation

    names = frozenset(opened.map().names[:3])
    clipped = Context(opened, ReportChoice(Preparation("clip"), only=names))
    every = Context(opened, ReportChoice(Preparation("clip")))
    assert set(clipped.map.names) == names == set(clipped.raw.names)
    kept = [every.map.names.index(n) for n in clipped.map.names]
    assert (clipped.map.loglik_KN == every.map.loglik_KN[kept]).all()


async def test_a_screenshot_puts_every_word_at_its_cell_and_fetches_nothing(
    make_app: Callable[..., KltuiApp], until
) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        lines = text_of(app).splitlines()
        svg = placed(app.export_screenshot(title="kltui"))
    assert "&#160;" not in svg and "\u00a0" not in svg and "url(http" not in svg and "@import" not in svg
    cells: dict[int, dict[int, str]] = {}
    for y, words in re.findall(r'<text class="[^"]*" y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        for x, word in re.findall(r'<tspan x="([\d.]+)"[^>]*>(.*?)</tspan>', words):
            for k, sign in enumerate(word.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")):
                cells.setdefault(round((float(y) - 20) / 24.4), {})[round(float(x) / 12.2) + k] = sign
    for row, line in enumerate(lines):
        assert {k: c for k, c in enumerate(line) if c != " "} == cells.get(row, {})
