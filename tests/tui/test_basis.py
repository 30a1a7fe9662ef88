"""f and the command line: what the screens' map is made of."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from screen_text import lines_of, text_of

from kltui.cli import main
from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError
from kltui.figures.curves import curves as curves_figure
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.saved_maps import Preparation
from kltui.tui import main as tui_app
from kltui.tui.app import KltuiApp
from kltui.tui.basis import Basis, basis_of, left_out
from kltui.tui.curve_source import CurveSource
from kltui.tui.data import SnapshotReader
from kltui.tui.dialogs.basis_form import meant, offers_of
from kltui.tui.dialogs.prompts import ChoiceDialog
from kltui.tui.map_cache import MapCache
from kltui.tui.number_format import loss_of
from kltui.tui.ui_state import Memory
from kltui.view.report import print_report
from kltui.view.sections.context import Context, ReportChoice
from kltui.view.sections.loss import loss as loss_section
from kltui.workspace import Workspace

STEPS = (0, 1000, 2000, 3000, 4000, 5000)
FLOAT32, FLOAT16 = "bos=auto dtype=float32 overlong=error", "bos=auto dtype=float16 overlong=error"
SIZE = (150, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of six checkpoints and one model, in float32 over 80 texts; the first run in float16 too; a saved map."""
    made = tmp_path_factory.mktemp("basis") / "ws"
    rng, store = np.random.default_rng(5), Store.write(made)
    with store.atomic():
        texts = tuple(f"text {i} {'x' * int(n)}" for i, n in enumerate(rng.integers(200, 900, 80)))
        corpus = store.corpora.add(Corpus(texts, tuple("ab"[i % 2] for i in range(80))), "texts.json")
        walk = {run: np.full(80, -900.0) for run in ("one", "two", "lone")}
        for run, step in [*((r, s) for r in ("one", "two") for s in STEPS), ("lone", None)]:
            walk[run] = walk[run] + rng.normal(15, 30, 80) - 700 * (rng.random(80) < 0.04)
            row = store.checkpoints.upsert(Checkpoint(run, LocalSource(Path("/m") / run), step, size=run))
            name = f"{run}@{step}"
            store.checkpoints.set_weights(row, name)
            for settings in (FLOAT32, FLOAT16) if run == "one" else (FLOAT32,):
                values = walk[run] + (0.5 if settings == FLOAT16 else 0.0)
                key = {"weights": name} | dict(p.split("=") for p in settings.split())
                store.vectors.put(row, corpus, None, key, settings, values, np.full(80, 9, np.int32), None)
            lens = {"weights": name, "layer": "0"} | dict(p.split("=") for p in FLOAT32.split())
            if run == "one":
                noisy = walk[run] - 300 + rng.normal(0, 50, 80)
                store.vectors.put(row, corpus, 0, lens, FLOAT32, noisy, np.full(80, 9, np.int32), None)
    store.close()
    with Workspace.open(made) as ws:
        ws.save_map("kept", Preparation("clip", ("lone",)))
    return made


def started(app: KltuiApp) -> bool:
    return bool(app.facts.corpus)


async def fill_in(pilot, until, **lines: str) -> None:
    """Opens the form and writes these lines; the names of lines have _ for a space."""
    app = pilot.app
    await pilot.press("f")
    await until(pilot, lambda: "Map settings" in text_of(app))
    form = app.screen.lines
    for at, field in enumerate(form.fields):
        if (text := lines.get(field.name.replace(" ", "_"))) is not None:
            form.go(at)
            form.line.value = text
    await pilot.press("enter")


def made_of(app: KltuiApp, basis: Basis) -> bool:
    """Whether that is shown, and nothing is under way any more."""
    return app.reader.basis == basis and not app.under_way


async def test_the_map_lists_no_run_that_is_excluded(folder: Path, until) -> None:
    app = KltuiApp(folder, basis=Basis(exclude=("two", "one@0")))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None)
        lines = app.view.legend.all_lines()
        said = ["".join(text for text, _ in line).split() for line in lines]
        assert [words[-2:] for words in said] == [["lone", "1"], ["one", "5"], ["map", "(f)"]]


