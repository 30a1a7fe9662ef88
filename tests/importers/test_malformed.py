"""Malformed files of every format: each is named, none blocks or takes memory, and what is sound beside it is taken in."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kltui.cli import main
from kltui.corpus import files
from kltui.errors import KltuiError
from kltui.importers import read as read_module
from kltui.importers.imported import ImportFormatError
from kltui.importers.pickles import load_pickle
from kltui.importers.read import read

N = 6
SECONDS, BYTES = 60.0, 64 << 20  # what no small malformed file may take: seconds are those of a hang


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An .npy of any header."""
    raw = header.encode("latin1")
    size = struct.pack("<H" if version[0] == 1 else "<I", len(raw))
    return b"\x93NUMPY" + version + size + raw + data


def described(shape: str, descr: str = "'<f8'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def twice() -> bytes:
    out = io.BytesIO()
    with pytest.warns(UserWarning), zipfile.ZipFile(out, "w") as archive:
        for _ in range(2):
            archive.writestr("a.npy", npy(described("(1,)"), bytes(8)))
    return out.getvalue()


def zeros_without_end() -> bytes:
    return zipped(a=npy(described(f"({12 << 20},)"), bytes(96 << 20)))


def object_array() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.array([{}, []], dtype=object))
    return out.getvalue()


def nested_tuple_key(depth: int) -> bytes:
    """A dict whose key is a tuple within tuples: hashing it recurses in C."""
    return b"\x80\x04})" + b"\x85" * depth + b"K\x01s."


def nested_by_memo(depth: int) -> bytes:
    """The same, each tuple fetched from the memo."""
    return b"\x80\x04}K\x01\x94" + b"0h\x00\x85q\x00" * depth + b"0h\x00K\x01s."


def laughs(n: int) -> bytes:
    """Lists of the list before, ten times each."""
    out = b"\x80\x04]\x94"
    for level in range(n):
        out += b"(" + b"h" + bytes([level])
        out += (b"h" + bytes([level])) * 9 + b"l\x94"
    return out + b"."


def same_array_again(times: int) -> bytes:
    vector = np.zeros(1000)
    return pickle.dumps({f"m{i}": vector for i in range(times)}, 4)


def reduced(name: str, argument: bytes) -> bytes:
    """A pickle that calls builtins.NAME."""
    return b"\x80\x04cbuiltins\n" + name.encode() + b"\n" + argument + b"\x85R."


