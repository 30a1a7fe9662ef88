"""What the registry says of a checkpoint, whatever has become of the jobs that were to score it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kltui.corpus import Corpus
from kltui.registry import Checkpoint, LocalSource
from kltui.scoring.settings import Progress
from kltui.store import Store
from kltui.store.rows import JobItemRow

N = 3


def make(folder: Path, *jobs: str) -> tuple[Store, list[int], list[int]]:
    """A store of three checkpoints, and jobs over them all by digest: (store, checkpoint ids, job ids)."""
    store = Store.write(folder)
    with store.atomic():
        ids = [store.checkpoints.upsert(Checkpoint("run", LocalSource(folder), s)) for s in range(N)]
        return store, ids, [store.jobs.register(digest, "", ids, None) for digest in jobs]


def states(store: Store) -> list[str]:
    return [row.status for row in store.checkpoints.all()]


def score(store: Store, checkpoint: int, job: int) -> None:
    corpus = store.corpora.add(Corpus(("a", "b")), "test")
    store.checkpoints.set_weights(checkpoint, "w")
    store.vectors.put(checkpoint, corpus, None, {"weights": "w"}, "", np.zeros(2), np.ones(2, np.int32), job)
    store.jobs.item_done(job, checkpoint, {}, 2)


@pytest.mark.parametrize(
    ("end", "left"), [("paused", "queued"), ("stopped", "new"), ("failed", "new"), ("done", "new")]
)
def test_only_a_job_that_goes_on_keeps_checkpoints_queued(tmp_path: Path, end: str, left: str) -> None:
    store, ids, (job,) = make(tmp_path, "one")
    assert states(store) == ["queued"] * N
    with store.atomic():
        store.jobs.start(job)
        score(store, ids[0], job)
        store.jobs.item_failed(job, ids[1], "broken", "mend it")
        store.jobs.item_started(job, ids[2])
    assert states(store) == ["scored", "failed", "running"]
    with store.atomic():
        store.jobs.finish(job, end)
    assert states(store) == ["scored", "failed", left]
    assert [row.error for row in store.checkpoints.all()] == ["", "broken", ""]
    store.close()


@pytest.mark.parametrize(
    ("started", "ended", "status", "stats", "seconds", "rate"),
    [
        (None, None, "queued", {}, 0.0, 0.0),
        (100.0, None, "running", {}, 20.0, 2.0),
        (100.0, 108.0, "failed", {}, 8.0, 5.0),
        (100.0, 108.0, "done", {"seconds_score": 4.0}, 8.0, 10.0),
        (100.0, 108.0, "done", {}, 8.0, 0.0),
        (130.0, None, "running", {}, 0.0, 0.0),
    ],
)
def test_seconds_and_rates_of_a_jobs_item(
    started: float | None,
    ended: float | None,
    status: str,
    stats: dict[str, float],
    seconds: float,
    rate: float,
) -> None:
    """Of one that is done, rates are those of scoring alone; a clock that was set back gives no negative time."""
    item = JobItemRow("run@0", status, "score", 20, 30, 40, 60, started, ended, 1, "", "", stats, 120.0)
    assert (item.seconds, item.tokens_per_s, item.texts_per_s) == (seconds, rate, rate / 2)


def test_what_a_lost_job_was_at_is_neither_running_nor_queued(tmp_path: Path) -> None:
    store, ids, (job,) = make(tmp_path, "one")
    with store.atomic():
        store.jobs.start(job)
        store.jobs.item_started(job, ids[0])
    reader = Store.read(tmp_path)
    assert states(reader) == ["running", "queued", "queued"]
    store.db.execute("UPDATE writer SET boot = 'another life' WHERE pid = ?", (os.getpid(),))
    assert [job.status for job in reader.jobs.all()] == ["lost"]
    assert states(reader) == ["new"] * N
    reader.close()
    store.close()


def test_a_checkpoint_that_a_job_will_score_again_has_no_progress(tmp_path: Path) -> None:
    store, ids, (job,) = make(tmp_path, "one")
    with store.atomic():
        store.jobs.start(job)
        score(store, ids[0], job)
        store.jobs.item_started(job, ids[1])
        store.jobs.item_progress(job, ids[1], Progress("score", 1, 2, 30, 60))
        store.jobs.finish(job, "stopped")
    assert [i.texts_done for i in store.jobs.items(job)] == [2, 1, 0]
    with store.atomic():
        store.jobs.register("one", "", ids, None)
    assert [(i.texts_done, i.tokens_done) for i in store.jobs.items(job)] == [(2, 0), (0, 0), (0, 0)]
    store.close()


def test_the_last_end_counts_and_an_older_job_run_again_may_bring_it(tmp_path: Path) -> None:
    store, ids, (older, newer) = make(tmp_path, "one", "two")
    with store.atomic():
        store.jobs.start(newer)
        store.jobs.item_failed(newer, ids[0], "out of memory", "")
        store.jobs.finish(newer, "stopped")
        store.jobs.finish(older, "stopped")
    assert states(store) == ["failed", "new", "new"]
    with store.atomic():
        store.jobs.register("one", "", ids, None)
        store.jobs.start(older)
    assert states(store) == ["queued"] * N
    with store.atomic():
        score(store, ids[0], older)
        store.jobs.finish(older, "stopped")
    assert states(store) == ["scored", "new", "new"]
    store.close()
