"""Sources that are joined are over the same texts or over two corpora: the texts decide, never how many there are."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import kltui
from kltui.cli import main
from kltui.view.export import export

N = 12
TEXTS = [f"text number {i} " * (i % 3 + 1) for i in range(N)]
OTHERS = [t.replace("text", "word") for t in TEXTS]
VALUES = np.random.default_rng(5).normal(-60, 9, (4, N))


def samples(
    folder: Path, texts: Sequence[str], values: Sequence[float], task: str = "wiki", **more: object
) -> Path:
    """Logged samples of lm-evaluation-harness, in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{task}_2026-01-01.jsonl"
    rows = [
        {
            "doc_id": i,
            "arguments": {"gen_args_0": {"arg_0": t}},
            "resps": [[str(v)]],
            "filter": "none",
            **more,
        }
        for i, (t, v) in enumerate(zip(texts, values, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pickled(path: Path, vectors: object) -> Path:
    path.write_bytes(pickle.dumps(vectors))
    return path


def listed(path: Path, texts: Sequence[str]) -> Path:
    path.write_text(json.dumps(list(texts)))
    return path


def run(
    capsys: pytest.CaptureFixture[str], ws: Path, *paths: Path, more: Sequence[str] = ()
) -> tuple[int, str]:
    """(exit code, what was said) of `kltui --import ...`."""
    words = [word for path in paths for word in ("--import", str(path))]
    code = main([*words, *more, str(ws)])
    return code, capsys.readouterr().err


def stored(ws: Path) -> dict[str, dict[tuple[str, ...], list[float]]]:
    """{name: {texts: values}} of everything in the workspace."""
    found: dict[str, dict[tuple[str, ...], list[float]]] = {}
    with kltui.open(ws) as opened:
        for corpus in opened.corpora():
            texts = tuple(opened.texts(corpus.sha256))
            for settings in {g.settings for g in opened.vector_groups() if g.corpus_id == corpus.id}:
                m = opened.map(corpus=corpus.sha256, settings=settings)
                for name, values in zip(m.names, m.loglik_KN, strict=True):
                    found.setdefault(name, {})[texts] = values.tolist()
    return found


@pytest.mark.parametrize("together", [True, False])
def test_as_many_texts_are_not_the_same_texts(tmp_path: Path, capsys, together: bool) -> None:
    a, b = (
        samples(tmp_path / m, t, VALUES[k]) for k, (m, t) in enumerate((("o__a", TEXTS), ("o__b", OTHERS)))
    )
    for paths in [(a, b)] if together else [(a,), (b,)]:
        assert run(capsys, tmp_path / "ws", *paths)[0] == 0
    assert stored(tmp_path / "ws") == {
        "o/a": {tuple(TEXTS): VALUES[0].tolist()}, "o/b": {tuple(OTHERS): VALUES[1].tolist()}
    }  # fmt: skip


def test_the_same_texts_in_another_order_are_one_corpus(tmp_path: Path, capsys) -> None:
    order = random.Random(3).sample(range(N), N)
    a = samples(tmp_path / "a", TEXTS, VALUES[0])
    b = samples(tmp_path / "b", [TEXTS[i] for i in order], VALUES[1][order])
    c = pickled(tmp_path / "c.pkl", {"c": VALUES[2][order]})
    shuffled = listed(tmp_path / "shuffled.json", [TEXTS[i] for i in order])
    assert run(capsys, tmp_path / "ws", a)[0] == 0
    for paths in ((b,), (c, shuffled)):
        code, said = run(capsys, tmp_path / "ws", *paths)
        assert code == 0 and "in another order" in said
    found = stored(tmp_path / "ws")
    assert found == {n: {tuple(TEXTS): VALUES[k].tolist()} for k, n in enumerate("abc")}


@pytest.mark.parametrize("part", [slice(0, 7), slice(3, None)])
def test_a_part_of_the_texts_is_a_corpus_of_its_own(tmp_path: Path, capsys, part: slice) -> None:
    """As lm-evaluation-harness leaves it with --limit."""
    a = samples(tmp_path / "a", TEXTS, VALUES[0])
    b = samples(tmp_path / "b", TEXTS[part], VALUES[1][part])
    assert run(capsys, tmp_path / "ws", a, b)[0] == 0
    found = stored(tmp_path / "ws")
    assert found["b"] == {tuple(TEXTS[part]): VALUES[1][part].tolist()} and list(found["a"]) == [tuple(TEXTS)]


def test_two_rolling_tasks_of_one_model_are_both_kept(tmp_path: Path, capsys) -> None:
    samples(tmp_path / "o__m", TEXTS, VALUES[0], "wikitext")
    samples(tmp_path / "o__m", OTHERS, VALUES[1], "pile")
    code, said = run(capsys, tmp_path / "ws", tmp_path)
    assert code == 0 and "left out" not in said and "2 vectors" in said
    assert stored(tmp_path / "ws") == {
        "o/m": {tuple(TEXTS): VALUES[0].tolist(), tuple(OTHERS): VALUES[1].tolist()}
    }


def test_documents_that_are_absent_leave_no_gap(tmp_path: Path, capsys) -> None:
    path = samples(tmp_path / "m", TEXTS, VALUES[0])
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:3] + rows[4:]))
    code, said = run(capsys, tmp_path / "ws", path)
    assert code == 0 and "1 of 12 documents are absent" in said
    rest = TEXTS[:3] + TEXTS[4:]
    assert stored(tmp_path / "ws")["m"] == {tuple(rest): [*VALUES[0][:3], *VALUES[0][4:]]}


