"""Jobs run again after their checkpoints were given other names by hand."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from fault_kit import Lives, ends, vectors, write_job
from test_signals import jobs

import kltui
from kltui.errors import StoreError
from kltui.jobs.lineage import edit_lineage
from kltui.jobs.names import as_called_here, remember
from kltui.registry.checkpoint import Checkpoint, HubSource, LocalSource
from kltui.store import Store


def run(lives: Lives, job: Path, *arguments: str) -> dict[str, bool]:
    """{name: whether it was stored already} of a batch's checkpoints, all of them well."""
    done = lives.run("--batch", str(job), "--json", *arguments)
    assert done.code == 0, done.err
    return {name: bool(end.get("kept")) for name, end in ends(done.out).items()}


def parents(folder: Path) -> dict[str, str]:
    """The parent of every checkpoint of a workspace, by name."""
    with kltui.open(folder) as ws:
        return {row.name: row.checkpoint.parent for row in ws.checkpoints()}


def test_what_was_renamed_is_not_scored_again_and_keeps_its_name(lives: Lives, tmp_path: Path) -> None:
    job, folder = write_job(tmp_path, checkpoints=4), tmp_path / "ws"
    run(lives, job)
    before = vectors(folder)
    edit_lineage(folder, [f"run@{s}" for s in range(4)], {"run": "first"})
    edit_lineage(folder, ["first@3"], {"step": "30"})
    assert run(lives, job) == {f"run@{s}": True for s in range(4)}
    after = vectors(folder)
    assert list(after) == ["first@0", "first@1", "first@2", "first@30"]
    assert list(after.values()) == list(before.values())
    assert parents(folder).keys() == after.keys()
    (row,) = jobs(folder)
    assert (row.status, row.done, row.total) == ("done", 4, 4)
    said = lives.run("--batch", str(job), "--json").err
    assert "4 checkpoints have other names in this workspace, such as first@0 for run@0" in said


def test_what_was_renamed_before_it_was_scored_is_scored_under_its_name(lives: Lives, tmp_path: Path) -> None:
    job, folder = write_job(tmp_path, checkpoints=3), tmp_path / "ws"
    lives.run("--batch", str(job), struck=("register", signal.SIGTERM))
    edit_lineage(folder, [f"run@{s}" for s in range(3)], {"run": "first"})
    stopped = lives.run("--batch", str(job), struck=("register", signal.SIGTERM))
    assert "0 scored, 3 left" in stopped.err
    assert not any(run(lives, job).values())
    assert list(vectors(folder)) == list(parents(folder)) == ["first@0", "first@1", "first@2"]


def test_a_folder_with_other_weights_since_is_another_checkpoint(lives: Lives, tmp_path: Path) -> None:
    job, folder = write_job(tmp_path, checkpoints=3), tmp_path / "ws"
    run(lives, job)
    before = vectors(folder)
    edit_lineage(folder, [f"run@{s}" for s in range(3)], {"run": "first"})
    (tmp_path / "run" / "step1" / "model.safetensors").write_bytes(b"trained once more")
    assert run(lives, job) == {"run@0": True, "run@1": False, "run@2": True}
    after = vectors(folder)
    assert list(after) == ["first@0", "first@1", "first@2", "run@1"]
    assert [after[f"first@{s}"] for s in range(3)] == list(before.values())
    assert after["run@1"] not in before.values()
    assert [row.done for row in jobs(folder)] == [3]
    assert all(run(lives, job).values()), "and it stays so"
    assert vectors(folder) == after


def test_a_folder_that_jobs_name_differently_is_scored_as_each_asks(lives: Lives, tmp_path: Path) -> None:
    job, folder = write_job(tmp_path, checkpoints=2), tmp_path / "ws"
    run(lives, job)
    assert run(lives, job, "--set", "models.0.run=other") == {"other@0": False, "other@1": False}
    edit_lineage(folder, ["other@0", "other@1"], {"run": "third"})
    assert all(run(lives, job).values()) and all(run(lives, job, "--set", "models.0.run=other").values())
    assert list(vectors(folder)) == ["run@0", "run@1", "third@0", "third@1"]


