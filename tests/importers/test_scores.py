"""Benchmark scores from tables, and what a workspace keeps of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kltui.importers.imported import ImportFormatError
from kltui.importers.read import read
from kltui.jobs.import_vectors import import_vectors
from kltui.store import Store

WIDE = "Model,arc,mmlu,type\na/b,50.5,25,llama\n410m,1e1,,gpt_neox\n"
LONG = "name\ttask\tscore\na/b\tarc\t50.5\na/b\tmmlu\t25\n410m\tarc\t10\n"
WANTED = {"a/b": {"arc": 50.5, "mmlu": 25.0}, "pythia-410m": {"arc": 10.0}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wide.csv", WIDE),
        ("bom.csv", "\ufeff" + WIDE.replace("\n", "\r\n")),
        ("long.tsv", LONG),
        ("by-name.json", json.dumps({"a/b": {"arc": 50.5, "mmlu": 25}, "410m": {"arc": 10, "mmlu": None}})),
        (
            "rows.json",
            json.dumps([{"model_name": "a/b", "arc": 50.5, "mmlu": 25}, {"model_name": "410m", "arc": 10}]),
        ),
    ],
)
def test_layouts(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert read(path).scores == WANTED


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", "a,b\n1,2\n", "row 1 has no model name"),
        ("x.csv", "name,arc\n ,2\n", "row 1 has no model name"),
        ("x.csv", "name,task,score\nm,arc,good\n", "row 1: arc is 'good', which is not a number"),
        ("x.csv", "name,arc\n", "contains no scores"),
        ("x.csv", "name,arc\nm,nan\n", "contains no scores"),
        ("x.csv", "name,arc\nm,45,3\n", "row 1 has more cells than there are columns"),
        ("x.json", '{"m": 5}', "is not {name: {task: score}}"),
    ],
)
def test_other_tables_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ImportFormatError) as caught:
        read(path)
    assert said in str(caught.value)


def test_a_list_of_texts_is_still_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text('["one", "two"]')
    found = read(path)
    assert found.corpus is not None and len(found.corpus) == 2 and not found.scores


def test_a_workspace_keeps_scores_and_nothing_else_of_a_score_file(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(WIDE)
    (tmp_path / "more.csv").write_text("name,arc\na/b,51\n")
    said: list[str] = []
    assert import_vectors([tmp_path / "scores.csv"], tmp_path / "ws", said.append) == 0
    assert "benchmark scores of 2 models" in said
    assert any("2 of them match no checkpoint or run here, such as a/b" in line for line in said)
    import_vectors([tmp_path / "more.csv"], tmp_path / "ws", said.append)
    store = Store.read(tmp_path / "ws")
    assert store.benchmark_scores.all() == WANTED | {"a/b": {"arc": 51.0, "mmlu": 25.0}}
    assert store.corpora.all() == [] and store.checkpoints.all() == []
    store.close()


def test_scores_that_come_with_vectors_are_kept_by_the_vectors_names(tmp_path: Path) -> None:
    from full_size import write_release

    folder = write_release(tmp_path / "release", n_texts=20, n_steps=12, n_models=8)
    said: list[str] = []
    import_vectors([folder], tmp_path / "ws", said.append)
    store = Store.read(tmp_path / "ws")
    scores = store.benchmark_scores.all()
    assert sorted(scores) == [f"models/{i}" for i in range(8)]
    assert all(len(tasks) == 6 and np.isfinite(list(tasks.values())).all() for tasks in scores.values())
    assert not any("no checkpoint" in line for line in said)
    store.close()


def test_texts_that_have_names_are_a_corpus_and_counts_are_no_scores(tmp_path):
    from kltui.importers.scores import are_scores, read_scores_csv

    assert not are_scores([{"name": "doc1", "text": "123"}])
    assert are_scores([{"name": "doc1", "arc": 50.0}])
    path = tmp_path / "scores.csv"
    path.write_text("name,params,mmlu\nm@1,7000000000,60\n")
    read = read_scores_csv(path)
    assert read.scores == {"m@1": {"mmlu": 60.0}}
    assert "params" in read.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,arc\na,0.45\nb,0.5\n", "no score of arc is above 1"),
        ("name,arc\na,45.3%\nb,50\n", "1 cells are not numbers and were skipped, such as arc of row 1, '45.3%'"),
    ],
)  # fmt: skip
def test_scores_that_look_like_others_are_noted(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    (note,) = read(path).notes
    assert said in note


@pytest.mark.parametrize(
    "text", ["name,arc\na,0\nb,1\n", "name,arc\na,0.45\nb,50\n", "name,arc,type\na,5,x\n"]
)
def test_ordinary_scores_are_not_noted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    assert read(path).notes == ()
