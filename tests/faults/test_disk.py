"""Full and failing disks: told in words, nothing acknowledged is lost, and the job goes on when there is space."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from fault_kit import Life, Lives, Op, check_stored, read_trace, truths, vectors, write_job
from safetensors.numpy import save

from kltui.store import Store

SAID = "The disk is full or failing. Everything reported as done so far is stored"


@pytest.fixture(scope="module")
def broken(shim: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lives, Path]:
    """Lives whose writes below a folder can be made to fail, and that folder."""
    folder = tmp_path_factory.mktemp("disk")
    scratch = tmp_path_factory.mktemp("broken")
    return Lives(scratch, FAULT_FOLDER=str(folder / "ws"), FAULT_NO_SYNC="1"), folder


def check_told(life: Life) -> None:
    """A life that met a failing disk either did not need to care, or ended with 3 and said so."""
    assert "Traceback" not in life.err and life.code in (0, 3), life.err
    if life.code == 3:
        assert SAID in life.err or "progress could not be recorded" in life.err, life.err


def one_of_each(ops: list[Op]) -> list[int]:
    """Which of the calls that can fail, counted from 1, to let fail: every sync and truncation, and of the writes one of each kind.

    A kind is the file, and the calls before and after: a transaction's first write, one amid others, and its last differ.
    """
    kinds = [(op.kind, Path(op.path).name) for op in ops]
    places = list(zip([None, *kinds], kinds, [*kinds[1:], None], strict=False))
    first = {place: n for n, place in reversed(list(enumerate(places, 1)))}
    return sorted({*first.values(), *(n for n, (kind, _) in enumerate(kinds, 1) if kind in "ST")})


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.full)], ids=["kinds", "all"])
def test_every_single_write_and_sync_may_fail(broken: tuple[Lives, Path], every: bool) -> None:
    """In every run one call of each kind (`one_of_each`); with --full, as once a week, each call in turn."""
    lives, folder = broken
    job, trace = write_job(folder, checkpoints=2, texts=4), folder / "trace"
    shutil.rmtree(folder / "ws", ignore_errors=True)
    whole = lives.run("--batch", str(job), "--json", count=True, FAULT_TRACE=str(trace))
    ops = [op for op in read_trace(trace) if op.kind in "WTS"]
    assert whole.code == 0 and whole.writes == len(ops) > 50
    moments = range(1, whole.writes + 1) if every else one_of_each(ops)
    stopped = 0
    for number, n in enumerate(moments):
        shutil.rmtree(folder / "ws")
        error = (errno.ENOSPC, errno.EIO)[number % 2]
        once = number // 2 % 2
        life = lives.run("--batch", str(job), "--json", arm=(n, error, once))
        check_told(life)
        stopped += life.code == 3
        check_stored(job, life.acknowledged)
        assert lives.run("--batch", str(job), "--json").code == 0, f"no way on after write {n} failed"
        assert vectors(folder / "ws") == truths(job)
    assert stopped > len(moments) // 4


def test_a_disk_that_fills_up_and_is_freed_again(lives: Lives, tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=12, texts=300)
    acknowledged: list[str] = []
    stopped = 0
    for limit in range(8_000, 400_000, 24_000):
        life = lives.run("--batch", str(job), "--json", limit=limit)
        check_told(life)
        stopped += life.code == 3
        acknowledged += life.acknowledged
        check_stored(job, acknowledged)
    assert stopped > 5
    assert lives.run("--batch", str(job), "--json").code == 0
    assert vectors(tmp_path / "ws") == truths(job)


def weighed_job(folder: Path) -> Path:
    """A job over checkpoints whose weights can be compared."""
    job = write_job(folder, checkpoints=4, texts=6)
    for step in range(4):
        tensors = {"w.weight": np.full((3, 4), step, np.float32)}
        (folder / "run" / f"step{step}" / "model.safetensors").write_bytes(save(tensors))
    return job


def test_reports_and_exports_need_no_space_in_the_workspace(broken: tuple[Lives, Path]) -> None:
    """Weight distances cannot be kept there: that is said, and they are shown all the same."""
    lives, folder = broken
    shutil.rmtree(folder / "ws", ignore_errors=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    job = weighed_job(folder)
    assert lives.run("--batch", str(job), "--json").code == 0
    full = (1, errno.ENOSPC, 0)
    out = folder / "out"
    exported = lives.run("--export", str(out), str(folder / "ws"), arm=full)
    assert exported.code == 0 and "Traceback" not in exported.err, exported.err
    rows = (out / "weights.csv").read_text().splitlines()[1:]
    assert sorted(rows) == [f"run,{a},{b},{12.0 * (b - a) ** 2}" for a in range(4) for b in range(a + 1, 4)]
    assert "weights: distances could not be stored and will be computed again next time" in exported.err
    whole = lives.run("--report", str(folder / "ws"), "--section", "overview", "--section", "kl")
    again = lives.run("--report", str(folder / "ws"), "--section", "overview", "--section", "kl", arm=full)
    assert (again.code, again.out) == (0, whole.out) and "Traceback" not in again.err
    shown = lives.run("--report", str(folder / "ws"), arm=full)
    assert shown.code == 0 and "Traceback" not in shown.err, shown.err


def test_what_a_killed_writer_left_is_read_without_space(lives: Lives, tmp_path: Path) -> None:
    """Its log holds the newest vectors, and SQLite's file for sharing it cannot be made."""
    job = write_job(tmp_path, checkpoints=3)
    assert lives.run("--batch", str(job), "--json").code == 0
    ws = tmp_path / "ws"
    store = Store.write(ws)
    store.db.execute("PRAGMA wal_autocheckpoint = 0")
    with store.atomic():
        store.records.put("note", "x", {"a": 1})
    copy = tmp_path / "copy"
    shutil.copytree(ws, copy)
    store.close()
    (copy / "kltui.sqlite-shm").unlink()
    assert (copy / "kltui.sqlite-wal").stat().st_size > 0
    shown = lives.run("--report", str(copy), "--section", "overview", limit=1_000_000)
    again = lives.run("--report", str(copy), "--section", "overview", limit=4_096)
    assert again.code == 0 and again.out == shown.out, again.err


@pytest.mark.parametrize("limit", [1, 2_000, 6_000])
def test_an_export_to_a_full_disk_leaves_nothing_half_written(
    lives: Lives, tmp_path: Path, limit: int
) -> None:
    job = write_job(tmp_path, checkpoints=4, texts=40)
    assert lives.run("--batch", str(job), "--json").code == 0
    assert lives.run("--export", str(tmp_path / "out"), str(tmp_path / "ws")).code == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    life = lives.run("--export", str(tmp_path / "out"), str(tmp_path / "ws"), limit=limit)
    assert life.code == 1 and "Traceback" not in life.err, life.err
    if limit > 1:  # what is said has to fit as well
        assert "export to" in life.err and "Free some space" in life.err
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job.toml", "out", "run", "texts.json", "ws"]
