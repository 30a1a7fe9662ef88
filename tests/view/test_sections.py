"""A workspace with everything: every section is shown, chosen by its reader, true, and traceable to its vectors."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from small_workspace import SETTINGS, STEPS, Builder

from kltui.analysis.interpolation import grid
from kltui.analysis.kl import kl_pair
from kltui.analysis.point import Point
from kltui.analysis.scale import ScaleRow
from kltui.corpus.corpus import Corpus
from kltui.corpus.load import load_corpus
from kltui.errors import UsageError
from kltui.jobs.lineage import edit_lineage
from kltui.store import Store
from kltui.store.saved_maps import Preparation
from kltui.view.report import Report, print_report, report, section_names, write_text
from kltui.view.sections import kl as kl_section
from kltui.view.sections import neighbours, overview, where
from kltui.view.sections.context import Context, ReportChoice, finals, thinned
from kltui.view.sections.layers import layers, model_slots
from kltui.view.sections.neighbours import tree_lines
from kltui.view.sections.section import Plot
from kltui.workspace import Workspace
from kltui.workspace.subsample import draw_texts, text_draws

TYPES = ("gpt_neox", "llama", "mistral", "qwen2", "gemma")
ADDED = "late"


def everything(folder: Path) -> Workspace:
    """Runs, seeds, variants, layers, a fine-tune, models of five types with scores, a grid, an added model."""
    made = Builder(folder)
    ends = {}
    for run, size, seed in (("tiny", "tiny", 1), ("tiny-s2", "tiny", 2), ("small", "small", 1)):
        layers = 2 if run == "tiny" else 0
        ends[run] = made.run(run, STEPS, size=size, seed=seed, type="gpt_neox", layers=layers)[-1]
    made.weights("tiny", STEPS)
    for variant in ("bnb-8bit", "bnb-fp4"):
        moved = ends["tiny"] + 4.0 * made.rng.standard_normal(made.n_texts)
        made.add(made.checkpoint("tiny", STEPS[-1], quantization=variant, type="gpt_neox"), moved)
    tuned = ends["tiny"] + 20.0 * made.rng.standard_normal(made.n_texts)
    made.add(made.checkpoint("tuned", parent=f"tiny@{STEPS[-1]}", type="gpt_neox"), tuned)
    _models(made)
    for a, b in grid((0.0, 0.5, 1.0), (0.0, 1.0)):
        parts = [f"tiny@{STEPS[-1]}", f"tiny-s2@{STEPS[-1]}", f"small@{STEPS[-1]}"]
        tags = ("interpolation", "of=mid", f"a={a!r}", f"b={b!r}", *(f"part={p}" for p in parts))
        mixed = (1 - a - b) * ends["tiny"] + a * ends["tiny-s2"] + b * ends["small"]
        made.add(made.checkpoint(f"mid_a{a:g}_b{b:g}", parent=",".join(parts), tags=tags), mixed)
    ws = made.open()
    _, drawn = draw_texts(ws, ws.map(), 40)
    _add_on(folder, load_corpus(folder / "draws" / f"{drawn.name}.jsonl"), ends["tiny"][list(drawn.index)])
    return ws


def _models(made: Builder) -> None:
    """Twenty models whose score is one direction of their vectors."""
    direction, scores = 8.0 * made.rng.standard_normal(made.n_texts), {}
    for i in range(20):
        skill = float(made.rng.standard_normal())
        vector = made.base_N + skill * direction + made.rng.standard_normal(made.n_texts)
        made.add(made.checkpoint(f"m{i}", type=TYPES[i % 5]), vector)
        scores[f"m{i}"] = {"arc": 50 + 10 * skill, "mmlu": 40 + 8 * skill}
    with made.store.atomic():
        made.store.benchmark_scores.put(scores | {"tuned": {"arc": 50.0}, "elsewhere": {"arc": 1.0}})


def _add_on(folder: Path, corpus: object, loglik_N: np.ndarray) -> None:
    """A model scored on another corpus alone: exactly the last tiny one."""
    from kltui.registry.checkpoint import Checkpoint, LocalSource

    store = Store.write(folder)
    with store.atomic():
        corpus_id = store.corpora.add(corpus, "drawn")  # type: ignore[arg-type]
        cid = store.checkpoints.upsert(Checkpoint(ADDED, LocalSource(folder / "late")))
        store.checkpoints.set_weights(cid, "w:late")
        key = {"weights": "w:late"} | dict(part.split("=") for part in SETTINGS.split())
        n = np.ones(len(loglik_N), np.int32)
        store.vectors.put(cid, corpus_id, None, key, SETTINGS, loglik_N, n, None)
    store.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with everything(tmp_path_factory.mktemp("full") / "work") as ws:
        yield ws


@pytest.fixture(scope="module")
def whole(full: Workspace) -> Report:
    return report(full)


@pytest.fixture(scope="module")
def data(whole: Report) -> dict:
    return json.loads(json.dumps(whole.as_dict()))


def section(ws: Workspace, name: str, **chosen: object) -> dict:
    made = report(ws, [name], choice=ReportChoice(**chosen)).as_dict()  # type: ignore[arg-type]
    return json.loads(json.dumps(made))["sections"][name]


@pytest.mark.parametrize("width", [80, 120])
def test_every_section_is_shown_and_fits(whole: Report, width: int) -> None:
    # a report runs no models: without an exact KL worked out before there is none to show
    assert [s.name for s in whole.sections if s.status != "shown"] == ["exact"]
    stream = io.StringIO()
    write_text(whole, stream, width)
    assert max(cell_len(row) for row in stream.getvalue().split("\n")) <= width


def test_every_number_can_be_traced_to_its_vectors(full: Workspace, data: dict) -> None:
    reported = data["provenance"]
    assert reported["key"]["corpus"] == full.map().record["corpus"] and reported["key"]["dtype"] == "float32"
    rows = full.vectors(layers=True)
    assert {n: v["id"] for n, v in reported["vectors"].items()} == {n: r.id for n, r in rows.items()}
    named = {v for s in data["sections"].values() for v in _names(s)}
    assert named - {ADDED, "elsewhere"} <= reported["vectors"].keys()
    assert len(named) > 50


def _names(value: object) -> Iterator[str]:
    """Every vector named in a section's data."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if (
                key in ("name", "a", "b", "model", "variant", "nearest")
                and isinstance(inner, str)
                and "@" in inner
            ):
                yield inner
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def test_the_pair_is_the_reader_s(full: Workspace) -> None:
    a, b = "tiny@20", "small@40"
    found = section(full, "drivers", pair=(a, b))
    m = full.map()
    want = kl_pair(m.loglik_KN[m.row(a)], m.loglik_KN[m.row(b)], m.text_bytes_N)
    assert (found["a"], found["b"]) == (a, b)
    assert found["kl_bits_per_byte"] == pytest.approx(want.value, rel=1e-12)
    assert sum(d["kl_share"] for d in found["domains"]) == pytest.approx(1.0)
    assert section(full, "where", pair=(a, b))["kl_bits_per_byte"] == pytest.approx(want.value)