LONG = b"\x8d" + struct.pack("<Q", 7 << 40)
PICKLES = {
    "tuples as a key": nested_tuple_key(300_000),
    "tuples by memo": nested_by_memo(100_000),
    "marks and tuples": b"\x80\x04}" + b"(" * 20_000 + b"t" * 20_000 + b"K\x01s.",
    "lists": b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "laughs": laughs(60),
    "one array a thousand times": same_array_again(2000),
    "7 TiB of text": b"\x80\x04" + LONG + b"x.",
    "7 TiB of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 7 << 40) + b".",
    "7 TiB as a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 7 << 40) + b".",
    "7 TiB in a frame": b"\x80\x04\x95" + struct.pack("<Q", 7 << 40) + b"N.",
    "a far place in the memo": b"\x80\x04Nr\xff\xff\xff\xff.",
    "a far place in text": b"Np4294967295\n.",
    "a negative place": b"Np-1\n.",
    "a huge integer": b"\x80\x04\x8b" + struct.pack("<i", 1 << 20) + b"\xff" * (1 << 20) + b".",
    "a negative length": b"\x80\x04\x8b" + struct.pack("<i", -1) + b".",
    "bytes of a number": reduced("bytes", b"J\xff\xff\xff\x7f"),
    "bytearray of a number": reduced("bytearray", b"J\xff\xff\xff\x7f"),
    "a set of a set": reduced("set", b"]]a"),
    "a tuple made by call": reduced("tuple", b"](K\x01K\x02e"),
    "persistent": b"\x80\x04Pname\n.",
    "extension": b"\x80\x04\x82\x01.",
    "out-of-band": b"\x80\x05\x97.",
    "empty": b"",
    "no end": b"\x80\x04N",
    "pops nothing": b"\x80\x040.",
    "text": b"hello\n",
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "a name without end": b"\x80\x04cbuiltins\n",
}
ARRAYS = {
    "7 TiB": zipped(a=npy(described("(962072674304,)"), bytes(80))),
    "overflow": zipped(a=npy(described("(4611686018427387904, 4611686018427387904)"))),
    "negative": zipped(a=npy(described("(-1,)"), bytes(8))),
    "a shape of floats": zipped(a=npy(described("(1.5,)"), bytes(8))),
    "a shape that is no tuple": zipped(a=npy(described("'x'"), bytes(8))),
    "structured": zipped(a=npy(described("(1,)", "[('a', '<f8')]"), bytes(8))),
    "objects": object_array(),
    "an odd dtype": zipped(a=npy(described("(1,)", "'|V999999999'"), bytes(8))),
    "a header of brackets": zipped(a=npy("(" * 9000)),
    "a header that is code": zipped(a=npy("__import__('os').system('true')")),
    "a header beyond the file": zipped(a=b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31)),
    "version 3": zipped(a=npy(described("(1,)"), bytes(8), b"\x03\x00")),
    "no header": zipped(a=b"12345"),
    "too few": zipped(a=npy(described("(9,)"), bytes(8))),
    "empty": b"",
    "no archive": b"PK\x03\x04" + bytes(30),
    "no arrays": zipped(),
    "text": zipped(a=npy(described("(2,)", "'<U3'"), "abcdef".encode("utf-32-le"))),
    "names for other rows": zipped(
        loglik=npy(described("(2, 3)"), bytes(48)), names=npy(described("(1,)", "'<U1'"), "a".encode("utf-32-le"))
    ),
    "one name twice": zipped(
        loglik=npy(described("(2, 3)"), bytes(48)), names=npy(described("(2,)", "'<U1'"), "aa".encode("utf-32-le"))
    ),
    "digests that are none": zipped(
        loglik=npy(described("(1, 1)"), bytes(8)), names=npy(described("(1,)", "'<U1'"), "a".encode("utf-32-le")),
        text_sha256=npy(described("(1,)", "'|S64'"), b"x" * 64),
    ),
}  # fmt: skip
HUGE = "1" + "0" * 400
JSONS = {
    "brackets": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "a long number": '{"m": [' + "9" * 5000 + "]}",
    "a name twice": json.dumps({"m": [1.0] * N})[:-1] + ', "m": [2.0]}',
    "unequal": json.dumps({"a": [-1.0] * N, "b": [-1.0]}),
    "words": '{"m": ["a", "b"]}',
    "whole numbers beyond all floats": '{"m": [' + HUGE + ", 1]}",
    "a step beyond all": json.dumps({"m": {"9" * 30: [-1.0] * N}}),
    "a step that is none": json.dumps({"m": {"x": [-1.0] * N}}),
    "a number": "7",
    "null": "null",
    "empty": "",
    "a NUL": "\0",
    "cut": '{"m": [1, 2',
    "a score beyond": '{"m": {"arc": "x"}}',
    "no name": json.dumps({"": [-1.0] * N}),
}
LINES = {
    "an index beyond": '{"index": 1000000000000, "log-likelihood": -1}',
    "an index that is true": '{"index": true, "log-likelihood": -1}',
    "tokens beyond": '{"index": 0, "log-likelihood": -1, "num-tokens": 1e400}',
    "many tokens": '{"index": 0, "log-likelihood": -1, "num-tokens": 99999999999}',
    "an index twice": '{"index": 0, "log-likelihood": -1}\n{"index": 0, "log-likelihood": -2}',
    "a line that is none": '{"index": 0, "log-likelihood": -1}\n{"index"',
    "a list": '{"index": 0, "log-likelihood": -1}\n[]',
    "nested": '{"index": 0, "log-likelihood": ' + "[" * 100_000,
    "a document beyond": '{"doc_id": 99999999999999, "resps": [["-1"]]}',
    "a document again": '{"doc_id": 0, "resps": [["-1"]]}\n{"doc_id": 0, "resps": [["-2"]]}',
    "another text": '{"doc_id": 0, "resps": [["-1"]], "arguments": [["a"]]}\n'
    '{"doc_id": 0, "resps": [["-1"]], "arguments": [["b"]], "filter": "x"}',
    "responses that are code": '{"doc_id": 0, "resps": [["__import__(\'os\')"]]}',
    "responses of brackets": json.dumps({"doc_id": 0, "resps": "[" * 100_000}),
    "no responses": '{"doc_id": 0}',
    "a document that is none": '{"doc_id": "0", "resps": [["-1"]]}',
    "empty": "",
}
TABLES = {
    "a NUL": "name,arc\nm\0,1\0\n",
    "a quote without end": 'name,arc\n"' + "x" * 200_000,
    "one column twice": "name,arc,arc\nm,1,2\n",
    "two scores": "name,task,score\nm,arc,1\nm,arc,2\n",
    "no table": "\x00\x01\x02",
    "words": "name,task,score\nm,arc,good\n",
    "a score beyond all floats": f"name,task,score\nm,arc,{HUGE}e999x\n",
    "empty": "",
}  # fmt: skip
ALL: dict[str, bytes] = {
    **{f"{k}.pkl": v for k, v in PICKLES.items()},
    **{f"{k}.npz": v for k, v in ARRAYS.items()},
    **{f"{k}.json": v.encode() for k, v in JSONS.items()},
    **{f"{k}.jsonl": v.encode() for k, v in LINES.items()},
    **{f"{k}.csv": v.encode("utf-8", "surrogatepass") for k, v in TABLES.items()},
    "unknown.xyz": b"x",
}
# Made by their test alone: one takes a second to be packed, the other warns while it is made.
MADE = {"zeros without end.npz": zeros_without_end, "twice.npz": twice}


