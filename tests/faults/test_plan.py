"""A plan is said on standard output and is true; a job says on what it computes; equal notes are said once."""

from __future__ import annotations

import io
import json
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_kit import Lives, OneWorker, ends, run_cli, write_job
from model_folders import make_model

import kltui
from kltui.jobs import dry_run
from kltui.jobs.batch import BatchRun
from kltui.jobs.device_probe import Answer
from kltui.jobs.dry_run import show_plan
from kltui.jobs.jobfile import load_job
from kltui.jobs.messages import Computes
from kltui.jobs.plan import Plan, make_plan
from kltui.jobs.prepare import Preparer
from kltui.jobs.progress_report import ProgressReporter
from kltui.jobs.result_writer import ResultWriter
from kltui.jobs.shard import InboxWriter, select_shard
from kltui.scoring.device import DeviceInUse
from kltui.scoring.settings import ScoreResult, Vector
from kltui.store import Store

CPU = DeviceInUse("cpu", "a processor", 1 << 33, "", "2.0", "")
GPU = DeviceInUse("cuda:0", "NVIDIA L4", 23 << 30, "550.54", "2.0+cu128", "12.8")


class Known:
    """Stands for the process that asks torch."""

    answer_is = Answer(CPU)

    def __init__(self, asked: str) -> None:
        pass

    def answer(self) -> Answer:
        return self.answer_is

    def stop(self) -> None: ...


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> type[Known]:
    monkeypatch.setattr(dry_run, "DeviceProbe", Known)
    monkeypatch.setattr(Known, "answer_is", Answer(CPU))
    return Known


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def planned(
    job: Path, *overrides: str, shard: tuple[int, int] | None = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """({checkpoint: status}, the plan's total) of a dry run."""
    out, plan = io.StringIO(), make_plan(load_job(job, overrides))
    if shard:
        plan = select_shard(plan, *shard)
    assert show_plan(plan, is_part=shard is not None, as_json=True, out=out) == 0
    *steps, total = events(out.getvalue())
    assert total["event"] == "plan_total" and all(e["event"] == "plan" for e in steps)
    return {e["name"]: e["status"] for e in steps}, total


def test_a_plan_goes_to_standard_output_and_writes_nothing(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=3)
    before = sorted(tmp_path.rglob("*"))
    words = run_cli("--batch", str(job), "--dry-run", cwd=tmp_path)
    assert words.returncode == 0 and words.stderr == ""
    for said in (
        "run@2",
        "device  cpu: ",
        "torch 0.0+light without CUDA",
        "float32",
        "3 checkpoints, 20 texts",
        "3 to score",
    ):
        assert said in words.stdout, said
    reported = run_cli("--batch", str(job), "--dry-run", "--json", cwd=tmp_path, KLTUI_LIGHT_GPUS="2")
    *steps, total = events(reported.stdout)
    assert [e["status"] for e in steps] == ["score"] * 3 and all(e["schema"] == 1 for e in (*steps, total))
    assert total["device"]["device"] == "cuda:0" and total["device"]["name"] == "Light GPU 0"
    assert total["batch_tokens"] == 32_768 and total["score"] == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_kept_is_known_by_the_weights(lives: Lives, tmp_path: Path, known: type[Known]) -> None:
    job = write_job(tmp_path, checkpoints=3)
    assert lives.run("--batch", str(job), "--json").code == 0
    assert planned(job)[0] == {f"run@{s}": "kept" for s in range(3)}
    # Touched and the same; touched and another; another setting; a checkpoint more.
    weights = tmp_path / "run" / "step0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    (tmp_path / "run" / "step1" / "model.safetensors").write_bytes(b"other weights" * 9)
    make_model(tmp_path / "run" / "step3", weights=b"new")
    statuses, total = planned(job)
    assert statuses == {"run@0": "kept", "run@1": "score", "run@2": "kept", "run@3": "score"}
    assert (total["kept"], total["score"]) == (2, 2)
    assert set(planned(job, "scoring.bos=always")[0].values()) == {"score"}
    again = ends(lives.run("--batch", str(job), "--json").out)
    assert {name: "score" if e["status"] == "done" else e["status"] for name, e in again.items()} == statuses


def test_a_part_counts_what_waits_in_the_inbox(lives: Lives, tmp_path: Path, known: type[Known]) -> None:
    job = write_job(tmp_path, checkpoints=4)
    assert lives.run("--batch", str(job), "--json", "--shard", "0/2").code == 0
    assert planned(job, shard=(0, 2))[0] == {"run@0": "kept", "run@2": "kept"}
    assert planned(job, shard=(1, 2))[0] == {"run@1": "score", "run@3": "score"}


def test_a_plan_warns_of_what_will_fail_for_sure(tmp_path: Path, known: type[Known]) -> None:
    job = write_job(tmp_path, checkpoints=2)
    (tmp_path / "run" / "step1" / "model.safetensors").rename(
        tmp_path / "run" / "step1" / "pytorch_model.bin"
    )
    known.answer_is = Answer(
        None, error="device 'cuda' was asked for, but torch finds no CUDA device: why", hint="do"
    )
    _, total = planned(job, "scoring.dtype=float16")
    said = "\n".join(total["warnings"])
    assert "run@1 will fail" in said and "torch finds no CUDA device: why" in said
    assert total["device"] is None
    known.answer_is = Answer(
        replace(CPU, warning="NVIDIA L4 is available, but the CPU is used: why", hint="do")
    )
    _, total = planned(job, "scoring.dtype=float16")
    said = "\n".join(total["warnings"])
    assert (
        "NVIDIA L4 is available" in said
        and "on a CPU float32 is used" in said
        and total["dtype"] == "float32"
    )
    store = Store.write(tmp_path / "ws")
    try:
        assert any("is writing to this workspace" in w for w in planned(job)[1]["warnings"])
    finally:
        store.close()


def test_a_plan_on_ray_asks_no_device_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "DeviceProbe", None)
    out = io.StringIO()
    plan = make_plan(load_job(write_job(tmp_path), ["engine.kind=ray", "engine.workers=3"]))
    show_plan(plan, out=out)
    assert "device  auto, for each of 3 workers on Ray" in out.getvalue()