def test_what_was_not_scored_has_no_number(tmp_path: Path, capsys) -> None:
    texts = ["", *TEXTS[1:]]
    values: list[object] = [0.0, "-inf", "nan", 0, "-0.0", *VALUES[0][5:]]
    path = samples(tmp_path / "m", texts, values)  # type: ignore[arg-type]
    code, said = run(capsys, tmp_path / "ws", path)
    assert code == 0
    assert "2 values are infinite or NaN" in said and "3 texts are empty or have exactly 0 nats" in said
    (got,) = stored(tmp_path / "ws")["m"].values()
    assert np.isnan(got[:5]).all() and got[5:] == VALUES[0][5:].tolist()


def test_vectors_whose_texts_are_not_known_are_refused_with_the_ways_out(tmp_path: Path, capsys) -> None:
    bare = pickled(tmp_path / "bare.pkl", {"bare": VALUES[1]})
    a = samples(tmp_path / "a", TEXTS, VALUES[0])
    texts, others = listed(tmp_path / "t.json", TEXTS), listed(tmp_path / "o.json", OTHERS)
    for paths in ((bare,), (bare, a)):
        code, said = run(capsys, tmp_path / "ws", *paths)
        assert code == 2 and "is not known which" in said and "--import texts.json" in said
    code, said = run(capsys, tmp_path / "ws", bare, texts, others)
    assert code == 2 and "which of the 2 named corpora" in said
    assert not stored(tmp_path / "ws") if (tmp_path / "ws" / "kltui.sqlite").exists() else True
    assert run(capsys, tmp_path / "ws", a)[0] == 0
    code, said = run(capsys, tmp_path / "ws", bare)
    assert code == 2 and "an equal number of texts does not make them the same" in said
    with kltui.open(tmp_path / "ws") as ws:
        sha256 = ws.corpora()[0].sha256
    assert f"--over {sha256[:12]}" in said
    code, said = run(capsys, tmp_path / "ws", bare, more=("--over", "ffff"))
    assert code == 2 and "matches 0 corpora" in said
    assert run(capsys, tmp_path / "ws", bare, more=("--over", sha256[:8]))[0] == 0
    assert stored(tmp_path / "ws")["bare"] == {tuple(TEXTS): VALUES[1].tolist()}
    again = pickled(tmp_path / "again.pkl", {"bare": VALUES[1], "more": VALUES[2]})
    assert run(capsys, tmp_path / "ws", again)[0] == 0, "known by the very values that are stored"
    assert stored(tmp_path / "ws")["more"] == {tuple(TEXTS): VALUES[2].tolist()}


def test_texts_of_another_number_are_refused(tmp_path: Path, capsys) -> None:
    bare, few = pickled(tmp_path / "bare.pkl", {"bare": VALUES[1]}), listed(tmp_path / "t.json", TEXTS[:5])
    code, said = run(capsys, tmp_path / "ws", bare, few)
    assert code == 2 and "bare has 12 values, the corpus has 5" in said