def test_where_a_given_kl_lies(full: Workspace) -> None:
    found = section(full, "where", where=0.5)
    assert found["settings_published"] == ["size"]
    assert (found["published_below"], found["published_above"]) == ("4-bit", "within type")
    rows = {r["setting"]: r for r in section(full, "scale")["settings"]}
    held = [s for s, r in rows.items() if r["pairs"] and r["low"] <= 0.5 <= r["high"]]
    assert found["settings_here"] == held
    with pytest.raises(UsageError):
        print_report(
            full,
            ["where"],
            choice=ReportChoice(pair=("tiny@20", "small@40"), where=-1.0),
            stream=io.StringIO(),
        )


def test_a_setting_without_a_published_median_has_no_ratio() -> None:
    row = ScaleRow("GGUF Q4_0", math.nan, 0.002, 0.002, 0.002, 0.002, 0.002, 1, "")
    assert where._row(row, 0.3)[-3:] == ["above", "-", "-"]
    assert where._row(replace(row, n=0), 0.3)[-3:] == ["none here", "-", "-"]
    assert where._row(replace(row, published=0.1), 0.3)[-3:] == ["above", "0.10", "3.0x"]


def test_a_kl_that_is_mostly_lengths_of_texts_is_told(full: Workspace) -> None:
    m = full.map()
    pair = (m.names[0], m.names[-1], m.pair(m.names[0], m.names[-1]))
    d_N = m.loglik_KN[0] - m.loglik_KN[-1]
    share = kl_section.length_share_of(m, pair)
    assert share == pytest.approx(np.corrcoef(d_N, m.text_bytes_N)[0, 1] ** 2)
    assert kl_section.length_words(m, 0.2) == [] == kl_section.length_words(m, math.nan)
    (note,) = kl_section.length_words(m, 0.94)
    assert note.startswith(
        f"94% of the largest KL is due to the lengths of the texts ({m.text_bytes_N.min()} to"
    )


