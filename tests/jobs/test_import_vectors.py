"""Imported vectors stand in a workspace as they were released, and reports run on them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from command import Cli

import kltui
from kltui.errors import UsageError
from kltui.jobs.import_vectors import import_vectors
from kltui.jobs.lineage import edit_lineage
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store

RNG = np.random.default_rng(3)


def release(folder: Path) -> dict[str, dict[int, np.ndarray]]:
    """modelmap's layout: {run: {step: vector}}, texts.json, weight_distance.pkl."""
    start = RNG.normal(-900, 200, 40)
    vectors = {
        run: {1000 * k: start + np.cumsum(RNG.normal(0, 9, (14, 40)), axis=0)[k - 1] for k in range(1, 15)}
        for run in ("410m", "1b")
    }
    (folder / "loglik.pkl").write_bytes(pickle.dumps(vectors))
    (folder / "texts.json").write_text(json.dumps([f"text {i} " * 30 for i in range(40)]))
    return vectors


def test_a_release_becomes_a_workspace(cli: Cli, tmp_path: Path) -> None:
    vectors = release(tmp_path)
    done = cli("--import", "loglik.pkl", "--import", "texts.json", "ws")
    assert done.returncode == 0, done.stderr
    assert "28 vectors over 40 texts" in done.stderr
    with kltui.open(tmp_path / "ws") as ws:
        m = ws.map()
        assert len(m) == 28
        np.testing.assert_array_equal(m.loglik_KN[m.row("pythia-410m@3000")], vectors["410m"][3000])
        assert {r.checkpoint.size for r in ws.checkpoints()} == {"410m", "1b"}
    report = cli("--report", "ws", "--json")
    assert report.returncode == 0, report.stderr
    shown = {n: s["status"] for n, s in json.loads(report.stdout)["sections"].items()}
    assert shown["diffusion"] == shown["scale"] == shown["consecutive"] == "shown"
    assert "failed" not in shown.values()


def test_vectors_without_texts_are_refused(cli: Cli, tmp_path: Path) -> None:
    release(tmp_path)
    done = cli("--import", "loglik.pkl", "ws")
    assert done.returncode == 2
    assert "texts.json" in done.stderr


