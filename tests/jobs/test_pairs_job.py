"""A job over pairs: stored, resumed, and read as conditional, unconditional and PMI maps."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_in_process import InThisProcess

from kltui.cli import main
from kltui.errors import KltuiError, UsageError
from kltui.jobs.batch import run_batch
from kltui.jobs.executors import local
from kltui.tui.widgets.token_lines import read_text_tokens, read_tokens
from kltui.workspace import Workspace
from tests.chat_pairs import core, ids_of_response
from tests.tiny_models import BEGIN, load_float64, write_model

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
    assert main(["--check", str(job.parent / "w")]) == 0, capsys.readouterr()


def test_an_export_is_imported_over_its_pairs_and_over_no_texts(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert "values of pairs other than" in capsys.readouterr().err


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[InThisProcess]:
    monkeypatch.setattr(local, "LocalExecutor", InThisProcess)
    InThisProcess.tasks = 0
    return InThisProcess


def kl_by_loop(job: Path, a: str, b: str, with_prompts: bool) -> tuple[list[float], list[int]]:
    """(KL(a, b) of every position of every response, its text): whole float64 logits of ids that are put together here."""
    networks = [load_float64(job.parent / name) for name in (a, b)]
    found: list[float] = []
    texts: list[int] = []
    for k, row in enumerate(ROWS):
        prompt = f"user: {row['prompt']}\nassistant: " if with_prompts else ""
        before = ids_of_response(job.parent / a, prompt) if prompt else []
        context = [core(job.parent / a).token_to_id(BEGIN), *before]
        ids = torch.tensor([[*context, *ids_of_response(job.parent / a, row["response"])]])
        with torch.no_grad():
            p, q = (n(input_ids=ids).logits[0, len(context) - 1 : -1].log_softmax(-1) for n in networks)
        kl = (p.exp() * (p - q)).sum(-1)
        found += kl.tolist()
        texts += [k] * len(kl)
    return found, texts


@pytest.mark.parametrize("values", ["conditional", "unconditional"])
def test_exact_kl_is_of_the_responses_tokens(
    job: Path, here: type[InThisProcess], values: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = str(job.parent / "w")
    asked = ["--report", "--json", "--section", "exact", "--values", values, "--pair", "m0", "m1", workspace]
    assert main(asked) == 0
    said = json.loads(capsys.readouterr().out)["sections"]["exact"]
    nats, text = kl_by_loop(job, "m0", "m1", values == "conditional")
    size = sum(len(str(row["response"]).encode()) for row in ROWS)
    assert said["forward"]["mean_nats_per_token"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert said["forward"]["kl_bits_per_byte"] == pytest.approx(sum(nats) / size / np.log(2), rel=1e-4)
    assert said["forward"]["q99_nats"] == pytest.approx(np.quantile(nats, 0.99), rel=1e-3)
    assert (said["tokens"], said["texts"], said["bytes"]) == (len(nats), len(ROWS), size)
    assert max(text) == len(ROWS) - 1
    with Workspace.open(job.parent / "w") as ws:
        ws.values = values
        kept, pair = ws.exact_kl("m1", "m0", compute=False), ws.map(values=values).pair("m0", "m1")
    assert kept is not None and kept.reverse.bits_per_byte == said["forward"]["kl_bits_per_byte"]
    assert said["estimate_bits_per_byte"] == pair.value and here.tasks == 1


def test_a_difference_has_no_exact_kl(
    job: Path, here: type[InThisProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--report", "--section", "exact", "--values", "pmi", "--pair", "m0", "m1"]
    assert main([*asked, str(job.parent / "w")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "no next-token distribution" in said and "--values conditional" in said
    assert here.tasks == 0


@pytest.mark.parametrize("values", ["conditional", "unconditional", "pmi"])
def test_token_lines_are_what_the_map_s_values_are_made_of(job: Path, values: str) -> None:
    with Workspace.open(job.parent / "w") as ws:
        ws.values = values
        shown, row = ws.map().loglik_KN[1], ROWS[3]["response"]
        tokens = read_text_tokens(ws, "m1", 3, str(row))
        given, alone = (read_tokens(ws, "m1", 3, str(row), alone=a) for a in (False, True))
    assert tokens is not None and given is not None and alone is not None
    assert tokens.parts[-1].total == pytest.approx(shown[3], abs=1e-4) and not tokens.lacking
    assert [p.of for p in tokens.parts] == {
        "conditional": [""],
        "unconditional": ["log p(y)"],
        "pmi": ["log p(y|x)", "log p(y)", "pmi"],
    }[values]
    assert len(given.logprobs) == len(alone.logprobs)  # there is a BOS before either
    if values == "pmi":
        assert np.array_equal(tokens.line.logprobs, given.logprobs - alone.logprobs)
        assert tokens.line.spans == given.spans and tokens.parts[-1].signed


def test_tokens_of_responses_alone_that_were_not_kept_are_told_and_scored_again(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = shutil.copytree(job.parent / "w", tmp_path / "w")
    shutil.rmtree(ended / "tokens-alone")
    with Workspace.open(ended) as ws:
        ws.values = "pmi"
        tokens = read_text_tokens(ws, "m0", 0, str(ROWS[0]["response"]))
    assert tokens is not None and tokens.lacking == "log p(y)"
    assert [p.of for p in tokens.parts] == ["log p(y|x)"]
    assert run_batch(job, ["scoring.unconditional=true", f"workspace={ended}"], as_json=True)[0] == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {e["status"] for e in events if e["event"] == "checkpoint"} == {"done"}
    assert main(["--check", str(ended)]) == 0, capsys.readouterr()
