"""Checkpoints taken out of a workspace, with all that was scored of them, and put back."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from full_store import fill

from kltui.errors import StoreError
from kltui.registry import Checkpoint, LocalSource
from kltui.store import Store
from kltui.store.check import Counts, check_store
from kltui.store.removal import Removed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, list[object]]:
    """Everything that a reader can see of the checkpoints."""
    with closing(Store.read(folder)) as store:
        vectors = store.vectors.rows()
        numbers = [a.tobytes() for a in store.vectors.load([v.id for v in vectors], 4)]
        return {
            "checkpoints": list(store.checkpoints.all()),
            "vectors": [(v.checkpoint_id, v.layer, v.key, v.mean_loglik, v.created) for v in vectors],
            "numbers": list(numbers),
            "items": [replace(item, now=0.0) for item in store.jobs.items(1)],
            "scores": list(store.benchmark_scores.all().items()),
            "files": [store.side_files.find(folder, c.id, 1, "tokens") for c in store.checkpoints.all()],
        }


@pytest.mark.parametrize("names", [["run@0"], ["run@2", "run@0"], ["run@0", "run@1", "run@2"]])
def test_what_is_removed_is_gone_and_comes_back_whole(folder: Path, names: list[str]) -> None:
    before = contents(folder)
    removed = Removed.of(folder, names)
    assert not list(check_store(folder, Counts()))
    left = contents(folder)
    assert [row.name for row in left["checkpoints"]] == [
        f"run@{s}" for s in range(3) if f"run@{s}" not in names
    ]
    assert len(left["vectors"]) == 2 * (3 - len(names)) and len(left["items"]) == 3 - len(names)
    removed.put_back()
    after = contents(folder)
    for table in before:
        assert sorted(map(repr, after[table])) == sorted(map(repr, before[table])) or table == "numbers"
    assert not list(check_store(folder, Counts()))
    removed.give_up()
    assert (folder / "tokens" / "a").exists()


def test_giving_up_takes_the_files_that_nothing_else_uses(folder: Path) -> None:
    Removed.of(folder, ["run@1"]).give_up()
    assert (folder / "tokens" / "a").exists()
    Removed.of(folder, ["run@0"]).give_up()
    assert not (folder / "tokens" / "a").exists()


def test_a_name_that_is_not_there_removes_nothing(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(StoreError, match="no checkpoint 'run@9'"):
        Removed.of(folder, ["run@0", "run@9"])
    assert contents(folder) == before


def test_nothing_is_put_back_over_what_was_given_the_name_meanwhile(folder: Path) -> None:
    removed = Removed.of(folder, ["run@2"])
    with closing(Store.write(folder)) as store, store.atomic():
        store.checkpoints.upsert(Checkpoint("run", LocalSource(Path("/other")), 2))
    with pytest.raises(StoreError, match=r"run@2 is in the workspace again"):
        removed.put_back()
    with closing(Store.read(folder)) as store:
        assert len(store.vectors.rows()) == 4
