"""Layers that cannot be had: the final vector is stored, and the same job does not score the checkpoint again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_kit import OneWorker, write_job

from kltui.jobs import result_writer, shard
from kltui.jobs.batch import BatchRun
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import Plan, make_plan
from kltui.jobs.prepare import Ready
from kltui.jobs.progress_report import ProgressReporter
from kltui.jobs.result_writer import ResultWriter
from kltui.jobs.shard_result import abouts
from kltui.scoring.settings import ScoreResult, Vector
from kltui.store import Store

WHY = "this model's layers cannot be found"


def result(layers: tuple[int | None, ...] = (None,), no_layers: str = WHY) -> ScoreResult:
    vectors = tuple(Vector(k, np.full(20, -1.0), np.ones(20, np.int32)) for k in layers)
    return ScoreResult(vectors, {"weights": "w"}, {}, (), None, no_layers)


class Scores(OneWorker):
    """Workers that can score no layer; `done` counts what they were given."""

    done = 0

    def answer(self, task: Any) -> ScoreResult:
        Scores.done += 1
        return result()


def run(plan: Plan) -> int:
    """How many checkpoints a batch of this plan scored."""
    Scores.done = 0
    store = Store.write(plan.workspace)
    try:
        assert (
            BatchRun(
                plan, ResultWriter(plan, store), ProgressReporter(True, io.StringIO(), io.StringIO())
            ).run()[0]
            == 0
        )
    finally:
        store.close()
    return Scores.done


@pytest.mark.parametrize("asked", ["all", "[0, 2]"])
def test_what_cannot_be_had_is_not_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr("kltui.jobs.batch.LocalExecutor", Scores)
    job = write_job(
        tmp_path, checkpoints=3, extra=f"[scoring]\nlayers = {asked if '[' in asked else repr(asked)}\n"
    )
    plan = make_plan(load_job(job))
    assert [run(plan), run(plan)] == [3, 0]
    # asked for otherwise, or by a newer release: it is tried anew
    assert run(make_plan(load_job(job, ["scoring.layers=[1]"]))) == 3
    assert run(make_plan(load_job(job, ["scoring.layers=none"]))) == 0
    monkeypatch.setattr(result_writer, "_layer_finders", lambda: {"kltui": "newer"})
    assert run(plan) == 3


def test_layers_left_out_are_held_as_far_as_they_go(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=1, extra="[scoring]\nlayers = [0, 2]\n")
    plan = make_plan(load_job(job))
    store = Store.write(plan.workspace)
    try:
        writer, ready = ResultWriter(plan, store), Ready(0, tmp_path, "w")
        writer.register(None)
        writer.store(ready, result((None, 2), no_layers=""))
        assert not writer.keeps(ready), "layer 0 is neither stored nor said to be out of reach"
        writer.store(ready, result((None, 2)))
        assert writer.keeps(ready)
        assert not writer.keeps(Ready(0, tmp_path, "other weights"))
    finally:
        store.close()


def test_what_is_stored_is_kept_without_a_transaction_of_its_own(tmp_path: Path) -> None:
    plan = make_plan(load_job(write_job(tmp_path, checkpoints=2)))
    store = Store.write(plan.workspace)

    def transactions() -> int:
        return int(store.db.execute("SELECT n FROM ledger WHERE name = 'commits'").fetchone()[0])

    try:
        for written in (True, False):
            writer = ResultWriter(plan, store)
            writer.register(None)
            writer.fingerprints()
            ready = [Ready(k, tmp_path / f"{k}", f"w{k}", signature=f"s{k}", settled=True) for k in range(2)]
            if written:
                for one in ready:
                    writer.store(one, result(no_layers=""))
            before = transactions()
            assert all(map(writer.keeps, ready))
            assert transactions() == before + 2 * written, "of names and fingerprints that are not known yet"
            writer.finish("done", "")
            assert transactions() == before + 2 * written + 1
            (job,) = store.jobs.all()
            assert [item.status for item in store.jobs.items(job.id)] == ["done", "done"]
            assert all(item.texts_done == 20 for item in store.jobs.items(job.id))
        assert not writer.keeps(Ready(0, tmp_path / "0", "changed", signature="s9", settled=True))
        assert store.checkpoints.all()[0].weights == "changed", "what stands there now is written at once"
    finally:
        store.close()


def test_a_part_of_a_job_carries_why_its_layers_are_not_there(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=1, extra='[scoring]\nlayers = "all"\n')
    plan = make_plan(load_job(job))
    writer = shard.InboxWriter(plan)
    writer.store(Ready(0, tmp_path, "w"), result())
    (about,) = abouts(plan.workspace / shard.INBOX)
    assert about.no_layers == WHY
    assert shard.collect(job)[0] == 0
    assert shard.InboxWriter(plan).held() == {0: "w"}
