"""From the preparing thread to the worker, here or elsewhere: weights that moved in between are never scored."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from model_folders import make_model

from kltui.jobs import prepare
from kltui.jobs.interpolation import Mix, write_mix
from kltui.jobs.messages import Failed, Message, Setup, Task, TaskScored
from kltui.jobs.prepare import Preparer, Ready
from kltui.jobs.worker import serve
from kltui.registry import digest
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.registry.digest import fingerprint
from kltui.registry.reading import ChangedError, hash_files
from kltui.registry.tensors import write_tensors
from kltui.scoring.settings import ScoringSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "faults" / "light"))
import light_scorer


def prepared(folder: Path, remembered: dict[tuple[Path, str], str] | None = None) -> Ready:
    """What the preparing thread hands over for one folder."""
    known = remembered or {}
    checkpoint = Checkpoint(run="m", source=LocalSource(folder))
    preparer = Preparer([(0, checkpoint)], lambda path, seen: known.get((path, seen), ""))
    ready = preparer.take(30.0)
    assert isinstance(ready, Ready), ready
    return ready


class Line:
    """A worker's line that sends one task and keeps what comes back."""

    def __init__(self, setup: Setup, task: Task) -> None:
        self.waiting: list[Any] = [setup, task]
        self.sent: list[Message] = []

    def recv(self) -> Any:
        if not self.waiting:
            raise EOFError
        return self.waiting.pop(0)

    def poll(self) -> bool:
        return False

    def send(self, message: Message, /) -> None:
        self.sent.append(message)


def served(ready: Ready, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Message:
    monkeypatch.setitem(sys.modules, "kltui.scoring.scorer", light_scorer)
    setup = Setup(("a text",), "c", ScoringSettings(), tmp_path, 1)
    line = Line(setup, Task(0, ready.hashed, "none", ready.mix))
    with pytest.raises(EOFError):
        serve(line)
    return line.sent[-1]


def test_a_folder_replaced_after_it_was_hashed_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepared(make_model(tmp_path / "m"))
    assert isinstance(served(ready, monkeypatch, tmp_path), TaskScored)
    make_model(tmp_path / "m", weights=b"WEIGHTS")
    failed = served(ready, monkeypatch, tmp_path)
    assert isinstance(failed, Failed) and not failed.retry
    assert "model.safetensors" in failed.error and "changed after they were hashed" in failed.error
    again = prepared(tmp_path / "m")
    assert again.weights == fingerprint(tmp_path / "m") != ready.weights
    assert isinstance(served(again, monkeypatch, tmp_path), TaskScored)


def test_a_file_that_moves_while_it_is_loaded_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepared(make_model(tmp_path / "m"))
    real = light_scorer.Scorer.score

    def score(self: Any, folder: Path, *more: Any) -> Any:
        (folder / "config.json").write_text('{"model_type": "llama"}')
        return real(self, folder, *more)

    monkeypatch.setattr(light_scorer.Scorer, "score", score)
    failed = served(ready, monkeypatch, tmp_path)
    assert isinstance(failed, Failed) and "config.json" in failed.error and "while" in failed.error


def test_only_an_old_signature_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "m")
    young = prepared(folder)
    assert young.signature and not young.settled
    monkeypatch.setattr(digest, "SETTLED_AFTER_NS", -(10**11))
    old = prepared(folder)
    assert old.settled and old.weights == young.weights
    assert prepared(folder, {(folder, old.signature): "remembered"}).weights == "remembered"


def test_the_parts_of_an_interpolation_are_those_that_were_hashed(tmp_path: Path) -> None:
    import numpy as np

    parts = []
    for k in (1, 2):
        folder = make_model(tmp_path / str(k))
        values = np.full(4, k, np.float32).view(np.uint8)
        write_tensors(folder / "model.safetensors", [("w.weight", "F32", (4,), lambda v=values: v)])
        parts.append(hash_files(folder))
    mix = Mix(tuple(parts), 0.5, 0.0)
    write_mix(tmp_path / "mixed", mix)
    data = (tmp_path / "mixed" / "model.safetensors").read_bytes()[-16:]
    assert (np.frombuffer(data, np.float32) == 1.5).all()
    write_tensors(
        tmp_path / "2" / "model.safetensors",
        [("w.weight", "F32", (4,), lambda: np.full(4, 9, np.float32).view(np.uint8))],
    )
    with pytest.raises(ChangedError, match=r"model\.safetensors"):
        write_mix(tmp_path / "again", mix)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere a thread has no priority of its own"
)
def test_hashing_gives_way_to_scoring_and_to_nothing_else(tmp_path: Path) -> None:
    checkpoint = Checkpoint(run="m", source=LocalSource(make_model(tmp_path / "m")))
    before, seen = os.getpriority(os.PRIO_PROCESS, 0), list[int]()

    def known(_path: Path, _signature: str) -> str:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return ""

    assert isinstance(Preparer([(0, checkpoint)], known).take(30.0), Ready)
    assert seen and set(seen) == {min(19, before + prepare.NICE)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
