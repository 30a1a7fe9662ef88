"""The split of the standard library, its domains, and machines that lack parts of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kltui.corpus.load import load_corpus
from kltui.demo import texts
from kltui.errors import KltuiError

pytestmark = pytest.mark.slow  # reads the whole standard library

SOURCE = '''#!/usr/bin/env python
# First line of prose.
"""Module docs."""

def f(x):
    """Function docs.

    More of it.
    """
    # why it adds one
    return x + 1  # stays
'''


def test_corpus_has_chunks_of_the_stated_size_from_every_domain(corpus: list[texts.CorpusText]) -> None:
    assert len(corpus) == texts.CORPUS_TEXTS >= 500
    sizes = [len(item.text.encode()) for item in corpus]
    assert min(sizes) > texts.MIN_BYTES
    assert max(sizes) <= texts.MAX_BYTES
    assert len({item.text for item in corpus}) == len(corpus)
    assert {"code", "docstring"} <= set(Counter(item.domain for item in corpus))
    assert len({item.package for item in corpus}) > 10


def test_no_file_gives_both_training_and_corpus(corpus: list[texts.CorpusText]) -> None:
    trained = {d.file for d in texts.training_texts()} | {d.file for d in texts.finetuning_texts()}
    assert trained.isdisjoint({item.file for item in corpus})


def test_no_paragraph_of_a_held_out_topic_is_trained_on() -> None:
    topics = texts.manual_topics(texts.stdlib_folder())
    if not topics:
        pytest.skip("this Python has no pydoc_data/topics.py")
    hidden = {
        p
        for t, text in topics.items()
        if texts.held_out(f"{texts.MANUAL}#{t}")
        for p in text.split("\n\n")
        if p
    }
    trained = {p for d in texts.finetuning_texts() for p in d.text.split("\n\n")}
    assert hidden
    assert trained
    assert hidden.isdisjoint(trained)


def test_the_same_library_gives_the_same_texts_again(
    corpus: list[texts.CorpusText], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, of which the second is read as a job reads the demo's corpus."""
    again: list[list[texts.CorpusText]] = []
    read = texts.corpus_items
    monkeypatch.setattr(texts, "corpus_items", lambda: again.append(read()) or again[-1])
    assert load_corpus("demo").texts == tuple(item.text for item in corpus)
    assert again == [corpus]
    assert texts.training_texts(n_bytes=200_000) == texts.training_texts(n_bytes=200_000)


def test_each_line_goes_to_one_domain() -> None:
    parts = texts.split_source(SOURCE)
    assert parts["code"] == "\ndef f(x):\n    return x + 1  # stays\n"
    assert parts["docstring"] == "Module docs.\n\nFunction docs.\n\nMore of it."
    assert parts["comment"] == "/usr/bin/env python\nFirst line of prose.\nwhy it adds one"


def test_a_file_that_does_not_parse_is_code_and_comments() -> None:
    assert texts.split_source("def (:\n# c\n") == {"code": "def (:\n", "docstring": "", "comment": "c"}


def test_unreadable_source_is_empty(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "declared.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\n")
    assert texts.read_source(tmp_path / "latin.py") == ""
    assert texts.read_source(tmp_path / "declared.py").endswith("'é'\n")
    assert texts.read_source(tmp_path / "absent.py") == ""


def test_tests_tables_and_installed_packages_are_left_out(tmp_path: Path) -> None:
    names = ["a.py", "pkg/b.py", "test/c.py", "pkg/tests/d.py", "site-packages/e.py", "encodings/cp1.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    assert texts.source_files(tmp_path) == ["a.py", "pkg/b.py"]


def test_a_library_without_sources_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "os.pyc").write_bytes(b"\0")
    with pytest.raises(KltuiError, match="0 source files") as caught:
        texts.training_texts(tmp_path)
    assert "its .py files" in caught.value.hint
    with pytest.raises(KltuiError, match="gives 0 held-out texts"):
        texts.corpus_items(tmp_path)


def test_without_a_manual_docstrings_are_the_other_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "TRAINING_BYTES", 100_000)
    for k in range(150):
        (tmp_path / f"m{k}.py").write_text(f'"""Docs of module {k}."""\n' + f"value_{k} = {k}\n" * 100)
    documents = texts.finetuning_texts(tmp_path)
    assert {d.domain for d in documents} == {"docstring"}
    assert all(d.text.startswith("Docs of module") for d in documents)
    assert {item.domain for item in texts.corpus_items(tmp_path, 20)} == {"code"}
