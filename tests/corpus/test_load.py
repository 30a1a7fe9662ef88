"""Every source, every odd text, and draws against random.Random itself."""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from kltui.corpus import Corpus, chunk_document, files, load, load_corpus, text_files
from kltui.corpus.load import odd_words
from kltui.errors import KltuiError, UsageError

DOCUMENTS = ["first " * 200, "zwei äöü " * 90, "短い", "third\r\n" * 100]


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return path


def counts(corpus: Corpus) -> dict[str, int]:
    read, in_use = corpus.record["read"], corpus.record["in_use"]
    assert isinstance(read, dict) and isinstance(in_use, dict)
    return read | in_use


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """The same documents as a .json list, as .jsonl and as a folder."""
    (tmp_path / "list.json").write_text(json.dumps(DOCUMENTS))
    write_jsonl(tmp_path / "rows.jsonl", [{"text": t} for t in DOCUMENTS])
    folder = tmp_path / "folder"
    folder.mkdir()
    for k, text in enumerate(DOCUMENTS):
        (folder / f"{k}.txt").write_bytes(text.encode())
    return [tmp_path / "list.json", tmp_path / "rows.jsonl", folder]


def test_every_source_gives_the_same_texts_and_fingerprint(sources: list[Path]) -> None:
    corpora = [load_corpus(source) for source in sources]
    assert all(c.texts == tuple(DOCUMENTS) for c in corpora)
    assert len({c.sha256 for c in corpora}) == 1
    assert corpora[0].text_bytes.tolist() == [len(t.encode()) for t in DOCUMENTS]
    assert counts(corpora[0])["mean_bytes"] == sum(len(t.encode()) for t in DOCUMENTS) / 4
    json.dumps(corpora[0].record)


def test_every_source_is_cut_like_its_documents(sources: list[Path]) -> None:
    chunks = tuple(c for t in DOCUMENTS for c in chunk_document(t, 300, 100))
    for source in sources:
        assert load_corpus(source, chunk=True, max_bytes=300, min_bytes=100).texts == chunks


def test_fingerprint_by_hand() -> None:
    digest = hashlib.sha256(b"\2\0\0\0\0\0\0\0ab" + b"\1\0\0\0\0\0\0\0c").hexdigest()
    assert Corpus(("ab", "c")).sha256 == digest != Corpus(("a", "bc")).sha256


@pytest.mark.parametrize("chunk", [False, True])
def test_a_draw_is_pythons_own_sample_in_its_order(sources: list[Path], chunk: bool) -> None:
    for source in sources:
        whole = load_corpus(source, chunk=chunk, max_bytes=64, min_bytes=8).texts
        n = len(whole) - 1
        drawn = load_corpus(source, chunk=chunk, max_bytes=64, min_bytes=8, sample=n, seed=7)
        assert list(drawn.texts) == random.Random(7).sample(whole, n)


def test_too_few_names_both_numbers(sources: list[Path]) -> None:
    with pytest.raises(KltuiError, match=r"sample = 5 .* 4 texts"):
        load_corpus(sources[0], sample=5)
    with pytest.raises(KltuiError, match=r"sample = 99 .* \d+ chunks"):
        load_corpus(sources[0], chunk=True, sample=99)
    with pytest.raises(UsageError, match="sample = 0"):
        load_corpus(sources[0], sample=0)


def test_released_formats_load_as_they_are(tmp_path: Path) -> None:
    texts = ["\ufeffBOM inside a text is text", "second", "second"]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    rows: list[object] = [
        {"index": k, "text": t, "pile_set_name": f"set{k}", "pile_idx": 9 - k, "chunk_idx": 0}
        for k, t in enumerate(texts)
    ]
    listed, lines = load_corpus(tmp_path / "texts.json"), load_corpus(write_jsonl(tmp_path / "t.jsonl", rows))
    assert listed.texts == lines.texts == tuple(texts)
    assert listed.domains == () and lines.domains == ("set0", "set1", "set2")
    assert counts(listed)["duplicates"] == 1 and counts(listed)["bom_stripped"] == 0


def test_domains_follow_their_chunks_and_draws(tmp_path: Path) -> None:
    rows: list[object] = [
        {"text": "a" * 60, "domain": "x"},
        {"text": "b" * 60, "meta": {"pile_set_name": "y"}},
        {"text": "c" * 60},
    ]
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    corpus = load_corpus(path, chunk=True, max_bytes=20, min_bytes=4, sample=7)
    named = {"a": "x", "b": "y", "c": ""}
    assert corpus.domains == tuple(named[t[0]] for t in corpus.texts)


def test_a_folder_is_read_by_relative_path_with_subfolders_as_domains(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/10.txt", "top.txt", ".hidden/no.txt", "a/.no.txt", "a/image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_jsonl(tmp_path / "c.jsonl", [{"text": "row"}])
    corpus = load_corpus(tmp_path)
    assert corpus.texts == ("a/10.txt", "b/2.txt", "row", "top.txt")
    assert corpus.domains == ("a", "b", "", "")


def test_odd_texts_have_their_rule_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "first"}\r\n'
        b'{"text": ""}\n\n'
        b'{"text": "bad \xff\xe6\x97 byte"}\n'
        b'{"text": "lone \\ud800 half"}\n'
        b'{"text": "pair \\ud83d\\ude00"}\n'
        b'{"text": "crlf\\r\\nkept"}\n'
        b'{"text": "first"}\n'
        b'{"text": "nul \\u0000 kept"}'
    )
    corpus = load_corpus(path)
    assert corpus.texts == (
        "first", "", "bad \ufffd\ufffd byte", "lone \ufffd half", "pair 😀", "crlf\r\nkept", "first", "nul \0 kept",
    )  # fmt: skip
    expected = {
        "items": 8, "texts": 8, "bom_stripped": 1, "blank_lines": 1, "invalid_utf8": 1, "lone_surrogates": 1,
        "empty": 1, "duplicates": 1, "crlf": 1,
    }  # fmt: skip
    assert {name: counts(corpus)[name] for name in expected} == expected