def test_parents_stay_what_they_are_called(lives: Lives, tmp_path: Path) -> None:
    write_job(tmp_path / "tuned", checkpoints=1)
    job = write_job(
        tmp_path, checkpoints=2, extra='[[models]]\npath = "tuned/run"\nrun = "child"\nparent = "run@1"\n'
    )
    folder = tmp_path / "ws"
    run(lives, job)
    edit_lineage(folder, ["run@0", "run@1"], {"run": "first"})
    run(lives, job)
    assert parents(folder) == {"first@0": "", "first@1": "", "child@0": "first@1"}


@pytest.mark.parametrize("order", [["x@1", "x@2"], ["x@2", "x@1"]])
@pytest.mark.parametrize("typed", ["", "z,x@1"])
def test_what_is_renamed_with_its_parents_keeps_them(tmp_path: Path, order: list[str], typed: str) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("z", A))
        store.checkpoints.upsert(Checkpoint("x", A, 1))
        store.checkpoints.upsert(Checkpoint("x", A, 2, parent="z, x@1"))
        store.checkpoints.upsert(Checkpoint("w", A, parent="x@2,z"))
    store.close()
    edit_lineage(tmp_path, order, {"run": "y"} | ({"parent": typed} if typed else {}))
    found = {name: parent.replace(" ", "") for name, parent in parents(tmp_path).items()}
    assert found == {"y@1": "z" if typed else "", "y@2": "z,y@1", "w": "y@2,z", "z": ""}, (
        "none is its own parent"
    )


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    Store.write(tmp_path).close()
    with pytest.raises(StoreError, match="no checkpoint 'x@1'"):
        edit_lineage(tmp_path, ["x@1"], {"run": "y"})