def test_what_was_exported_says_what_it_is_over(tmp_path: Path, capsys) -> None:
    a, b = samples(tmp_path / "a", TEXTS, VALUES[0]), samples(tmp_path / "b", TEXTS, VALUES[1])
    assert run(capsys, tmp_path / "ws", a, b)[0] == 0
    with kltui.open(tmp_path / "ws") as ws:
        export(ws, tmp_path / "out")
    out = tmp_path / "out" / "loglik.npz"
    assert run(capsys, tmp_path / "ws", out)[0] == 0, "its texts are here"
    code, said = run(capsys, tmp_path / "new", out)
    assert code == 2 and "12 texts that are not in this workspace" in said
    others = listed(tmp_path / "o.json", OTHERS)
    code, said = run(capsys, tmp_path / "new", out, others)
    assert code == 2 and "not in this workspace" in said
    backwards = listed(tmp_path / "back.json", TEXTS[::-1])
    assert run(capsys, tmp_path / "new", out, backwards)[0] == 0
    assert stored(tmp_path / "new")["b"] == {tuple(TEXTS[::-1]): VALUES[1][::-1].tolist()}


def test_lengths_in_bytes_tell_texts_apart(tmp_path: Path, capsys) -> None:
    """Exports of earlier releases hold no more of the texts than these."""
    path, texts = tmp_path / "v.npz", listed(tmp_path / "t.json", TEXTS)
    for lengths, code in (([len(t) + 1 for t in TEXTS], 2), ([len(t) for t in TEXTS], 0)):
        np.savez(path, loglik=VALUES[:2], names=np.array(["a", "b"]), text_bytes=np.array(lengths))
        got, said = run(capsys, tmp_path / "ws", path, texts)
        assert got == code and ("12 of 12 differ in length" in said) == bool(code)


def test_a_files_own_index_is_where_its_corpus_has_it(tmp_path: Path, capsys) -> None:
    order = random.Random(7).sample(range(N), N)
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"index": 10 * i, "text": TEXTS[i]}) + "\n" for i in order))
    model = tmp_path / "m.jsonl"
    rows = [{"index": 10 * i, "num-tokens": 5, "log-likelihood": v} for i, v in enumerate(VALUES[0])]
    model.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    for ws, paths in (("apart", (model, corpus)), ("folder", (tmp_path,))):
        assert run(capsys, tmp_path / ws, *paths)[0] == 0
        (got,) = stored(tmp_path / ws)["m"].values()
        want = [VALUES[0][i] if i < N - 1 else np.nan for i in order]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", ["pkl", "json", "npz"])
@pytest.mark.parametrize("numbers", [(0, 1, 2, 3, 4), (1, 2, 3), (0,), (0, 6, 12)])
def test_numbers_that_may_be_steps_or_layers_are_asked_for(
    tmp_path: Path, capsys, kind: str, numbers: tuple[int, ...]
) -> None:
    rows = {k: VALUES[k % 4] + k for k in numbers}
    path, texts = tmp_path / f"vectors.{kind}", listed(tmp_path / "texts.json", TEXTS)
    if kind == "pkl":
        pickled(path, {"m": rows})
    elif kind == "json":
        path.write_text(json.dumps({"m": {k: list(v) for k, v in rows.items()}}))
    else:
        np.savez(path, **{f"m/{k}": v for k, v in rows.items()})
    code, said = run(capsys, tmp_path / "ws", path, texts)
    assert code == 2 and "--as steps" in said and "--as layers" in said and "are numbered" in said
    assert run(capsys, tmp_path / "steps", path, texts, more=("--as", "steps"))[0] == 0
    assert sorted(stored(tmp_path / "steps")) == sorted(f"m@{k}" for k in numbers)
    assert run(capsys, tmp_path / "layers", path, texts, more=("--as", "layers"))[0] == 0
    with kltui.open(tmp_path / "layers") as ws:
        assert ws.map(layers=True).names == [f"m#{k}" for k in numbers]


@pytest.mark.parametrize(
    ("name", "numbers", "want"),
    [("layer_logp", (0, 1), "m#1"), ("pretraining_logp", (0, 1), "m@1"), ("x", (0, 1, 512), "m@512")],
)
def test_numbers_that_a_file_tells_are_not_asked_for(
    tmp_path: Path, capsys, name: str, numbers: tuple[int, ...], want: str
) -> None:
    path = pickled(tmp_path / f"{name}.pkl", {"m": {k: VALUES[0] + k for k in numbers}})
    assert run(capsys, tmp_path / "ws", path, listed(tmp_path / "texts.json", TEXTS))[0] == 0
    with kltui.open(tmp_path / "ws") as ws:
        assert want in ws.map(layers=True).names


