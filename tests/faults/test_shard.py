"""Parts of a job on many machines: in any order, killed and damaged, they add up to the single run."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from fault_kit import Lives, ends, truths, vectors, write_job

import kltui
from kltui.errors import UsageError
from kltui.jobs.shard import parse_shard

EXTRA = '[scoring]\nlayers = "all"\ntokens = true\n'


def contents(folder: Path) -> dict[object, object]:
    """Everything a workspace holds of its vectors, without times and row numbers."""
    db = sqlite3.connect(folder / "kltui.sqlite")
    rows = db.execute(
        "SELECT c.name, v.layer, v.key, v.weights, v.settings, v.mean_loglik, v.crc, v.loglik, v.n_scored, i.status,"
        " i.stats, c.location, c.commit_hash FROM vector v JOIN checkpoint c ON c.id = v.checkpoint_id"
        " JOIN job_item i ON i.checkpoint_id = c.id"
    )
    found: dict[object, object] = {row[:2]: row[2:] for row in rows}
    for path, digest in db.execute("SELECT path, sha256 FROM side_file"):
        found[path] = (digest, (folder / path).read_bytes())
    db.close()
    return found


@pytest.fixture(scope="module")
def single(lives: Lives, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[object, object]]:
    """A job of seven checkpoints with layers and tokens, and what its single run stores."""
    job = write_job(tmp_path_factory.mktemp("single"), checkpoints=7, texts=5, extra=EXTRA)
    assert lives.run("--batch", str(job), "--json", "--set", "workspace=single").code == 0
    return job, contents(job.parent / "single")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_parts_in_any_order_equal_the_single_run(
    lives: Lives, single: tuple[Path, dict[object, object]], order: tuple[int, ...]
) -> None:
    job, right = single
    name = f"ws{''.join(map(str, order))}"
    place = ("--set", f"workspace={name}")
    for number in order:
        done = lives.run("--batch", str(job), "--shard", f"{number}/3", "--json", *place)
        assert done.code == 0 and len(done.acknowledged) == (3, 2, 2)[number], done.err
    assert not (job.parent / name / "kltui.sqlite").exists()
    taken = lives.run("--batch", str(job), "--collect", "--json", *place)
    assert taken.code == 0, taken.err
    assert contents(job.parent / name) == right and len(right) == 7 * 3 + 7
    assert not list((job.parent / name / "inbox").iterdir())
    again = lives.run("--batch", str(job), "--shard", "1/3", "--json", *place)
    assert [e.get("kept") for e in ends(again.out).values()] == [True, True]
    with kltui.open(job.parent / name) as ws:
        (row,) = ws.jobs()
        assert (row.status, row.done, row.total) == ("done", 7, 7)


def test_a_killed_part_goes_on_and_what_is_missing_is_told(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=30)
    assert lives.run("--batch", str(job), "--json", "--shard", "0/2").code == 0
    early = lives.run("--batch", str(job), "--collect")
    assert (
        early.code == 1
        and "15 of 30 stored" in early.err
        and "missing: run@1, run@3, run@5, ..." in early.err
    )
    reported: set[str] = set()
    for moment in (0.05, 0.1, 0.2):
        reported |= set(
            lives.run("--batch", str(job), "--shard", "1/2", "--json", kill_after=moment).acknowledged
        )
    assert len(list((tmp_path / "ws" / "inbox").glob("*.safetensors"))) >= len(reported)
    assert lives.run("--batch", str(job), "--json", "--shard", "1/2").code == 0
    assert lives.run("--batch", str(job), "--json", "--collect").code == 0
    assert vectors(tmp_path / "ws") == truths(job)


def test_damaged_and_foreign_files_stay_in_the_inbox(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=3)
    other = write_job(tmp_path / "other", checkpoints=1, texts=3)
    inbox = tmp_path / "ws" / "inbox"
    assert lives.run("--batch", str(job), "--json", "--shard", "0/1").code == 0
    assert (
        lives.run("--batch", str(other), "--shard", "0/1", "--set", f"workspace={tmp_path / 'ws'}").code == 0
    )
    assert len(list(inbox.iterdir())) == 4
    reported = json.dumps("run@1").encode()
    damaged = next(
        p
        for p in inbox.iterdir()
        if reported in p.read_bytes().replace(b'\\"', b'"') and p.stat().st_size > 600
    )
    raw = damaged.read_bytes()
    damaged.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    (inbox / "cut.safetensors").write_bytes(raw[: len(raw) // 2])
    taken = lives.run("--batch", str(job), "--collect")
    assert taken.code == 1 and "Traceback" not in taken.err
    assert "2 damaged" in taken.err and "1 of another job" in taken.err and "missing: run@1" in taken.err
    assert damaged.exists()
    assert all(np.frombuffer(v).size == 20 for v in vectors(tmp_path / "ws").values())
    damaged.unlink()
    (inbox / "cut.safetensors").unlink()
    assert lives.run("--batch", str(job), "--json", "--shard", "0/1").code == 0
    assert lives.run("--batch", str(job), "--json", "--collect").code == 0
    assert vectors(tmp_path / "ws") == truths(job)


@pytest.mark.parametrize("trained", range(4))
def test_the_weights_scored_last_are_a_checkpoints_own(lives: Lives, tmp_path: Path, trained: int) -> None:
    job = write_job(tmp_path, checkpoints=1)
    inbox, model = tmp_path / "ws" / "inbox", tmp_path / "run" / "step0" / "model.safetensors"
    for age, weights in ((60, model.read_bytes()), (0, b"trained once more %d" % trained)):
        model.write_bytes(weights)
        before = set(inbox.glob("*"))
        assert lives.run("--batch", str(job), "--json", "--shard", "0/1").code == 0
        (made,) = set(inbox.glob("*")) - before
        os.utime(made, (made.stat().st_mtime - age,) * 2)
    assert lives.run("--batch", str(job), "--json", "--collect").code == 0
    assert vectors(tmp_path / "ws") == truths(job)


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/3", "1/0", "a/b", "1/2/3", "\u00b2/3", " 1/3"])
def test_parts_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(UsageError, match="expected I/N"):
        parse_shard(text)


def test_more_parts_than_checkpoints(lives: Lives, light_job: Path) -> None:
    done = lives.run("--batch", str(light_job), "--shard", "6/7")
    assert done.code == 2 and "only 6 checkpoints" in done.err
