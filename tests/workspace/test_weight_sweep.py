"""Weight distances are those of the weights that were scored, or there are none and it is said why."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from safetensors.numpy import save_file

import kltui
from kltui.corpus.corpus import Corpus
from kltui.registry import Checkpoint, HubSource, LocalSource, digest
from kltui.registry.digest import fingerprint
from kltui.store import Store
from kltui.workspace import weight_process
from kltui.workspace.weight_process import WeightProcess
from kltui.workspace.weight_sweep import CHECKED


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process answers is computed here; test_weight_process.py is about the process itself."""

    def answered(_: WeightProcess, __: object, asked: str, ___: object) -> dict[str, object]:
        return weight_process._answered(json.loads(asked), io.StringIO())

    monkeypatch.setattr(weight_process, "_started", MagicMock)
    monkeypatch.setattr(WeightProcess, "_reported", answered)


STEPS = 4
Distances = dict[tuple[str, str], float]


def add(store: Store, checkpoint: Checkpoint, weights: str) -> None:
    """A checkpoint that was scored with `weights`."""
    with store.atomic():
        cid = store.checkpoints.upsert(checkpoint)
        store.checkpoints.set_weights(cid, weights)
        corpus = store.corpora.add(Corpus(("a text",)), "here")
        one = np.ones(1)
        store.vectors.put(cid, corpus, None, {"weights": weights}, "", -one, one.astype(np.int32), None)


def write(folder: Path, value: float) -> Path:
    """A model of one parameter of 2 x 2 that holds `value` everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w.weight": np.full((2, 2), value, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "gpt_neox"}')
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A scored run whose weights at step k are k everywhere: |theta_j - theta_i|^2 = 4 (j - i)^2."""
    store = Store.write(tmp_path / "ws")
    for step in range(STEPS):
        folder = write(tmp_path / "r" / f"step{step}", step)
        add(store, Checkpoint("r", LocalSource(folder), step), weights=fingerprint(folder))
    store.close()
    return tmp_path


def computed(root: Path) -> tuple[Distances, list[str]]:
    with kltui.open(root / "ws") as ws:
        found = ws.weight_distances(compute=True)
        problems = ws.weight_problems
    with kltui.open(root / "ws") as ws:
        assert ws.weight_distances() == found, "what is kept is what was shown"
    return found, problems


def truth(*without: int) -> Distances:
    steps = [k for k in range(STEPS) if k not in without]
    return {(f"r@{i}", f"r@{j}"): 4.0 * (j - i) ** 2 for i in steps for j in steps if i != j}


def test_distances_of_what_was_scored(run: Path) -> None:
    assert computed(run) == (truth(), [])
    assert computed(run) == (truth(), []), "the second time they are stored"


def test_of_a_checkpoint_that_was_never_scored_nothing_is_said(run: Path) -> None:
    """It failed, its files were mended, and its job has not come to it again."""
    store = Store.write(run / "ws")
    folder = write(run / "r" / "step9", 9.0)
    with store.atomic():
        cid = store.checkpoints.upsert(Checkpoint("r", LocalSource(folder), 9))
        store.checkpoints.set_weights(cid, fingerprint(folder))
    store.close()
    write(folder, 10.0)
    assert computed(run) == (truth(), [])


@pytest.mark.parametrize("stored_before", [False, True])
def test_a_checkpoint_that_was_overwritten_after_scoring_has_none(run: Path, stored_before: bool) -> None:
    if stored_before:
        computed(run)
        store = Store.write(run / "ws")  # as after a new step: something is to be computed
        folder = write(run / "r" / "step9", 9.0)
        add(store, Checkpoint("r", LocalSource(folder), 9), weights=fingerprint(folder))
        store.close()
    write(run / "r" / "step2", 70.0)
    found, problems = computed(run)
    assert {pair: d for pair, d in found.items() if "r@9" not in pair} == truth(2)
    assert len(problems) == 1 and problems[0].startswith("r@2: its files have changed since scoring")
    assert "score it again" in problems[0]


def test_scored_again_it_has_those_of_its_new_weights(run: Path) -> None:
    computed(run)
    folder = write(run / "r" / "step2", 70.0)
    computed(run)
    store = Store.write(run / "ws")
    add(store, Checkpoint("r", LocalSource(folder), 2), weights=fingerprint(folder))
    store.close()
    found, problems = computed(run)
    assert problems == [] and found["r@2", "r@3"] == 4 * 67.0**2 and found["r@0", "r@1"] == 4.0


def test_what_an_earlier_release_stored_unchecked_is_computed_anew(run: Path) -> None:
    keys = [fingerprint(run / "r" / f"step{k}") for k in range(STEPS)]
    store = Store.write(run / "ws")
    with store.atomic():
        store.weight_distances.put({(a, b): 1423.5 for i, a in enumerate(keys) for b in keys[i + 1 :]}, 4)
    store.close()
    write(run / "r" / "step2", 70.0)
    assert computed(run)[0] == truth(2)
    with kltui.open(run / "ws") as ws:
        assert ws.records(CHECKED)


def test_files_that_move_while_they_are_compared_are_left_out(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = WeightProcess.banded_distances

    def moving(self: WeightProcess, folders: list[Path], *more: object) -> object:
        if len(folders) == STEPS:
            write(folders[1], 70.0)
        return real(self, folders, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(WeightProcess, "banded_distances", moving)
    found, problems = computed(run)
    assert found == truth(1) and problems[0].startswith("r@1: its files have changed")


def test_files_that_did_not_move_are_hashed_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "SETTLED_AFTER_NS", -(10**11))
    computed(run)
    store = Store.write(run / "ws")
    with store.atomic():
        store.weight_distances.drop([fingerprint(run / "r" / "step0")])
    store.close()
    read: list[Path] = []
    real: Callable[[Path], str] = digest.sha256_file
    monkeypatch.setattr(digest, "sha256_file", lambda path: (read.append(path), real(path))[1])
    assert computed(run) == (truth(), []) and read == []


def test_a_revision_of_the_hub_means_the_commit_that_was_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branch has moved since, and one blob of another step was written over."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    root, store = tmp_path / "hub" / "models--o--n", Store.write(tmp_path / "ws")

    def commit(number: int, value: float, revision: str) -> str:
        name = f"{number:040d}"
        folder = write(root / "snapshots" / name, value)
        for path in folder.iterdir():
            blob = root / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(exist_ok=True)
            path.rename(blob)
            path.symlink_to(blob)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / revision).write_text(name)
        return name

    for step in range(STEPS):
        scored = commit(step, float(step), f"step{step}")
        add(store, Checkpoint("r", HubSource("o/n", f"step{step}"), step), weights=f"o/n@{scored}")
    commit(9, 70.0, "step1")
    store.close()
    assert computed(tmp_path) == (truth(), [])
    store = Store.write(tmp_path / "ws")
    scored = commit(5, 9.0, "step9")
    add(store, Checkpoint("r", HubSource("o/n", "step9"), 9), weights=f"o/n@{scored}")
    store.close()
    (root / "snapshots" / f"{2:040d}" / "model.safetensors").resolve().write_bytes(
        (write(tmp_path / "other", 70.0) / "model.safetensors").read_bytes()
    )
    found, problems = computed(tmp_path)
    assert {p: d for p, d in found.items() if "r@9" not in p} == truth(2)
    assert found["r@3", "r@9"] == 4 * 36.0 and len(problems) == 1
