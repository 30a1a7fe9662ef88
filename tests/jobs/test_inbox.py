"""Files of the inbox that are anything but results: each is named and left, and the sound ones are taken in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_folders import make_model
from safetensors.numpy import save

import kltui
from kltui.errors import KltuiError
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import Plan, make_plan
from kltui.jobs.prepare import Ready
from kltui.jobs.shard import InboxWriter, collect
from kltui.jobs.shard_result import abouts, check, pack, unpack
from kltui.scoring.settings import ScoreResult, Vector

N = 4
JOB = """\
workspace = "ws"
[corpus]
source = "texts.json"
[[models]]
path = "run"
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    for step in (1, 2):
        make_model(tmp_path / "run" / f"step{step}", weights=b"w%d" % step)
    (tmp_path / "texts.json").write_text(json.dumps([f"text {i}" for i in range(N)]))
    (tmp_path / "ws" / "inbox").mkdir(parents=True)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path / "job.toml"


def result(scale: float = 1.0) -> ScoreResult:
    loglik, counts = -np.arange(1.0, N + 1) * scale, np.full(N, 3, np.int32)
    return ScoreResult(
        (Vector(None, loglik, counts), Vector(0, 2 * loglik, counts)), {"k": "v"}, {"seconds": 1.0}
    )


def put(plan: Plan, index: int) -> Path:
    """A sound result of one checkpoint in the inbox."""
    writer = InboxWriter(plan)
    writer.store(Ready(index, plan.checkpoints[index].source.path, f"w{index}"), result(index + 1.0))  # type: ignore[union-attr]
    return max((plan.workspace / "inbox").iterdir(), key=lambda p: p.lstat().st_mtime_ns)