# -- what it means ------------------------------------------------------------------------------


def test_every_basis_is_the_map_that_its_options_ask_for(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        whole = ws.map()
        for basis, truth in (
            (Basis(), whole),
            (Basis(mode="clip"), whole.preprocessed("clip")),
            (Basis(exclude=("two", "one@0")), whole.preprocessed("none", exclude=("two", "one@0"))),
            (
                Basis(mode="pretraining", exclude=("step<3k",)),
                whole.preprocessed(
                    "pretraining", exclude=[f"{r}@{s}" for r in ("one", "two") for s in STEPS[:3]]
                ),
            ),
            (Basis(saved="kept"), ws.saved_map("kept")),
            (Basis(settings=FLOAT16), ws.map(settings=FLOAT16)),
        ):
            basis.apply(ws)
            found = basis.map_of(ws)
            assert found.names == truth.names and np.array_equal(found.loglik_KN, truth.loglik_KN), basis
            Basis().apply(ws)


PREPARED = (
    Basis(),
    Basis(mode="pretraining"),
    Basis(mode="clip", exclude=("two",)),
    Basis(saved="kept"),
)


@pytest.mark.parametrize("basis", PREPARED)
async def test_losses_are_of_the_vectors_as_they_were_scored(folder: Path, basis: Basis) -> None:
    """On Curves, in its figure and in the report, however the map of the KLs is prepared."""
    with Workspace.open(folder) as ws:
        ctx = Context(ws, basis.choice(ws))
        (panel,) = (p for p in curves_figure(ctx).panels if p.title == "Loss")
        said = {d["name"]: (d["bits_per_byte"], d["se"]) for d in loss_section(ctx).data["checkpoints"]}
    reader = SnapshotReader(folder)
    reader.basis = basis
    cache = MapCache(reader)
    try:
        content = await CurveSource(cache, reader).loss()
    finally:
        cache.close()
        reader.close()
    drawn = {n: (v, e) for c in content.curves for n, v, e in zip(c.names, c.values, c.errors, strict=True)}
    assert drawn and all(drawn[name] == said[name] for name in drawn)
    assert [layer.y.tolist() for layer in panel.layers] == [list(c.values) for c in content.curves]


async def test_the_map_s_read_out_has_the_loss_as_it_was_scored(folder: Path, until) -> None:
    app = KltuiApp(folder, basis=Basis(mode="clip"))
    with Workspace.open(folder) as ws:
        clipped, raw = ws.map(preprocess="clip"), ws.map()
    name = next(n for n in raw.names if loss_of(raw, raw.row(n)) != loss_of(clipped, clipped.row(n)))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None)
        app.set_cursor(name)
        await until(pilot, lambda: f"loss {loss_of(raw, raw.row(name))} bits/byte" in text_of(app))


