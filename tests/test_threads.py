"""Threads: BLAS on one, tiles on what is idle, waits that are passive; and the same bits for any number of them."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from kltui import threads
from kltui.analysis.kl import kl_matrix, kl_standard_errors
from kltui.analysis.products import self_product
from kltui.threads import (
    environment_of_jobs,
    free_threads,
    has_idle_core,
    in_parallel,
    one_blas_thread,
    wait_passively,
)
from kltui.view.report import print_report
from kltui.workspace import Workspace
from tests.tui.big_workspace import write_workspace


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@contextmanager
def allowed(n: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """n threads for BLAS and OpenMP, and n cores that are idle."""
    with monkeypatch.context() as patch, threadpool_limits(n):
        patch.setattr(threads, "free_threads", lambda: n)
        yield


def test_blas_has_one_thread_inside_and_what_it_had_after() -> None:
    with threadpool_limits(4, "blas"):
        before = blas_threads()
        with one_blas_thread:
            assert blas_threads() == {1}
            assert one_blas_thread(blas_threads)() == {1}
            assert blas_threads() == {1}  # the inner one has ended
        assert blas_threads() == before != {1}


def test_the_last_thread_to_leave_restores_what_was() -> None:
    with threadpool_limits(1, "blas"):
        pass  # who limited last leaves no claim
    before, entered, leave = blas_threads(), threading.Event(), threading.Event()

    def other() -> None:
        with one_blas_thread:
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with one_blas_thread:
        thread.start()
        entered.wait(30)
    assert blas_threads() == {1}
    leave.set()
    thread.join()
    assert blas_threads() == before


def test_a_failure_in_one_piece_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with allowed(3, monkeypatch), pytest.raises(ZeroDivisionError):
        in_parallel([lambda: None, lambda: 1 / 0, lambda: None])


@pytest.mark.parametrize(("K", "N"), [(1, 3), (1024, 40), (1500, 70), (2100, 33)])
def test_products_by_tiles_are_whole_ones(K: int, N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(K).normal(size=(K, N))
    found = []
    for n in (1, 2, 4):
        with allowed(n, monkeypatch):
            found.append(self_product(X))
    np.testing.assert_allclose(found[0], X @ X.T, rtol=0, atol=1e-12 * N)
    assert (found[0] == found[0].T).all()
    assert all((one == found[0]).all() for one in found)


def test_kl_and_errors_are_the_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    L, size = rng.normal(-1500, 20, (1100, 60)), rng.integers(300, 1024, 60)
    L[3, 4:9], L[7] = np.nan, L[6]
    found = []
    for n in (1, 2, 4):
        with allowed(n, monkeypatch):
            found.append((kl_matrix(L, size), kl_standard_errors(L, size, np.arange(60) // 2)))
    assert all(
        np.array_equal(a, b, equal_nan=True) for one in found for a, b in zip(one, found[0], strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(1, 4), pytest.param((1, 2, 4), marks=pytest.mark.full)], ids=str)
def test_reports_are_the_same_to_the_last_bit_for_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...]
) -> None:
    # More than 10,000 texts: OpenBLAS then shares out even a sum of products.
    folder = write_workspace(tmp_path / "ws", 36, 10_050)
    said = []
    for n in numbers:
        out = StringIO()
        with allowed(n, monkeypatch), Workspace.open(folder) as ws:
            print_report(ws, as_json=True, stream=out, notices=StringIO())
        said.append(out.getvalue())
    assert json.loads(said[0])["sections"]["trajectories"]["status"] == "shown"
    assert all(one == said[0] for one in said)


def test_waits_are_passive_unless_the_user_says_otherwise() -> None:
    ours: dict[str, str] = {}
    wait_passively(ours)
    assert ours == {"OMP_WAIT_POLICY": "PASSIVE"}
    for said in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "9"}, {"KMP_BLOCKTIME": "200"}):
        kept = dict(said)
        wait_passively(kept)
        assert kept == said


def test_a_job_that_is_started_waits_as_the_user_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_set_here", set())
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in environment_of_jobs()
    assert environment_of_jobs()["PATH"] == os.environ["PATH"]


def test_threads_for_large_work_are_the_idle_cores_and_no_more_than_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    clock, idle, own = [100.0], [50.0], [5.0]
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(threads.time, "process_time", lambda: own[0])
    monkeypatch.setattr(threads, "_idle_seconds", lambda: idle[0])
    monkeypatch.setattr(threads, "_cores", lambda: 8)
    monkeypatch.setattr(threads, "_processors", threads._Processors())

    def after(seconds: float, idle_cores: float, own_cores: float) -> int:
        clock[0] += seconds
        idle[0] += idle_cores * seconds
        own[0] += own_cores * seconds
        return free_threads()

    assert after(1.0, 7.0, 1.0) == 8
    assert after(0.01, 0.0, 8.0) == 8  # too soon to tell
    assert after(1.0, 0.0, 8.0) == 8  # all of them are ours
    assert after(1.0, 0.0, 0.7) == 1  # a job has the others
    assert after(1.0, 2.9, 1.0) == 4
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert after(1.0, 7.0, 1.0) == 2


@pytest.mark.parametrize(
    ("told", "cores", "idle"),
    [
        ("0.74 0.93 0.47 1/80 4810\n", 2, True),
        ("0.74 0.93 0.47 1/80 4810\n", 1, False),
        ("0.00 0.00 0.00 2/80 4810\n", 2, False),  # a job that has just begun
        ("9.00 9.00 9.00 15/900 4810\n", 16, True),
        ("9.00 9.00 9.00 16/900 4810\n", 16, False),
        ("", 2, True),  # no Linux
        ("", 1, False),
    ],
)
def test_a_core_is_idle_if_fewer_threads_want_to_run_than_there_are_cores(
    told: str, cores: int, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: cores)
    monkeypatch.setattr(threads, "_text_of", lambda path: told if path == Path("/proc/loadavg") else "")
    assert has_idle_core() is idle


@pytest.mark.parametrize(
    ("stated", "cores"),
    [("", 8), ("4", 4), ("4,2", 4), (" 3 , 1", 3), ("0", 8), ("99", 8), ("-2", 8), ("many", 8)],
)
def test_the_first_number_of_omp_num_threads_is_the_limit(
    monkeypatch: pytest.MonkeyPatch, stated: str, cores: int
) -> None:
    """It may be a list, one number for each level of nested parallelism; what is no number is ignored, as by OpenMP."""
    monkeypatch.setattr(threads, "_cores", lambda: 8)
    assert threads.usable_cores({"OMP_NUM_THREADS": stated}) == cores


def quota(system: Path, groups: str, files: dict[str, str]) -> int:
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{n}": t for n, t in files.items()},
    }.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text)
    return threads._cores_of_quota(system)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),  # in a container of version 2
        ("0::/\n", {"cpu.max": "max 100000\n"}, sys.maxsize),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, 4),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "150000 50000\n"}, 3),
        # version 1: in its own group, or at the top, where a container sees its own
        ("4:memory:/a\n2:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 2),
        ("2:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ("1:cpu:/docker/id\n", {"cpu/cpu.cfs_quota_us": "600000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ("1:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ("nonsense\n", {"cpu.max": "0 0\n"}, sys.maxsize),
    ],
)  # fmt: skip
def test_a_quota_of_processor_time_limits_the_cores(
    tmp_path: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    assert quota(tmp_path, groups, files) == cores


def test_no_more_cores_are_used_than_a_quota_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads._cores_of_quota(tmp_path) == sys.maxsize, "another system has no such files"
    monkeypatch.setattr(threads, "_cores_of_quota", lambda: 1)
    assert threads.usable_cores({}) == 1
