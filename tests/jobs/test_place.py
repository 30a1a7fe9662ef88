"""`kltui --place`: a model of one's own beside released ones, on all texts and on a draw of them."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from command import kltui_command
from undisturbed import Undisturbed

import kltui
from kltui.cli import main
from kltui.errors import KltuiError, UsageError
from kltui.jobs.place import entry_of, write_job
from kltui.store import Store
from kltui.workspace.placement import FEW_TEXTS

N_MODELS = 24


@pytest.fixture(scope="module")
def released(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of released vectors, one of them alpha@4's own, with scores."""
    folder = tmp_path_factory.mktemp("released")
    with kltui.open(undisturbed.workspace) as ws:
        shown, texts = ws.map(), ws.texts()
    expected = shown.loglik_KN[shown.row("alpha@4")]
    rng = np.random.default_rng(0)
    directions = 4 * rng.standard_normal((6, len(texts)))
    records = [
        {
            "model_name": "lab/twin",
            "model_type": "0",
            "log-likelihood-10k": expected.tolist(),
            "score_v1_arc": 50.0,
        }
    ]
    for i in range(N_MODELS):
        skill = float(rng.standard_normal())
        vector = expected + skill * directions[5] + directions[i % 5] + rng.standard_normal(len(texts))
        kind = {"model_name": f"lab/{i}", "model_type": str(i % 5), "score_v1_arc": 50 + 9 * skill}
        records.append({**kind, "log-likelihood-10k": vector.tolist()})
    (folder / "in" / "logp").mkdir(parents=True)
    (folder / "in" / "texts.json").write_text(json.dumps(texts))
    (folder / "in" / "logp" / "models.pkl").write_bytes(pickle.dumps(records))
    assert main(["--import", str(folder / "in"), str(folder / "map")]) == 0
    return folder / "map"