def test_units_that_are_none_are_noted(tmp_path: Path, capsys) -> None:
    texts = listed(tmp_path / "t.json", TEXTS)
    _, said = run(capsys, tmp_path / "a", pickled(tmp_path / "means.pkl", {"m": VALUES[0] / 1000}), texts)
    assert "means over tokens" in said
    _, said = run(capsys, tmp_path / "b", pickled(tmp_path / "losses.pkl", {"m": -VALUES[0]}), texts)
    assert "opposite sign" in said
    _, said = run(capsys, tmp_path / "c", pickled(tmp_path / "right.pkl", {"m": VALUES[0]}), texts)
    assert "note" not in said


def test_texts_that_no_vector_is_over_are_told(tmp_path: Path, capsys) -> None:
    a, others = samples(tmp_path / "a", TEXTS, VALUES[0]), listed(tmp_path / "o.json", OTHERS)
    code, said = run(capsys, tmp_path / "ws", a, others)
    assert code == 0 and "none of the vectors covers the 12 texts of" in said and "o.json" in said


def test_what_takes_the_place_of_another_is_told(tmp_path: Path, capsys) -> None:
    first, again = (
        samples(tmp_path / "1" / "m", TEXTS, VALUES[0]),
        samples(tmp_path / "2" / "m", TEXTS, VALUES[1]),
    )
    other = samples(tmp_path / "3" / "m", OTHERS, VALUES[2])
    for path, reported in ((first, False), (first, False), (other, False), (again, True)):
        code, said = run(capsys, tmp_path / "ws", path)
        assert code == 0 and ("1 replace vectors with the same name, such as m" in said) == reported
    code, said = run(capsys, tmp_path / "one", first, again)
    assert code == 0 and "1 vectors have the name of another but other values, and were skipped" in said
    assert stored(tmp_path / "one")["m"] == {tuple(TEXTS): VALUES[0].tolist()}


@pytest.mark.parametrize("kind", ["tasks", "files"])
def test_one_model_has_one_vector_over_the_same_texts(tmp_path: Path, capsys, kind: str) -> None:
    """Two tasks over the same texts in another order; a file that says what it is over, and one that does not."""
    if kind == "tasks":
        samples(tmp_path / "in" / "m", TEXTS, VALUES[0], "a")
        samples(tmp_path / "in" / "m", TEXTS[::-1], VALUES[1], "b")
        paths = (tmp_path / "in",)
    else:
        digests = [hashlib.sha256(t.encode()).hexdigest() for t in TEXTS]
        np.savez(
            tmp_path / "a.npz", loglik=VALUES[:1], names=np.array(["m"]), text_sha256=np.array(digests, "S64")
        )
        pickled(tmp_path / "b.pkl", {"m": VALUES[1]})
        paths = (tmp_path / "a.npz", tmp_path / "b.pkl", listed(tmp_path / "t.json", TEXTS))
    code, said = run(capsys, tmp_path / "ws", *paths)
    assert code == 0 and "skipped, such as m" in said and "1 vectors over 12 texts" in said
    assert stored(tmp_path / "ws") == {"m": {tuple(TEXTS): VALUES[0].tolist()}}


def test_prepared_vectors_are_not_taken_for_raw_ones(tmp_path: Path, capsys) -> None:
    texts = listed(tmp_path / "t.json", TEXTS)
    assert (
        run(capsys, tmp_path / "ws", pickled(tmp_path / "a.pkl", {"a": VALUES[0], "b": VALUES[1]}), texts)[0]
        == 0
    )
    with kltui.open(tmp_path / "ws") as ws:
        export(ws, tmp_path / "out", preprocess="clip")
        raw = ws.map().loglik_KN
    code, said = run(capsys, tmp_path / "ws", tmp_path / "out" / "loglik.npz")
    assert code == 0 and "are already preprocessed (clip)" in said
    with kltui.open(tmp_path / "ws") as ws:
        np.testing.assert_array_equal(ws.map(settings="source=imported").loglik_KN, raw)
        assert ws.map(settings="source=imported-clip").loglik_KN.min() > raw.min()
