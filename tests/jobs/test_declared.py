"""Imported vectors with what is declared of them: own ones under the same rules join their map, others are told apart."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import kltui
from kltui.cli import main
from kltui.corpus.corpus import Corpus
from kltui.errors import UsageError
from kltui.jobs.declared_settings import parse_declared
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.comparable import differing, groups, remedy
from kltui.view.export import export

N = 12
TEXTS = tuple(f"text number {i} " * (i % 3 + 1) for i in range(N))
VALUES = np.random.default_rng(5).normal(-60, 9, (4, N))
OWN = "bos=auto dtype=float32 overlong=error"


def released(folder: Path, name: str = "vectors.pkl") -> list[str]:
    """Arguments that import two vectors, a and b, over TEXTS."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    (folder / name).write_bytes(pickle.dumps({"a": VALUES[0], "b": VALUES[1]}))
    return ["--import", str(folder / name), "--import", str(folder / "texts.json")]


def score(workspace: Path, name: str, settings: str = OWN, row: int = 2) -> None:
    """Stores a vector as a job would."""
    store = Store.write(workspace)
    with store.atomic():
        corpus = store.corpora.add(Corpus(TEXTS), "texts.json")
        checkpoint = store.checkpoints.upsert(Checkpoint(name, LocalSource(Path("/models") / name)))
        store.checkpoints.set_weights(checkpoint, f"sha:{name}")
        key = {
            "weights": f"sha:{name}",
            **dict(w.split("=") for w in settings.split()),
            "torch": "2.13.0",
            "attention": "eager",
        }
        store.vectors.put(checkpoint, corpus, None, key, settings, VALUES[row], np.full(N, 9, np.int32), None)
    store.close()


def test_declared_vectors_and_own_ones_under_the_same_rules_share_a_map(tmp_path: Path, capsys) -> None:
    ws = tmp_path / "ws"
    score(ws, "mine")
    declare = ["--declare", "bos=auto", "--declare", "dtype=float16", "--declare", "tokenizer=own"]
    assert main([*released(tmp_path), *declare, str(ws)]) == 0
    assert (
        "2 vectors were scored with bos=auto dtype=float16 overlong=error, declared by the user"
        in capsys.readouterr().err
    )
    with kltui.open(ws) as opened:
        shown = opened.map()
        assert set(shown.names) == {"a", "b", "mine"}
        assert shown.record["from_elsewhere"] == {"imported": 2, "scored_here": 1}
        rows = opened.vectors()
        assert (
            rows["a"].key_fields["tokenizer"] == "own"
            and rows["a"].settings == "bos=auto dtype=float16 overlong=error"
        )
        assert (
            opened.map(settings=OWN).names == shown.names
        )  # the same map by the settings of any of its vectors
    assert main(["--report", "--section", "kl", str(ws)]) == 0
    note = " ".join(capsys.readouterr().out.split())
    assert (
        "2 imported vectors and 1 scored here, which differ in dtype (float16, float32), attention (not on record, eager)"
        in note
    )


@pytest.mark.parametrize(("word", "rule"), [("bos=always", "bos"), ("overlong=window", "overlong")])
def test_other_rules_are_refused_with_the_key_and_the_remedy(
    tmp_path: Path, capsys, word: str, rule: str
) -> None:
    ws, other = tmp_path / "ws", OWN.replace(f"{rule}={dict(w.split('=') for w in OWN.split())[rule]}", word)
    score(ws, "mine", other)
    assert main([*released(tmp_path), "--declare", "bos=auto", "--declare", "dtype=float16", str(ws)]) == 0
    said = capsys.readouterr().err
    assert (
        f"1 vectors share no map with 2 over the same texts: {rule} is " in said
        and f"--set scoring.{rule}=" in said
    )
    with kltui.open(ws) as opened:
        assert opened.map().names == ["a", "b"]
        with pytest.raises(UsageError, match=f"cannot share a map: .*{rule} is") as refused:
            opened.map(names=["a", "mine"])
    asked = dict(w.split("=") for w in OWN.split())[rule]
    assert f"kltui --batch JOB --set scoring.{rule}={asked} " in refused.value.hint
    score(
        ws, "third", other, row=3
    )  # own vectors as many as imported ones: these cannot be scored again all the same
    with kltui.open(ws) as opened, pytest.raises(UsageError) as refused:
        opened.map(names=["a", "mine", "third"])
    assert f"--set scoring.{rule}={asked} " in refused.value.hint


