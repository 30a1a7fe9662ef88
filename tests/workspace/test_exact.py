"""Exact next-token KL of a workspace: its figures against a float64 loop, kept once, refused in words."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_in_process import InThisProcess
from tiny_models import TEXTS, build_tokenizer, load_float64, write_model

import kltui
from kltui.cli import main
from kltui.corpus.corpus import Corpus
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.jobs.executors import local
from kltui.registry.checkpoint import Checkpoint, LocalSource, ServedSource
from kltui.registry.reading import hash_files
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings
from kltui.store import Store
from kltui.store.writer_lock import _process_identity

SETTINGS = "bos=auto dtype=float32 overlong=error"
CORPUS = Corpus(TEXTS)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[InThisProcess]:
    monkeypatch.setattr(local, "LocalExecutor", InThisProcess)
    InThisProcess.tasks = 0
    return InThisProcess


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two scored models of one tokenizer, one of another, an imported one and a served one."""
    root = tmp_path_factory.mktemp("exact")
    scorer = Scorer(TEXTS, CORPUS.sha256, ScoringSettings())
    store = Store.write(root / "ws")
    with store.atomic():
        corpus_id = store.corpora.add(CORPUS, "texts")
        for seed, name in enumerate(("one", "two", "three")):
            folder = write_model(root / name, "gpt_neox", seed=seed)
            if name == "three":
                build_tokenizer(vocab=300).save_pretrained(folder)
            weights = hash_files(folder).weights
            result = scorer.score(folder, "none", weights, lambda p: None)
            put(store, corpus_id, Checkpoint(name, LocalSource(folder)), weights, result.key, result)
        for name, source, weights in (
            ("far", LocalSource(root / "nowhere"), "import:x"),
            ("served", ServedSource("http://127.0.0.1:1/v1", "m"), "served:x"),
        ):
            put(
                store,
                corpus_id,
                Checkpoint(name, source),
                weights,
                {**result.key, "weights": weights},
                result,
            )
    store.close()
    return root


def put(store, corpus_id, checkpoint, weights, key, result) -> None:
    row = store.checkpoints.upsert(checkpoint)
    store.checkpoints.set_weights(row, weights)
    vector = result.vectors[-1]
    store.vectors.put(row, corpus_id, None, key, SETTINGS, vector.loglik_N, vector.n_scored_N, None)


@pytest.fixture
def workspace(scored: Path, tmp_path: Path) -> Path:
    shutil.copytree(scored / "ws", tmp_path / "ws")
    return tmp_path / "ws"