@pytest.fixture
def bounded():
    """Fails where what runs within it takes long or much memory."""
    tracemalloc.start()
    begun = time.monotonic()
    yield
    spent, (_, maximum) = time.monotonic() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < SECONDS and maximum < BYTES, (spent, maximum)


@pytest.fixture
def malformed(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.write_bytes(MADE[name]() if name in MADE else ALL[name])
    return path


@pytest.mark.parametrize("name", [*ALL, *MADE])
def test_a_malformed_file_is_named_within_bounds(malformed: Path, bounded: None, name: str) -> None:
    with pytest.raises(KltuiError) as caught:
        read(malformed)
    assert name in caught.value.message or name in caught.value.hint or "without" in caught.value.message
    assert len(str(caught.value)) < 1500


def test_what_is_well_formed_but_odd_is_read(tmp_path: Path) -> None:
    fortran = np.asfortranarray(np.arange(12.0).reshape(2, 6) - 20)
    np.savez(tmp_path / "f.npz", loglik=fortran, names=np.array(["a", "b"]))
    found = read(tmp_path / "f.npz").vectors
    assert [v.loglik.tolist() for v in found] == fortran.tolist()
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"m": [-1.0, None]}).encode())
    (vector,) = read(tmp_path / "bom.json").vectors
    assert vector.loglik[0] == -1 and np.isnan(vector.loglik[1])
    np.savez(tmp_path / "none.npz", loglik=np.zeros((0, 3)), names=np.array([], dtype="U1"))
    assert read(tmp_path / "none.npz").vectors == ()
    floats = load_pickle(
        _dumped(tmp_path / "l.pkl", {"m": [float(i) for i in range(50_000)], "n": [1, 2.5, True]})
    )
    assert floats == {"m": [float(i) for i in range(50_000)], "n": [1, 2.5, True]}


def _dumped(path: Path, value: object) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def special(path: Path, kind: str) -> None:
    """Something at `path` that is no regular file with contents."""
    makers: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path.name),
        "gone": lambda: path.symlink_to("nowhere"),
        "sparse": lambda: (path.touch(), os.truncate(path, 1 << 42)),
        "folder": lambda: path.mkdir(),
    }
    makers[kind]()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "gone", "sparse", "folder"])