def test_a_hostile_pickle_is_refused_by_name(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    done = cli("--import", "evil.pkl", "ws")
    assert done.returncode != 0
    assert "system" in done.stderr and not (tmp_path / "pwned").exists()


def test_vectors_of_another_scorer_share_no_map(tmp_path: Path) -> None:
    release(tmp_path)
    samples = tmp_path / "their__model" / "samples_x.jsonl"
    samples.parent.mkdir()
    texts = json.loads((tmp_path / "texts.json").read_text())
    rows = [{"doc_id": i, "resps": [[f"{-9.5 - i}"]], "arguments": [[t]]} for i, t in enumerate(texts)]
    samples.write_text("\n".join(map(json.dumps, rows)))
    import_vectors([tmp_path / "loglik.pkl", tmp_path / "texts.json"], tmp_path / "ws", lambda line: None)
    import_vectors([samples], tmp_path / "ws", lambda line: None)
    with kltui.open(tmp_path / "ws") as ws:
        assert len(ws.map()) == 28
        with pytest.raises(UsageError, match="source is imported or lm-eval"):
            ws.map(names=["pythia-410m@1000", "their/model"])


def npz(path: Path, *names: str) -> Path:
    """Vectors of these names over five texts, the same whenever they are asked for."""
    values = np.stack([np.arange(5.0) - 100 * len(name) for name in names])
    counts = np.ones_like(values, dtype=np.int32)
    np.savez(
        path, loglik=values, names=np.array(names), text_bytes=np.full(5, len("text 0")), n_scored=counts
    )
    return path


def quietly(*paths: Path, workspace: Path) -> list[str]:
    """What was said while these were taken in."""
    said: list[str] = []
    import_vectors(paths, workspace, said.append)
    return said


def test_what_was_renamed_is_found_again_by_another_import(tmp_path: Path) -> None:
    ws, texts = tmp_path / "ws", tmp_path / "texts.json"
    texts.write_text(json.dumps([f"text {i}" for i in range(5)]))
    vectors = npz(tmp_path / "vectors.npz", "run@1", "run@20", "tuned", "other")
    quietly(vectors, texts, workspace=ws)
    edit_lineage(ws, ["run@1", "run@20"], {"run": "first"})
    edit_lineage(ws, ["tuned"], {"run": "child", "parent": "first@20"})
    names = ["child", "first@1", "first@20", "other"]
    scores = tmp_path / "scores.csv"
    scores.write_text("name,arc\nrun,40\nrun@20,41\ntuned,42\nnobody,43\n")
    for _ in range(2):
        quietly(vectors, workspace=ws)
        said = quietly(scores, workspace=ws)
        with kltui.open(ws) as opened:
            assert opened.map().names == names and [r.name for r in opened.checkpoints()] == names
            assert opened.benchmark_scores() == {
                "first": {"arc": 40.0}, "first@20": {"arc": 41.0}, "child": {"arc": 42.0}, "nobody": {"arc": 43.0}
            }  # fmt: skip
        assert said[-1] == "note: 1 of them match no checkpoint or run here, such as nobody"
    quietly(npz(tmp_path / "more.npz", "run@1", "first@1"), workspace=ws)
    with kltui.open(ws) as opened:
        assert sorted(r.name for r in opened.checkpoints()) == sorted([*names, "run@1"]), "both are named"


def test_scores_of_a_run_that_was_parted_stay_where_they_were_given(tmp_path: Path) -> None:
    ws, texts = tmp_path / "ws", tmp_path / "texts.json"
    texts.write_text(json.dumps([f"text {i}" for i in range(5)]))
    quietly(npz(tmp_path / "vectors.npz", "run@1", "run@20"), texts, workspace=ws)
    for step, name in ((1, "first"), (20, "second")):
        edit_lineage(ws, [f"run@{step}"], {"run": name})
    scores = tmp_path / "scores.csv"
    scores.write_text("name,arc\nrun,40\n")
    assert "no checkpoint or run here, such as run" in quietly(scores, workspace=ws)[-1]


def test_what_was_scored_here_is_not_replaced_by_an_import_of_its_name(tmp_path: Path) -> None:
    ws, texts = tmp_path / "ws", tmp_path / "texts.json"
    texts.write_text(json.dumps([f"text {i}" for i in range(5)]))
    store = Store.write(ws)
    with store.atomic():
        for name, weights in (("mine", "w"), ("planned", "")):
            row = store.checkpoints.upsert(Checkpoint(name, LocalSource(tmp_path / name)))
            store.checkpoints.set_weights(row, weights)
    store.close()
    with pytest.raises(UsageError, match="scored here, such as mine") as caught:
        quietly(npz(tmp_path / "vectors.npz", "mine", "planned"), texts, workspace=ws)
    assert "Change the run of that checkpoint" in caught.value.hint
    edit_lineage(ws, ["mine"], {"run": "own"})
    quietly(tmp_path / "vectors.npz", texts, workspace=ws)
    with kltui.open(ws) as opened:
        rows = {r.name: (r.weights, r.checkpoint.source) for r in opened.checkpoints()}
    assert rows["own"] == ("w", LocalSource(tmp_path / "mine"))
    assert rows["mine"][0] == "import:mine" and rows["planned"][0] == "import:planned"


def test_a_matrix_that_cannot_be_read_is_said_though_its_texts_can(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(["a", "b", "c"]))
    np.savez(tmp_path / "few.npz", loglik=RNG.normal(-9, 1, (4, 3)), names=["one", "two"])
    done = cli("--import", "few.npz", "--import", "texts.json", "ws")
    assert done.returncode == 2
    assert "few.npz has 2 names for values of shape (4, 3)" in done.stderr
