"""Pickles: what is admitted comes out equal, what is hostile is refused and named, what is damaged is said so."""

from __future__ import annotations

import builtins
import collections
import io
import operator
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kltui.importers.imported import ImportFormatError
from kltui.importers.pickles import load_pickle


def dump(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_more_is_remembered_than_one_byte_counts(tmp_path: Path, protocol: int) -> None:
    """Objects from the 257th on are remembered, and named again, by numbers of four bytes or of several digits."""
    rows = [{f"k{i}": [i]} for i in range(400)]
    value = {"rows": rows, "again": rows[::-1]}
    assert load_pickle(dump(tmp_path / "x.pkl", value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int64", "bool"])
def test_arrays_come_out_equal(tmp_path: Path, protocol: int, dtype: str) -> None:
    x = (np.arange(24).reshape(4, 6) % 7).astype(dtype)
    data = {
        "c": x,
        "f": np.asfortranarray(x),
        "empty": x[:0],
        "view": x[::2, 1:],
        "scalar": x[1, 2],
        "zero_d": x.sum(),
    }
    found = load_pickle(dump(tmp_path / "x.pkl", data, protocol))
    assert isinstance(found, dict)
    for key, want in data.items():
        np.testing.assert_array_equal(found[key], want)
    assert found["c"].dtype == x.dtype


def test_plain_containers_come_out_equal(tmp_path: Path) -> None:
    nested = collections.defaultdict(dict)
    nested["410m"][1000] = [1.5, None, True, "x", b"y", (2, 3)]
    value = collections.OrderedDict(a=nested, b={1, 2}, c=2 + 1j)
    found = load_pickle(dump(tmp_path / "x.pkl", value))
    assert found == {"a": {"410m": {1000: [1.5, None, True, "x", b"y", (2, 3)]}}, "b": {1, 2}, "c": 2 + 1j}
    assert type(found) is dict


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def hostile(mark: str) -> dict[str, tuple[object, str]]:
    return {
        "os.system": (Call(os.system, f"touch {mark}"), r"posix\.system|os\.system"),
        "builtins.eval": (Call(eval, f"open({mark!r}, 'w')"), r"builtins\.eval"),
        "builtins.exec": (Call(exec, f"open({mark!r}, 'w')"), r"builtins\.exec"),
        "builtins.__import__": (Call(builtins.__import__, "os"), r"builtins\.__import__"),
        "nested reduce": ({"m": [np.ones(3), (1, {"x": Call(open, mark, "w")})]}, r"open"),
        "reduce in a reduce": (Call(operator.methodcaller, Call(os.getcwd)), r"getcwd|methodcaller"),
        "object array": (np.array([Call(os.getcwd)], dtype=object), r"numpy array of O"),
        "structured array": (np.zeros(2, dtype=[("a", "f8")]), r"V8|structured"),
        "factory": (collections.defaultdict(os.getcwd), r"getcwd"),
        "numpy itself": (Call(np.load, mark), r"numpy.*load"),
        "pickle itself": (Call(pickle.loads, b"x"), r"_pickle\.loads|pickle\.loads"),
        "a class": (Path(mark), r"pathlib"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("attack", hostile(""))
def test_hostile_pickles_are_refused_and_named(tmp_path: Path, attack: str, protocol: int) -> None:
    value, named = hostile(str(tmp_path / "ran"))[attack]
    path = dump(tmp_path / "x.pkl", value, protocol)
    with pytest.raises(ImportFormatError, match=named) as e:
        load_pickle(path)
    assert "not allowed" in e.value.message
    assert not (tmp_path / "ran").exists()


def array_with(raw: bytes, shape: object, spec: str = "f8") -> bytes:
    """A pickle of one array whose parts need not fit each other."""

    class Fake:
        def __reduce__(self) -> tuple[object, ...]:
            reconstruct = np.zeros(1).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(spec), False, raw)

    return pickle.dumps(Fake())


DAMAGED = {
    "empty": b"",
    "text": b"404: Not Found\n",
    "cut": pickle.dumps({"a": np.ones(100)})[:-50],
    "stack": b"\x80\x04.",
    "bytes too few": array_with(b"\0" * 8, (2,)),
    "bytes too many": array_with(b"\0" * 80, (2,)),
    "shape that overflows": array_with(b"", (2**62, 2**62)),
    "negative shape": array_with(b"\0" * 8, (-1,)),
    "shape of floats": array_with(b"\0" * 8, (1.0,)),
    "no bytes": array_with("text", (1,)),  # type: ignore[arg-type]
    "call of a number": b"\x80\x04K\x01)R.",
    "memo": b"\x80\x04j\xff\xff\xff\x00.",
    "long length": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "deep": b"\x80\x04" + b"]" * 500 + b"a" * 499 + b".",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_pickles_are_said_to_be(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(ImportFormatError, match=r"x\.pkl is damaged or not a pickle"):
        load_pickle(path)


def test_containers_that_hold_themselves(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ImportFormatError, match="nested too deep"):
        load_pickle(dump(tmp_path / "x.pkl", loop))


def test_stand_ins_keep_no_state_between_pickles(tmp_path: Path) -> None:
    """BUILD on an admitted name may not change it for the next pickle."""
    out = io.BytesIO()
    out.write(b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n}\x8c\x01xK\x01sb.")
    (tmp_path / "x.pkl").write_bytes(out.getvalue())
    with pytest.raises(ImportFormatError):
        load_pickle(tmp_path / "x.pkl")
    np.testing.assert_array_equal(load_pickle(dump(tmp_path / "y.pkl", np.ones(2))), np.ones(2))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImportFormatError, match="cannot be read"):
        load_pickle(tmp_path / "none.pkl")
