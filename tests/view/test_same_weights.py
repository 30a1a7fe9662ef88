"""Repeated weights in a workspace: told by the store, the report, the export and the end of a job."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from small_workspace import Builder

from kltui.analysis.point import Point
from kltui.jobs.batch import BatchRun
from kltui.jobs.progress_report import ProgressReporter
from kltui.store.same_weights import KIND, in_store, sentences
from kltui.tui.screenshot import with_versions
from kltui.view.export import export
from kltui.view.provenance import version_words, versions
from kltui.view.report import print_report, report
from kltui.workspace import Workspace

STEPS = range(0, 400, 20)


def repeated(made: Builder) -> Workspace:
    """Steps 0 to 80 of a run hold the weights of the last one; those of step 200 are known to by their file alone."""
    walk = np.cumsum(made.rng.normal(0, 5.0, (len(STEPS), made.n_texts)), axis=0) + made.base_N
    walk[:5] = walk[-1]
    walk[10] = walk[-1] + made.rng.normal(0, 1e-5, made.n_texts)
    for step, vector in zip(STEPS, walk, strict=True):
        made.add(made.checkpoint("run", step), vector)
    with made.store.atomic():
        for step in (200, 380):
            made.store.records.put(KIND, f"w:run@{step}", {"sha256": "aa"})
    return made.open()


def test_report_and_export_name_the_repeats_and_leave_them_out(builder: Builder, tmp_path: Path) -> None:
    names = [f"run@{s}" for s in (0, 20, 40, 60, 80, 200, 380)]
    said: list[str] = []
    with repeated(builder) as ws:
        assert [[p.name for p in group] for group in ws.same_weights()] == [names]
        data = report(ws, ["overview", "consecutive", "diffusion"]).as_dict()["sections"]
        text = io.StringIO()
        print_report(ws, ["overview", "stabilisation", "trajectories", "scale"], width=160, stream=text)
        export(ws, tmp_path / "out", notify=said.append)
    assert isinstance(data, dict)
    assert data["overview"]["same_weights"] == [{"names": names, "left_out": names[:-1]}]
    steps = [(p["step_from"], p["step_to"]) for p in data["consecutive"]["pairs"]]
    kept = [s for s in STEPS if s >= 100 and s != 200]
    assert steps == list(itertools.pairwise(kept))
    assert {s["start"] for s in data["diffusion"]["starts"]} <= set(kept)
    assert text.getvalue().count("left out of run: steps 0, 20, 40, 60, 80 and 200") == 4
    assert any("left out of run" in line for line in said)
    rows = list(csv.DictReader((tmp_path / "out" / "consecutive.csv").read_text().splitlines()))
    assert [(int(r["step_from"]), int(r["step_to"])) for r in rows] == steps


def test_a_store_without_repeats_reads_no_vector(suite: Workspace) -> None:
    assert in_store(suite._store) == []


def test_the_end_of_a_job_names_them() -> None:
    class ResultWriter:
        def same_weights(self) -> list[tuple[Point, ...]]:
            return [tuple(Point(f"run@{s}", "run", s, weights="w") for s in (0, 20, 40))]

    out, err = io.StringIO(), io.StringIO()
    batch = BatchRun.__new__(BatchRun)
    batch._writer, batch._reporter = ResultWriter(), ProgressReporter(True, out, err)  # type: ignore[assignment]
    batch._name_repeats()
    event = json.loads(out.getvalue())
    assert (event["event"], event["names"]) == ("same_weights", ["run@0", "run@20", "run@40"])
    assert "run at steps 0, 20 and 40 have the same weights" in err.getvalue()


def test_pictures_say_which_libraries_made_them(suite: Workspace) -> None:
    data = report(suite, ["trajectories"]).as_dict()
    assert isinstance(data["provenance"], dict) and isinstance(data["sections"], dict)
    assert data["provenance"]["versions"] == data["sections"]["trajectories"]["versions"] == versions()
    assert set(versions()) >= {"kltui", "numpy", "scikit-learn"} and all(versions().values())
    assert f"made with {version_words()}" in data["sections"]["trajectories"]["notes"]
    assert with_versions("<svg a='b'><g/></svg>").startswith(
        f"<svg a='b'>\n    <desc>{version_words()}</desc>"
    )


def test_the_b_that_stands_there_is_that_of_the_pairs(builder: Builder) -> None:
    short = np.argsort(builder.corpus.text_bytes)[:6]
    for k, gone in enumerate((short, short, short[:2])):
        vector = builder.base_N + builder.rng.normal(0, 9.0, builder.n_texts)
        vector[gone] = np.nan
        builder.add(builder.checkpoint(f"m{k}"), vector)
    size = builder.corpus.text_bytes
    B = [float(np.delete(size, gone).mean()) for gone in (short, short[:2])]
    with builder.open() as ws:
        made = report(ws, ["kl", "overview"]).as_dict()["sections"]
        text = io.StringIO()
        print_report(ws, ["kl"], width=160, stream=text)
        apart = ws.map(names=["m0", "m1"])
    assert isinstance(made, dict)
    assert {p["mean_bytes"] for p in made["kl"]["pairs"]} == {B[0]}
    assert made["overview"]["mean_bytes_of_pairs"] == {"least": B[0], "greatest": B[0]}
    assert f"B = {B[0]:.2f} bytes" in text.getvalue() and B[0] > 1.05 * float(size.mean())
    assert apart.pair_mean_bytes == (B[0], B[0])


def test_copies_in_a_corpus_are_counted(tmp_path: Path) -> None:
    made = Builder(tmp_path / "work")
    texts = made.corpus.texts[:20] + made.corpus.texts[:15]
    again = Builder(tmp_path / "twice", n_texts=35)
    again.corpus = type(made.corpus)(texts)
    with again.store.atomic():
        again.corpus_id = again.store.corpora.add(again.corpus, "texts.json")
    for k in range(3):
        again.add(again.checkpoint(f"m{k}"), again.rng.normal(-900, 30, 20)[[*range(20), *range(15)]])
    with again.open() as ws:
        found = ws.map()
        text = io.StringIO()
        print_report(ws, ["overview", "kl"], width=160, stream=text)
        copies = ws.copies(again.corpus.sha256)
    assert found.n_copies == copies == 15
    assert "35 texts (15 copies of others)" in text.getvalue()
    assert "15 copies of other texts: errors count each text once" in text.getvalue()


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([[("a", 1), ("a", 2)]], ["a at steps 1 and 2 have"]),
        ([[("a", 1), ("a", 2), ("a", 3), ("b", 7)]], ["a at steps 1, 2 and 3 and b@7 have"]),
        ([[("a", 5), ("b", 5)]], ["a@5 and b@5 have"]),
        (
            [[("a", 5), ("b", 5)], [("a", 6), ("b", 6)]],
            ["a and b have the same weights at each of 2 steps, 5 and 6"],
        ),
        ([[("a", 5), ("b", 5)], [("a", 6), ("c", 6)]], ["a@5 and b@5 have", "a@6 and c@6 have"]),
    ],
)
def test_a_group_is_said_by_its_runs_and_steps(groups: list[list[tuple[str, int]]], said: list[str]) -> None:
    points = [[Point(f"{run}@{step}", run, step, weights="w") for run, step in group] for group in groups]
    found = sentences(points)
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True)), found
