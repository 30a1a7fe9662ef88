"""Benchmark scores from tables, and what a workspace keeps of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kltui.importers.imported import ImportFormatError
from kltui.importers.read import read, read_paths
from kltui.jobs.import_vectors import import_vectors
from kltui.store import Store

WIDE = "Model,arc,mmlu,type\na/b,50.5,25,llama\n410m,1e1,,gpt_neox\n"
LONG = "name\ttask\tscore\na/b\tarc\t50.5\na/b\tmmlu\t25\n410m\tarc\t10\n"
WANTED = {"a/b": {"arc": 50.5, "mmlu": 25.0}, "410m": {"arc": 10.0}}


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
    # a Pythia's size alone is its name, as in the releases
    assert store.benchmark_scores.all() == {
        "a/b": {"arc": 51.0, "mmlu": 25.0},
        "pythia-410m": WANTED["410m"],
    }
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


def test_scores_of_two_files_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "arc.csv").write_text("name,arc\na,50\nb,40\n")
    (tmp_path / "mmlu.csv").write_text("name,mmlu,arc\na,25,50\nc,26,\nb,27,41\n")
    found = read_paths([tmp_path / "arc.csv", tmp_path / "mmlu.csv"])
    assert found.scores == {"a": {"arc": 50, "mmlu": 25}, "b": {"arc": 40, "mmlu": 27}, "c": {"mmlu": 26}}
    assert found.notes == (
        "1 scores differ between two files, such as arc of b: those of the first file are used",
    )


@pytest.mark.parametrize(
    "text",
    [
        "run,step,arc,mmlu\nm,10,40,30\nm,20,41,31\n",
        "model,revision,arc,mmlu\nm,step10,40,30\nm,step20,41,31\n",
        "Step,name,task,score\n10,m,arc,40\n10,m,mmlu,30\n20,m,arc,41\n20,m,mmlu,31\n",
    ],
)
def test_a_step_in_a_column_of_its_own_is_the_model_s_and_no_score(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert read(tmp_path / "x.csv").scores == {
        "m@10": {"arc": 40.0, "mmlu": 30.0},
        "m@20": {"arc": 41.0, "mmlu": 31.0},
    }


def test_a_revision_without_a_step_and_a_name_with_one_stay(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("name,revision,step,arc\nm,main,,40\nm@5,step5,5,41\n")
    assert read(tmp_path / "x.csv").scores == {"m": {"arc": 40.0}, "m@5": {"arc": 41.0}}


def test_the_tasks_that_were_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("name,params_b,arc\na,7,50\n")
    said: list[str] = []
    import_vectors([tmp_path / "x.csv"], tmp_path / "ws", said.append)
    assert "  2 tasks: arc, params_b" in said


def test_scores_belong_to_a_run_here_whose_name_is_a_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    texts = [f"text {k}" for k in range(8)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    names = ["1b@100", "7b-chat", "pythia-1b@100"]
    np.savez(tmp_path / "loglik.npz", loglik=-rng.uniform(5, 50, (3, 8)), names=np.array(names))
    (tmp_path / "scores.csv").write_text("name,arc\n1b@100,10\n7b-chat,20\npythia-1b@100,30\n410m,40\n")
    import_vectors([tmp_path / "loglik.npz", tmp_path / "texts.json"], tmp_path / "ws", lambda line: None)
    import_vectors([tmp_path / "scores.csv"], tmp_path / "ws", lambda line: None)
    store = Store.read(tmp_path / "ws")
    assert sorted(row.name for row in store.checkpoints.all()) == sorted(names)
    assert {n: s["arc"] for n, s in store.benchmark_scores.all().items()} == {
        "1b@100": 10, "7b-chat": 20, "pythia-1b@100": 30, "pythia-410m": 40,
    }  # fmt: skip
    store.close()
