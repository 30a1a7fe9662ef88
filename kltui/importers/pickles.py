"""Loads untrusted pickles: only numpy arrays and plain containers; anything else is an error that names it.

A pickle is a program. Here it can call no function of numpy or Python: constructors are replaced by stand-ins that check
their arguments and make arrays from bytes, and any other name is refused before it is looked up. Stated lengths are
checked before the pickle is loaded (`pickle_scan`).
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from kltui.corpus.files import UnreadableFileError, read_whole
from kltui.importers.imported import ImportFormatError
from kltui.importers.pickle_scan import MAX_DEPTH, scan
from kltui.sanitize import safe_text

_KINDS = "biufc"  # booleans, integers, floats, complex: no objects, no structures, no text


class _RefusedError(Exception):
    """Raised with a name that the pickle tries to load."""


class _DType:
    """Stand-in for numpy.dtype, only for plain number types."""

    __slots__ = ("dtype",)

    def __init__(self, spec: object = "f8", *_: object) -> None:
        if not isinstance(spec, str) or len(spec) > 8:
            raise ValueError("a dtype that is not a plain number type")
        dtype = np.dtype(spec)
        if dtype.kind not in _KINDS:
            raise _RefusedError(f"numpy array of {safe_text(spec)}")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|"):
            raise ValueError("an unknown byte order")
        if any(part is not None for part in state[2:5]):
            raise _RefusedError("structured numpy dtype")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stand-in for a numpy array under construction; `__setstate__` makes `value` from raw bytes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray[Any, np.dtype[Any]] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, raw = state[-4:]
        self.value = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _from_bytes(raw: object, dtype: object, shape: object, order: object) -> np.ndarray[Any, np.dtype[Any]]:
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray | pickle.PickleBuffer):
        raise ValueError("an array without bytes or dtype")
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise ValueError("an array with an impossible shape")
    view = memoryview(raw)
    if math.prod(shape) * dtype.dtype.itemsize != view.nbytes:
        raise ValueError("an array whose bytes do not fill its shape")
    flat = np.frombuffer(view, dtype=dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


class _Reconstruct:
    __slots__ = ()

    def __call__(self, kind: object, *_: object) -> _Array:
        if not isinstance(kind, _NdarrayType):
            raise ValueError("an array of an unknown class")
        return _Array()


class _FromBuffer:
    __slots__ = ()

    def __call__(self, raw: object, dtype: object, shape: object, order: object) -> _Array:
        out = _Array()
        out.value = _from_bytes(raw, dtype, shape, order)
        return out


class _Scalar:
    __slots__ = ()

    def __call__(self, dtype: object, raw: object) -> object:
        return _from_bytes(raw, dtype, (), "C").item()


class _NdarrayType:
    __slots__ = ()


class _Encode:
    """Stand-in for _codecs.encode, with which old pickles write bytes."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object = "") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _RefusedError("_codecs.encode to anything but latin1")
        return text.encode("latin1")


class _Factory:
    """Stand-in for a built-in type that a defaultdict names as its factory; nothing calls it."""

    __slots__ = ()

    def __call__(self, *_: object) -> object:
        raise _RefusedError("a call of a built-in type")


class _Set:
    """Stand-in for set and frozenset, which older pickles call with a list of the items."""

    __slots__ = ()

    def __call__(self, items: object = ()) -> set[object]:
        if not isinstance(items, list | tuple):
            raise ValueError("a set made of something other than a list")
        return {_key(item) for item in items}


class _Bytes:
    """Stand-in for bytes and bytearray, which older pickles call with text in latin1."""

    __slots__ = ()

    def __call__(self, value: object = b"", encoding: object = "latin1") -> bytes:
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        return _Encode()(value, encoding)


class _Complex:
    """Stand-in for complex."""

    __slots__ = ()

    def __call__(self, real: object = 0.0, imaginary: object = 0.0) -> complex:
        if not isinstance(real, float | int) or not isinstance(imaginary, float | int):
            raise ValueError("a complex number made of something other than numbers")
        return complex(real, imaginary)


_ALLOWED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _NdarrayType(),
    ("_codecs", "encode"): _Encode(),
    **{("builtins", name): _Factory() for name in ("dict", "list", "tuple", "int", "float", "str", "bool")},
    **{("builtins", name): _Set() for name in ("set", "frozenset")},
    **{("builtins", name): _Bytes() for name in ("bytes", "bytearray")},
    ("builtins", "complex"): _Complex(),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # the name in Python 2
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]


def load_pickle(path: Path) -> object:
    """The contents of the pickle at `path`, only arrays and plain containers. Raises ImportFormatError that names what else it
    tries to load, or that says why it cannot be read.
    """
    try:
        data = read_whole(path)
        scan(data)
        return _Plain(len(data)).of(_Unpickler(io.BytesIO(data)).load(), 0)
    except _RefusedError as e:
        raise ImportFormatError(
            f"{safe_text(str(path))} tries to load {safe_text(str(e), 120)}, which is not allowed",
            "pickles may contain only numpy arrays, numbers, strings, lists and dicts",
        ) from None
    except UnreadableFileError as e:
        raise ImportFormatError(e.message, e.hint) from e
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise ImportFormatError(
            f"{safe_text(str(path))} is damaged or not a pickle ({safe_text(str(e) or type(e).__name__, 120)})",
            "fetch the file again; large files on GitHub may be Git LFS pointers",
        ) from e


class _Plain:
    """Replaces stand-ins by arrays, and copies all containers.

    It makes at most as many values as the pickle has bytes, because a pickle that refers to the same container repeatedly
    could otherwise grow exponentially.
    """

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes + 4096

    def of(self, value: object, depth: int) -> object:
        """`value` as plain data."""
        if depth > MAX_DEPTH:
            raise ValueError("containers nested too deep, or in themselves")
        if isinstance(value, _Array):
            self._spend(value.value.size)
            return value.value
        self._spend(1)
        if isinstance(value, dict):
            return {_key(k): self.of(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            if {*map(type, value)} <= {float, int}:  # fast path for a vector as a list
                self._spend(len(value))
                return value if isinstance(value, tuple) else [*value]
            made = [self.of(v, depth + 1) for v in value]
            return tuple(made) if isinstance(value, tuple) else made
        if isinstance(value, set | frozenset):
            return {_key(item) for item in value}
        if value is None or type(value) in (int, float, str, bytes, bytearray, bool, complex):
            return value
        raise _RefusedError(f"{type(value).__name__} object")

    def _spend(self, n: int) -> None:
        self._left -= n
        if self._left < 0:
            raise ValueError("it names the same values again and again")


def _key(key: object) -> object:
    if type(key) in (int, float, str, bytes, bool) or key is None:
        return key
    if isinstance(key, tuple) and all(type(k) in (int, float, str) for k in key):
        return key
    raise _RefusedError(f"{type(key).__name__} as a dict key")
