"""O: which corpus all screens show."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from screen_text import lines_of, text_of

from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError, UsageError
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import CheckpointRow, Store
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.view.export import export
from kltui.view.off_map import EXCLUDED, NOT_SAVED, NOT_SCORED, OTHER_SETTINGS, off_map
from kltui.view.sections.context import Context, ReportChoice
from kltui.view.sections.overview import overview
from kltui.view.summary import summary
from kltui.workspace import Workspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with three models on a corpus of 30 texts, two of them on one of 50 too."""
    rng, store = np.random.default_rng(3), Store.write(tmp_path / "ws")
    with store.atomic():
        for n, names in ((30, ("one", "two", "three")), (50, ("one", "two"))):
            corpus = store.corpora.add(Corpus(tuple(f"text {i} of {n}" for i in range(n))), f"texts-{n}.json")
            for name in names:
                row = store.checkpoints.upsert(Checkpoint(name, LocalSource(tmp_path / name)))
                store.checkpoints.set_weights(row, name)
                values, counts = -50.0 + rng.normal(size=n), np.full(n, 5, np.int32)
                key = {"weights": name, "n": str(n)}
                store.vectors.put(row, corpus, None, key, "bos=auto dtype=float32", values, counts, None)
    store.close()
    return tmp_path / "ws"


