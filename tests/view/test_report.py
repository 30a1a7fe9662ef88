"""Reports of real workspaces: every section, both widths, JSON, awkward lineages, hostile names."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.table import Table
from small_workspace import STEPS, Builder

from kltui.analysis.kl import kl_pair
from kltui.analysis.loss import bits_per_byte
from kltui.analysis.stability import stabilisation as settle
from kltui.errors import KltuiError, UsageError
from kltui.view.report import (
    Report,
    _Buffer,
    _console,
    headline,
    print_report,
    report,
    section_lines,
    section_names,
    write_json,
    write_text,
)
from kltui.view.section_words import USED_BY
from kltui.view.sections import catalogue
from kltui.view.sections.context import ReportChoice
from kltui.view.sections.section import Section
from kltui.view.sections.stabilisation import settled_words
from kltui.view.tables import table, words
from kltui.workspace import Workspace

# What this suite lacks: `test_sections` has a workspace with everything.
NEEDS_MORE = {"interpolation", "added", "benchmark", "leakage", "exact", "corpora"}
QUICK = ["overview", "loss", "kl", "consecutive", "scale", "diffusion", "layers", "quantisation"]
QUICK += ["stabilisation", "drivers"]


def printed(ws: Workspace, sections: list[str] | None, width: int = 80, **options: object) -> str:
    stream = io.StringIO()
    print_report(ws, sections, False, width, stream, notices=io.StringIO(), **options)  # type: ignore[arg-type]
    return stream.getvalue()


def data_of(ws: Workspace, sections: list[str] | None, **options: object) -> dict:
    stream = io.StringIO()
    print_report(ws, sections, True, None, stream, notices=io.StringIO(), **options)  # type: ignore[arg-type]
    return json.loads(stream.getvalue())


@pytest.fixture(scope="module")
def whole(suite: Workspace) -> Report:
    return report(suite)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pair", (f"tiny@{STEPS[-1]}", f"small@{STEPS[2]}")),
        ("pair", ("tiny@0", "nobody")),
        ("where", 0.2),
        ("level", 0.3),
        ("noise_corrected", True),
    ],
)
def test_only_the_sections_named_so_use_a_choice(
    suite: Workspace, whole: Report, field: str, value: object
) -> None:
    other = report(suite, choice=ReportChoice(**{field: value}))  # type: ignore[arg-type]
    changed = {
        one.name
        for one, two in zip(whole.sections, other.sections, strict=True)
        if section_lines(one, 100, color=False) != section_lines(two, 100, color=False)
        or whole.as_dict()["sections"][one.name] != other.as_dict()["sections"][one.name]
    }
    assert changed and changed <= USED_BY[field]
    if field == "pair" and value[1] != "nobody":  # type: ignore[index]
        shown = [s.name for s in other.sections if s.status == "shown" and s.name in USED_BY["pair"]]
        assert {"where", "drivers", "directions", "layers"} <= set(shown)


@pytest.mark.parametrize("width", [80, 120])
def test_every_section_is_shown_and_fits(whole: Report, width: int) -> None:
    stream = io.StringIO()
    write_text(whole, stream, width)
    text = stream.getvalue()
    assert max(cell_len(row) for row in text.split("\n")) <= width
    assert "error:" not in text and text.count("not here:") == len(NEEDS_MORE) and "\x1b" not in text
    for title in (
        "Workspace",
        "Loss",
        "KL between final",
        "KL along",
        "The scale",
        "Trajectories",
        "Diffusion",
    ):
        assert f"{title}" in text
    assert "raw vectors of final layers" in text and "noise floor of float32" in text


def test_json_has_the_same_sections_and_only_json_numbers(suite: Workspace, whole: Report) -> None:
    stream = io.StringIO()
    write_json(whole, stream)
    made = json.loads(stream.getvalue())
    assert list(made["sections"]) == section_names()
    missing = {name for name, s in made["sections"].items() if s["status"] != "shown"}
    assert missing == NEEDS_MORE
    assert made["vectors"].startswith("raw vectors of final layers; 60 texts")
    points = made["sections"]["trajectories"]["points"]
    assert len(points) == len(suite.map()) and all(len(p["tsne"]) == 2 and len(p["mds"]) == 3 for p in points)
    facts = made["sections"]["trajectories"]
    assert facts["pictures"]["tsne"]["perplexity"] == 30 and facts["pictures"]["tsne"]["divergence"] > 0
    assert 0 < facts["mds_stress_3d"] < facts["mds_stress_2d"] == suite.map().picture("mds", 2).stress


def test_numbers_are_those_of_the_vectors(suite: Workspace) -> None:
    sections = data_of(suite, ["loss", "kl", "consecutive", "quantisation", "drivers"])["sections"]
    shown = suite.map()
    rows = {name: shown.loglik_KN[k] for k, name in enumerate(shown.names)}
    for pair in sections["kl"]["pairs"]:
        truth = kl_pair(rows[pair["a"]], rows[pair["b"]], shown.text_bytes_N)
        assert pair["kl_bits_per_byte"] == pytest.approx(truth.value) and pair["se"] == pytest.approx(
            truth.se
        )
    assert {p["a"] for p in sections["kl"]["pairs"]} | {p["b"] for p in sections["kl"]["pairs"]} == {
        *(f"{run}@{STEPS[-1]}" for run in ("tiny", "tiny-s2", "tiny-s3", "small")),
        "tuned",
        "other",
    }
    for one in sections["loss"]["checkpoints"]:
        nats = -rows[one["name"]].sum() / shown.text_bytes_N.sum()
        assert one["nats_per_byte"] == pytest.approx(nats)
    runs = {r["run"]: r for r in sections["loss"]["runs"]}
    assert runs["tiny"]["falls"] and runs["tiny"]["first"] > runs["tiny"]["last"]
    # texts of one length: the error of the mean of the differences, text by text
    gained = rows[f"tiny@{STEPS[-1]}"] - rows[f"tiny@{STEPS[0]}"]
    assert runs["tiny"]["falls_by"] == pytest.approx(runs["tiny"]["first"] - runs["tiny"]["last"])
    if len(set(shown.text_bytes_N)) == 1:
        se = gained.std(ddof=1) / math.sqrt(len(gained)) / shown.text_bytes_N[0] / math.log(2)
        assert runs["tiny"]["falls_by_se"] == pytest.approx(se)
    assert 0 < runs["tiny"]["falls_by_se"] < runs["tiny"]["falls_by"]
    assert len(sections["consecutive"]["pairs"]) == 4 * (len(STEPS) - 1)
    d = rows[f"tiny@{STEPS[-1]}+bnb-8bit"] - rows[f"tiny@{STEPS[-1]}"]
    e = rows[f"small@{STEPS[-1]}+bnb-8bit"] - rows[f"small@{STEPS[-1]}"]
    assert sections["quantisation"]["cosines"][0]["cosine"] == pytest.approx(np.corrcoef(d, e)[0, 1])
    assert sum(x["kl_share"] for x in sections["drivers"]["domains"]) == pytest.approx(1)


def test_diffusion_of_a_gaussian_walk_and_of_given_weights(suite: Workspace) -> None:
    section = data_of(suite, ["diffusion"])["sections"]["diffusion"]
    for run in section["runs"]:
        assert run["c_w"]["median"] == pytest.approx(1.0) and run["r2_w"] == pytest.approx(1.0)
        assert 0.8 < run["c_q"]["median"] < 1.3
        assert run["dimension_q"] == pytest.approx(2 / run["c_q"]["median"])
    assert {s["start"] for s in section["starts"]} == set(range(20, 220, 20))


def test_an_error_of_the_loss_counts_each_text_once_and_is_unknown_below_three() -> None:
    rng = np.random.default_rng(5)
    nats, size = -rng.uniform(50, 900, 40), rng.integers(100, 900, 40)
    once = bits_per_byte(nats, size)
    twice = bits_per_byte(np.tile(nats, 2), np.tile(size, 2), np.tile(np.arange(40), 2))
    assert twice == pytest.approx(once)
    assert math.isnan(bits_per_byte(nats[:2], size[:2])[1])
    assert math.isnan(bits_per_byte(np.repeat(nats[:1], 9), np.repeat(size[:1], 9))[1])
    assert math.isnan(bits_per_byte(np.tile(nats[:2], 9), np.tile(size[:2], 9), np.tile([0, 1], 9))[1])


def test_bits_per_byte_leaves_unscored_texts_out_of_both_sums() -> None:
    value, se = bits_per_byte(np.array([-8.0, np.nan, -16.0]), np.array([8, 1000, 16]))
    assert value == pytest.approx(1 / math.log(2)) and math.isnan(se)  # two texts tell no error
    assert all(math.isnan(x) for x in bits_per_byte(np.array([np.nan]), np.array([3])))


def test_bits_per_byte_error_is_that_of_resampled_texts() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(256, 1024, 400)
    loglik = -size * rng.gamma(5, 0.1, 400)
    _, se = bits_per_byte(loglik, size)
    draws = [bits_per_byte(loglik[i], size[i])[0] for i in rng.integers(0, 400, (2000, 400))]
    assert se == pytest.approx(np.std(draws), rel=0.08)


def test_preprocessing_is_applied_and_said(suite: Workspace) -> None:
    text = printed(suite, ["kl", "consecutive"], preprocess="clip")
    assert "raw vectors" not in text and "clipped at" in text
    made = data_of(suite, ["consecutive"], preprocess="clip")
    assert made["preprocessing"]["mode"] == "clip"
    shown, pair = suite.map(preprocess="clip"), made["sections"]["consecutive"]["pairs"][0]
    assert pair["kl_bits_per_byte"] == pytest.approx(shown.consecutive()[0].kl)
    assert pair["kl_bits_per_byte"] != pytest.approx(suite.map().consecutive()[0].kl)


def test_a_preprocessing_that_cannot_be_is_a_message_in_each_section(suite: Workspace) -> None:
    text = printed(suite, ["overview", "kl"], preprocess="pretraining")
    assert "error: outlier texts are undefined" in " ".join(text.split())


def test_unknown_names_are_usage_errors(suite: Workspace) -> None:
    with pytest.raises(UsageError, match="no section 'nope'"):
        report(suite, ["nope"])
    with pytest.raises(UsageError, match="unknown preprocessing"):
        report(suite, ["kl"], preprocess="wash")


def test_an_empty_workspace_says_what_to_do(builder: Builder) -> None:
    with builder.open() as ws:
        made = report(ws)
        assert {s.status for s in made.sections} == {"shown", "failed", "missing"}
        text = printed(ws, None)
        assert "nothing is scored in this workspace yet" in text and "internal error" not in text
        assert json.loads(json.dumps(made.as_dict()))["sections"]["overview"]["checkpoints"]["total"] == 0


def test_one_lone_checkpoint_has_no_pairs_but_reports(builder: Builder) -> None:
    builder.add(builder.checkpoint("lone"), builder.base_N)
    builder.add(builder.checkpoint("waiting"), None)
    with builder.open() as ws:
        sections = {s.name: s for s in report(ws).sections}
        assert sections["loss"].status == "shown"
        for name in ("kl", "consecutive", "trajectories", "diffusion", "layers", "quantisation", "drivers"):
            assert sections[name].status == "missing", name
            assert sections[name].hint
        assert "internal error" not in printed(ws, None)


def test_too_few_points_for_tsne_show_pca_and_say_so(builder: Builder) -> None:
    builder.run("short", STEPS[:8])
    with builder.open() as ws:
        text = printed(ws, ["trajectories"])
        assert "needs more than 30 points and the map has 8: PCA is shown instead" in " ".join(text.split())
        assert "tsne" not in data_of(ws, ["trajectories"])["sections"]["trajectories"]["points"][0]


def test_unscored_texts_and_undefined_kl_are_never_zero(builder: Builder) -> None:
    half = np.arange(builder.n_texts) % 2 == 0
    builder.add(builder.checkpoint("even"), np.where(half, builder.base_N, np.nan))
    builder.add(builder.checkpoint("odd"), np.where(half, np.nan, builder.base_N * 1.1))
    builder.add(builder.checkpoint("whole"), builder.base_N * 1.2)
    with builder.open() as ws:
        text = printed(ws, None)
        assert "internal error" not in text
        assert "undefined" in text and "60 unscored values left out pairwise" in " ".join(text.split())
        pairs = data_of(ws, ["kl"])["sections"]["kl"]["pairs"]
        values = {frozenset((p["a"], p["b"])): p for p in pairs}
        assert values[frozenset(("even", "odd"))]["kl_bits_per_byte"] is None
        assert values[frozenset(("even", "whole"))]["dropped"] == 30


def test_vectors_of_other_settings_are_counted_not_mixed(builder: Builder) -> None:
    builder.run("r", STEPS[:4])
    builder.add(builder.checkpoint("half"), builder.base_N, settings="bos=auto dtype=float16 overlong=error")
    with builder.open() as ws:
        text = " ".join(printed(ws, ["overview", "loss"]).split())
        assert "1 vector of another corpus or scoring setting cannot be compared" in text
        assert "half 1/1" in text and len(data_of(ws, ["loss"])["sections"]["loss"]["checkpoints"]) == 4


def test_hostile_names_and_texts_cannot_reach_the_terminal(builder: Builder) -> None:
    evil = "x\x1b]0;owned\x07\x9b31m\u202e[red]name[/red]\n"
    builder.run(evil, STEPS[:5])
    builder.add(builder.checkpoint("plain"), builder.base_N)
    with builder.open() as ws:
        text = printed(ws, QUICK)
        assert not set(text) & set("\x1b\x07\x9b\u202e") and "[red]name" in text
        assert evil in {x["run"] for x in data_of(ws, ["loss"])["sections"]["loss"]["checkpoints"]}


def test_ascii_streams_get_ascii(suite: Workspace) -> None:
    assert printed(suite, ["loss", "kl", "diffusion"], ascii_only=True).isascii()
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    print_report(suite, ["loss", "kl"], False, 80, stream, notices=io.StringIO())
    assert b"+-" in raw.getvalue() and raw.getvalue().isascii()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_titles_of_tables_stand_over_their_columns_in_ascii() -> None:
    made = table(["rün", "± se", "x"], [["“a”", "1.0 ± 0.1", "2"], ["模型", "3", "4"]])
    lines = made_lines(made)
    bars = [[i for i, c in enumerate(line) if c == "|"] for line in lines if "|" in line]
    assert len(bars) == 3 and bars[0] == bars[1] == bars[2] and "+- se" in lines[0]
    assert "".join(lines).isascii()


def made_lines(made: Table) -> list[str]:
    console = _console(_Buffer("ascii"), None, 60)
    return ["".join(s.text for s in line) for line in console.render_lines(made, pad=False)]


def test_a_terminal_gets_colour_unless_told_not_to(suite: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for plain, expected in ((False, True), (True, False)):
        if plain:
            monkeypatch.setenv("NO_COLOR", "1")
        stream = Terminal()
        print_report(suite, ["loss"], False, 80, stream, notices=io.StringIO())
        assert ("\x1b[38;5;" in stream.getvalue()) is expected


def test_an_error_in_one_section_is_its_message(suite: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise KltuiError("the disk is gone", "mount it")

    def buggy(_: object) -> None:
        raise ValueError("shapes")

    monkeypatch.setitem(catalogue.SECTIONS, "kl", broken)
    monkeypatch.setitem(catalogue.SECTIONS, "scale", buggy)
    text = printed(suite, ["kl", "scale", "loss"])
    assert "error: the disk is gone" in text and "mount it" in text
    assert "internal error: ValueError: shapes" in text and "bits/byte of the corpus" in text


def test_reports_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, kltui.view.report, kltui.view.export;"
        "print(sorted({'torch', 'transformers', 'textual', 'sklearn', 'plotext'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_failures_are_listed_with_their_reason(builder: Builder, tmp_path: Path) -> None:
    builder.run("r", STEPS[:3])
    builder.add(builder.checkpoint("bad", 7), None)
    with builder.store.atomic():
        cid = builder.store.checkpoints.id_of("bad@7")
        job = builder.store.jobs.register("d", "", [cid], None)
        builder.store.jobs.start(job)
        builder.store.jobs.item_failed(job, cid, "missing tensors", "download it again")
    with builder.open() as ws:
        assert "failed: bad@7: missing tensors" in printed(ws, ["overview"])
        failures = data_of(ws, ["overview"])["sections"]["overview"]["failures"]
        assert failures == [{"name": "bad@7", "error": "missing tensors", "hint": "download it again"}]


def test_the_line_about_a_section_is_no_part_of_a_table_or_a_plot() -> None:
    rows = table(["a", "b"], [["1", "2"]])
    below = words("3.2\n├─ the tree's top")
    assert headline(Section("neighbours", "Neighbours", (rows, below))) == ""
    assert headline(Section("where", "Where", (words("a against b: 0.1"), rows))) == "a against b: 0.1"
    assert headline(Section("exact", "Exact", status="missing", message="not stored")) == "not stored"
    assert headline(Section("empty", "Empty")) == ""
    named = Section(
        "diffusion", "Diffusion", (words("likelihood space: a title of the table"), rows), headline=""
    )
    assert headline(named) == ""


def test_the_line_about_the_workspace_counts_its_checkpoints(builder: Builder) -> None:
    builder.run("r", STEPS[:3])
    with builder.open() as ws:
        (found,) = report(ws, ["overview"]).sections
        assert headline(found) == "3 checkpoints: 3 scored"


def test_a_run_of_one_step_names_it_once(builder: Builder) -> None:
    builder.add(builder.checkpoint("lone", 64), builder.base_N)
    builder.run("r", STEPS[:3])
    with builder.open() as ws:
        rows = [line.split() for line in printed(ws, ["overview"]).splitlines()]
    steps = {row[0]: row[2:5] for row in rows if len(row) > 2 and row[0] in ("lone", "r")}
    assert steps["lone"][0] == "64" and "to" not in steps["lone"]
    assert steps["r"] == [str(STEPS[0]), "to", str(STEPS[2])]


def test_published_exponents_have_two_digits(builder: Builder) -> None:
    builder.run("r", STEPS)
    with builder.open() as ws:
        (found,) = report(ws, ["diffusion"]).sections
        said = next(note for note in found.notes if note.startswith("published for Pythia"))
        assert "1b 0.20/0.83/0.24" in said and "2.8b 0.26/0.90/0.29" in said


def test_where_a_run_settled_is_a_step_with_its_range() -> None:
    def of(kl: list[float], se: list[float], level: float) -> tuple[str, str]:
        return settled_words(settle("r", [0, 1, 2, 3], kl, se, level))

    assert of([9.0, 0.1, 0.01], [0.1, 0.01, 0.001], 0.2) == ("1", "1")
    assert of([9.0, 0.1, 0.01], [0.1, 0.1, 0.001], 0.2) == ("1", "1 to 2")
    assert of([9.0, 0.1, 0.19], [0.1, 0.1, 0.1], 0.2) == ("1", "1 or not yet")
    assert of([9.0, 1.0, 1.0], [0.1, 0.1, 0.1], 0.2) == ("not yet", "not yet")
    assert of([9.0, 0.1, 0.01], [0.1, math.nan, 0.001], 0.2) == ("1", "-")


def test_kl_is_spelled_so_where_there_is_none_too(builder: Builder) -> None:
    with builder.open() as ws:
        (section,) = report(ws, ["kl"]).sections
    assert section.title == "KL" and section.status != "shown"
