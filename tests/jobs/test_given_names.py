"""Names of runs, and parents: none reads as another's, and what is not there is told with the nearest name."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from model_folders import make_model

import kltui
from kltui.cli import main
from kltui.corpus.corpus import Corpus
from kltui.errors import UsageError
from kltui.jobs.jobfile import load_job
from kltui.jobs.lineage import edit_lineage, parse_changes
from kltui.jobs.plan import Plan, make_plan
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.registry.names import made_name, plain_run, run_problem
from kltui.registry.parents import parent_mistakes
from kltui.store import Store
from kltui.view.export import export
from kltui.view.report import report

HERE = LocalSource(Path("/m"))
BAD_RUNS = [
    "k@400#1", "a+b", "a#1", "a@", "a,b", " a", "a ", "a\u200bb", "\u202ea", "x" * 201, "é" * 101, "a\ufeff", "\u00a0a"
]  # fmt: skip


def job(folder: Path, *entries: str, extra: str = "") -> Plan:
    """The plan of a job over the folder `run` (steps 1, 2) and what `entries` say."""
    if not (folder / "run").exists():
        for step in (1, 2):
            make_model(folder / "run" / f"step{step}", weights=b"w%d" % step)
        (folder / "texts.json").write_text('["one text", "another"]')
    models = "".join(f"[[models]]\n{entry}\n" for entry in entries)
    path = folder / "job.toml"
    path.write_text(f'workspace = "ws"\n[corpus]\nsource = "texts.json"\n{models}{extra}', encoding="utf-8")
    return make_plan(load_job(path))


@pytest.mark.parametrize("run", BAD_RUNS)
def test_a_run_may_not_be_called_what_reads_as_another(tmp_path: Path, run: str) -> None:
    with pytest.raises(UsageError) as caught:
        job(tmp_path, f'path = "run"\nrun = {json.dumps(run)}')
    assert "cannot be a run" in str(caught.value) and "Choose another, such as run =" in str(caught.value)
    with pytest.raises(UsageError, match="cannot be a run"):
        job(tmp_path, f'repo = "org/m"\nrun = {json.dumps(run)}')
    stripped = run.strip()
    if run_problem(stripped):
        with pytest.raises(UsageError, match="run: "):
            parse_changes({"run": run})


@pytest.mark.parametrize("name", ["my+model", "epoch=1@x", "k@400#1", "a,b", "a b "])
def test_a_folder_of_such_a_name_is_scored_under_a_run_of_its_own(tmp_path: Path, name: str) -> None:
    make_model(tmp_path / name / "step1", weights=b"w")
    for path in (name, f"{name}/step1"):
        with pytest.raises(UsageError, match="the folder's name") as caught:
            job(tmp_path, f"path = {json.dumps(path)}")
        assert "run = '" in str(caught.value)
        assert [c.name for c in job(tmp_path, f'path = {json.dumps(path)}\nrun = "mine"').checkpoints] == [
            "mine@1"
        ]


@pytest.mark.parametrize("run", ["tiny", "org/model", "a-b_c.d", "50%", "epoch=1", "日本語", "a:b", "2"])
def test_other_names_stay(tmp_path: Path, run: str) -> None:
    assert job(tmp_path, f'path = "run"\nrun = {json.dumps(run)}').checkpoints[0].name == f"{run}@1"
    assert plain_run(run) == run


def test_names_between_models_are_checked_too(tmp_path: Path) -> None:
    def grid(more: str) -> str:
        return f'[[interpolations]]\nbase = "run@1"\nothers = ["run@2"]\n{more}\n'

    assert len(job(tmp_path, 'path = "run"', extra=grid("")).checkpoints) == 8
    for more in ('run = "a+b"', 'run = "k@400#1"', "grid = [1e20]", "grid = [0.12345678, 0.12345679]"):
        with pytest.raises(UsageError, match=r"cannot be a run|would have the name"):
            job(tmp_path, 'path = "run"', extra=grid(more))


def test_a_model_called_like_a_lens_layer_stays_apart_from_it(tmp_path: Path, capsys) -> None:
    """A released model `k@400#1` beside layer 1 of step 400 of run k, in one workspace."""
    texts = [f"text {i}" for i in range(5)]
    values = np.random.default_rng(1).normal(-50, 5, (6, 5))
    ws, counts = tmp_path / "ws", np.full(5, 3, np.int32)
    store = Store.write(ws)
    with store.atomic():
        corpus = store.corpora.add(Corpus(tuple(texts)), "test")
        row = store.checkpoints.upsert(Checkpoint("k", HERE, 400))
        store.checkpoints.set_weights(row, "w")
        for layer, loglik in ((None, values[0]), (0, values[1]), (1, values[2])):
            key = {"weights": "w", "layer": str(layer)}
            store.vectors.put(row, corpus, layer, key, "source=imported", loglik, counts, None)
    store.close()
    odd = {"k@400#1": values[3], "k@400+bnb-8bit": values[4], "k%40400%231": values[5]}
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps(odd))
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    words = ["--import", str(tmp_path / "odd.pkl"), "--import", str(tmp_path / "texts.json"), str(ws)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "3 names with reserved characters" in said and "k%40400%231 for k@400#1" in said
    with kltui.open(ws) as opened:
        m = opened.map(layers=True)
        found = dict(zip(m.names, m.loglik_KN.tolist(), strict=True))
    assert len(found) == 6
    wanted = {
        "k@400": 0,
        "k@400#0": 1,
        "k@400#1": 2,
        "k%40400%231": 3,
        "k%40400%2Bbnb-8bit": 4,
        "k%2540400%25231": 5,
    }
    assert found == {name: values[k].tolist() for name, k in wanted.items()}
    scores = tmp_path / "scores.csv"
    scores.write_text("name,arc\nk@400#1,50\n")
    assert main(["--import", str(scores), str(ws)]) == 0
    with kltui.open(ws) as opened:
        assert opened.benchmark_scores() == {"k%40400%231": {"arc": 50.0}}


def test_an_import_does_not_take_the_name_of_what_was_scored_here(tmp_path: Path, capsys) -> None:
    """`RUN@STEP` is read as run and step; where that was scored here it is refused."""
    store = Store.write(tmp_path / "ws")
    with store.atomic():
        store.checkpoints.set_weights(store.checkpoints.upsert(Checkpoint("k", HERE, 400)), "w")
    store.close()
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"k@400": np.arange(5.0) - 9}))
    (tmp_path / "texts.json").write_text(json.dumps([f"text {i}" for i in range(5)]))
    words = ["--import", str(tmp_path / "x.pkl"), "--import", str(tmp_path / "texts.json")]
    assert main([*words, str(tmp_path / "ws")]) == 2
    assert "scored here" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "new")]) == 0
    with kltui.open(tmp_path / "new") as ws:
        assert [(r.checkpoint.run, r.checkpoint.step) for r in ws.checkpoints()] == [("k", 400)]


@pytest.mark.parametrize(
    "name", [*BAD_RUNS, "%", "%41", "a%2Bb", "", "\ud800x", "\x00", "x" * 500 + "a", "x" * 500 + "b"]
)
def test_encoded_names_are_names_and_no_two_are_one(name: str) -> None:
    made = plain_run(name)
    assert run_problem(made) == "" and made.encode()
    others = {
        n: plain_run(n)
        for n in (*BAD_RUNS, "%", "%41", "a%2Bb", "a+b", "x" * 500 + "a", "x" * 500 + "b", made)
        if n != name
    }
    assert made not in {v for n, v in others.items() if n != made} or made == name


def test_made_names_are_taken_apart_as_they_were_made() -> None:
    for c in (Checkpoint("a", HERE), Checkpoint("a/b", HERE, 7), Checkpoint("a", HERE, 7, "bnb-8bit")):
        assert made_name(c.name) == (c.run, c.step, c.quantization, None)
    assert made_name("a@7#3") == ("a", 7, "none", 3)
    for name in ("a+b", "a@x", "a@7@8", "a#b", "@1", "a@7#1#2", "a@" + "9" * 30):
        assert made_name(name) is None


def test_workspaces_with_such_names_still_open(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("my+model", HERE, 3, parent="k@400#1"))
    store.close()
    edit_lineage(tmp_path, ["my+model@3"], {"size": "1b"})
    with pytest.raises(UsageError, match=r"run: it contains \+"):
        edit_lineage(tmp_path, ["my+model@3"], {"run": "other+model"})
    edit_lineage(tmp_path, ["my+model@3"], {"run": "model"})
    with kltui.open(tmp_path) as ws:
        assert [(r.name, r.checkpoint.size) for r in ws.checkpoints()] == [("model@3", "1b")]


def test_a_parent_that_is_not_there_is_told_with_the_nearest_name(tmp_path: Path, capsys) -> None:
    make_model(tmp_path / "tuned", weights=b"t")
    entries = ('path = "run"', 'path = "tuned"\nparent = "rum@2"')
    assert job(tmp_path, *entries).notes == (
        "1 parent is no checkpoint or run here: rum@2 of tuned; the nearest is run@2",
    )
    assert job(tmp_path, 'path = "run"', 'path = "tuned"\nparent = "run"').notes == ()
    store = Store.write(tmp_path / "ws")
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("rum", HERE, 2))
    store.close()
    assert job(tmp_path, *entries).notes == (), "an earlier job scored it"
    store = Store.write(tmp_path / "other")
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("base", HERE, 9))
        store.checkpoints.upsert(Checkpoint("tuned", HERE, parent="bose@9"))
    store.close()
    with kltui.open(tmp_path / "other") as ws:
        (section,) = report(ws, ["overview"]).sections
        assert section.data["parents_not_here"] == ["bose@9"]
        assert (
            "1 parent is no checkpoint or run here: bose@9 of tuned; the nearest is base@9" in section.notes
        )
    reported: list[str] = []
    edit_lineage(tmp_path / "other", ["tuned"], {"parent": "bse@9"}, reported.append)
    assert reported == ["1 parent is no checkpoint or run here: bse@9 of tuned; the nearest is base@9"]


@pytest.mark.parametrize("parent", ["tuned", "run@1,tuned"])
def test_a_model_is_not_its_own_parent(tmp_path: Path, parent: str) -> None:
    make_model(tmp_path / "tuned", weights=b"t")
    with pytest.raises(UsageError, match="tuned would be its own parent"):
        job(tmp_path, 'path = "run"', f'path = "tuned"\nparent = "{parent}"')
    with pytest.raises(UsageError, match=r"run@1 would be its own parent \(and so would 1 more\)"):
        job(tmp_path, 'path = "run"\nparent = "run"')
    store = Store.write(tmp_path / "other")
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("tuned", HERE))
        store.checkpoints.upsert(Checkpoint("run", HERE, 1, parent="tuned"))
    store.close()
    with pytest.raises(UsageError, match="parent: tuned would be its own parent"):
        edit_lineage(tmp_path / "other", ["tuned"], {"parent": parent})
    with pytest.raises(UsageError, match="parents form a cycle: tuned <- run@1 <- tuned"):
        edit_lineage(tmp_path / "other", ["tuned"], {"parent": "run@1"})


def test_parents_do_not_go_in_circles(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_model(tmp_path / name, weights=name.encode())
    with pytest.raises(UsageError, match="parents form a cycle: a <- b <- c <- a"):
        job(tmp_path, 'path = "a"\nparent = "c"', 'path = "b"\nparent = "a"', 'path = "c"\nparent = "b"')
    chain = [Checkpoint(f"m{i}", HERE, parent=f"m{i + 1}") for i in range(3000)]
    assert parent_mistakes(chain) == []
    diamond = [
        Checkpoint("d", HERE, parent="b,c"),
        Checkpoint("b", HERE, parent="a"),
        Checkpoint("c", HERE, parent="a"),
    ]
    assert parent_mistakes(diamond) == []
    assert (
        parent_mistakes([Checkpoint("m", HERE, quantization="bnb-8bit", parent="m")], [Checkpoint("m", HERE)])
        == []
    )


def test_an_imported_model_that_names_itself_has_no_parent(tmp_path: Path, capsys) -> None:
    rows = [{"model_name": n, "tags": [f"base_model:{p}"], "log-likelihood-10k": [-1.0 - i, -2.0, -4.0]}
            for i, (n, p) in enumerate((("o/a", "o/a"), ("o/b", "o/a"), ("o/c", "o/x")))]  # fmt: skip
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(rows))
    (tmp_path / "texts.json").write_text('["one", "two", "three"]')
    assert (
        main(
            [
                "--import",
                str(tmp_path / "m.pkl"),
                "--import",
                str(tmp_path / "texts.json"),
                str(tmp_path / "ws"),
            ]
        )
        == 0
    )
    said = capsys.readouterr().err
    assert "1 parent is no checkpoint or run here: o/x of o/c" in said
    with kltui.open(tmp_path / "ws") as ws:
        assert {r.name: r.checkpoint.parent for r in ws.checkpoints()} == {
            "o/a": "",
            "o/b": "o/a",
            "o/c": "o/x",
        }


def test_scoring_what_was_imported_under_that_name_is_told(tmp_path: Path, capsys) -> None:
    (tmp_path / "x.pkl").write_bytes(
        pickle.dumps({"run@1": np.array([-1.0, -2.0]), "other": np.array([-3.0, -4.0])})
    )
    job(tmp_path, 'path = "run"')
    words = [
        "--import",
        str(tmp_path / "x.pkl"),
        "--import",
        str(tmp_path / "texts.json"),
        str(tmp_path / "ws"),
    ]
    assert main(words) == 0
    (note,) = job(tmp_path, 'path = "run"').notes
    assert note == "1 checkpoint has the name of imported vectors, which will be replaced, such as run@1"


@pytest.mark.parametrize("state", ['{"global_step": true}', '{"global_step": -1}', '{"global_step": 1e30}',
                                   '{"global_step": 99999999999999999999999}', "[" * 100_000, "pipe"])  # fmt: skip
def test_a_step_that_is_none_is_not_taken(tmp_path: Path, state: str) -> None:
    job(tmp_path, 'path = "run"')
    make_model(tmp_path / "run", weights=b"final")
    if state == "pipe":
        os.mkfifo(tmp_path / "run" / "trainer_state.json")
    else:
        (tmp_path / "run" / "trainer_state.json").write_text(state)
    assert [c.name for c in job(tmp_path, 'path = "run"').checkpoints] == ["run@1", "run@2"]


def test_names_survive_the_way_out_and_in_again(tmp_path: Path, capsys) -> None:
    """What was encoded once is not encoded again, and what can be stored is, whatever it is called."""
    names = [
        "my+model",
        " lead",
        "\ud800a",
        "a\x00b",
        "x" * 500,
        "é" * 300,
        "k@400#1",
        "=cmd",
        "..",
        "50%",
        "a%2Bb",
        "k@7",
    ]
    rows = [
        {
            "model_name": n,
            "model_type": "t\udfff",
            "tags": ["base_model:\ud900p"],
            "log-likelihood-10k": [-1.0 - i, -2.0, -4.0],
        }
        for i, n in enumerate(names)
    ]
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(rows))
    (tmp_path / "texts.json").write_text('["one", "two", "three"]')
    ws = tmp_path / "ws"
    assert main(["--import", str(tmp_path / "m.pkl"), "--import", str(tmp_path / "texts.json"), str(ws)]) == 0
    (tmp_path / "s.json").write_text(
        json.dumps({n: {"arc": float(i)} for i, n in enumerate(names) if n == n.strip()})
    )
    assert main(["--import", str(tmp_path / "s.json"), str(ws)]) == 0
    assert "no checkpoint or run here" not in capsys.readouterr().err.splitlines()[-1]
    with kltui.open(ws) as opened:
        before = opened.map()
        scores = opened.benchmark_scores()
        export(opened, tmp_path / "out")
    assert sorted(before.names) == sorted({plain_run(n) for n in names[:-1]} | {"k@7"})
    assert {n: t["arc"] for n, t in scores.items()} == {
        n if n == "k@7" else plain_run(n): float(i) for i, n in enumerate(names) if n == n.strip()
    }
    assert main(["--import", str(tmp_path / "out" / "loglik.npz"), str(ws)]) == 0
    assert "percent-encoded" not in capsys.readouterr().err
    with kltui.open(ws) as opened:
        assert opened.map().names == before.names