def checksum(arrays: dict[str, np.ndarray], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def forged(about: object, **arrays: np.ndarray) -> bytes:
    """A file with a checksum that is right, whatever else is wrong with it."""
    held = {
        "loglik_LN": -np.ones((2, N)), "n_scored_LN": np.ones((2, N), np.int32), **arrays
    }  # fmt: skip
    held = {k: v for k, v in held.items() if v is not None}
    text = about if isinstance(about, str) else json.dumps(about)
    return save(held, {"about": text, "sha256": checksum(held, text)})


SOUND: dict[str, Any] = {
    "format": 1, "request": "", "name": "run@1", "weights": "w", "commit": "", "folder": "/m", "signature": "",
    "layers": [None, 0], "key": {"k": "v"}, "stats": {"seconds": 1.0},
}  # fmt: skip
WRONG: dict[str, list[object]] = {
    "format": [2, "1", None, True, 1e400, [1]],
    "name": [None, 7, ["run@1"], {"a": 1}, "\ud800"],
    "weights": ["", None, 7, ["w"], "\udfff"],
    "commit": [None, 3, {}],
    "folder": [None, 3, [], "\ud800"],
    "signature": [None, 3],
    "layers": [None, [], [None], [None, None], [0, 1], [None, -1], [None, 1.5], [None, "0"], [None, 10**30], 3, [None, 0, 1],
               [None, True]],
    "key": [None, [], {"k": 1}, {"k": None}, "k", {"k": "\ud800"}],
    "stats": [None, [], {"s": "x"}, {"s": float("nan")}, {"s": float("inf")}, {"s": 10**400}, {"s": None}, {"s": -1e300}],
}  # fmt: skip
BAD_ARRAYS: dict[str, dict[str, Any]] = {
    "too few values": {"loglik_LN": -np.ones((2, N - 1)), "n_scored_LN": np.ones((2, N - 1), np.int32)},
    "unequal": {"n_scored_LN": np.ones((2, N + 1), np.int32)},
    "one layer": {"loglik_LN": -np.ones((1, N))},
    "flat": {"loglik_LN": -np.ones(2 * N)},
    "no dimension": {"loglik_LN": np.array(-1.0)},
    "infinite": {"loglik_LN": np.full((2, N), -np.inf)},
    "no number": {"loglik_LN": np.full((2, N), np.nan)},
    "integers": {"loglik_LN": -np.ones((2, N), np.int64)},
    "half": {"loglik_LN": -np.ones((2, N), np.float16)},
    "negative counts": {"n_scored_LN": -np.ones((2, N), np.int32)},
    "counts of floats": {"n_scored_LN": np.ones((2, N))},
    "no counts": {"n_scored_LN": None},
    "no values": {"loglik_LN": None},
    "more": {"more": np.ones(3)},
    "tokens alone": {"tokens": np.ones(3, np.float32)},
    "lengths of others": {"tokens": np.ones(3, np.float32), "lengths": np.ones(N, np.int64)},
    "negative lengths": {"tokens": np.ones(2, np.float32), "lengths": np.array([3, -1, 0, 0])},
    "lengths that overflow": {"tokens": np.ones(0, np.float32), "lengths": np.array([2**62, 2**62, 2**62, 2**62])},
}  # fmt: skip


def header(text: str) -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode()


def raw(request: str) -> dict[str, bytes]:
    plain = {"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}
    big = {"loglik_LN": {"dtype": "F64", "shape": [2, 1 << 39], "data_offsets": [0, 1 << 43]}}
    said = {"__metadata__": {"about": json.dumps(SOUND | {"request": request}), "sha256": ""}}
    return {
        "empty": b"",
        "seven bytes": b"1234567",
        "a huge header": (1 << 62).to_bytes(8, "little") + b"{}",
        "a header of 7 TiB": (7 << 40).to_bytes(8, "little") + b"{}",
        "a header beyond the file": (1000).to_bytes(8, "little") + b"{}",
        "no JSON": header("{nonsense"),
        "not UTF-8": (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
        "brackets": header("[" * 100_000),
        "a list": header("[]"),
        "no metadata": header(json.dumps(plain)) + bytes(8),
        "metadata that is a list": header(json.dumps({"__metadata__": []})),
        "metadata of numbers": header(json.dumps({"__metadata__": {"about": 1}})),
        "about that is not JSON": forged("{"),
        "about of brackets": forged("[" * 100_000),
        "about that is a list": forged([]),
        "about that is null": forged(None),
        "about that is empty": forged(""),
        "claims 8 TiB": header(json.dumps(said | big)),
        "negative offsets": header(json.dumps(said | {"a": {"dtype": "F64", "shape": [1], "data_offsets": [-8, 0]}})),
        "negative shape": header(json.dumps(said | {"a": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}})) + bytes(8),
        "an unknown dtype": header(json.dumps(said | {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 8]}})) + bytes(8),
        "an odd dtype": header(json.dumps(said | {"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}})) + bytes(8),
        "zeros": bytes(4096),
        "random": np.random.default_rng(0).bytes(4096),
    }  # fmt: skip


def attacks(request: str) -> dict[str, bytes]:
    """Every malformed file by name."""
    sound = SOUND | {"request": request}
    made = raw(request)
    for field, values in WRONG.items():
        made[f"without {field}"] = forged({k: v for k, v in sound.items() if k != field})
        for i, value in enumerate(values):
            made[f"{field} {i}"] = forged(sound | {field: value})
    for name, arrays in BAD_ARRAYS.items():
        made[name] = forged(sound, **arrays)
    good = forged(sound)
    made["a wrong checksum"] = good[:-1] + bytes([good[-1] ^ 1])
    made["cut"] = good[:-9]
    made["more at the end"] = good + b"x"
    return made


def test_every_malformed_file_is_left_and_the_sound_ones_are_taken_in(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(load_job(job))
    request = parcel_request(plan)
    inbox = plan.workspace / "inbox"
    bad = attacks(request)
    for i, data in enumerate(bad.values()):
        (inbox / f"{i:03}.safetensors").write_bytes(data)
    put(plan, 0), put(plan, 1)
    code, _ = collect(job)
    said = capsys.readouterr().err
    assert code == 1 and "Traceback" not in said
    taken_for_sound = [name for i, name in enumerate(bad) if f"{i:03}.safetensors" not in said]
    assert taken_for_sound == []
    assert f"2 newly stored, 2 of 2 stored, {len(bad)} damaged" in said
    assert len(list(inbox.iterdir())) == len(bad)
    with kltui.open(plan.workspace) as ws:
        np.testing.assert_array_equal(
            ws.map().loglik_KN, [-np.arange(1.0, N + 1), -2 * np.arange(1.0, N + 1)]
        )
    for i, name in enumerate(bad):
        with pytest.raises(KltuiError):
            check(inbox / f"{i:03}.safetensors")
            # What fits itself and only not this corpus is no damage.
            assert name in ("too few values", "one layer"), name
            raise KltuiError("")


def parcel_request(plan: Plan) -> str:
    from kltui.jobs.shard import _request

    return _request(plan)


@pytest.mark.parametrize(
    "kind", ["pipe", "device", "loop", "gone", "folder", "sparse", "sparse claim", "refused"]
)
def test_what_is_no_file_never_blocks(job: Path, capsys, monkeypatch, kind: str) -> None:
    plan = make_plan(load_job(job))
    path = plan.workspace / "inbox" / "x.safetensors"
    claim = {"loglik_LN": {"dtype": "F64", "shape": [2, 1 << 38], "data_offsets": [0, 1 << 42]}}
    about = json.dumps(SOUND | {"request": parcel_request(plan)})
    text = header(json.dumps({"__metadata__": {"about": about, "sha256": "x"}} | claim))
    makers: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path.name),
        "gone": lambda: path.symlink_to("nowhere"),
        "folder": lambda: path.mkdir(),
        "sparse": lambda: (path.touch(), os.truncate(path, 7 << 40)),
        "sparse claim": lambda: (path.write_bytes(text), os.truncate(path, len(text) + (1 << 42))),
        "refused": lambda: path.write_bytes(b"x"),
    }
    makers[kind]()
    put(plan, 0)
    if kind == "refused":
        opened = os.open

        def refuse(name: Any, *more: Any, **options: Any) -> int:
            if str(name).endswith("x.safetensors"):
                raise PermissionError(13, "Permission denied")
            return opened(name, *more, **options)

        monkeypatch.setattr("kltui.corpus.files.os.open", refuse)
    assert len(InboxWriter(plan).held()) == 1
    assert {a.weights for a in abouts(path.parent)} == {"w0"} | ({"w"} if kind == "sparse claim" else set())
    code, _ = collect(job)
    said = capsys.readouterr().err
    assert code == 1 and "x.safetensors" in said and "1 newly stored, 1 of 2 stored, 1 damaged" in said
    assert os.path.lexists(path)


def test_a_file_of_another_corpus_is_another_jobs(job: Path, capsys) -> None:
    plan = make_plan(load_job(job))
    other = pack("another request", "run@1", Ready(0, Path("/m"), "w"), result())
    (plan.workspace / "inbox" / "o.safetensors").write_bytes(other)
    stranger = pack(parcel_request(plan), "run@99", Ready(0, Path("/m"), "w"), result())
    (plan.workspace / "inbox" / "s.safetensors").write_bytes(stranger)
    assert collect(job)[0] == 1
    assert "2 of another job left in the inbox" in capsys.readouterr().err


def test_a_file_remembers_fingerprints_only_for_the_folder_that_the_job_names(job: Path) -> None:
    plan = make_plan(load_job(job))
    where = plan.checkpoints[0].source.path  # type: ignore[union-attr]
    for folder, kept in ((where, True), (Path("/elsewhere"), False)):
        path = plan.workspace / "inbox" / "p.safetensors"
        path.write_bytes(
            pack(parcel_request(plan), "run@1", Ready(0, folder, "w", signature="s", settled=True), result())
        )
        found = unpack(path, plan.corpus, parcel_request(plan))
        assert found is not None
        ready = found.ready(0, plan.checkpoints[0])
        assert (ready.signature, ready.settled) == (("s", True) if kept else ("", False))