def test_a_run_has_its_own_marker_among_layers(full: Workspace) -> None:
    ctx = Context(full)
    (plot,) = [block for block in layers(ctx).blocks if isinstance(block, Plot)]
    assert [(s.label, s.slot) for s in plot.series] == [(f"tiny@{STEPS[-1]}", ctx.slots["tiny"])]
    assert model_slots(ctx, ["tiny@0", "tiny@1"]) == {"tiny@0": 0, "tiny@1": 1}


def test_numbers_of_layers_are_no_difference_between_vectors() -> None:
    """Models of other sizes have other numbers of layers."""
    assert overview._ways(
        ["native head, 12 packed linear layers", "native head, 14 packed linear layers"]
    ) == ["native head, packed linear layers"]
    assert overview._value(["eager", "native head, 12 packed"]) == "eager or native head, packed"
    assert overview._value("tokenizer " + "ab" * 32) == "tokenizer abababababab"


def test_neighbours_are_nearest(full: Workspace, data: dict) -> None:
    m = full.map()
    kl = m.kl()
    for near in data["sections"]["neighbours"]["nearest"]:
        row, run = m.row(near["name"]), m.points[m.row(near["name"])].run
        same = near["of"] == "same run"
        if near["rank"] == 1:
            others = [
                kl[row, k]
                for k, p in enumerate(m.points)
                if k != row and "+" not in p.name and "mid" not in p.name and (p.run == run) == same
            ]
            if "+" not in near["nearest"] and "mid" not in near["nearest"]:
                assert near["kl_bits_per_byte"] == pytest.approx(min(others))
    tree = data["sections"]["neighbours"]["tree"]
    assert len(tree["merges"]) == len(tree["names"]) - 1


def test_a_variant_is_no_neighbour_of_another_run() -> None:
    points = [
        Point("a@1", "a", 1), Point("a@2", "a", 2), Point("a@2+int8", "a", 2, "int8"), Point("a@1+int8", "a", 1, "int8"),
        Point("b@2+int8", "b", 2, "int8"), Point("b@2", "b", 2), Point("c", "c"),
    ]  # fmt: skip
    order = np.array([3, 1, 0, 4, 5, 6, 2])
    assert neighbours._near(points, 1, order, True) == [
        ("same run", 1, 0), ("its variant", 1, 2), ("other runs", 1, 4), ("other runs", 2, 6),
    ]  # fmt: skip
    assert neighbours._near(points, 2, np.array([1, 3, 0, 5, 6]), True)[:2] == [
        ("same run", 1, 3),
        ("its variant", 1, 1),
    ]


def test_a_tree_as_lines(full: Workspace) -> None:
    m = full.map()
    three = m.select([m.row("tiny@20"), m.row("small@400"), m.row("tiny@40")])
    lines = tree_lines(three.clustering(), three.names)
    assert len(lines) == 5
    assert [line.lstrip("├└│─ ") for line in lines if "@" in line] == [
        three.names[k] for k in three.clustering().order
    ]


def test_benchmark_and_leakage_rest_on_the_scores(data: dict) -> None:
    tasks = {t["task"]: t for t in data["sections"]["benchmark"]["tasks"]}
    assert list(tasks) == ["mean of tasks", "arc", "mmlu"]
    assert (tasks["arc"]["models"], tasks["mmlu"]["models"]) == (21, 20)
    assert tasks["mmlu"]["pearson"] > 0.9
    assert data["sections"]["benchmark"]["published"]["pearson"] == 0.953
    leaks = data["sections"]["leakage"]
    assert leaks["benchmark"] == "mean of tasks" and len(leaks["models"]) == 20


