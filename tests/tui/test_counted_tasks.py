"""The tasks that the interface is made for, each in so many keys from its start, on the fixed workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fake_workspace import FakeWorkspace, checkpoints
from screen_text import text_of

from kltui.tui import export
from kltui.tui.app import KltuiApp
from kltui.tui.suggested_pairs import suggested_pairs

MakeApp = Callable[..., KltuiApp]
SIZES = [(80, 24), (120, 40), (200, 60)]


async def did(app: KltuiApp, pilot, until, keys: tuple[str, ...], maximum: int) -> None:
    """Presses the keys, at most `maximum` of them, each as soon as the workspace is there."""
    assert len(keys) <= maximum
    await until(pilot, lambda: app.snapshot.loaded)
    await pilot.press(*keys)


async def test_when_did_it_stop_changing_and_two_seeds_against_the_step(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=SIZES[0]) as pilot:
        await did(app, pilot, until, ("4",), 2)
        between = next(p for p in app.view.panels if p.panel.key == "between")
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await until(pilot, lambda: "tiny settled at step 100 (" in text_of(app))
            await until(pilot, lambda: between.drawn and "KL between" in text_of(app))
            assert between.display
            assert {(d.curve.run, d.curve.against) for d in between.drawn} >= {("tiny-seed2", "tiny")}


async def test_8_bit_against_a_fine_tune(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await did(app, pilot, until, ("c", "8", "enter"), 6)
        await until(pilot, lambda: "half of it lies in" in text_of(app))
        assert (app.selection.a, app.selection.b) == ("tiny@1400+bnb-8bit", "tuned@20")
        assert "KL " in text_of(app) and " ± " in text_of(app)


async def test_a_figure_for_a_paper(make_app: MakeApp, until, monkeypatch, tmp_path: Path) -> None:
    written: list[Path] = []

    async def write_figure(app: KltuiApp, path: Path, notify: Callable[[str], None]) -> Path:
        written.append(path)
        return path

    monkeypatch.setattr(export, "write_figure", write_figure)
    monkeypatch.chdir(tmp_path)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await did(app, pilot, until, ("3", "e", "enter"), 3)
        await until(pilot, lambda: written)
        assert written[0].suffix == ".pdf" and written[0].name.startswith("map-")


def test_suggested_pairs_are_those_of_the_lineage() -> None:
    rows = FakeWorkspace(names=checkpoints()).checkpoints()
    found = [(p.kind, p.a, p.b) for p in suggested_pairs(rows)]
    assert found[:3] == [
        ("bnb-8bit and fine-tune", "tiny@1400+bnb-8bit", "tuned@20"),
        ("bnb-8bit and original", "tiny@1400", "tiny@1400+bnb-8bit"),
        ("fine-tune and parent", "tiny@1400", "tuned@20"),
    ]
    assert ("two seeds", "tiny@1400", "tiny-seed2@1400") in found
    assert ("two sizes", "tiny@1400", "small@1400") in found
    assert ("first and last", "small@0", "small@1400") in found
    assert len(found) == len(set(found)) == 3 + 3 + 1 + 5
