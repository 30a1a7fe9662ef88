"""A job on a GPU tells its workers what comes next while they score; whatever happens then, everything is scored once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fault_kit import behave, check_stored, ends, light_scorer, run_cli, write_job
from model_folders import make_model

from kltui.jobs.executors.local import LocalExecutor
from kltui.jobs.messages import Computes, Died, Expect, Failed, Setup, Task, TaskScored
from kltui.jobs.worker import serve
from kltui.registry.reading import Hashed, hash_files
from kltui.scoring.device import DeviceInUse
from kltui.scoring.settings import ScoreResult, ScoringSettings

GPU = DeviceInUse("cuda:0", "NVIDIA L4", 1 << 34, "550.54", "2.0", "12.8")


def test_each_checkpoint_but_the_first_is_expected_before_it_is_scored(tmp_path: Path) -> None:
    job, log = write_job(tmp_path, checkpoints=3), tmp_path / "log"
    done = run_cli(
        "--batch", str(job), "--json", cwd=tmp_path, KLTUI_LIGHT_GPU=str(log), KLTUI_LIGHT_SECONDS="0.8"
    )
    assert done.returncode == 0, done.stderr
    assert check_stored(job) == 3
    (cost,) = [e for e in map(json.loads, done.stdout.splitlines()) if e["event"] == "dtype_cost"]
    assert (cost["dtype"], cost["auto"], cost["factor"]) == ("float32", "bfloat16", 3.25)
    assert 'float32 takes 3.2 times as long here as dtype = "auto" would (bfloat16' in done.stderr
    wanted = ["scores step0"]
    for step in range(1, 3):
        wanted += [f"expects step{step}", f"scores step{step}"]
    assert [line for line in log.read_text().splitlines() if line != "closes"] == wanted


def test_a_job_on_a_cpu_expects_nothing(tmp_path: Path) -> None:
    pool = Pool(1)
    pool.workers[0].say(Computes(DeviceInUse("cpu", "a processor", 1, "", "2.0", ""), 1, "here"))
    pool.submit(task(0))
    assert not pool.can_expect


@pytest.mark.parametrize("behaviour", ["error", "kill"])
def test_what_is_expected_by_a_worker_that_fails_is_scored_all_the_same(
    tmp_path: Path, behaviour: str
) -> None:
    job, log = write_job(tmp_path, checkpoints=3), tmp_path / "log"
    behave(job, 1, behaviour)
    done = run_cli(
        "--batch", str(job), "--json", cwd=tmp_path, KLTUI_LIGHT_GPU=str(log), KLTUI_LIGHT_SECONDS="0.4"
    )
    assert done.returncode == 1, done.stderr
    statuses = {name: end["status"] for name, end in ends(done.stdout).items()}
    assert statuses == {"run@0": "done", "run@1": "failed", "run@2": "done"}
    assert check_stored(job) == 2


class Line:
    """A worker's line on which everything has been said already."""

    def __init__(self, *said: object) -> None:
        self.waiting, self.sent = list(said), []

    def poll(self) -> bool:
        return bool(self.waiting) and isinstance(self.waiting[0], Expect)

    def recv(self) -> object:
        if not self.waiting:
            raise EOFError
        return self.waiting.pop(0)

    def send(self, message: object, /) -> None:
        self.sent.append(message)


def served(tmp_path: Path, *expectations: Task) -> list[object]:
    """What a worker answers that is given two tasks, and is told meanwhile what to expect."""
    write_job(tmp_path, checkpoints=2)
    tasks = [Task(i, hash_files(tmp_path / "run" / f"step{i}"), "none") for i in range(2)]
    setup = Setup(("a", "b", "c", "d"), "c", ScoringSettings(), tmp_path, 1)
    line = Line(setup, tasks[0], *map(Expect, expectations or tasks[1:]), tasks[1])
    with pytest.raises(EOFError):
        serve(line)
    return [m for m in line.sent if isinstance(m, TaskScored | Failed)]