def test_scores_of_too_few_types_say_what_is_needed(builder: Builder) -> None:
    for i in range(3):
        builder.add(builder.checkpoint(f"m{i}", type="llama"), builder.base_N * (1 + i))
    with builder.store.atomic():
        builder.store.benchmark_scores.put({f"m{i}": {"arc": 30.0 + i} for i in range(3)})
    with builder.open() as ws:
        found = section(ws, "benchmark")
        assert found["status"] == "missing" and "3 models of 1 type " in found["message"]
        assert "5 or more types" in found["hint"]
        assert section(ws, "leakage")["status"] == "shown"


def test_a_grid_s_corners_are_its_parts(data: dict) -> None:
    (made,) = data["sections"]["interpolation"]["grids"]
    points = {(p["a"], p["b"]): p for p in made["points"]}
    assert points[0.0, 0.0]["kl_to_base_bits_per_byte"] == 0.0
    assert points[1.0, 0.0]["kl_to_base_bits_per_byte"] > points[0.5, 0.0]["kl_to_base_bits_per_byte"] > 0
    assert made["base"] == f"tiny@{STEPS[-1]}" and len(points) == 6


def test_a_grid_goes_by_the_names_that_its_parts_have_now(builder: Builder) -> None:
    end = builder.run("tiny", STEPS[:2])[-1]
    part = f"tiny@{STEPS[1]}"
    for a in (0.0, 1.0):
        tags = ("interpolation", "of=mid", f"a={a!r}", "b=0.0", f"part={part}", f"part=tiny@{STEPS[0]}")
        place = builder.checkpoint(f"mid_a{a:g}", parent=f"{part},tiny@{STEPS[0]}", tags=tags)
        builder.add(place, end + a * builder.rng.standard_normal(builder.n_texts))
    builder.open().close()
    edit_lineage(builder.folder, [f"tiny@{s}" for s in STEPS[:2]], {"run": "first"})
    with Workspace.open(builder.folder) as ws:
        (made,) = section(ws, "interpolation")["grids"]
    assert made["base"] == f"first@{STEPS[1]}"
    assert made["points"][0]["kl_to_base_bits_per_byte"] == 0.0


def test_points_between_models_are_no_models(full: Workspace, data: dict) -> None:
    shown = full.map()
    assert not any("mid" in shown.names[k] for k in finals(shown))
    assert not any("mid" in r["run"] for r in data["sections"]["loss"]["runs"])
    assert [r["checkpoints"] for r in data["sections"]["overview"]["runs"] if r["run"] == "mid"] == [6]
    pairs = [p for s in data["sections"]["scale"]["settings"] for p in s["names"]]
    assert not any("mid" in name for pair in pairs for name in pair)


def test_an_added_model_lands_on_its_twin(full: Workspace, data: dict) -> None:
    (drawn,) = data["sections"]["added"]["draws"]
    (model,) = drawn["models"]
    assert model["name"] == ADDED
    nearest = min(model["kl"], key=lambda k: k["kl_bits_per_byte"])
    assert nearest["kl_bits_per_byte"] == pytest.approx(0.0, abs=1e-12)
    assert nearest["name"] in (f"tiny@{STEPS[-1]}", "mid_a0_b0")


def test_the_error_of_a_draw_covers_what_the_whole_corpus_says(full: Workspace, data: dict) -> None:
    m = full.map()
    truth = m.kl_row(f"tiny@{STEPS[-1]}")
    rows = [
        k for k in data["sections"]["added"]["draws"][0]["models"][0]["kl"] if k["kl_bits_per_byte"] > 1e-9
    ]
    z = [(k["kl_bits_per_byte"] - truth[m.row(k["name"])]) / k["se_of_draw"] for k in rows]
    assert np.mean(np.abs(z) < 3) > 0.9


