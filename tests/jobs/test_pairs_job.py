"""A job over pairs: stored, resumed, and read as conditional, unconditional and PMI maps."""

from __future__ import annotations

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
    assert main(["--report", "--section", "drivers", "--values", "pmi", workspace]) == 0
    assert main(["--report", "--save-map", "x", "--values", "pmi", workspace]) == 2