def test_runs_have_the_same_colour_in_reports_and_on_screens(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        slots, numbers = Context(ws).slots, ws.run_numbers()
        assert numbers and {run: slots[run] for run in numbers} == numbers
        some = Context(ws, ReportChoice(Preparation("none", ("one",)))).slots
    assert some == {run: numbers[run] for run in ("two", "lone")}  # whatever is left out
    assert len(set(slots.values())) == len(slots)


def test_what_is_left_out_is_named_or_passes_a_filter(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        rows, names = ws.checkpoints(), ws.map().names
    assert left_out(("one", "two@0"), rows, names) == ("one", "two@0")
    assert left_out(("run:t* step>4k",), rows, names) == ("two@5000",)
    for part in ("nothing", "step>1M"):
        with pytest.raises(KltuiError, match="matches no run or checkpoint"):
            left_out((part,), rows, names)


def test_a_name_with_a_comma_is_excluded_in_quotes(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        offers = offers_of(
            ws, [replace(r, checkpoint=replace(r.checkpoint, run="a,b")) for r in ws.checkpoints()]
        )
    answers = dict.fromkeys(("corpus", "scoring", "preprocessing", "apart", "saved map", "exclude"), "")
    basis = meant({**answers, "exclude": '"a,b", step<3 , loss<99'}, offers)
    assert basis.exclude == ('"a,b"', "step<3", "loss<99")
    assert left_out(basis.exclude[:1], offers.rows, []) == ("a,b",)
    assert meant({**answers, "exclude": "a,b"}, offers).exclude == ("a", "b")


def test_a_saved_map_is_named_by_its_beginning_if_that_is_its_own(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        offers = replace(offers_of(ws, ws.checkpoints()), maps=("mine", "mine too", "x" * 80))
    names = {"mine": "mine", "mine t": "mine too", "xx": "x" * 80}
    assert {text: offers.saved_map(text) for text in names} == names
    for text in ("m", "y"):
        with pytest.raises(KltuiError, match=f"saved map: no map '{text}'"):
            offers.saved_map(text)


def test_a_kept_basis_is_read_again_and_a_foreign_one_is_the_whole_map() -> None:
    basis = Basis("12ab", FLOAT16, "clip", ("a", "step<3"), True)
    assert basis_of(json.loads(json.dumps(basis.as_record()))) == basis
    assert Basis().as_record() == {} and basis_of(None) == basis_of({"mode": 3, "exclude": "x"}) == Basis()


# -- on screen ----------------------------------------------------------------------------------


async def test_the_form_changes_what_every_screen_draws(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        assert "as scored │ none excluded │ float32" in text_of(app)
        await pilot.press("6")
        await until(pilot, lambda: "13 checkpoints" in text_of(app))
        await fill_in(pilot, until, preprocessing="clip", exclude="two, step<1000")
        basis = Basis(mode="clip", exclude=("two", "step<1000"))
        await until(pilot, lambda: made_of(app, basis) and "6 checkpoints" in text_of(app))
        await until(pilot, lambda: "clip │ 7 of 13 excluded │ float32" in text_of(app))
        with Workspace.open(folder) as ws:
            truth = ws.map().preprocessed("clip", exclude=("two", "one@0"))
        assert np.array_equal(app.view.heat.kl_KK, truth.kl(), equal_nan=True)
        app.selection.a, app.selection.b = "one@1000", "lone"
        await pilot.press("7")
        kl = truth.pair("one@1000", "lone")
        await until(pilot, lambda: app.view.texts.drivers is not None)
        assert app.view.texts.drivers.kl == kl
        await pilot.press("9")
        await until(pilot, lambda: app.view.table.rows)
        assert [r.median for r in app.view.table.rows] == pytest.approx(
            [r.median for r in truth.scale()], nan_ok=True
        )
        await pilot.press("8")
        await until(pilot, lambda: "layer vectors as scored" in text_of(app))
        await pilot.press("3")
        await until(pilot, lambda: "6 of 13 checkpoints" in text_of(app))


async def test_the_report_and_what_is_written_follow(folder: Path, until) -> None:
    basis = Basis(mode="clip", exclude=("two",))
    app = KltuiApp(folder, basis=basis, color=False)
    with Workspace.open(folder) as ws:
        out, choice = io.StringIO(), ReportChoice(Preparation("clip", ("two",)))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await pilot.press("0", "j", "j")
        await until(pilot, lambda: "kl" in app.view.sections and not app.view.said)
        with Workspace.open(folder) as ws:
            print_report(
                ws, ["kl"], False, app.view.text.body_width, out, choice=choice, notices=io.StringIO()
            )
        assert (
            "".join(f"{''.join(t for t, _ in line)}\n" for line in app.view.text.all_lines())
            == out.getvalue()
        )
        await fill_in(pilot, until, exclude="lone")
        await until(pilot, lambda: app.view.state_of("kl") == "stale")


async def test_texts_keep_their_numbers_where_some_are_removed(folder: Path, until) -> None:
    app = KltuiApp(folder, basis=Basis(mode="pretraining"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        app.selection.a, app.selection.b = "one@5000", "two@5000"
        await pilot.press("7")
        await until(pilot, lambda: app.view.texts.order)
        table = app.view.texts
        with Workspace.open(folder) as ws:
            texts, truth = ws.texts(), ws.map().preprocessed("pretraining")
        assert len(truth.text_index) < len(texts) and table.numbers == truth.text_index.tolist()
        assert table.texts == [texts[s] for s in truth.text_index]
        first = table.order[0]
        await until(pilot, lambda: f"text {table.numbers[first]}, " in text_of(app))
        assert texts[table.numbers[first]].startswith(f"text {table.numbers[first]} ")


async def test_a_map_is_kept_and_loaded_by_the_form(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await fill_in(pilot, until, exclude="two", save_as="mine")
        await until(pilot, lambda: "saved 7 vectors over 80 texts as map mine" in text_of(app))
        with Workspace.open(folder) as ws:
            assert ws.saved_map("mine").names == ws.map().preprocessed("none", exclude=("two",)).names
        version = app.map_cache.version
        await fill_in(pilot, until, save_as="again")
        await until(pilot, lambda: "as map again" in text_of(app))
        assert app.map_cache.version == version  # the same map is not read again
        await fill_in(pilot, until, exclude="lone", saved_map="kept")
        await until(pilot, lambda: "a saved map has its own corpus" in text_of(app))
        await pilot.press("escape")
        await fill_in(pilot, until, saved_map="kept")  # replaces the lines above it, which are as they were
        await until(pilot, lambda: "map kept: clip │ 1 of 13 excluded" in text_of(app))
        assert (await app.map_cache.map()).names == ws_names(folder, "kept")


@pytest.mark.parametrize(("key", "n"), [("n", 7), ("y", 13)])
async def test_a_saved_map_is_replaced_only_after_a_question(folder: Path, until, key: str, n: int) -> None:
    with Workspace.open(folder) as ws:
        ws.save_map("mine", Preparation("none", ("two",)))
    app = KltuiApp(folder)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await fill_in(pilot, until, save_as="mine")
        await until(pilot, lambda: "Replace the saved map mine?" in text_of(app))
        await pilot.press(key)
        await until(pilot, lambda: "Replace the saved map" not in text_of(app) and not app.under_way)
        await until(pilot, lambda: key == "n" or "13 vectors" in text_of(app))
        assert len(ws_names(folder, "mine")) == n


@pytest.mark.parametrize(("width", "shown"), [(60, False), (80, True), (140, True)])
async def test_the_bar_cuts_no_word_that_would_mislead(folder: Path, until, width: int, shown: bool) -> None:
    with Workspace.open(folder) as ws:
        ws.save_map("long" * 12, Preparation("clip", ("two",)))
    app = KltuiApp(folder, basis=Basis(saved="long" * 12))
    async with app.run_test(size=(width, 24)) as pilot:
        await until(pilot, lambda: started(app))
        (line,) = (line for line in lines_of(app)[:3] if "map long" in line)
        parts = [part.strip() for part in line.split("│")]
        assert "6 of 13 excluded" in parts and ("float32" in parts) == shown
        facts = app.facts
        whole = (facts.corpus, facts.preparation, facts.excluded, facts.dtype)
        assert all(part in whole or part.endswith("…") for part in parts)


@pytest.mark.parametrize(("basis", "offers"), [(Basis(), True), (Basis(exclude=("two",)), False)])
async def test_no_pair_with_an_excluded_checkpoint_is_suggested(
    folder: Path, until, basis: Basis, offers: bool
) -> None:
    app = KltuiApp(folder, basis=basis)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await app.map_cache.map()
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog))
        words = [words for _, words in app.screen.list.options]
        assert any("one@" in said for said in words) and any("two@" in said for said in words) == offers


def test_several_names_in_one_exclusion_are_explained(folder: Path) -> None:
    with Workspace.open(folder) as ws:
        with pytest.raises(KltuiError) as refused:
            left_out(("one,two",), ws.checkpoints(), ws.map().names)
        assert "Each name has an --exclude of its own" in str(refused.value)
        with pytest.raises(KltuiError) as refused:
            _ = Context(ws, ReportChoice(Preparation("none", ("one,two",)))).excluded
        assert "Each name has an --exclude of its own" in str(refused.value)
        with pytest.raises(KltuiError) as refused:
            left_out(("three",), ws.checkpoints(), ws.map().names)
        assert "of its own" not in str(refused.value)


def ws_names(folder: Path, name: str) -> list[str]:
    with Workspace.open(folder) as ws:
        return list(ws.saved_map(name).names)


async def test_scoring_settings_are_chosen_by_a_word(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await fill_in(pilot, until, scoring="bos=auto")
        await until(pilot, lambda: "2 of 2 settings of this corpus" in text_of(app))
        await pilot.press("escape")
        await fill_in(pilot, until, scoring="float16")
        await until(pilot, lambda: made_of(app, Basis(settings=FLOAT16)) and "│ float16" in text_of(app))
        with Workspace.open(folder) as ws:
            assert np.array_equal((await app.map_cache.map()).loglik_KN, ws.map(settings=FLOAT16).loglik_KN)


async def test_what_no_map_can_be_made_of_changes_nothing(folder: Path, until) -> None:
    app = KltuiApp(folder)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        for line, text, said in (
            ("preprocessing", "clap", "'clap' is not one of none, clip, pretraining"),
            ("exclude", "nobody", "'nobody' matches no run or checkpoint"),
            ("apart", "yes", "apart: choose the preprocessing"),
            ("saved_map", "lost", "no map 'lost'; there are: kept"),
            ("corpus", "zz", "corpus: 0 of 1 match"),
        ):
            await fill_in(pilot, until, **{line: text})
            await until(pilot, lambda said=said: said in text_of(app))
            await pilot.press("escape")
        await fill_in(pilot, until, exclude="one, two, lone")
        await until(pilot, lambda: app.message and not app.under_way)
        assert app.reader.basis == Basis() and len(await app.map_cache.map()) == 13


async def test_it_is_kept_between_sessions_and_let_go_where_it_fits_no_more(
    folder: Path, until, tmp_path: Path
) -> None:
    memory = Memory(tmp_path / "view.json")
    app = KltuiApp(folder, memory=memory)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: started(app))
        await fill_in(pilot, until, preprocessing="clip", exclude="step<1000")
        await until(pilot, lambda: made_of(app, Basis(mode="clip", exclude=("step<1000",))))
        await pilot.press("q")
    again = KltuiApp(folder, memory=memory)
    async with again.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "clip │ 2 of 13 excluded" in text_of(again))
    asked = KltuiApp(folder, memory=memory, basis=Basis(exclude=("lone",)))
    async with asked.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "as scored │ 1 of 13 excluded" in text_of(asked))
    memory.save(folder, {"basis": Basis(exclude=("gone",)).as_record()})
    lost = KltuiApp(folder, memory=memory)
    async with lost.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "so the whole map is shown: 'gone' matches no run" in text_of(lost))
        assert "as scored │ none excluded" in text_of(lost)


# -- from the command line ----------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path | None, Basis | None]]:
    """What the interface was opened on and so, instead of opening it."""
    found: list[tuple[Path | None, Basis | None]] = []

    def run_tui(path: Path | None, *, basis: Basis | None, **_: object) -> int:
        found.append((path, basis))
        return 0

    monkeypatch.setattr(tui_app, "run_tui", run_tui)
    return found


@pytest.mark.parametrize(
    ("options", "basis"),
    [
        ([], None),
        (["--map", "kept"], Basis(saved="kept")),
        (["--preprocess", "none"], Basis()),  # not as it was left
        (["--preprocess", "clip", "--separate"], Basis(mode="clip", separate=True)),
        (["--exclude", "two", "--exclude", "one@0"], Basis(exclude=("two", "one@0"))),
    ],
)
def test_options_open_the_interface_so(folder: Path, opened, options: list[str], basis: Basis | None) -> None:
    assert main([*options, str(folder)]) == 0 and opened == [(folder, basis)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--map", "lost"], "no map 'lost' in this workspace"),
        (["--map", "kept", "--preprocess", "clip"], "a saved map has its own corpus and preprocessing"),
        (["--exclude", "nobody"], "'nobody' matches no run or checkpoint"),
        (["--over", "zz"], "no corpus matches 'zz'"),
        (["--separate"], "separate runs need a preprocessing"),
        (["--save-map", "x"], "--save-map has no effect with the terminal interface"),
    ],
)
def test_options_that_fit_nothing_are_refused(
    folder: Path, opened, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main([*options, str(folder)]) == 2 and not opened
    assert said in capsys.readouterr().err