def test_a_job_says_on_what_it_computes(tmp_path: Path) -> None:
    job = write_job(tmp_path, checkpoints=2)
    done = run_cli("--batch", str(job), "--json", "--set", "engine.workers=2", cwd=tmp_path)
    assert done.returncode == 0
    reported = events(done.stdout)
    assert (
        reported[0]["status"] == "started"
        and reported[0]["device_asked"] == "auto"
        and reported[0]["workers"] == 2
    )
    (device,) = [e for e in reported if e["event"] == "device"]
    assert (device["device"], device["name"], device["dtype"]) == ("cpu", "a light processor", "float32")
    assert device["batch_tokens"] == 1536 and device["host"] == socket.gethostname()
    assert reported[-1]["devices"] == ["cpu: a light processor, 8.0 GiB, torch 0.0 without CUDA"]
    assert "device auto" in done.stderr.splitlines()[0]
    assert "device  cpu: a light processor, 8.0 GiB" in done.stderr
    with kltui.open(tmp_path / "ws") as ws:
        assert ws.jobs()[0].message.endswith("on cpu (a light processor)")


class Heard:
    """A batch whose messages a test makes up, and what it says."""

    def __init__(self, plan: Plan, as_json: bool = True) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.reporter = ProgressReporter(as_json, self.out, self.err)
        self.batch = BatchRun(plan, InboxWriter(plan), self.reporter)


def test_a_gpu_left_unused_is_told_once(tmp_path: Path) -> None:
    heard = Heard(make_plan(load_job(write_job(tmp_path))))
    unused = replace(
        CPU, warning="NVIDIA L4 is available, but the CPU is used: the driver is too old", hint="Install."
    )
    for _ in range(3):
        heard.batch._receive(Computes(unused, 1, "here"))
    heard.batch._receive(Computes(GPU, 1, "here"))
    words = heard.err.getvalue()
    assert words.count("the driver is too old") == 1 and words.count("Install.") == 1
    assert "device  cuda:0: NVIDIA L4, 23.0 GiB, driver 550.54, torch 2.0+cu128 CUDA 12.8" in words
    assert [e["warning"] for e in events(heard.out.getvalue())] == [unused.warning, ""]


def test_equal_notes_are_said_once_with_the_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write_job(tmp_path, checkpoints=5)
    plan = make_plan(load_job(job))
    out, err = io.StringIO(), io.StringIO()
    notes = [("common", "of the first"), ("common",), ("common",), (), ("common", "of the last")]

    class Scores(OneWorker):
        def answer(self, task: Any) -> ScoreResult:
            vector = Vector(None, np.full(20, -1.0), np.ones(20, np.int32))
            return ScoreResult((vector,), {"weights": "w"}, {}, notes[task.index])

    monkeypatch.setattr("kltui.jobs.batch.LocalExecutor", Scores)
    store = Store.write(plan.workspace)
    try:
        assert BatchRun(plan, ResultWriter(plan, store), ProgressReporter(True, out, err)).run() == (
            0,
            "done",
        )
    finally:
        store.close()
    words = err.getvalue().splitlines()
    assert [line for line in words if "common" in line] == [
        "note    run@0: common",
        "note    for 4 checkpoints: common",
    ]
    assert sum("of the first" in line for line in words) == sum("of the last" in line for line in words) == 1
    reported = events(out.getvalue())
    assert [tuple(e["notes"]) for e in reported if e["event"] == "checkpoint"] == notes
    assert reported[-1]["notes"] == {"common": 4, "of the first": 1, "of the last": 1}


def test_a_worker_has_its_next_task_while_its_result_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(load_job(write_job(tmp_path, checkpoints=3)))
    order, taken, own_take, own_store = list[str](), list[object](), Preparer.take, ResultWriter.store

    class Scores(OneWorker):
        def submit(self, task: Any) -> None:
            order.append(f"task {task.index}")
            super().submit(task)

        def answer(self, task: Any) -> ScoreResult:
            vector = Vector(None, np.full(20, -1.0), np.ones(20, np.int32))
            return ScoreResult((vector,), {"weights": "w"}, {}, ())

    def take(self: Preparer, timeout_s: float) -> Any:
        """What comes next, however long it takes, as long as something comes."""
        taken.append(own_take(self, 30.0 if len(taken) < 3 else timeout_s))
        return taken[-1]

    def store(self: ResultWriter, ready: Any, result: ScoreResult) -> None:
        order.append(f"stored {ready.index}")
        own_store(self, ready, result)

    monkeypatch.setattr("kltui.jobs.batch.LocalExecutor", Scores)
    monkeypatch.setattr(Preparer, "take", take)
    monkeypatch.setattr(ResultWriter, "store", store)
    with closing(Store.write(plan.workspace)) as written:
        reporter = ProgressReporter(True, io.StringIO(), io.StringIO())
        assert BatchRun(plan, ResultWriter(plan, written), reporter).run() == (0, "done")
    assert order == ["task 0", "task 1", "stored 0", "task 2", "stored 1", "stored 2"]