def test_a_model_is_placed_by_one_command_whole_and_on_drawn_texts(
    released: Path, suite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLTUI_TEST_WARM_MAIN", "1")
    assert main(["--place", str(suite / "alpha" / "step4"), str(released), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["placement"]
    assert whole["nearest"][0]["name"] == "lab/twin" and whole["nearest"][0]["kl"] <= whole["floor"]
    assert whole["name"] == "alpha@4" and whole["n_vectors"] == N_MODELS + 1 and whole["drawn"] == 0
    assert whole["settings"] == "bos=auto dtype=float16 overlong=truncate" and whole["ellipse"]["major"] > 0
    assert abs(whole["expected"][0]["score"] - 50) < 10 and not whole["suspicious"]
    assert "imported vectors and 1 scored here" in whole["notes"][0]
    with kltui.open(released) as ws:
        placed = ws.place(
            suite / "alpha" / "step4", texts=20
        )  # stands on the map already: the same on fewer texts
        assert placed.nearest[0].name == "lab/twin" and placed.nearest[0].kl <= placed.floor
        assert (placed.drawn, placed.n_corpus) == (20, 30) and placed.n_texts < 20
        truth = ws.map()
        for near in placed.nearest[1:]:
            assert abs(near.kl - truth.pair("alpha@4", near.name).value) < 5 * near.se
            assert near.se_whole == pytest.approx(truth.pair("alpha@4", near.name).se, rel=1.0)
    assert main(["--report", "--section", "added", str(released)]) == 0
    assert "left out: alpha@4: the map already has a vector with its name" in " ".join(
        capsys.readouterr().out.split()
    )


def test_vectors_scored_here_are_not_called_imported(
    undisturbed: Undisturbed, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLTUI_TEST_WARM_MAIN", "1")
    own = shutil.copytree(undisturbed.workspace, tmp_path / "own")
    with kltui.open(own) as ws:
        placed = ws.place(suite / "alpha" / "step4", texts=20)
        few = ws.place(suite / "alpha" / "step4", texts=5)
    assert placed.drawn == 20 and not [note for note in placed.notes if "imported" in note]
    assert placed.n_texts >= FEW_TEXTS and not [note for note in placed.notes if "distinct" in note]
    deviations = np.random.default_rng(0).normal(size=(100_000, few.n_texts)).std(axis=1, ddof=1)
    [note] = few.notes
    assert f"({few.n_texts}) the errors themselves are uncertain by" in note
    said = float(re.findall(r"by (\d+)% or more", note)[0]) / 100
    assert said == pytest.approx(deviations.std() / deviations.mean(), rel=0.15)


def test_what_cannot_be_placed_is_said_before_anything_is_scored(
    released: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with kltui.open(released) as ws:
        with pytest.raises(UsageError, match="contains 4 checkpoints"):
            ws.place(suite / "alpha")
        with pytest.raises(
            UsageError, match="would share no map with the existing vectors: bos is auto or always"
        ):
            ws.place(suite / "alpha" / "step4", overrides=["scoring.bos=always"])
        with pytest.raises(UsageError, match="draws no text"):
            ws.place(suite / "alpha" / "step4", texts=0)
        with pytest.raises(UsageError, match="an endpoint needs model") as served:
            ws.place("http://127.0.0.1:9/v1")
        assert "--set model.model=NAME" in served.value.hint
    assert not list((released / "jobs").glob("*.toml.*"))
    npz = tmp_path / "v.npz"
    np.savez(npz, loglik=np.random.default_rng(0).normal(-9, 1, (2, 4)), names=["a", "b"])
    (tmp_path / "t.json").write_text(json.dumps(["a", "b", "c", "d"]))
    assert main(["--import", str(npz), "--import", str(tmp_path / "t.json"), str(tmp_path / "w")]) == 0
    assert main(["--place", str(suite / "alpha" / "step4"), str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err
    assert "have no record of how they were scored" in said and "--declare bos=auto" in said


def state(workspace: Path) -> tuple[list[str], list[int], list[str]]:
    """(names of the checkpoints, ids of the jobs, files of jobs) of a workspace."""
    with closing(Store.read(workspace)) as store:
        names, ids = [row.name for row in store.checkpoints.all()], [job.id for job in store.jobs.all()]
    folder = workspace / "jobs"
    return names, ids, sorted(p.name for p in folder.glob("place-*.toml")) if folder.exists() else []


def test_a_model_that_could_not_be_scored_leaves_nothing_behind(
    released: Path,
    suite: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub is out of reach, a tokenizer is damaged, or the workspace knows the model already."""
    ws = tmp_path / "map"
    shutil.copytree(released, ws)
    before = state(ws)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert main(["--place", "OWNER/NAME@step7", str(ws)]) == 1
    assert "NAME@7 could not be scored" in capsys.readouterr().err
    assert state(ws) == before
    torn = tmp_path / "torn"
    shutil.copytree(suite / "alpha" / "step4", torn)
    (torn / "tokenizer.json").write_text("{")
    assert main(["--place", str(torn), str(ws)]) == 1
    assert state(ws) == before
    # what was there before stays, also if it has no vector
    job = tmp_path / "job.toml"
    job.write_text(
        f'workspace = "{ws}"\n[corpus]\nsource = "map"\n[[models]]\npath = "{torn}"\n[scoring]\noverlong = "truncate"\n'
    )
    assert main(["--batch", str(job)]) == 1
    kept = state(ws)
    assert "torn" in kept[0] and main(["--place", str(torn), str(ws)]) == 1
    assert state(ws)[0] == kept[0] and set(kept[1]) <= set(state(ws)[1])


@pytest.mark.parametrize("model", ["", "/nowhere", "./nowhere", "a/b/c", "name", "gone/model.gguf"])
def test_what_is_no_model_is_said(model: str) -> None:
    with pytest.raises(KltuiError, match="no model found at"):
        entry_of(model)


def test_a_model_is_a_folder_a_file_a_repository_or_a_server(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert entry_of(str(tmp_path / "m.gguf")) == {"path": str(tmp_path / "m.gguf")}
    assert entry_of("lab/model@step3") == {"repo": "lab/model", "revisions": ["step3"]}
    assert entry_of("lab/model") == {"repo": "lab/model"}
    assert entry_of("http://127.0.0.1:8000/v1") == {"endpoint": "http://127.0.0.1:8000/v1"}


def test_placing_loads_no_torch_where_it_is_asked_for(released: Path) -> None:
    code = (
        "import sys, kltui\n"
        f"ws = kltui.open({str(released)!r})\n"
        "try:\n    ws.place('/nowhere')\n"
        "except Exception: pass\n"
        "import kltui.workspace.placement, kltui.view.placed\n"
        "print('torch' in sys.modules)"
    )
    command = [kltui_command()[0], "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.stdout.strip() == "False", done.stderr


def test_an_adapter_is_placed_with_its_base_and_under_a_name_that_is_free(
    released: Path, suite: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    config = {
        "base_model_name_or_path": str(suite / "beta" / "step4"),
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with kltui.open(released) as ws:
        rows, settings = ws.checkpoints(), ws.vector_groups()[0].settings
    path, checkpoint = write_job(released, str(folder), "map", settings, [], rows)
    assert checkpoint.name == "lora" and checkpoint.parent == "beta@4"
    path.unlink()
    path, checkpoint = write_job(released, str(folder), "map", settings, ["model.run=lab/twin"], rows)
    assert checkpoint.name == "lab/twin-own" and 'run = "lab/twin-own"' in path.read_text()
    path.unlink()
