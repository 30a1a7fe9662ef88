"""O: which corpus all screens show."""

from __future__ import annotations

import csv
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from screen_text import lines_of, text_of

from kltui.corpus.corpus import Corpus
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis
from kltui.view.export import export
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


async def test_a_checkpoint_without_any_value_is_not_shown_as_never_scored(tmp_path: Path, until) -> None:
    nothing, values = np.full(30, np.nan), np.linspace(-60, -40, 30)
    with closing(Store.write(tmp_path)) as store, store.atomic():
        corpora = [
            store.corpora.add(Corpus(tuple(f"{k} {i}" for i in range(30))), f"{k}.json") for k in (1, 2)
        ]
        for name, on in {"good": (values, values), "here": (nothing, values), "both": (nothing, nothing), "new": (),
                         "import": (nothing,), "retried": (nothing, nothing, values)}.items():  # fmt: skip
            row = store.checkpoints.upsert(Checkpoint(name, LocalSource(tmp_path / name)))
            weights = f"import:{name}" if name == "import" else name
            store.checkpoints.set_weights(row, weights)
            for k, vector in enumerate(on):
                key, counts = {"weights": weights, "k": str(k)}, np.isfinite(vector).astype(np.int32)
                store.vectors.put(row, corpora[k % 2], None, key, "bos=auto", vector, counts, None)
    with Workspace.open(tmp_path) as ws:
        first, second = (row.sha256 for row in ws.corpora())
        assert {row.name: row.status for row in ws.checkpoints()} == {
            "good": "scored", "here": "scored", "both": "empty", "new": "new", "import": "empty", "retried": "scored"
        }  # fmt: skip
        for over, here, imported in ((first, "empty", "empty"), (second, "scored", "new")):
            ws.choose_corpus(over)
            rows = {row.name: row for row in ws.checkpoints_on_corpus()}
            assert (rows["here"].status, rows["import"].status) == (here, imported)
            assert (rows["both"].status, rows["new"].status) == ("empty", "new")
            assert {row.scored for row in rows.values() if row.status == "empty"} == {False}
    app = KltuiApp(tmp_path, basis=Basis(over=first))
    async with app.run_test(size=(150, 40)) as pilot:
        await until(pilot, lambda: "6 checkpoints" in text_of(app))
        assert sum("○ empty" in line for line in lines_of(app)) == 3
        for name, way_out in {"here": "Press s to score it again", "import": "kltui --import"}.items():
            app.set_cursor(name)
            await until(pilot, lambda name=name: f"name        {name}" in text_of(app))
            said = " ".join(" ".join(line.partition("│")[2].split()) for line in lines_of(app))
            assert "empty: no text has a value" in said and "tokenizer" in said and way_out in said