async def test_another_corpus_is_chosen_and_shown_on_every_screen(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(150, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.rows)
        app.selection.a, app.selection.b = "one", "two"
        await pilot.press("7")
        await until(pilot, lambda: "of 30 texts" in text_of(app))
        await pilot.press("O")
        await until(pilot, lambda: "texts-50.json" in text_of(app) and "(shown)" in text_of(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "of 50 texts" in text_of(app))
        await pilot.press("6")
        await until(pilot, lambda: "2 checkpoints" in text_of(app))


async def test_the_registry_says_what_is_scored_on_the_corpus_shown(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=(150, 40)) as pilot:
        await until(pilot, lambda: "3 checkpoints  3 scored" in text_of(app))
        await pilot.press("O", "down", "enter")
        await until(pilot, lambda: "3 checkpoints  2 scored" in text_of(app))
        (line,) = (line for line in lines_of(app) if "not here" in line)
        assert "○ not here" in line and "other  corpus" in line
        assert app.snapshot.by_name["three"].status == "elsewhere"
        one = app.snapshot.by_name["one"]
        assert one.mean_loglik == pytest.approx(-app.snapshot.losses[one.id].bits_per_byte * np.log(2) * 12.8)
        app.set_cursor("three")
        await until(pilot, lambda: "not scored on this corpus" in text_of(app))
        said = " ".join(" ".join(line.partition("│")[2].split()) for line in lines_of(app))
        assert "Scored on another corpus only; O selects the corpus that is shown." in said
        await pilot.press("O", "up", "enter")
        await until(pilot, lambda: "3 checkpoints  3 scored" in text_of(app))
        assert "not here" not in text_of(app)


def test_reports_and_exports_count_what_is_scored_on_their_corpus(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder, over=Workspace.open(folder).corpora()[1].sha256) as ws:
        rows = {row.name: row for row in ws.checkpoints_on_corpus()}
        assert [row.scored for row in rows.values()] == [True, False, True]
        assert np.isnan(rows["three"].mean_loglik) and not rows["three"].layers
        means = dict(zip(ws.map().names, ws.map().mean_loglik.tolist(), strict=True))
        assert {n: r.mean_loglik for n, r in rows.items() if r.scored} == pytest.approx(means)
        ctx = Context(ws, ReportChoice())
        assert "2 of 3 checkpoints over 50 texts" in summary(ctx, with_plot=False)._repr_html_()
        assert "1 scored on another corpus only, 2 scored" in overview(ctx)._repr_html_()
        export(ws, tmp_path / "out")
    with (tmp_path / "out" / "checkpoints.csv").open(encoding="utf-8", newline="") as file:
        table = {r["name"]: r for r in csv.DictReader(file)}
    assert table["three"]["status"] == "elsewhere" and table["three"]["mean_loglik_nats"] == ""
    assert float(table["one"]["mean_loglik_nats"]) == pytest.approx(means["one"])


async def test_the_interface_begins_on_the_corpus_asked_for(folder: Path, until) -> None:
    with Workspace.open(folder) as ws:
        app = KltuiApp(folder, basis=Basis(over=ws.corpora()[1].sha256))
    async with app.run_test(size=(150, 40)) as pilot:
        await pilot.press("6")
        await until(pilot, lambda: "2 checkpoints" in text_of(app))


NOTHING, VALUES = np.full(30, np.nan), np.linspace(-60, -40, 30)
#: {checkpoint: its vectors, as (corpus, layer, values)}
ODD: dict[str, list[tuple[int, int | None, np.ndarray]]] = {
    "good": [(0, None, VALUES), (1, None, VALUES)],
    "here": [(0, None, NOTHING), (1, None, VALUES)],
    "both": [(0, None, NOTHING), (1, None, NOTHING)],
    "new": [],
    "import": [(0, None, NOTHING)],
    "again": [(0, None, NOTHING), (1, None, NOTHING), (0, None, VALUES)],
    "lens": [(0, 0, VALUES), (0, 1, VALUES)],
    "lens too": [(0, 0, VALUES), (0, None, NOTHING)],
}


def odd_workspace(folder: Path, names: Sequence[str]) -> Path:
    """Checkpoints of ODD on two corpora."""
    with closing(Store.write(folder)) as store, store.atomic():
        corpora = [
            store.corpora.add(Corpus(tuple(f"{k} {i}" for i in range(30))), f"{k}.json") for k in (1, 2)
        ]
        for name in names:
            row = store.checkpoints.upsert(Checkpoint(name, LocalSource(folder / name)))
            weights = f"import:{name}" if name == "import" else name
            store.checkpoints.set_weights(row, weights)
            for k, (corpus, layer, vector) in enumerate(ODD[name]):
                key, counts = {"weights": weights, "k": str(k)}, np.isfinite(vector).astype(np.int32)
                store.vectors.put(row, corpora[corpus], layer, key, "bos=auto", vector, counts, None)
    return folder


async def test_a_checkpoint_without_values_or_final_vector_is_not_shown_as_never_scored(
    tmp_path: Path, until
) -> None:
    with Workspace.open(odd_workspace(tmp_path, list(ODD))) as ws:
        first, second = (row.sha256 for row in ws.corpora())
        on_any = ("scored", "scored", "empty", "new", "empty", "scored", "layers", "empty")
        assert {row.name: row.status for row in ws.checkpoints()} == dict(zip(ODD, on_any, strict=True))
        here = ("scored", "empty", "empty", "new", "empty", "scored", "layers", "empty")
        there = ("scored", "scored", "empty", "new", "new", "empty", "new", "new")
        for over, states in ((first, here), (second, there)):
            ws.choose_corpus(over)
            rows = ws.checkpoints_on_corpus()
            assert {row.name: row.status for row in rows} == dict(zip(ODD, states, strict=True))
            assert all(row.scored == (row.status == "scored") for row in rows)
    app = KltuiApp(tmp_path, basis=Basis(over=first))
    async with app.run_test(size=(150, 40)) as pilot:
        await until(pilot, lambda: "8 checkpoints" in text_of(app))
        assert sum("○ empty" in line for line in lines_of(app)) == 4
        for name, words in {
            "here": "empty: no text has a value tokenizer Press s to score it again",
            "import": "empty: no text has a value tokenizer kltui --import",
            "lens": "layers: no final vector Press s to score it kltui --import",
        }.items():
            app.set_cursor(name)
            await until(pilot, lambda name=name: f"name        {name}" in text_of(app))
            said = " ".join(" ".join(line.partition("│")[2].split()) for line in lines_of(app))
            assert not [word for word in words.split() if word not in said]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("both", "import"), "2 with a vector in which no text has a value"),
        (("lens", "new"), "1 with layer vectors only"),
    ],
)
async def test_screens_without_a_usable_vector_say_what_is_stored(
    names: tuple[str, ...], words: str, tmp_path: Path, until
) -> None:
    with Workspace.open(odd_workspace(tmp_path, names)) as ws:
        over = ws.corpora()[0].sha256
        why = "no vector can be used" if "both" in names else "only layer vectors are stored"
        with pytest.raises(KltuiError, match=why):
            ws.map(corpus=over)
    app = KltuiApp(tmp_path, basis=Basis(over=over))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "2 checkpoints" in text_of(app))
        for key in "34567890":
            await pilot.press(key)
            await until(pilot, lambda: f"1   {words}: see why" in text_of(app))