def test_draws_are_found_again(full: Workspace) -> None:
    (drawn,) = text_draws(full)
    texts = full.texts(drawn.of)
    corpus = load_corpus(full.path / "draws" / f"{drawn.name}.jsonl")
    assert corpus.sha256 == drawn.corpus
    assert list(corpus.texts) == [texts[i] for i in drawn.index]
    assert sum(drawn.count) == drawn.n_drawn == 40
    np.testing.assert_array_equal(drawn.draw.weight, drawn.weight)


def test_resampling_and_ellipses_are_of_the_right_size(full: Workspace, data: dict) -> None:
    errors = {(e["method"], e["drawn"]): e["relative"] for e in data["sections"]["resampling"]["errors"]}
    for method in ("uniform", "ls", "kl"):
        assert errors[method, 60] < errors[method, 4]
    made = data["sections"]["uncertainty"]
    assert all(e["major"] >= e["minor"] >= 0 for e in made["ellipses"])
    assert 0 < np.median([e["major"] for e in made["ellipses"]]) < made["spread"]


def test_a_noise_floor_stands_with_its_interval_and_its_bound(tmp_path: Path) -> None:
    made = Builder(tmp_path / "work", n_texts=400)
    steps = range(0, 20 * 40, 20)
    walk = np.cumsum(made.rng.normal(0, 5.0, (len(steps), 400)), axis=0) + made.base_N
    noise = made.rng.normal(0, 5.0 / math.sqrt(2), walk.shape)
    for run, vectors in (("walk", walk), ("noisy", walk + noise)):
        for step, vector in zip(steps, vectors, strict=True):
            made.add(made.checkpoint(run, step), vector)
    with made.open() as ws:
        plain, found = (section(ws, "diffusion", noise_corrected=n) for n in (False, True))
        choice = ReportChoice(noise_corrected=True)
        text = io.StringIO()
        print_report(ws, ["diffusion"], width=160, stream=text, choice=choice)
    floors = {f["run"]: f for f in found["noise_floors"]}
    true = 5.0**2 / (2.0 * float(made.corpus.text_bytes.mean()) * math.log(2.0))
    noisy = floors["noisy"]
    assert noisy["low"] < true < noisy["high"] and true < noisy["bound"]
    assert noisy["value"] == noisy["estimate"] and not noisy["why"]
    assert floors["walk"]["value"] == 0 and floors["walk"]["why"]
    assert {s["noise_floor"] for s in found["starts"]} == {0.0, noisy["value"]}
    c = {r["run"]: r["c_q"]["median"] for r in found["runs"]}
    assert c["walk"] == plain["runs"][1]["c_q"]["median"]
    assert plain["runs"][0]["c_q"]["median"] < 0.85 and c["noisy"] == pytest.approx(1.0, abs=0.1)
    assert "subtracted" in text.getvalue() and "nothing" in text.getvalue()


def test_levels_and_noise_are_the_reader_s(full: Workspace) -> None:
    runs = section(full, "stabilisation", level=1e9)["runs"]
    assert {r["step"] for r in runs} == {0} and {r["level"] for r in runs} == {1e9}
    plain, corrected = (section(full, "diffusion", noise_corrected=n) for n in (False, True))
    assert "noise_floors" not in plain
    assert {f["run"] for f in corrected["noise_floors"]} == {r["run"] for r in plain["runs"]}


def test_the_diffusion_states_the_window_that_was_chosen(full: Workspace) -> None:
    made = report(full, ["diffusion"], choice=ReportChoice(window=5))
    (found,) = made.sections
    assert found.data["window"] == 5 and found.notes[0].startswith(
        "median [quartiles] over starts; windows of 5 saved"
    )
    (short,) = report(full, ["diffusion"], choice=ReportChoice(window=500)).sections
    assert "followed by 500 saved checkpoints" in short.message


def test_the_error_of_the_map_counts_texts_that_differ(tmp_path: Path) -> None:
    """A text that occurs twice is drawn as one, so that fewer are drawn than the corpus has."""
    made = Builder(tmp_path / "work", n_texts=20)
    texts = [*made.corpus.texts[:15], *made.corpus.texts[:5]]
    made.corpus = Corpus(tuple(texts), (), {"seed": 0})
    with made.store.atomic():
        made.corpus_id = made.store.corpora.add(made.corpus, "copies.json")
    made.base_N = np.concatenate([made.base_N[:15], made.base_N[:5]])
    made.run("tiny", range(0, 80, 20))
    with made.open() as ws:
        (found,) = report(ws, ["uncertainty"]).sections
    assert found.notes[0].startswith("20 draws of 15 texts")


