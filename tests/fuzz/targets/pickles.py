"""Pickles of vectors: what comes out is plain and equal to what Python's own pickle makes of it, the rest is refused."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
from collections.abc import Callable
from random import Random

import numpy as np
import scratch

from kltui.importers import modelmap
from kltui.importers.pickles import load_pickle

PIECES = (
    b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cbuiltins\nbytearray\n",
    b"cnumpy._core.multiarray\nscalar\n", b"cnumpy._core.numeric\n_frombuffer\n", b"c_codecs\nencode\n",
    b"ccollections\ndefaultdict\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nint\n", b"cbuiltins\nlist\n",
    b"cos\nsystem\n", b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00O8", b"X\x01\x00\x00\x00<", b"X\x00\x00\x00\x00",
    b"R", b"b", b"t", b"(", b"}", b"]", b")", b"u", b"s", b"e", b"a", b"\x81", b"\x92", b"0", b"2", b"1", b"N",
    b"K\x03", b"J\xff\xff\xff\x7f", b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01", b"G\x7f\xf8" + bytes(6),
    b"q\x00", b"h\x00", b"\x94", b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f", b"\x90", b"\x91", b"Q", b"\x97", b"\x98", b".",
)  # fmt: skip
WORDS = PIECES


def one_input(data: bytes) -> None:
    """Reads it as every kind of pickle that can be imported."""
    path = scratch.put("vectors.pkl", data)
    found = scratch.answer(lambda: [load_pickle(path)])
    if found is not None:
        for protocol in (2, 5):
            other = scratch.put("again.pkl", pickle.dumps(found[0], protocol))
            again = scratch.answer(lambda other=other: [load_pickle(other)])  # type: ignore[misc]
            assert again is None or _same(found, again), f"{found[0]!r} was read as {again[0]!r}"
    scratch.answer(lambda: modelmap.read_vectors_pickle(path, ["one", "two"]).checked())
    scratch.answer(lambda: modelmap.read_weight_distances(path, steps=(0, 1, 2)))


def _same(a: object, b: object) -> bool:
    """Whether two values are of one type and equal, NaN being NaN."""
    if isinstance(a, bytes | bytearray) and isinstance(b, bytes | bytearray):
        return a == b
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return _same(list(a), list(b)) and _same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, set | frozenset) and isinstance(b, set | frozenset):
        return sorted(map(repr, a)) == sorted(map(repr, b))
    return repr(a) == repr(b)


def mutate(data: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """The same program with an instruction left out, put in, repeated, moved or changed."""
    parts = _instructions(data)
    at = random.randrange(len(parts) + 1)
    kind = random.randrange(5)
    if kind == 0:
        parts.insert(at, random.choice(PIECES))
    elif kind == 1:
        del parts[at : at + random.randrange(1, 4)]
    elif kind == 2 and parts:
        parts.insert(at, random.choice(parts))
    elif kind == 3 and parts:
        parts[at:at] = parts[at - random.randrange(1, 8) : at]
    elif parts:
        which = random.randrange(len(parts))
        parts[which] = change(parts[which], len(parts[which]) + 8)
    return b"".join(parts)


def _instructions(data: bytes) -> list[bytes]:
    """The pickle's instructions, as far as it can be read; what follows is one piece."""
    starts = [0]
    with contextlib.suppress(Exception):  # damaged pickles raise any
        starts = [at for _, _, at in pickletools.genops(data) if at is not None] or [0]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def seeds() -> dict[str, bytes]:
    """One small pickle of every layout, of several protocols, and hostile ones."""
    x = np.linspace(-900.0, -300.0, 6)
    steps = {0: x, 1: x - 1, 1000: x.astype("f4")}
    values: dict[str, object] = {
        "by_name": {"410m": x, "gpt2": None, "other/model": list(x)},
        "by_step": {"410m": steps, "410m-seed3": {0: x, 512: x * 2}},
        "by_layer": {"m": {i: x + i for i in range(4)}},
        "matrix": np.stack([x, x + 1]),
        "fortran": np.asfortranarray(np.stack([x, x + 1])),
        "records": [{"model_name": "a/b", "log-likelihood": x, "model_type": "llama", "score_v1_arc": 50.0, "tags": []}],
        "numbers": [1.5, -2.0, float("nan")],
        "distances": {"410m": np.triu(np.arange(9.0).reshape(3, 3), 1)},
        "plain": {"a": (1, 2.5, "x", b"y", {1, 2}, None, True, 2 + 1j), "b": frozenset((1,)), (1, "k"): bytearray(b"z")},
        "scalars": {"a": x[0], "b": np.float32(2), "c": np.int64(3), "d": np.bool_(True), "e": np.array(4.0)},
    }  # fmt: skip
    made = {
        f"{name}_{protocol}": pickle.dumps(v, protocol)
        for name, v in values.items()
        for protocol in (2, 4, 5)
    }
    made["by_name_0"] = pickle.dumps({"410m": list(x)}, 0)
    made["refused"] = b"cos\nsystem\n(S'true'\ntR."
    made["in_itself"] = b"]q\x00h\x00a."
    made["shared_many_times"] = b"]" + b"(h\x00h\x00tq\x00".join([b"q\x00"] + [b""] * 20) + b"."
    made["shared_lists"] = b"]q\x00" + b"0(h\x00h\x00h\x00tq\x00" * 60 + b"."
    made["large_claim"] = b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R."  # a bytearray of 64 GiB
    return made
