"""Weight distances where files go wrong under the reader: that checkpoint's error, and figures for the others."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kltui.analysis.weights import banded_distances
from kltui.errors import KltuiError, StoreError
from kltui.registry import Checkpoint, LocalSource
from kltui.registry.digest import fingerprint
from kltui.registry.tensors import open_tensors
from kltui.store import Store
from kltui.store.rows import CheckpointRow
from kltui.workspace.weight_process import BadFolderError, WeightProcess
from kltui.workspace.weight_sweep import compute_missing

STEPS = (0, 1, 2, 4)


@pytest.fixture(autouse=True)
def no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is what was started, not one that stands for a fork: it is stopped and ended here."""
    monkeypatch.delenv("KLTUI_TEST_WARM", raising=False)


def run_of(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    made = []
    for step in STEPS:
        made.append(folder / f"step{step}")
        made[-1].mkdir(parents=True)
        tensors = {
            "a.weight": rng.standard_normal((7, 5), dtype=np.float32),
            "b.weight": np.ones(3, np.float16),
        }
        save_file(tensors, made[-1] / "model.safetensors")
        (made[-1] / "config.json").write_text("{}")
    return made


def sparse(folder: Path, n_bytes: int) -> Path:
    """A checkpoint of one tensor of zeros that takes no space on the disk."""
    folder.mkdir()
    header = {"w.weight": {"dtype": "F32", "shape": [n_bytes // 4], "data_offsets": [0, n_bytes]}}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + n_bytes)
    return folder


def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    folders = run_of(tmp_path)
    right = banded_distances([open_tensors(f) for f in folders], 2)
    seen: list[tuple[int, int]] = []
    with WeightProcess() as process:
        for _ in range(2):
            band, n_params = process.banded_distances(folders, 2, [], lambda done, n: seen.append((done, n)))
            assert band.tobytes() == right.tobytes() and n_params == 38
    assert seen and all(0 < done <= n == 4 * (35 * 4 + 3 * 2) for done, n in seen)


def test_errors_come_through_and_the_process_goes_on(tmp_path: Path) -> None:
    folders = run_of(tmp_path)
    (tmp_path / "empty").mkdir()
    save_file({"c.weight": np.ones(3, np.float32)}, tmp_path / "empty" / "other.safetensors")
    with WeightProcess() as process:
        with pytest.raises(BadFolderError, match="contains no weights") as caught:
            process.banded_distances([*folders[:2], tmp_path / "empty"], 1, [])
        assert caught.value.place == 2
        (tmp_path / "empty" / "other.safetensors").rename(tmp_path / "empty" / "model.safetensors")
        with pytest.raises(KltuiError, match="y does not") as mismatch:
            process.banded_distances([folders[0], tmp_path / "empty"], 1, ["x", "y"])
        assert not isinstance(mismatch.value, BadFolderError)
        assert process.banded_distances(folders, 1, [])[0].shape == (4, 1)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    folders = [sparse(tmp_path / f"step{k}", 1 << 27) for k in range(3)]
    shrunk = folders[1] / "model.safetensors"
    with WeightProcess() as process:

        def shrink(done: int, total: int) -> None:
            if shrunk.stat().st_size > 1 << 20:
                assert process._process is not None
                process._process.send_signal(signal.SIGSTOP)
                os.truncate(shrunk, 1 << 20)
                process._process.send_signal(signal.SIGCONT)

        with pytest.raises(BadFolderError, match=r"step1/model\.safetensors") as caught:
            process.banded_distances(folders, 1, [], shrink)
        assert caught.value.place == 1 and "truncated while it was read" in caught.value.hint
        band, _ = process.banded_distances([folders[0], folders[2]], 1, [])
        assert band[0, 0] == 0.0, "a new process serves the others"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_ended_is_told(tmp_path: Path, number: signal.Signals) -> None:
    folders = [sparse(tmp_path / f"step{k}", 1 << 26) for k in range(2)]
    with WeightProcess() as process:

        def end(done: int, total: int) -> None:
            assert process._process is not None
            process._process.send_signal(number)

        with pytest.raises(KltuiError, match=f"ended by {number.name}"):
            process.banded_distances(folders, 1, [], end)


def rows(folders: list[Path]) -> list[CheckpointRow]:
    """Rows of a workspace over these folders, and its store, which is left closed."""
    store = Store.write(folders[0].parent / "ws")
    with store.atomic():
        for folder in folders:
            step = int(folder.name.removeprefix("step"))
            cid = store.checkpoints.upsert(Checkpoint("run", LocalSource(folder), step=step))
            store.checkpoints.set_weights(cid, fingerprint(folder))
    found = store.checkpoints.all()
    store.close()
    return found


def test_one_bad_checkpoint_does_not_cost_the_run(tmp_path: Path) -> None:
    folders = run_of(tmp_path)
    right = banded_distances([open_tensors(folders[k]) for k in (0, 1, 3)], 2)
    os.truncate(folders[2] / "model.safetensors", 100)
    made = rows(folders)
    computed = compute_missing(tmp_path / "ws", made, {}, {}, 10, None)
    a, b, _, d = (row.weights for row in made)
    assert computed.distances == {(a, b): right[0, 0], (a, d): right[0, 1], (b, d): right[1, 0]}
    (problem,) = computed.problems
    assert problem.startswith("run@2: ") and "model.safetensors" in problem


def test_what_cannot_be_kept_is_shown_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = run_of(tmp_path)
    made = rows(folders)

    def full(folder: Path) -> Store:
        raise StoreError("the disk is full")

    monkeypatch.setattr("kltui.workspace.weight_sweep.Store.write", full)
    computed = compute_missing(tmp_path / "ws", made, {}, {}, 1, None)
    assert len(computed.distances) == 3
    assert computed.problems == [
        "distances could not be stored and will be computed again next time: the disk is full"
    ]