def test_a_parent_that_the_job_itself_names_is_that(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        remember(store, "base", store.checkpoints.upsert(Checkpoint("old-base", A)))
    child = Checkpoint("child", B, parent="base, old-base")
    called = as_called_here([Checkpoint("base", B), child], store)
    assert [c.parent for c in called] == ["", "base, old-base"]
    renamed = as_called_here([Checkpoint("base", A), replace(child, parent="base, other")], store)
    assert [(c.name, c.parent) for c in renamed] == [("old-base", ""), ("child", "old-base,other")]
    store.close()


def test_a_child_follows_the_weights_that_its_job_calls_by_its_parents_name(
    lives: Lives, tmp_path: Path
) -> None:
    write_job(tmp_path / "tuned", checkpoints=2)
    child = '[[models]]\npath = "tuned/run/step{0}"\nrun = "{1}"\nparent = "base@0"\n'
    job, folder = write_job(tmp_path, checkpoints=1, extra=child.format(0, "child")), tmp_path / "ws"
    job.write_text(job.read_text().replace('path = "run"\n', 'path = "run/step0"\nrun = "base"\n'))
    other = job.with_name("other.toml")
    other.write_text(job.read_text().replace(child.format(0, "child"), child.format(1, "cousin")))
    run(lives, job)
    run(lives, other)
    edit_lineage(folder, ["base@0"], {"run": "old"})
    edit_lineage(folder, ["child@0"], {"run": "kid"})
    assert parents(folder) == {"old@0": "", "cousin@1": "old@0", "kid@0": "old@0"}
    (tmp_path / "run" / "step0" / "model.safetensors").write_bytes(b"trained once more")
    assert run(lives, job) == {"base@0": False, "child@0": True}
    assert parents(folder) == {"base@0": "", "old@0": "", "cousin@1": "old@0", "kid@0": "base@0"}


def test_parts_of_a_job_go_on_under_the_names_given(lives: Lives, tmp_path: Path) -> None:
    job, folder = write_job(tmp_path, checkpoints=4), tmp_path / "ws"
    run(lives, job, "--shard", "0/2")
    assert lives.run("--batch", str(job), "--collect").code == 1
    edit_lineage(folder, ["run@0", "run@2"], {"run": "first"})
    assert run(lives, job, "--shard", "0/2") == {"run@0": True, "run@2": True}
    run(lives, job, "--shard", "1/2")
    collected = lives.run("--batch", str(job), "--collect")
    assert collected.code == 0, collected.err
    assert list(vectors(folder)) == ["first@0", "first@2", "run@1", "run@3"]


def test_a_part_scored_from_other_weights_is_taken_in_beside_what_was_renamed(
    lives: Lives, tmp_path: Path
) -> None:
    job, folder = write_job(tmp_path, checkpoints=1), tmp_path / "ws"
    run(lives, job)
    edit_lineage(folder, ["run@0"], {"run": "first"})
    (before,) = vectors(folder).values()
    (tmp_path / "run" / "step0" / "model.safetensors").write_bytes(b"trained once more")
    assert run(lives, job, "--shard", "0/1") == {"run@0": False}
    assert lives.run("--batch", str(job), "--json", "--collect").code == 0
    after = vectors(folder)
    assert list(after) == ["first@0", "run@0"] and after["first@0"] == before != after["run@0"]


A, B = LocalSource(Path("/models/a")), LocalSource(Path("/models/b"))
HUB = HubSource("org/model", "step1")


@pytest.mark.parametrize(
    ("stored", "asked", "called"),
    [
        (Checkpoint("y", A), Checkpoint("x", A), "y"),
        (Checkpoint("y", A, 3), Checkpoint("x", A, 2), "x@2"),  # only x was renamed, not x@2
        (Checkpoint("y", B), Checkpoint("x", A), "x"),
        (Checkpoint("y", A, quantization="bnb-8bit"), Checkpoint("x", A), "x"),
        (Checkpoint("y", HubSource("org/model", "step1", "c1")), Checkpoint("x", HUB), "y"),
        (Checkpoint("y", HubSource("org/model", "step1", "c1")), Checkpoint("x", HubSource("org/model", "step1", "c2")), "x"),
        (Checkpoint("y", HubSource("org/model", "step2")), Checkpoint("x", HUB), "x"),
        (Checkpoint("y", A), Checkpoint("x", HUB), "x"),
    ],
)  # fmt: skip
def test_the_same_is_what_has_the_same_source(
    tmp_path: Path, stored: Checkpoint, asked: Checkpoint, called: str
) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        remember(store, "x", store.checkpoints.upsert(stored))
    assert [c.name for c in as_called_here([asked], store)] == [called]
    store.close()


def test_a_name_that_the_job_or_the_workspace_uses_is_left_alone(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        row = store.checkpoints.upsert(Checkpoint("z", A))
        for before in ("x", "y"):
            remember(store, before, row)
    both = [Checkpoint("x", A), Checkpoint("y", A)]
    assert [c.name for c in as_called_here(both, store)] == ["z", "y"], "one row is one checkpoint"
    named = [Checkpoint("x", A), Checkpoint("z", B)]
    assert [c.name for c in as_called_here(named, store)] == ["x", "z"], "the job gives the name to another"
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("x", A))
    assert [c.name for c in as_called_here(both, store)] == ["x", "z"], "it was scored under its old name too"
    store.close()


@pytest.mark.parametrize(
    ("edited", "run_of_score"),
    [
        (["run@0", "run@1"], "first"),
        (["run@0"], "run"),  # a part of it is no run of that name
        (["run@0", "run@1", "other@5"], "run"),  # joined with another
    ],
)
def test_scores_of_a_run_follow_it_whole(tmp_path: Path, edited: list[str], run_of_score: str) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        for r, step in (("run", 0), ("run", 1), ("other", 5)):
            store.checkpoints.upsert(Checkpoint(r, A, step))
        store.benchmark_scores.put({"run": {"arc": 50.0, "piqa": 60.0}, "run@1": {"arc": 51.0}})
    store.close()
    edit_lineage(tmp_path, edited, {"run": "first"})
    with kltui.open(tmp_path) as ws:
        scores = ws.benchmark_scores()
    assert scores.pop(run_of_score) == {"arc": 50.0, "piqa": 60.0}
    assert scores == {("first@1" if "run@1" in edited else "run@1"): {"arc": 51.0}}


def test_scores_that_wait_under_the_new_name_are_not_lost(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        store.checkpoints.upsert(Checkpoint("run", A, 1))
        store.benchmark_scores.put({"run": {"arc": 50.0, "piqa": 60.0}, "first": {"arc": 52.0}})
    store.close()
    edit_lineage(tmp_path, ["run@1"], {"run": "first"})
    with kltui.open(tmp_path) as ws:
        assert ws.benchmark_scores()["first"] == {"arc": 52.0, "piqa": 60.0}


def test_a_record_that_makes_no_sense_renames_nothing(tmp_path: Path) -> None:
    store = Store.write(tmp_path)
    with store.atomic():
        store.records.put("renamed", "x", {"checkpoint": json.loads('"7"')})
        store.records.put("renamed", "y", {})
    asked = [Checkpoint("x", A), Checkpoint("y", A)]
    assert as_called_here(asked, store) == asked
    store.close()