def test_exclusions_hold_everywhere_and_strangers_are_named(full: Workspace) -> None:
    out = ReportChoice(Preparation("clip", ("tiny-s2", "small@400")))
    made = report(full, ["kl", "loss", "consecutive", "layers"], choice=out).as_dict()
    text = json.dumps(made["sections"])
    assert "tiny-s2@" not in text and "small@400" not in text and "small@380" in text
    assert "excluded" in made["vectors"]  # type: ignore[operator]
    with pytest.raises(UsageError, match="--exclude nobody"):
        print_report(full, choice=ReportChoice(Preparation(exclude=("nobody",))), stream=io.StringIO())


def test_values_that_the_map_does_not_have_are_one_error(
    full: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "values", "pmi")
    out = io.StringIO()
    with pytest.raises(UsageError, match="pmi values are of pairs"):
        print_report(full, choice=ReportChoice(), stream=out)
    assert not out.getvalue()


def test_main_and_seed_runs_prepared_apart(full: Workspace) -> None:
    apart = section(full, "scale", preparation=Preparation("clip", (), True))
    assert set(apart["prepared_apart"]) == {"main", "seed"}
    m = full.map()
    seeds = [k for k, p in enumerate(m.points) if p.run in ("tiny", "tiny-s2") and p.quantization == "none"]
    want = m.select(seeds).preprocessed("clip")
    rows = {r["setting"]: r for r in apart["settings"]}
    a, b = rows["seed"]["names"][0]
    assert rows["seed"]["median"] == pytest.approx(want.pair(a, b).value, rel=1e-12)
    with pytest.raises(UsageError, match="--separate"):
        Context(full, ReportChoice(Preparation("none", (), True)))


def test_large_maps_are_thinned_and_keep_their_ends(full: Workspace) -> None:
    m = full.map()
    rows = thinned(m, 40)
    assert len(rows) <= 42 and set(finals(m)) <= set(rows) and rows == sorted(set(rows))
    assert thinned(m, 10_000) == list(range(len(m)))


def test_a_saved_map_is_itself_again_and_not_with_other_vectors(builder: Builder) -> None:
    builder.run("tiny", (0, 10, 20))
    with builder.open() as ws:
        made = ws.save_map("main", Preparation("clip", ("tiny@0",)))
    with Workspace.open(builder.folder) as ws:
        again = ws.saved_map("main")
        assert again.names == made.names == ["tiny@10", "tiny@20"]
        np.testing.assert_array_equal(again.loglik_KN, made.loglik_KN)
        reported = report(ws, ["overview", "kl"], choice=ReportChoice(saved="main")).as_dict()
        assert reported["preprocess"] == "clip" and reported["provenance"]["saved_map"] == "main"  # type: ignore[index]
        with pytest.raises(UsageError) as caught:
            ws.saved_map("mian")
        assert "Saved maps: main" in caught.value.hint
    builder.store = Store.write(builder.folder)
    builder.add(builder.checkpoint("later", 5), builder.base_N)
    row = next(r for r in builder.store.checkpoints.all() if r.name == "tiny@20")
    with builder.store.atomic():
        builder.store.checkpoints.set_weights(row.id, "others")
    changed = replace(row.checkpoint)
    vector = builder.base_N * 2
    with builder.store.atomic():
        key = {"weights": "others", "layer": "None", "quantization": "none"}
        key |= dict(part.split("=") for part in SETTINGS.split())
        cid = builder.store.checkpoints.upsert(changed)
        builder.store.vectors.put(
            cid, builder.corpus_id, None, key, SETTINGS, vector, np.ones(len(vector), np.int32), None
        )
    with builder.open() as ws, pytest.raises(UsageError) as refused:
        ws.saved_map("main")
    assert "weights was w:tiny@20, is others" in refused.value.message


