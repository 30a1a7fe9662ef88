"""Corpora as they lie: packed, in tables, in folders and patterns, on the hub; every way in gives the same texts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as arrow
import pytest
from backports import zstd
from hub_server import FakeHub
from pyarrow import parquet

from kltui.corpus import Corpus, load_corpus
from kltui.corpus.hub_datasets import parse_address
from kltui.corpus.load import odd_words
from kltui.corpus.read import Fields
from kltui.errors import KltuiError, TryAgainError, UsageError

TEXTS = ["first", 'a "quoted", comma', "two\nlines", "tab\there", "日本語 ü", "", "crlf\r\nkept", " spaces "]
SETS = ["wiki", "code", "wiki", "", "日", "a", "b", "c"]


def jsonl(texts: list[str] = TEXTS) -> bytes:
    rows = [{"meta": {"set": s}, "body": t} for s, t in zip(SETS, texts, strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    rows = csv.writer(out, delimiter=delimiter)
    rows.writerows([("meta.set", "other", "body"), *zip(SETS, range(8), TEXTS, strict=True)])
    return out.getvalue().encode()


def as_parquet(path: Path, **columns: object) -> Path:
    parquet.write_table(arrow.table(columns), path, row_group_size=3)
    return path


def files(folder: Path) -> list[Path]:
    """The same texts in every form, each under a name of its own."""
    written = {
        "t.jsonl": jsonl(), "t.jsonl.gz": gzip.compress(jsonl()), "t.jsonl.zst": zstd.compress(jsonl()),
        "two.jsonl.gz": gzip.compress(jsonl()[:100]) + gzip.compress(jsonl()[100:]),
        "two.jsonl.zst": zstd.compress(jsonl()[:100]) + zstd.compress(jsonl()[100:]),
        "t.csv": table(","), "bom.csv": b"\xef\xbb\xbf" + table(","), "t.tsv": table("\t"), "t.csv.gz": gzip.compress(table(",")),
    }  # fmt: skip
    for name, data in written.items():
        (folder / name).write_bytes(data)
    nested = [{"set": s} for s in SETS]
    as_parquet(folder / "t.parquet", body=TEXTS, meta=nested, other=list(range(8)))
    as_parquet(folder / "dotted.PARQUET", **{"body": TEXTS, "meta.set": SETS})
    as_parquet(folder / "bytes.parquet", **{"body": [t.encode() for t in TEXTS], "meta.set": SETS})
    as_parquet(folder / "codes.parquet", **{"body": arrow.array(TEXTS).dictionary_encode(), "meta.set": SETS})
    return sorted(p for p in folder.iterdir() if p.is_file())


def load(source: Path | str, **options: object) -> Corpus:
    return load_corpus(source, fields=Fields("body", "meta.set"), **options)  # type: ignore[arg-type]


def test_every_form_gives_the_same_texts_domains_and_draws(tmp_path: Path) -> None:
    found = files(tmp_path)
    assert len(found) == 13
    for path in found:
        corpus = load(path)
        assert corpus.texts == tuple(TEXTS), path
        assert corpus.domains == tuple(SETS), path
        assert list(load(path, sample=5, seed=3).texts) == random.Random(3).sample(TEXTS, 5), path


def test_a_packed_text_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\ufeffone\r\ntwo ü".encode()))
    (tmp_path / "b.txt.zst").write_bytes(zstd.compress(b"three"))
    assert load_corpus(tmp_path / "a.txt.gz").texts == ("one\r\ntwo ü",)
    assert load_corpus(tmp_path).texts == ("one\r\ntwo ü", "three")
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(b'["x", {"text": "y"}]'))
    assert load_corpus(tmp_path / "list.json.gz").texts == ("x", "y")


def test_folders_and_patterns_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "2.jsonl").write_text('{"text": "two", "domain": "d"}\n')
    (tmp_path / "a" / "10.jsonl.gz").write_bytes(gzip.compress(b'{"text": "ten"}'))
    (tmp_path / "b.csv").write_text("text\nthree\n")
    as_parquet(tmp_path / "c.parquet", text=["four", None, "five"])
    whole = load_corpus(tmp_path)
    assert whole.texts == ("ten", "two", "three", "four", "five")
    assert whole.domains == ("", "d", "", "", "")
    read = whole.record["read"]
    assert isinstance(read, dict) and read["null_rows"] == 1
    assert load_corpus(tmp_path / "a" / "*.jsonl*").texts == ("ten", "two")
    assert load_corpus(tmp_path / "**" / "*.jsonl").texts == ("two",)
    (tmp_path / "[odd].txt").write_text("a file of that name is itself")
    assert load_corpus(tmp_path / "[odd].txt").texts == ("a file of that name is itself",)


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst", "t.csv.gz", "two.jsonl.gz", "two.jsonl.zst"])
def test_a_packed_file_that_is_cut_or_altered_is_never_half_a_corpus(tmp_path: Path, name: str) -> None:
    files(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for end in {len(whole) - 1, len(whole) - 9, len(whole) // 2, 12}:
        (tmp_path / name).write_bytes(whole[:end])
        with pytest.raises(KltuiError):
            load(tmp_path / name)
    (tmp_path / name).write_bytes(b"no archive at all")
    with pytest.raises(KltuiError, match="cannot be unpacked"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"text,b\nx,y,z\n", "line 2: 3 values for 2 names"),
        ("a.csv", b"text,text\nx,y\n", "occurs twice"),
        ("a.csv", b'text\n"open\n', "cannot be read as a table"),
        ("a.csv", b"body\nx\n", r'a.csv has no column "text" \(has body\)'),
        ("a.csv", b"text;n\nx;1\n", r'no column "text" \(has text;n\)'),
        ("a.tsv", b"text,n\nx,1\n", r'no column "text" \(has text,n\)'),
        ("a.jsonl", b'{"text": "a\x00b"}', r"not JSON \(Invalid control character at column 12\)"),
        ("a.jsonl", '{"text": "hello"}\n'.encode("utf-16-le"), "is UTF-16 text"),
        ("a.txt", "hello there".encode("utf-16-be"), "is UTF-16 text"),
        ("a.tsv", b"text\tb\nx\n", "1 values for 2 names"),
        ("a.csv", b"text\n", "contains no text"),
        ("a.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("a.parquet.gz", b"x", "is not clear from its name"),
        ("*.jsonl", b"", "No file of texts matches"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    if "*" not in name:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(KltuiError, match=said):
        load_corpus(tmp_path / name)


def test_what_the_fields_are_not_called(tmp_path: Path) -> None:
    as_parquet(tmp_path / "a.parquet", content=["x"], number=[1])
    with pytest.raises(KltuiError, match=r'no column "text" \(has content, number\)'):
        load_corpus(tmp_path / "a.parquet")
    with pytest.raises(KltuiError, match='"number" is a JSON number, not a string'):
        load_corpus(tmp_path / "a.parquet", fields=Fields("number"))
    corpus = load_corpus(tmp_path / "a.parquet", fields=Fields("content", "number"))
    assert (corpus.texts, corpus.domains) == (("x",), ("1",))


def test_a_pattern_that_means_other_files_too_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(KltuiError, match=r"also matches .*a\.pdf"):
        load_corpus(tmp_path / "a.*")


@pytest.mark.parametrize("name", ["long.jsonl.zst", "long.parquet"])
def test_a_draw_from_a_long_source_holds_only_what_is_drawn(tmp_path: Path, name: str) -> None:
    import tracemalloc

    texts = [f"{k} " + "x" * 5000 for k in range(4000)]  # 20 MB
    if name.endswith("parquet"):
        parquet.write_table(arrow.table({"text": texts}), tmp_path / name, row_group_size=400)
    else:
        (tmp_path / name).write_bytes(
            zstd.compress("".join(json.dumps({"text": t}) + "\n" for t in texts).encode())
        )
    expected = random.Random(1).sample(texts, 10)
    del texts
    arrow_before = arrow.total_allocated_bytes()
    tracemalloc.start()
    drawn = load_corpus(tmp_path / name, sample=10, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(drawn.texts) == expected
    assert peak < 4_000_000 and arrow.total_allocated_bytes() == arrow_before


def test_a_long_reading_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kltui.corpus import load as load_module

    monkeypatch.setattr(load_module, "SAY_EVERY_S", -1.0)
    (tmp_path / "t.jsonl").write_bytes(jsonl())
    lines: list[str] = []
    load(tmp_path / "t.jsonl", sample=2, say=lines.append)
    assert len(lines) == 16 and "counting" in lines[0] and "8 texts so far" in lines[-1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_files_of_a_dataset_on_the_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"data/a.jsonl": b'{"text": "one"}\n', "data/b.jsonl.gz": gzip.compress(b'{"text": "two"}')}
    commit = hub.add("datasets/org/texts", "main", {**first, "README.md": b"", "big.bin": b"x"})
    hub.add("datasets/org/texts", "v2", {"data/a.jsonl": b'{"text": "three"}\n'})
    corpus = load_corpus("hf://datasets/org/texts/data/*.jsonl*")
    assert corpus.texts == ("one", "two") and corpus.record["commit"] == commit
    assert hub.downloads("README.md") == hub.downloads("big.bin") == []
    assert load_corpus("hf://datasets/org/texts@v2/data/*.jsonl*").texts == ("three",)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_corpus("hf://datasets/org/texts/data/*.jsonl*").texts == ("one", "two")
    with pytest.raises(TryAgainError, match="not in the cache"):
        load_corpus("hf://datasets/org/other/*.jsonl")


def test_a_dataset_that_cannot_be_had(hub: FakeHub) -> None:
    hub.add("datasets/org/texts", "main", {"a.bin": b"x", "b.jsonl": b"{}"})
    for source, said in [
        ("hf://datasets/org/none/*.jsonl", "no dataset"),
        ("hf://datasets/org/texts@v9/*.jsonl", "no such revision"),
        ("hf://datasets/org/texts/*.parquet", "no file of org/texts at main matches"),
        ("hf://datasets/org/texts/a.bin", r"No file of texts in .* \(seen: .bin\)"),
        ("hf://datasets/org/texts/b.jsonl", "1 malformed"),
    ]:
        with pytest.raises(KltuiError, match=said):
            load_corpus(source)


@pytest.mark.parametrize(
    "bad", ["hf://datasets/", "hf://datasets/one", "hf://datasets/o/n@/x", "hf://datasets/../n/x"]
)
def test_addresses_that_cannot_be_meant(bad: str) -> None:
    with pytest.raises(UsageError, match="not the address of a dataset"):
        parse_address(bad)


def test_json_files_of_lines_are_read_as_such(tmp_path: Path) -> None:
    """C4 and Dolma name their lines .json.gz."""
    (tmp_path / "c4.json.gz").write_bytes(gzip.compress(jsonl()))
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + jsonl())
    for name in ("c4.json.gz", "bom.json"):
        assert load(tmp_path / name).texts == tuple(TEXTS)
        assert list(load(tmp_path / name, sample=5, seed=3).texts) == random.Random(3).sample(TEXTS, 5)
    (tmp_path / "pretty.json").write_text(json.dumps({"text": "x"}, indent=1))
    with pytest.raises(KltuiError, match="not a JSON list of texts: a JSON object"):
        load_corpus(tmp_path / "pretty.json")


def test_a_wide_window_of_zstd_is_unpacked(tmp_path: Path) -> None:
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)  # what `zstd --long=28` writes from a pipe
    (tmp_path / "t.jsonl.zst").write_bytes(packer.compress(jsonl()) + packer.flush())
    assert load(tmp_path / "t.jsonl.zst").texts == tuple(TEXTS)


def test_a_pattern_takes_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for k, name in enumerate(("0.jsonl", "a/1.jsonl", "a/b/2.jsonl")):
        (tmp_path / name).write_text(f'{{"text": "{k}"}}\n')
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    for pattern in ("**/*.jsonl", "**/**/*.jsonl"):
        assert load_corpus(tmp_path / pattern).texts == ("0", "1", "2")


def test_lines_before_a_table_s_names_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n\ntext,b\nx,y\n\n")
    assert load_corpus(tmp_path / "a.csv").texts == ("x",)


def test_a_pattern_on_the_hub_means_what_it_means_here(hub: FakeHub) -> None:
    rows = {name: f'{{"text": "{name}"}}\n'.encode() for name in ("d/a.jsonl", "d/e/b.jsonl", "c.jsonl")}
    hub.add("datasets/org/texts", "main", rows)
    assert load_corpus("hf://datasets/org/texts/d/**/*.jsonl").texts == ("d/a.jsonl", "d/e/b.jsonl")
    assert len(load_corpus("hf://datasets/org/texts/**/*.jsonl").texts) == 3


def test_a_dataset_whose_fetch_was_cut_is_never_half_a_corpus(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = {f"{k}.jsonl": f'{{"text": "{k}"}}\n'.encode() for k in range(3)}
    hub.add("datasets/org/texts", "main", rows)
    lines: list[str] = []
    assert load_corpus("hf://datasets/org/texts/*.jsonl", say=lines.append).texts == ("0", "1", "2")
    assert not any("could not be reached" in line for line in lines)
    (blobs,) = (tmp_path / "hub").rglob("blobs")
    (blobs / "half.incomplete").write_bytes(b"x")
    assert len(load_corpus("hf://datasets/org/texts/*.jsonl").texts) == 3  # the hub says that these are all
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TryAgainError, match="only a part"):
        load_corpus("hf://datasets/org/texts/*.jsonl")
    (blobs / "half.incomplete").unlink()
    assert len(load_corpus("hf://datasets/org/texts/*.jsonl", say=lines.append).texts) == 3
    assert "the hub could not be reached; the cache has 3 files" in lines[-1]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_a_domain_that_no_text_has_is_told(tmp_path: Path, name: str) -> None:
    files(tmp_path)
    lines: list[str] = []
    found = load_corpus(tmp_path / name, fields=Fields("body", "meta.sett"), say=lines.append)
    assert found.domains == () and 'has a domain in the field "meta.sett"' in lines[-1]
    lines.clear()
    load(tmp_path / name, say=lines.append)
    assert lines == []


def test_other_files_of_a_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert odd_words(load_corpus(tmp_path).record) == []
    for name in ("b.jsonl.xz", "c.json.gz", "data-00000-of-00001.arrow", "README.md", ".gitattributes"):
        (tmp_path / name).write_bytes(b"x")
    corpus = load_corpus(tmp_path)
    assert corpus.texts == ("a", "b")
    assert odd_words(corpus.record) == [
        "4 other files of the source's folder are not read (.arrow, .json.gz, .jsonl.xz, .md)"
    ]


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv", "x.parquet", "x.json", "x.jsonl.gz"])
def test_a_pointer_in_place_of_a_file_is_no_text(tmp_path: Path, name: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(KltuiError, match="is a Git LFS pointer: its content has not been downloaded"):
        load_corpus(tmp_path / name)


def test_a_corpus_of_one_text_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("A line of a book.\n" * 200)
    assert odd_words(load_corpus(tmp_path / "book.txt").record) == [
        "the corpus is a single text, but a KL is a variance over texts: chunk = true under [corpus] cuts it into texts"
    ]
    assert odd_words(load_corpus(tmp_path / "book.txt", chunk=True).record) == []


def test_utf_32_is_not_called_utf_16(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello there", encoding="utf-32")
    with pytest.raises(KltuiError, match="UTF-32"):
        load_corpus(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("row", "more"),
    [
        ({"prompt": "hi", "response": "yo", "id": 3, "system": ""}, 0),
        ({"prompt": "hi", "response": "yo", "system": "Be brief."}, 1),
        ({"prompt": "hi", "response": "yo", "context": "A page."}, 1),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}], "tools": [{}]}, 1),
        (
            {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "yo", "reasoning_content": "hm"},
                ]
            },
            1,
        ),
    ],
)  # fmt: skip
def test_parts_of_pairs_that_models_do_not_see_are_told(
    tmp_path: Path, row: dict[str, object], more: int
) -> None:
    plain = {"prompt": "a", "response": "b"}
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(plain)}\n")
    corpus = load_corpus(tmp_path / "x.jsonl", fields=Fields(pairs=True))
    said = [line for line in odd_words(corpus.record) if "more parts than prompt and response" in line]
    assert len(said) == more and len(corpus) == 2


def test_splits_that_are_read_as_one_corpus_are_told(tmp_path: Path, hub: FakeHub) -> None:
    rows = {
        f"data/{name}.jsonl": f'{{"text": "{name}"}}\n'.encode()
        for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "training_notes")
    }
    hub.add("datasets/org/texts", "main", {**rows, "README.md": b"# x"})
    said = "several splits (test, train) are read as one corpus: a pattern such as *train* selects one"
    assert odd_words(load_corpus("hf://datasets/org/texts/data/*.jsonl").record) == [said]
    assert odd_words(load_corpus("hf://datasets/org/texts").record) == [
        "1 other files of the source's folder are not read (.md)",
        said,
    ]
    assert odd_words(load_corpus("hf://datasets/org/texts/data/train-*").record) == []
    for name in ("train", "validation"):
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "0.jsonl").write_bytes(rows["data/test-00000-of-00001.jsonl"] * 2)
    assert any("(train, validation)" in line for line in odd_words(load_corpus(tmp_path / "d").record))
