"""Tokenizer, packed tokens and batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from kltui.demo.prepared import END_OF_TEXT, Prepared, batches, load, pack, prepare, unigram_entropy
from kltui.demo.suite import Suite
from kltui.demo.texts import Document
from kltui.errors import UsageError

pytestmark = pytest.mark.slow  # reads the whole standard library


def tokenizer_of(prepared: Prepared) -> Tokenizer:
    return Tokenizer.from_file(str(prepared.tokenizer / "tokenizer.json"))


def test_tokenizer_gives_back_any_text(prepared: Prepared, suite: Suite) -> None:
    tokenizer = tokenizer_of(prepared)
    assert tokenizer.get_vocab_size() == suite.vocabulary
    for text in ("def f(x):\n\treturn x", " é 日本 \U0001f600\x00\r\n", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_documents_are_packed_end_to_end(prepared: Prepared) -> None:
    tokenizer = tokenizer_of(prepared)
    packed = pack(tokenizer, [Document("a", "code", "x = 1"), Document("b", "code", "y")])
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert packed.tolist() == [*tokenizer.encode("x = 1").ids, end, *tokenizer.encode("y").ids, end]


def test_unigram_entropy_of_known_frequencies() -> None:
    assert unigram_entropy(np.array([0, 1, 2, 3], dtype=np.uint16)) == pytest.approx(np.log(4))
    assert unigram_entropy(np.array([7, 7, 7, 9], dtype=np.uint16)) == pytest.approx(
        -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    )


def test_batches_are_the_seeds_own_and_repeat_nothing_within_a_pass(suite: Suite) -> None:
    run = suite.runs[0]
    needed = run.last_step * suite.batch
    tokens = np.zeros(needed * suite.length + 1, dtype=np.uint16)
    starts = batches(tokens, suite, run)
    assert starts.shape == (run.last_step, suite.batch)
    assert sorted(starts.ravel()) == [k * suite.length for k in range(needed)]
    assert (starts == batches(tokens, suite, run)).all()
    assert (starts != batches(tokens, suite, replace(run, seed=2))).any()
    few = batches(tokens[: 5 * suite.length + 1], suite, run)
    assert few.max() + suite.length < 5 * suite.length + 1
    assert sorted(few.ravel()[:5]) == [k * suite.length for k in range(5)]


def test_corpus_file_has_text_domain_and_origin(prepared: Prepared) -> None:
    rows = [json.loads(line) for line in prepared.corpus.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 500
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert all(row["text"] and row["domain"] and row["file"] and row["package"] for row in rows)


def test_texts_are_made_once_and_the_same_each_time(prepared: Prepared, suite: Suite, tmp_path: Path) -> None:
    again = prepare(tmp_path / "again", suite)
    for name in (
        "corpus.jsonl",
        "pretraining.npy",
        "finetuning.npy",
        "plan.json",
        "tokenizer/tokenizer.json",
    ):
        assert (again.folder / name).read_bytes() == (prepared.folder / name).read_bytes(), name
    assert not list((tmp_path / "again").glob(".*"))
    before = (again.folder / "plan.json").stat().st_mtime_ns
    prepare(tmp_path / "again", suite)
    assert (again.folder / "plan.json").stat().st_mtime_ns == before


def test_a_folder_of_another_plan_is_refused(prepared: Prepared, suite: Suite) -> None:
    with pytest.raises(UsageError, match="other settings"):
        load(prepared.folder, replace(suite, batch=3))
    (prepared.folder / "plan.json").write_text("{")
    with pytest.raises(UsageError, match="other settings"):
        load(prepared.folder, suite)