def test_a_worker_is_told_once_it_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kltui.scoring.scorer", light_scorer)
    monkeypatch.setenv("KLTUI_LIGHT_GPU", str(tmp_path / "log"))
    assert [type(m) for m in served(tmp_path)] == [TaskScored, TaskScored]
    noted = (tmp_path / "log").read_text().splitlines()
    assert noted == ["scores step0", "expects step1", "scores step1", "closes"]


def test_what_cannot_be_read_ahead_does_not_fail_what_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kltui.scoring.scorer", light_scorer)

    def fails(self: object, hashed: Hashed, quantization: str) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(light_scorer.Scorer, "expect", fails)
    gone = Task(1, Hashed(tmp_path / "gone", "w", tokenizer=tmp_path / "nowhere"), "none")
    there = Task(1, hash_files(make_model(tmp_path / "m")), "none")
    assert [type(m) for m in served(tmp_path, gone, there)] == [TaskScored, TaskScored]


class Pipe:
    """A worker's end of its pipe, played by the test."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.waiting: list[object] = []

    def send(self, message: object) -> None:
        self.heard.append(message)

    def recv(self) -> object:
        if not self.waiting:
            raise EOFError
        return self.waiting.pop(0)

    def say(self, message: object) -> None:
        self.waiting.append(message)

    def close(self) -> None: ...


class Process:
    def wait(self, _timeout_s: float) -> int:
        return -9


class Pool(LocalExecutor):
    """An executor over workers that the test plays."""

    def __init__(self, size: int) -> None:
        super().__init__(Setup(("a",), "c", ScoringSettings(), Path("/nowhere"), 1), size)
        self.workers = [Pipe() for _ in range(size)]

    def _launch(self):  # type: ignore[no-untyped-def]
        from kltui.jobs.executors.local import _Worker

        worker = _Worker(Process(), self.workers[len(self._workers)], "cuda")  # type: ignore[arg-type]
        self._workers.append(worker)
        return worker

    def hear(self, at: int, message: object = None) -> list[object]:
        """What the executor makes of a message by one worker; of its death where there is none."""
        if message is not None:
            self.workers[at].say(message)
        ready = [w.pipe for w in self._workers if w.pipe is self.workers[at]]
        from kltui.jobs.executors import local

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(local, "wait", lambda _pipes, _timeout_s: ready)
            return list(self.wait(0.0))


def task(index: int) -> Task:
    return Task(index, Hashed(Path(f"/models/{index}"), f"w{index}"), "none")


def scored(index: int) -> TaskScored:
    return TaskScored(index, ScoreResult((), {}, {}))


def test_a_task_goes_to_the_worker_that_expects_it() -> None:
    pool = Pool(2)
    for at in (0, 1):
        pool.submit(task(at))
        pool.hear(at, Computes(GPU, 1, "here"))
    assert pool.idle == 0 and pool.can_expect
    pool.expect(task(2))
    pool.expect(task(3))
    assert not pool.can_expect and pool.expected is None
    assert [p.heard[-1] for p in pool.workers] == [Expect(task(2)), Expect(task(3))]
    pool.hear(1, scored(1))
    assert pool.expected == task(3)
    pool.submit(task(3))
    assert pool.workers[1].heard[-1] == task(3) and pool.expected is None and pool.can_expect
    pool.expect(task(4))
    assert pool.workers[1].heard[-1] == Expect(task(4))


def test_one_worker_of_a_job_says_what_float32_costs(tmp_path: Path) -> None:
    job, log = write_job(tmp_path, checkpoints=4), tmp_path / "log"
    more = ("--json", "--set", "engine.workers=2")
    done = run_cli("--batch", str(job), *more, cwd=tmp_path, KLTUI_LIGHT_GPU=str(log))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"dtype_cost"') == 1


def test_a_worker_that_dies_takes_its_expectation_along() -> None:
    pool = Pool(1)
    pool.submit(task(0))
    pool.hear(0, Computes(GPU, 1, "here"))
    pool.expect(task(1))
    assert pool.hear(0) == [Died(0, -9)]
    assert pool.expected is None and not pool.can_expect and pool.idle == 1
