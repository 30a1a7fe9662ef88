"""Full and failing disks: told in words, nothing acknowledged is lost, and the job goes on when there is space."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_kit import Life, Lives, check_stored, truths, vectors, write_job

SAID = "The disk is full or failing. Everything acknowledged so far is kept"


@pytest.fixture(scope="module")
def broken(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lives, Path]]:
    """Lives whose writes below a folder can be made to fail, and that folder."""
    folder = tmp_path_factory.mktemp("disk")
    scratch = tmp_path_factory.mktemp("broken")
    server = Lives(scratch, LD_PRELOAD=str(shim), FAULT_FOLDER=str(folder / "ws"), FAULT_NO_SYNC="1")
    yield server, folder
    server.close()


def check_told(life: Life) -> None:
    """A life that met a failing disk either did not need to care, or ended with 3 and said so."""
    assert "Traceback" not in life.err and life.code in (0, 3), life.err
    if life.code == 3:
        assert SAID in life.err or "progress could not be noted" in life.err, life.err


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["every fifth", "all"])
def test_every_single_write_and_sync_may_fail(broken: tuple[Lives, Path], stride: int) -> None:
    lives, folder = broken
    job = write_job(folder, checkpoints=2, texts=4)
    shutil.rmtree(folder / "ws", ignore_errors=True)
    whole = lives.run("--batch", str(job), "--json", count=True)
    assert whole.code == 0 and whole.writes > 50
    stopped = 0
    for n in range(1, whole.writes + 1, stride):
        shutil.rmtree(folder / "ws")
        error = (errno.ENOSPC, errno.EIO)[n % 2]
        once = n // 2 % 2
        life = lives.run("--batch", str(job), "--json", arm=(n, error, once))
        check_told(life)
        stopped += life.code == 3
        check_stored(job, life.acknowledged)
        assert lives.run("--batch", str(job), "--json").code == 0, f"no way on after write {n} failed"
        assert vectors(folder / "ws") == truths(job)
    assert stopped > whole.writes // stride // 4


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