def test_imported_vectors_are_not_told_for_own_ones_of_an_old_release(tmp_path: Path, capsys) -> None:
    ws = tmp_path / "ws"
    score(ws, "mine")  # whose key names no tokenizer
    declare = ["--declare", "bos=auto", "--declare", "dtype=float16", "--declare", "tokenizer=own"]
    assert main([*released(tmp_path), *declare, str(ws)]) == 0
    assert main(["--report", "--section", "overview", str(ws)]) == 0
    assert "before kltui read tokenizer.json" not in " ".join(capsys.readouterr().out.split())


def test_undeclared_vectors_stay_alone_until_they_are_imported_again(tmp_path: Path, capsys) -> None:
    ws = tmp_path / "ws"
    score(ws, "mine")
    assert main([*released(tmp_path), str(ws)]) == 0
    assert "--declare bos=auto --declare dtype=float16" in capsys.readouterr().err
    with kltui.open(ws) as opened:
        assert opened.map().names == ["a", "b"]
    assert main([*released(tmp_path), "--declare", "bos=auto", str(ws)]) == 0
    with kltui.open(ws) as opened:
        assert set(opened.map().names) == {"a", "b", "mine"} and len(opened.vector_groups()) == 1


def test_released_vectors_declare_themselves(tmp_path: Path) -> None:
    assert main([*released(tmp_path / "logp", "models_logp.pkl"), str(tmp_path / "ws")]) == 0
    with kltui.open(tmp_path / "ws") as opened:
        row = opened.vectors()["a"]
    assert row.settings == "bos=auto dtype=float16 overlong=truncate"
    assert row.key_fields["declared"] == "by the release" and row.key_fields["tokenizer"] == "own"


def test_a_round_trip_keeps_keys_and_settings(tmp_path: Path, capsys) -> None:
    for name, bos, row in (("one", "auto", 2), ("two", "always", 3)):
        score(tmp_path / name, name, OWN.replace("auto", bos), row)
        with kltui.open(tmp_path / name) as opened:
            export(opened, tmp_path / "out" / name)
        assert (
            main(
                [
                    "--import",
                    str(tmp_path / "out" / name / "loglik.npz"),
                    *released(tmp_path)[2:],
                    str(tmp_path / "all"),
                ]
            )
            == 0
        )
    said = capsys.readouterr().err
    assert "bos is auto or always" in said or "bos is always or auto" in said
    score(tmp_path / "all", "mine")
    with kltui.open(tmp_path / "all") as opened:
        assert opened.map(settings=OWN).names == ["mine", "one"]
        key = opened.vectors(settings=OWN)["one"].key_fields
    assert key["of_weights"] == "sha:one" and key["torch"] == "2.13.0" and key["declared"] == "by the file"
    npz = str(tmp_path / "out" / "two" / "loglik.npz")
    assert main(["--import", npz, "--declare", "bos=never", str(tmp_path / "all")]) == 2
    assert "that its bos is always, and --declare says never" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["bos", "bos=maybe", "colour=red", "dtype=", "tokenizer=a b"])
def test_what_cannot_be_declared_is_said(word: str) -> None:
    with pytest.raises(UsageError, match="--declare"):
        parse_declared([word])


def test_a_rule_for_long_texts_that_never_came_to_bear_keeps_none_off() -> None:
    cut = OWN.replace("error", "truncate")
    assert not differing(cut, OWN) and differing(OWN, cut) == {"overlong": ("error", "truncate")}
    assert "--set scoring.overlong=error" in remedy(OWN, cut)
    assert groups([]) == {}