def positions(folder_a: Path, folder_b: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(KL(a, b), KL(b, a), same top) of every position and its text, by whole float64 logits."""
    a, b, tokenizer = load_float64(folder_a), load_float64(folder_b), build_tokenizer()
    found = []
    for s, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text, split_special_tokens=True).input_ids])
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0, :-1].log_softmax(-1) for m in (a, b))
        for u, v in zip(p, q, strict=True):
            there, back = (u.exp() * (u - v)).sum(), (v.exp() * (v - u)).sum()
            found.append((float(there), float(back), float(u.argmax() == v.argmax()), s))
    return tuple(np.array(found).T)  # type: ignore[return-value]


def test_every_figure_is_that_of_a_float64_loop(scored: Path, workspace: Path, here) -> None:
    forward, reverse, same, text = positions(scored / "one", scored / "two")
    with kltui.open(workspace) as ws:
        found = ws.exact_kl("one", "two")
        estimate = ws.map().pair("one", "two")
    assert found is not None
    used = sum(len(t.encode()) for s, t in enumerate(TEXTS) if s in text)
    for made, nats in ((found.forward, forward), (found.reverse, reverse)):
        assert made.nats_per_token == pytest.approx(nats.mean(), rel=1e-4)
        assert made.bits_per_byte == pytest.approx(nats.sum() / used / np.log(2), rel=1e-4)
        assert made.median_nats == pytest.approx(np.median(nats), rel=1e-3)
        assert made.high_nats == pytest.approx(np.quantile(nats, 0.99), rel=1e-3)
        assert made.max_nats == pytest.approx(nats.max(), rel=1e-3)
        sums = np.array([[nats[text == s].sum(), (text == s).sum()] for s in np.unique(text)]).T
        spread = np.sqrt(((sums[0] - nats.mean() * sums[1]) ** 2).sum()) / len(nats)
        assert made.nats_per_token_se == pytest.approx(spread, rel=1e-3)
    assert found.top1_agreement == pytest.approx(same.mean()) and found.n_tokens == len(same)
    assert found.estimate == estimate
    mean = (found.forward.bits_per_byte + found.reverse.bits_per_byte) / 2
    assert found.ratio == pytest.approx(estimate.value / mean)


def test_it_is_worked_out_once_whichever_way_round(workspace: Path, here) -> None:
    with kltui.open(workspace) as ws:
        assert ws.exact_kl("one", "two", compute=False) is None
        there = ws.exact_kl("one", "two")
        back = ws.exact_kl("two", "one", compute=False)
        assert here.tasks == 1 and there is not None and back is not None
        assert back.forward == there.reverse and back.reverse == there.forward and back.a == "two"
        assert ws.exact_kl("one", "two") == there and here.tasks == 1
        assert set(ws.exact_pairs()[0]) == {"one", "two"}


def test_without_torch_it_says_what_to_install_and_what_is_stored_is_read(
    workspace: Path, here, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kltui.open(workspace) as ws:
        found = ws.exact_kl("one", "two")
        monkeypatch.setattr("kltui.environment.find_spec", lambda _: None)
        assert ws.exact_kl("one", "two") == found
        with pytest.raises(KltuiError, match="scoring needs torch and transformers"):
            ws.exact_kl("one", "one")


def test_a_model_is_no_distance_from_itself(workspace: Path, here) -> None:
    with kltui.open(workspace) as ws:
        found = ws.exact_kl("one", "one")
    assert found is not None and found.forward.bits_per_byte == 0.0 and found.top1_agreement == 1.0
    assert np.isnan(found.ratio)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("one", "three"), "different tokenizers"),
        (("one", "far"), "imported as a vector"),
        (("one", "served"), "is a served model"),
    ],
)
def test_what_cannot_be_compared_is_refused(workspace: Path, here, pair, said) -> None:
    with kltui.open(workspace) as ws, pytest.raises(KltuiError, match=said):
        ws.exact_kl(*pair)
    assert here.tasks == 0


def test_settings_of_a_kind_that_is_not_known_are_refused(workspace: Path, here) -> None:
    store = Store.write(workspace)
    with store.atomic():
        store.db.execute("UPDATE vector SET settings = settings || ' window=7'")
    store.close()
    with (
        kltui.open(workspace) as ws,
        pytest.raises(KltuiError, match="window=7, which this version of kltui"),
    ):
        ws.exact_kl("one", "two")
    assert here.tasks == 0


def test_files_that_are_gone_or_others_are_refused(
    scored: Path, workspace: Path, tmp_path: Path, here
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(scored / "two", moved)
    store = Store.write(workspace)
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("two", LocalSource(moved)))
    store.close()
    shutil.copy(scored / "one" / "model.safetensors", moved)
    with kltui.open(workspace) as ws:
        with pytest.raises(KltuiError, match="have changed since scoring"):
            ws.exact_kl("one", "two")
        shutil.rmtree(moved)
        with pytest.raises(KltuiError, match=r"files of two are missing: .*moved"):
            ws.exact_kl("one", "two")
    assert here.tasks == 0


def test_a_workspace_that_another_process_writes_is_refused_at_once(workspace: Path, here) -> None:
    other, now = os.getppid(), time.time()
    with sqlite3.connect(workspace / "kltui.sqlite") as db:
        row = (1, socket.gethostname(), other, _process_identity(other), now, now)
        db.execute("INSERT OR REPLACE INTO writer VALUES (?, ?, ?, ?, ?, ?)", row)
    db.close()
    with kltui.open(workspace) as ws, pytest.raises(StoreError, match="cannot be written now"):
        ws.exact_kl("one", "two")
    assert here.tasks == 0


def test_the_report_has_it_and_a_strange_name_is_a_mistake_of_usage(workspace: Path, here, capsys) -> None:
    asked = ["--report", "--json", "--section", "exact", str(workspace)]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["sections"]["exact"]["status"] == "missing"
    assert main([*asked, "--pair", "one", "two"]) == 0
    section = json.loads(capsys.readouterr().out)["sections"]["exact"]
    assert section["status"] == "shown" and section["ratio"] > 0 and 0 <= section["top1_agreement"] <= 1
    assert {"kl_bits_per_byte", "median_nats", "q99_nats"} <= set(section["forward"])
    assert main(asked) == 0  # all that is kept
    assert len(json.loads(capsys.readouterr().out)["sections"]["exact"]["pairs"]) == 1
    assert main([*asked, "--pair", "one", "three"]) == 1
    said = json.loads(capsys.readouterr().out)["sections"]["exact"]
    assert said["status"] == "failed" and "tokenizers" in said["message"]
    assert main([*asked, "--pair", "one", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
    # A report of everything runs no model.
    assert main(["--report", "--json", "--pair", "one", "one", str(workspace)]) == 0
    assert here.tasks == 1


def test_unscored_names_are_mistakes_of_usage(workspace: Path) -> None:
    with kltui.open(workspace) as ws, pytest.raises(UsageError, match="nobody"):
        ws.exact_kl("one", "nobody")


def test_a_process_of_its_own_does_it(workspace: Path) -> None:
    stages = []
    with kltui.open(workspace) as ws:
        found = ws.exact_kl(
            "one", "two", device="cpu", progress=lambda stage, share: stages.append((stage, share))
        )
    assert found is not None and found.forward.bits_per_byte > 0
    assert [s for s, _ in stages][:2] == ["fetch", "load"] and stages[-1] == ("score", 1.0)