def test_a_saved_map_whose_vectors_are_gone_says_so(builder: Builder) -> None:
    builder.run("tiny", (0, 10))
    with builder.open() as ws:
        ws.save_map("main")
    builder.store = Store.write(builder.folder)
    with builder.store.atomic():
        builder.store.checkpoints.set_weights(1, "unscored")
    with builder.open() as ws, pytest.raises(UsageError, match="1 of them is missing, such as tiny@0"):
        ws.saved_map("main")


LATE, WHOLE = ["tiny@3000"], ["tiny@2000", "tiny@3000"]


@pytest.mark.parametrize(
    ("preparation", "edits", "names"),
    [
        (Preparation(), [(LATE, {"step": "15"})], ["small@4000", "tiny@15", "tiny@2000"]),
        (Preparation("clip"), [(LATE, {"run": "z"}), (["z@3000"], {"run": "y"})],
         ["small@4000", "tiny@2000", "y@3000"]),
        (Preparation("clip", ("tiny",)), [(WHOLE, {"run": "z"})], ["small@4000"]),
        (Preparation("none", ("tiny@3000",)), [(WHOLE, {"run": "z"})], ["small@4000", "z@2000"]),
        (Preparation("none", ("tiny@3000",)), [(["small@4000"], {"run": "z"})], ["tiny@2000", "z@4000"]),
        (Preparation("pretraining"), [(WHOLE, {"run": "z"})], ["small@4000", "z@2000", "z@3000"]),
        (Preparation("pretraining"), [(WHOLE, {"seed": "3"})], ["small@4000", "tiny@2000", "tiny@3000"]),
        # What is left out, or which texts are, would not be the same any more.
        (Preparation("none", ("tiny",)), [(LATE, {"run": "z"})], None),
        (Preparation("none", ("tiny",)), [(["small@4000"], {"run": "tiny"})], None),
        (Preparation("none", ("z",)), [(["small@4000"], {"run": "z"})], None),
        (Preparation("none", ("tiny@2000",)), [(["tiny@2000"], {"step": "5"})], None),
        (Preparation("pretraining"), [(["small@4000"], {"run": "tiny"})], None),
        (Preparation("pretraining"), [(LATE, {"step": "1000"})], None),
    ],
)  # fmt: skip
def test_a_saved_map_follows_its_checkpoints_to_new_names_or_refuses(
    builder: Builder, preparation: Preparation, edits: list, names: list[str] | None
) -> None:
    builder.run("tiny", (2000, 3000))
    builder.run("small", (4000,))
    with builder.open() as ws:
        made = ws.save_map("main", preparation)
        ws.save_map("later")
    for edit in edits:
        edit_lineage(builder.folder, *edit)
    with Workspace.open(builder.folder) as ws:
        assert [m.name for m in ws.saved_maps()] == ["main", "later"]
        if names is None:
            with pytest.raises(UsageError, match=r"has 3 vectors, but \d of them (is|are) missing"):
                ws.saved_map("main")
            return
        again = ws.saved_map("main")
    assert again.names == names
    assert sorted(again.loglik_KN.tolist()) == sorted(made.loglik_KN.tolist())


def test_sections_of_the_catalogue_are_all_tried_here(data: dict) -> None:
    assert list(data["sections"]) == section_names()
    assert not math.isnan(data["sections"]["overview"]["noise_floor_bits_per_byte"])


def test_keys_that_differ_on_one_map_are_told(builder: Builder) -> None:
    builder.run("tiny", (0, 10))
    corpus = builder.corpus_id
    with builder.store.atomic():
        cid = builder.store.checkpoints.upsert(builder.checkpoint("newer"))
        builder.store.checkpoints.set_weights(cid, "w")
        key = {"weights": "w", "torch": "9.9"} | dict(part.split("=") for part in SETTINGS.split())
        values, n = builder.base_N * 1.1, np.ones(builder.n_texts, np.int32)
        builder.store.vectors.put(cid, corpus, None, key, SETTINGS, values, n, None)
    with builder.open() as ws:
        notes = section(ws, "overview")["notes"]
    assert any("differ in torch (none or 9.9)" in note for note in notes)
    assert not any("differ in weights" in note or "differ in dtype" in note for note in notes)
