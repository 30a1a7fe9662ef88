"""A checkpoint is complete when all of it is there and nobody writes to it any more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from gguf_files import write_gguf
from tiny_models import write_model, write_run

from kltui.watch.completeness import CheckpointObserver, candidates, is_whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("watched") / "run", steps=(0,))[0]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_what_is_whole_and_unchanged_is_complete(model: Path, tmp_path: Path) -> None:
    clock, run = Clock(), tmp_path / "run"
    observer = CheckpointObserver(3.0, clock)
    assert observer.look([run]) == {}  # not there yet
    shutil.copytree(model, run / "checkpoint-5")
    assert observer.look([run]) == {}
    clock.now = 2.0
    assert observer.look([run]) == {}
    clock.now = 3.0
    assert list(observer.look([run])) == [run / "checkpoint-5"]
    (run / "checkpoint-5" / "trainer_state.json").write_text("{}")
    assert observer.look([run]) == {}  # written to again
    clock.now = 6.0
    assert list(observer.look([run])) == [run / "checkpoint-5"]
    shutil.move(run, tmp_path / "away")
    assert observer.look([run]) == {}
    shutil.move(tmp_path / "away", run)
    assert list(observer.look([run])) == [run / "checkpoint-5"]


def test_staging_folders_and_copies_are_never_candidates(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in (
        "checkpoint-5",
        "tmp-checkpoint-6",
        "checkpoint-7.tmp",
        ".checkpoint-8",
        "checkpoint-9-old",
        "logs",
    ):
        (run / name).mkdir(parents=True)
    assert candidates([run]) == [run / "checkpoint-5", run]


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _header_only(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _half_config(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text()[:-9])


def _lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize("damage", [_cut, _header_only, _no_config, _half_config, _lost_shard])
def test_what_is_not_all_there_is_not_complete(model: Path, tmp_path: Path, damage: object) -> None:
    folder = shutil.copytree(model, tmp_path / "step5")
    assert is_whole(folder)
    damage(folder)  # type: ignore[operator]
    assert not is_whole(folder)


def _index(folder: Path, shard: str, *more: str) -> None:
    names = ["lm_head.weight", *more]
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))


def test_an_index_that_is_left_over_or_names_too_much_keeps_no_model_waiting(
    model: Path, tmp_path: Path
) -> None:
    """Such models load: transformers reads model.safetensors before an index, and what is in the shards."""
    folder = shutil.copytree(model, tmp_path / "step5")
    _index(folder, "model-00001-of-00001.safetensors")
    assert is_whole(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    _index(folder, "model-00001-of-00001.safetensors", "mtp.fc.weight")
    assert is_whole(folder)


def test_gguf_files_land_one_by_one_and_whole(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "quantised"
    observer = CheckpointObserver(3.0, clock)
    alone = folder / "m-F16.gguf"
    assert observer.look([folder, alone]) == {}
    folder.mkdir()
    whole = write_gguf(tmp_path / "m-Q8_0.gguf", write_model(tmp_path / "m", "llama"), "Q8_0")
    (folder / whole.name).write_bytes(whole.read_bytes()[:-1])
    write_gguf(alone, tmp_path / "m", "F16")
    observer.look([folder, alone])
    clock.now = 3.0
    assert list(observer.look([folder, alone])) == [alone]
    shutil.copy(whole, folder)
    assert list(observer.look([folder])) == [alone]
    clock.now = 6.0
    assert list(observer.look([folder])) == [alone, folder / whole.name]
    write_gguf(folder / "big.gguf", tmp_path / "m", "F32", parts=2)
    observer.look([folder])
    clock.now = 9.0
    first = folder / "big-00001-of-00002.gguf"
    assert first in observer.look([folder])
    first.with_name("big-00002-of-00002.gguf").unlink()
    assert first not in observer.look([folder])


def test_places_that_the_system_refuses_have_no_checkpoints(tmp_path: Path) -> None:
    """As a folder of somebody else's, and as a folder that does not exist yet."""
    places = [tmp_path / ("a" * 300), tmp_path / f"{'a' * 300}.gguf"]
    assert CheckpointObserver(0.0).look(places) == {}
