"""Lines, lists and tables: texts come out as an independent reading has them, scores and vectors are finite or missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

import numpy as np
import scratch

from kltui.corpus.load import load_corpus
from kltui.importers.imported import Imported
from kltui.importers.read import read

WORDS = (
    b'{"index": ', b'"num-tokens": ', b'"log-likelihood": ', b'"doc_id": ', b'"filtered_resps": [["', b'"resps": [[["-1.5", "False"]]]',
    b'"arguments": ', b'"gen_args_0": {"arg_0": "', b'"text": "', b'"meta": {"pile_set_name": "', b"NaN", b"-Infinity", b"1e999", b"null",
    b"true", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"{}\n", b"[", b"]", b"name,task,score\n", b"model\tarc\n",
    b"9" * 30, b"1000000000000", b'""', b'"(-1.5, True)"', b"\\", b'","', b"=1+1", b"[" * 40,
)  # fmt: skip


def one_input(data: bytes) -> None:
    """Reads it as everything that a file of text may be."""
    for suffix in (".jsonl", ".json", ".csv", ".tsv"):
        path = scratch.put(f"model_float32{suffix}", data)
        found = scratch.answer(lambda path=path: read(path).checked())  # type: ignore[misc]
        if found is not None:
            _check(found)
    path = scratch.put("texts.jsonl", data)
    corpus = scratch.answer(lambda: load_corpus(path))
    if corpus is not None:
        expected = _texts(data)
        assert expected is None or list(corpus.texts) == expected
    cut = scratch.answer(lambda: load_corpus(path, chunk=True, max_bytes=16, min_bytes=3))
    assert cut is None or all(3 < len(text.encode()) <= 16 for text in cut.texts)


def _check(found: Imported) -> None:
    for v in found.vectors:
        assert v.loglik.dtype == np.float64 and not np.isinf(v.loglik).any()
        assert v.n_scored is None or (v.n_scored >= 0).all()
    for tasks in found.scores.values():
        assert all(0.0 <= score <= 100.0 for score in tasks.values())
    for text in found.corpus.texts if found.corpus else ():
        text.encode()


def _texts(data: bytes) -> list[str] | None:
    """The texts of lines of JSON, None where bytes or characters are odd."""
    try:
        rows = [json.loads(line.decode()) for line in data.split(b"\n") if line.strip()]
        texts = [row["text"] for row in rows]
        "".join(texts).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return texts


def mutate(data: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """The same lines with one left out, repeated, moved or changed, or a value of its JSON replaced."""
    lines = data.split(b"\n")
    which = random.randrange(len(lines))
    kind = random.randrange(5)
    if kind == 0:
        del lines[which]
    elif kind == 1:
        lines.insert(random.randrange(len(lines)), lines[which])
    elif kind == 2:
        lines[which] = change(lines[which], len(lines[which]) + 16)
    else:
        lines[which] = _other_value(lines[which], random)
    return b"\n".join(lines)


_VALUES = (0, -1, 1, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf"), -1e308, None, True, "", "x", "-12.5", "\ud800", "\0",
           [], [[]], {}, {"a": 1}, ["-1.5"], [[["(-2.0, False)"]]], "text " * 20)  # fmt: skip


def _other_value(line: bytes, random: Random) -> bytes:
    """The JSON of the line with one of its values replaced by an odd one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return line + random.choice(WORDS)
    if isinstance(row, dict) and row:
        row[random.choice(list(row))] = random.choice(_VALUES)
    elif isinstance(row, list) and row:
        row[random.randrange(len(row))] = random.choice(_VALUES)
    else:
        row = random.choice(_VALUES)
    return json.dumps(row).encode()


def seeds() -> dict[str, bytes]:
    """One small file of every kind that is read."""

    def lines(*rows: object) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    sample = {
        "doc_id": 0,
        "arguments": {"gen_args_0": {"arg_0": "a text"}},
        "filtered_resps": [["-12.5", "False"]],
    }
    return {
        "model": lines(*({"index": i, "num-tokens": 9, "log-likelihood": -3.5 * i} for i in range(4))),
        "model_large_index": lines({"index": 10**12, "num-tokens": 9, "log-likelihood": -3.5}),
        "model_odd": lines({"index": True, "num-tokens": 2**40, "log-likelihood": 10**400}),
        "samples": lines({**sample, "filtered_resps": [-12.5]}, {**sample, "doc_id": 1, "resps": [["(-1.5,)"]]}),
        "samples_old": lines({**sample, "arguments": [["a text"]]}),
        "samples_large": lines({**sample, "doc_id": 10**12, "filtered_resps": [-1.0]}),
        "samples_of_choices": lines(sample),
        "corpus": lines({"text": "eins zwei drei vier fünf"}, {"text": "", "meta": {"pile_set_name": "Pile-CC"}}),
        "corpus_of_modelmap": lines({"index": 0, "text": "日本語" * 9, "pile_set_name": "x", "pile_idx": 1, "chunk_idx": 0}),
        "corpus_odd": b'\xef\xbb\xbf{"text": "\\ud800a\\u0000"}\r\n\n{"text": "\xff"}\n{"text": 3}\n',
        "texts": json.dumps(["one", {"text": "two", "domain": "d"}, "three " * 9]).encode(),
        "utf16": '["text"]'.encode("utf-16"),
        "scores_json": json.dumps({"410m": {"arc": 20.5, "mmlu": None}, "gpt2": {"arc": "31"}}).encode(),
        "scores_list": json.dumps([{"name": "a@5", "task": "arc", "score": 0.5}]).encode(),
        "scores_csv": b"model,arc,mmlu,licence\n410m,20.5,,mit\ngpt2,31,nan,\"a,b\"\n",
        "scores_tsv": b"\xef\xbb\xbfname\ttask\tscore\na@5\tarc\t99\n",
        "deep": b"[" * 2000,
        "long_number": b'{"doc_id": ' + b"9" * 5000 + b"}\n",
    }  # fmt: skip