def test_a_txt_is_one_item_with_newlines_untouched(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert load_corpus(path).texts == ("one\r\ntwo\rthree\n",)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 1 << 20])
def test_a_txt_in_blocks_decodes_like_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    data = "añ日😀".encode() + b"\xff\xe6\x97" + "日".encode() + b"\xf0\x9f"
    path = tmp_path / "t.txt"
    path.write_bytes(data)
    monkeypatch.setattr(text_files, "BLOCK_BYTES", block)
    corpus = load_corpus(path)
    assert corpus.texts == (data.decode(errors="replace"),)
    assert counts(corpus)["invalid_utf8"] == 1


def test_malformed_lines_are_named_and_all_counted(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [
        '{"text": "good"}',
        "{not json",
        '{"body": "x"}',
        '{"text": 3}',
        '["text"]',
        '{"text": null}',
        "1",
        "2",
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(KltuiError) as error:
        load_corpus(path)
    assert "7 malformed" in error.value.message and "and 2 more" in error.value.message
    for part in ("line 2: not JSON", 'line 3: no "text" field (has body)', "line 4:", "line 5:", "line 6:"):
        assert part in error.value.message
    with pytest.raises(KltuiError, match="7 malformed"):
        load_corpus(path, sample=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "x"}', "not a JSON list of texts: a JSON object"),
        ("[1, 2]", "2 malformed.*item 0"),
        ('["a", ["b"]]', "1 malformed.*item 1"),
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "contains no text"),
    ],
)
def test_a_json_file_that_is_no_list_of_texts(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(KltuiError, match=message):
        load_corpus(tmp_path / "x.json")


def test_sources_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    (tmp_path / "table.xlsx").write_text("a")
    (tmp_path / "utf16.txt").write_bytes("text".encode("utf-16"))
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("none.txt", "none.txt does not exist"),
        ("table.xlsx", "is not clear from its name"),
        ("utf16.txt", "UTF-16"),
        ("empty", r"No \.txt, \.jsonl, \.csv, \.tsv or \.parquet file"),
    ]:
        with pytest.raises(KltuiError, match=message):
            load_corpus(tmp_path / name)
    with pytest.raises(KltuiError, match=r"None of the 1 documents .* more than 256 bytes"):
        load_corpus(tmp_path / "short.txt", chunk=True)
    with pytest.raises(KltuiError, match=r"sample = 1 .* 0 chunks"):
        load_corpus(tmp_path / "short.txt", chunk=True, sample=1)


def test_control_characters_of_a_name_never_reach_the_message(tmp_path: Path) -> None:
    with pytest.raises(KltuiError) as error:
        load_corpus(tmp_path / "\x1b[31m.txt")
    assert "\x1b" not in str(error.value)


def test_drawing_from_a_long_stream_holds_only_what_is_drawn(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        for k in range(4000):
            file.write(json.dumps({"text": f"{k} " + "x" * 5000}) + "\n")
    tracemalloc.start()
    corpus = load_corpus(path, sample=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus) == 10 and peak < 2_000_000  # the file is 20 MB


def test_the_demo_corpus_comes_from_the_demo_room(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    texts = ["one text", "another", "a third"]
    items = [SimpleNamespace(text=t, domain=d) for t, d in zip(texts, "aba", strict=True)]
    monkeypatch.setitem(sys.modules, "kltui.demo.texts", SimpleNamespace(corpus_items=lambda: items))
    assert load_corpus("demo").texts == tuple(texts)
    assert load_corpus("demo").domains == ("a", "b", "a")
    assert list(load_corpus("demo", sample=2, seed=1).texts) == random.Random(1).sample(texts, 2)


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "loop"])
@pytest.mark.parametrize("suffix", ["txt", "json", "jsonl"])
def test_what_is_no_file_of_texts_never_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    monkeypatch.setattr(files, "LINE_MAX_BYTES", 1 << 20)
    monkeypatch.setattr(load, "TEXT_MAX_CHARACTERS", 1 << 21)
    path = tmp_path / f"x.{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 42)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    with pytest.raises(KltuiError, match=rf"x\.{suffix}"):
        load_corpus(path)


def test_oddities_that_change_texts_or_counts_are_told(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    rows = [
        b'{"text": ""}',
        b'{"text": "a"}',
        b'{"text": "a"}',
        b'{"text": "a"}',
        b'{"text": "caf\xe9"}',
        rb'{"text": "x\u0000"}',
    ]
    path.write_bytes(b"\n".join(rows))
    assert odd_words(load_corpus(path).record) == [
        "1 of the texts is empty, and not scored",
        "2 of the texts repeat another one: errors count it once",
        "1 of the texts has NUL characters: the source may not be text",
        "1 of the source's items has invalid UTF-8 bytes, which become U+FFFD: the source may have another encoding",
    ]
    path.write_bytes(rows[1] + b"\n" + rows[1].replace(b"a", b"b"))
    assert odd_words(load_corpus(path).record) == [] == odd_words({})
