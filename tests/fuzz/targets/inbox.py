"""Files of the inbox, signed anew after every change: each is taken in or named and left, and never keeps out another."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import scratch

sys.path.insert(0, str(Path(__file__).parents[2]))
from model_folders import make_model

from kltui.jobs import shard, shard_result
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan
from kltui.jobs.prepare import Ready
from kltui.scoring.settings import ScoreResult, Vector
from kltui.store import Store

WORDS = (
    b'"about":"', b'\\"layers\\": [null]', b'\\"layers\\": [null, 0]', b'\\"key\\": {', b'\\"stats\\": {', b'"F64"', b'"I32"', b'"I64"',
    b'"F16"', b'"loglik_LN"', b'"n_scored_LN"', b'"tokens"', b'"lengths"', b'\\"name\\": \\"run@0\\"',
)  # fmt: skip
N_TEXTS = 3
JOB = 'workspace = "ws"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "run"\n'


def _job() -> Path:
    for step in (0, 1):
        make_model(scratch.FOLDER / "run" / f"step{step}", weights=b"weights")
    scratch.put("texts.json", json.dumps([f"text {i}" for i in range(N_TEXTS)]).encode())
    return scratch.put("job.toml", JOB.encode())


JOB_PATH = _job()
PLAN = make_plan(load_job(JOB_PATH))


def _packed(index: int, *, layers: tuple[int | None, ...] = (None,), tokens: bool = False) -> bytes:
    """The file of one checkpoint's result, values told by its index."""
    vectors = tuple(
        Vector(k, np.arange(N_TEXTS) - 50.0 * index - i, np.full(N_TEXTS, 2, np.int32))
        for i, k in enumerate(layers)
    )
    logprobs = tuple(np.full(2, -1.5, np.float32) for _ in range(N_TEXTS)) if tokens else None
    result = ScoreResult(vectors, {"dtype": "float32", "bos": "auto"}, {"seconds_score": 0.5}, (), logprobs)
    ready = Ready(index, Path("/models/step"), f"{index}" * 64)
    return shard_result.pack(shard._request(PLAN), f"run@{index}", ready, result)


GOOD = _packed(1)


def one_input(data: bytes) -> None:
    """Reads it as a file of the inbox; where it can be read, all of the inbox is taken in."""
    inbox = PLAN.workspace / shard.INBOX
    path = scratch.put("a.safetensors", data)
    if scratch.answer(lambda: [shard_result.check(path)]) is None:
        return
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "a.safetensors").write_bytes(data)
    (inbox / "b.safetensors").write_bytes(GOOD)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code, _ = shard.collect(JOB_PATH)
    assert code in (0, 1)
    assert not (inbox / "b.safetensors").exists(), "one file kept another one out"
    _check_stored()


def _check_stored() -> None:
    """The good file's vector is stored as it was, and every vector has a value for every text."""
    store = Store.read(PLAN.workspace)
    try:
        ids = {row.name: row.id for row in store.checkpoints.all()}
        rows = {v.checkpoint_id: v.id for v in store.vectors.rows() if v.layer is None}
        values, _ = store.vectors.load([rows[ids["run@1"]]], N_TEXTS)
        assert values.tolist() == [[-50.0, -49.0, -48.0]]
        store.vectors.load([v.id for v in store.vectors.rows()], N_TEXTS)
    finally:
        store.close()


def _opened(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """(header without metadata, what the file says of itself, data) of a safetensors file. Raises ValueError."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header.pop("__metadata__")["about"]), data[8 + length :]


def _signed(header: dict[str, Any], about: object, body: bytes) -> bytes:
    """The file with the checksum that belongs to its content."""
    types = {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "I64": "<i8",
        "I32": "<i4",
        "I8": "i1",
        "U8": "u1",
        "BOOL": "?",
    }
    text = json.dumps(about)
    arrays = {}
    with contextlib.suppress(ValueError, KeyError, TypeError):
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            arrays[name] = np.frombuffer(body[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    signed = {"__metadata__": {"about": text, "sha256": shard_result._checksum(arrays, text)}, **header}
    raw = json.dumps(signed).encode()
    return struct.pack("<Q", len(raw)) + raw + body


_VALUES = (None, True, 0, 1, -1, 2**31, 2**70, 0.5, float("nan"), "", "x", "\ud800", "run@1", [], [None], [None, None], [0, None],
           [-1], ["a"], {}, {"a": 1}, {"a": {"b": []}}, "x" * 300)  # fmt: skip
_TYPES = ("F64", "F32", "F16", "I64", "I32", "I8", "U8", "BOOL", "BF16")


def mutate(data: bytes, random: Random, change: Callable[[bytes, int], bytes]) -> bytes:
    """The same file with what it says, an array's form or its values changed, and signed anew."""
    try:
        header, about, body = _opened(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return change(data, len(data) + 16)
    kind = random.randrange(8)
    if kind < 3 and isinstance(about, dict):
        where = about
        if random.random() < 0.4:
            where = random.choice([v for v in about.values() if isinstance(v, dict)] or [about])
        key = random.choice([*where, "a"])
        if random.random() < 0.2:
            where.pop(key, None)
        else:
            where[key] = random.choice(_VALUES)
    elif kind == 3:
        about = random.choice(_VALUES)
    elif kind == 4:
        body = change(body, len(body))
    elif kind == 5 and header:
        body, header = _without(random.choice(list(header)), header, body)
    elif header:
        _reshape(header, random)
    return _signed(header, about, body)


def _without(name: str, header: dict[str, Any], body: bytes) -> tuple[bytes, dict[str, Any]]:
    """The data and header without one array."""
    kept, data = {}, b""
    for other, entry in header.items():
        if other != name:
            begin, end = entry["data_offsets"]
            kept[other] = {**entry, "data_offsets": [len(data), len(data) + end - begin]}
            data += body[begin:end]
    return data, kept


def _reshape(header: dict[str, Any], random: Random) -> None:
    """Gives one array another name, or another type or shape for the same bytes."""
    name = random.choice(list(header))
    entry = header[name]
    begin, end = entry["data_offsets"]
    if random.random() < 0.3:
        header[random.choice(("tokens", "lengths", "loglik_LN", "n_scored_LN", "x"))] = header.pop(name)
        return
    entry["dtype"] = random.choice(_TYPES)
    bytes_each = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}.get(entry["dtype"], 1)
    n = (end - begin) // bytes_each
    entry["shape"] = random.choice(([n], [1, n], [n, 1], [1, 1, n], [n // 3, 3], [0, n], []))


def seeds() -> dict[str, bytes]:
    """Results as they are sent, and signed ones that no kltui has made."""
    header, about, body = _opened(_packed(0))
    made = {
        "final": _packed(0),
        "layers": _packed(0, layers=(0, 1, None)),
        "tokens": _packed(0, tokens=True),
        "again": _packed(1),
        "cut": _packed(0)[:-3],
        "about_list": _signed(header, [about], body),
        "about_empty": _signed(header, {}, body),
        "no_arrays": _signed({}, about, b""),
        "no_final": _packed(0, layers=(0,)),
    }
    odd: dict[str, object] = {
        "format": "1",
        "name": ["x"],
        "layers": 3,
        "key": [],
        "stats": None,
        "weights": 0,
        "folder": {},
        "request": {},
    }
    return made | {f"odd_{key}": _signed(header, {**about, key: value}, body) for key, value in odd.items()}
