"""A job over pairs: stored, resumed, and read as conditional, unconditional and PMI maps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from kltui.errors import KltuiError, UsageError
from kltui.jobs.batch import run_batch
from kltui.workspace import Workspace
from tests.tiny_models import write_model

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant: "
ROWS = [
    {"prompt": f"Question {k}?", "response": f"Answer number {k * k}.", "domain": "ab"[k % 2]}
    for k in range(8)
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    models = []
    for seed in range(3):
        model = write_model(folder / f"m{seed}", "llama", seed=seed, prepend_bos=True)
        (model / "chat_template.jinja").write_text(TEMPLATE)
        models.append(f'[[models]]\npath = "m{seed}"\n')
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    path = folder / "job.toml"
    path.write_text(
        'workspace = "w"\n[corpus]\nsource = "pairs.jsonl"\nkind = "pairs"\n' + "".join(models)
        + '[scoring]\ndevice = "cpu"\ntokens = true\n'
    )  # fmt: skip
    assert run_batch(path, ["scoring.unconditional=true"], as_json=True)[0] == 0
    return path


def test_pmi_is_the_difference_text_by_text(job: Path) -> None:
    with Workspace.open(job.parent / "w") as ws:
        maps = {values: ws.map(values=values) for values in ("conditional", "unconditional", "pmi")}
        assert ws.prompts()[1] == (("user", "Question 1?"),)
        assert ws.texts()[1] == ROWS[1]["response"]
        assert ws.token_logprobs("m0") is not None
        with pytest.raises(UsageError, match="no other values"):
            ws.map(values="other")
    given, alone, pmi = (maps[v] for v in ("conditional", "unconditional", "pmi"))
    assert np.array_equal(pmi.loglik_KN, given.loglik_KN - alone.loglik_KN)
    assert not np.allclose(given.loglik_KN, alone.loglik_KN)
    assert given.names == pmi.names == ["m0", "m1", "m2"]
    assert given.text_bytes_N.tolist() == [len(row["response"]) for row in ROWS]
    assert given.record["settings"] == "bos=auto dtype=float32 overlong=error kind=pairs template=chat"
    assert pmi.record["values"] == "pmi"


def test_what_is_stored_is_kept_and_what_lacks_values_alone_is_scored_again(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = job.with_name("other.toml")
    other.write_text(job.read_text().replace('"w"', '"w2"'))
    assert run_batch(other, as_json=True)[0] == 0
    with (
        Workspace.open(job.parent / "w2") as ws,
        pytest.raises(KltuiError, match="scored without its prompt"),
    ):
        ws.map(values="pmi")
    capsys.readouterr()
    for expected in ("done", "kept"):
        assert run_batch(other, ["scoring.unconditional=true"], as_json=True)[0] == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {e["status"] for e in events if e["event"] == "checkpoint"} == {expected}
    # the same pairs without the template share a corpus and no map
    assert run_batch(other, ["corpus.template=none"], as_json=True)[0] == 0
    with Workspace.open(job.parent / "w2") as ws:
        assert len(ws.vector_groups()) == 2


def test_reports_and_exports_read_the_values_asked_for(job: Path, tmp_path: Path) -> None:
    from kltui.cli import main

    workspace = str(job.parent / "w")
    for values in ("conditional", "unconditional", "pmi"):
        assert main(["--export", str(tmp_path / values), "--values", values, workspace]) == 0
    loaded = {v: np.load(tmp_path / v / "loglik.npz") for v in ("conditional", "unconditional", "pmi")}
    difference = loaded["conditional"]["loglik"] - loaded["unconditional"]["loglik"]
    assert np.array_equal(loaded["pmi"]["loglik"], difference)
    assert str(loaded["pmi"]["settings"][0]).endswith("values=pmi")
    for values, arrays in loaded.items():
        with (tmp_path / values / "checkpoints.csv").open(newline="") as file:
            means = [float(row["mean_loglik_nats"]) for row in csv.DictReader(file)]
        assert means == pytest.approx(arrays["loglik"].mean(axis=1).tolist())
    assert main(["--report", "--section", "drivers", "--values", "pmi", workspace]) == 0
    assert main(["--report", "--save-map", "x", "--values", "pmi", workspace]) == 2


def test_a_workspace_of_pairs_is_whole(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kltui.cli import main

    assert main(["--check", str(job.parent / "w")]) == 0, capsys.readouterr()


def test_an_export_is_imported_over_its_pairs_and_over_no_texts(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kltui.cli import main

    for values in ("conditional", "pmi"):
        assert main(["--export", str(tmp_path / values), "--values", values, str(job.parent / "w")]) == 0
    vectors, pairs = str(tmp_path / "conditional" / "loglik.npz"), str(job.parent / "pairs.jsonl")
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps(ROWS))
    for name, file in (("lines", pairs), ("listed", str(listed))):
        assert main(["--import", vectors, "--import", file, str(tmp_path / name)]) == 0
        with Workspace.open(job.parent / "w") as own, Workspace.open(tmp_path / name) as ws:
            assert ws.prompts() == own.prompts()
            assert np.array_equal(ws.map().loglik_KN, own.map().loglik_KN)
            assert ws.map().record["template"] == "chat"
    responses = tmp_path / "responses.json"
    responses.write_text(json.dumps([row["response"] for row in ROWS]))
    capsys.readouterr()
    assert main(["--import", vectors, "--import", str(responses), str(tmp_path / "texts")]) == 2
    assert "that are not in this workspace" in capsys.readouterr().err
    other = str(tmp_path / "pmi" / "loglik.npz")
    assert main(["--import", other, "--import", pairs, str(tmp_path / "pmi-ws")]) == 2
    assert "other values of pairs" in capsys.readouterr().err