@pytest.mark.parametrize("screen", ["4", "7", "9"])
async def test_a_mark_that_is_not_on_the_map_says_why(folder: Path, until, screen: str) -> None:
    with Workspace.open(folder) as ws:
        first, second = (row.sha256 for row in ws.corpora())
    for basis, name, words in (
        (
            Basis(over=second),
            "three",
            "three is scored on another corpus only: mark another with a, or select",
        ),
        (
            Basis(over=first, exclude=("two",)),
            "two",
            "two is excluded from this map: mark another with a, or",
        ),
    ):
        app = KltuiApp(folder, basis=basis)
        async with app.run_test(size=(200, 60)) as pilot:
            await until(pilot, lambda app=app: app.snapshot.loaded and not app.map_cache.is_empty)
            app.selection.a, app.selection.b = name, "one"
            await pilot.press(screen)

            def said(app: KltuiApp = app) -> str:
                return " ".join(" ".join(part.split()) for line in lines_of(app) for part in line.split("│"))

            wanted = words[:30]
            await until(pilot, lambda said=said, wanted=wanted: wanted in said())


async def test_another_corpus_is_chosen_where_the_one_shown_has_no_usable_vector(
    tmp_path: Path, until
) -> None:
    with Workspace.open(odd_workspace(tmp_path, ["here"])) as ws:
        first, second = (row.sha256 for row in ws.corpora())
    for keys in (["O"], ["f", "ctrl+u", *second[:8], "enter"]):
        app = KltuiApp(tmp_path, basis=Basis(over=first))
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda app=app: app.snapshot.loaded)
            assert app.map_cache.is_empty
            await pilot.press(keys[0])
            await until(pilot, lambda app=app: len(app.screen_stack) > 1)
            if keys == ["O"]:
                at = next(i for i, (name, _) in enumerate(app.screen.list.options) if name == second[:12])
                await pilot.press(*["down"] * at, "enter")
            await pilot.press(*keys[1:])
            await until(pilot, lambda app=app: app.reader.basis.over == second and not app.map_cache.is_empty)


async def test_without_a_vector_the_keys_of_the_map_say_what_to_do(tmp_path: Path, until) -> None:
    Store.write(tmp_path).close()
    app = KltuiApp(tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.snapshot.loaded)
        for key in "Of":
            app.say("")
            await pilot.press(key)
            await until(pilot, lambda: "there is no map yet: score or import vectors first" in text_of(app))


def row_of(ws: Workspace, name: str) -> CheckpointRow:
    return next(row for row in ws.checkpoints_on_corpus() if row.name == name)


def test_why_a_checkpoint_is_off_the_map(tmp_path: Path) -> None:
    with Workspace.open(odd_workspace(tmp_path, list(ODD))) as ws:
        ws.choose_corpus(ws.corpora()[1].sha256)
        good, empty, new = (row_of(ws, name) for name in ("good", "both", "new"))
        assert off_map(good, excluded={"good"}) is EXCLUDED
        assert off_map(good) is OTHER_SETTINGS and off_map(good, saved=True) is NOT_SAVED
        assert "few texts" in off_map(good, left_out={"good": "it has few texts"}).why
        assert off_map(new) is NOT_SCORED and off_map(empty).why == "has no value for any text"
        ws.choose_corpus(ws.corpora()[0].sha256)
        assert off_map(row_of(ws, "lens")).why == "has layer vectors only"
        with pytest.raises(UsageError, match="--pair: lens has layer vectors only") as refused:
            Context(ws, ReportChoice(pair=("good", "lens"))).check_pair()
        assert "Choose another checkpoint, or score it" in str(refused.value)
        with pytest.raises(UsageError, match="--pair nobody: the map has no vector named"):
            Context(ws, ReportChoice(pair=("good", "nobody"))).check_pair()