@pytest.mark.parametrize("suffix", ["pkl", "npz", "json", "jsonl", "csv"])
def test_what_is_no_file_never_blocks(tmp_path: Path, monkeypatch, kind: str, suffix: str) -> None:
    monkeypatch.setattr(files, "LINE_MAX_BYTES", 1 << 20)
    special(tmp_path / f"x.{suffix}", kind)
    with pytest.raises(KltuiError, match="x"):
        read(tmp_path / f"x.{suffix}")
    sound = {"m": np.arange(6.0) - 9}
    _dumped(tmp_path / "pretraining.pkl", sound)
    (tmp_path / "texts.json").write_text(json.dumps([f"t{i}" for i in range(6)]))
    found = read(tmp_path)
    assert [v.point.name for v in found.vectors] == ["m"]


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
@pytest.mark.parametrize(
    "name", ["samples_x.jsonl", "y.jsonl", "weight_distance.pkl", "y.pkl", "model_list.json"]
)
def test_a_folder_is_read_around_what_is_no_file(tmp_path: Path, monkeypatch, kind: str, name: str) -> None:
    monkeypatch.setattr(files, "LINE_MAX_BYTES", 1 << 20)
    special(tmp_path / name, kind)
    if name.startswith("samples"):
        rows = [{"doc_id": i, "resps": [["-1.5"]], "arguments": [[f"t{i}"]]} for i in range(3)]
        (tmp_path / "samples_y.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif name == "y.jsonl":
        (tmp_path / "m.jsonl").write_text('{"index": 0, "log-likelihood": -3}')
    else:
        _dumped(tmp_path / "m.pkl", {"m": np.arange(6.0) - 9})
    found = read(tmp_path)
    assert len(found.vectors) == 1
    assert len(found.left) <= 1 and all(name in said for said in found.left)


def test_a_file_that_vanishes_or_may_not_be_read(tmp_path: Path, monkeypatch) -> None:
    path = _dumped(tmp_path / "x.pkl", {"m": np.arange(6.0)})

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refused)
    with pytest.raises(ImportFormatError, match=r"x\.pkl cannot be read: Permission denied"):
        read(path)


def test_too_many_arrays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kltui.importers.arrays.MAX_ARRAYS", 3)
    np.savez(tmp_path / "x.npz", **{f"m{i}": np.arange(3.0) for i in range(4)})
    with pytest.raises(ImportFormatError, match="it contains 4 arrays"):
        read(tmp_path / "x.npz")


def test_the_others_are_imported_and_the_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every malformed file in one command with a sound one: one line for each, and the sound one's vectors."""
    words = []
    for name, data in ALL.items():
        (tmp_path / name).write_bytes(data)
        words += ["--import", str(tmp_path / name)]
    _dumped(tmp_path / "sound.pkl", {"m": np.arange(6.0) - 9})
    (tmp_path / "texts.json").write_text(json.dumps([f"t{i}" for i in range(6)]))
    words += ["--import", str(tmp_path / "sound.pkl"), "--import", str(tmp_path / "texts.json")]
    code = main([*words, str(tmp_path / "ws")])
    said = capsys.readouterr().err
    assert code == 1 and "1 vectors over 6 texts" in said and f"{len(ALL)} could not be imported" in said
    assert "Traceback" not in said
    assert all(name in said for name in ALL)


def test_what_reads_is_one_function(monkeypatch, tmp_path: Path) -> None:
    """A reader that raises what nobody thought of still names its file."""

    def astray(*_: object) -> None:
        raise LookupError("astray")

    monkeypatch.setattr(read_module, "read_npz", astray)
    (tmp_path / "x.npz").write_bytes(b"")
    with pytest.raises(ImportFormatError, match=r"x\.npz cannot be read: astray"):
        read(tmp_path / "x.npz")


def test_a_name_that_no_file_can_have_is_refused_with_the_reason(tmp_path: Path) -> None:
    for suffix in ("", ".jsonl", ".npz", ".pkl", ".json", ".csv"):
        with pytest.raises(ImportFormatError, match="File name too long"):
            read(tmp_path / f"{'a' * 300}{suffix}")
