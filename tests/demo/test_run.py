"""The whole demo on the micro suite: lanes, a killed start, one at a time, folders that are not its own."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kltui.demo import run as demo
from kltui.demo.jobs import write_jobs
from kltui.demo.prepared import Prepared
from kltui.demo.suite import Suite
from kltui.demo.training_progress import TrainingReporter
from kltui.demo.worker_pool import RunProgress, WorkerPool
from kltui.errors import KltuiError, StoreError, UsageError
from kltui.jobs.progress_report import Reporter
from kltui.workspace import Workspace


def test_a_lane_that_fails_or_is_killed_is_an_error_that_says_so(tmp_path: Path, suite: Suite) -> None:
    with WorkerPool(tmp_path, suite, 1) as pool:
        with pytest.raises(UsageError, match="other settings"):
            list(pool.train(suite.runs))  # no texts are prepared there
        os.kill(pool.pids[0], signal.SIGKILL)
        (_, connection) = pool._workers[0]
        assert connection.poll(60), "its end of the pipe was not closed"
        with pytest.raises(KltuiError, match=r"ended \(exit status -9\)"):
            list(pool.train(suite.runs))


def test_lanes_end_with_the_process_that_opened_them(texts_folder: Path, suite: Suite) -> None:
    program = (
        "import pickle, sys\nfrom pathlib import Path\nfrom kltui.demo.worker_pool import WorkerPool\n"
        "suite = pickle.loads(bytes.fromhex(sys.argv[2]))\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(Path(sys.argv[1]), suite, 1)\n    print(pool.pids[0], flush=True)\n    sys.stdin.read()\n"
    )
    opener = subprocess.Popen(
        [sys.executable, "-c", program, str(texts_folder), pickle.dumps(suite).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert opener.stdout is not None
    assert opener.stdin is not None
    lane = int(opener.stdout.readline())
    opener.kill()
    opener.wait()
    opener.stdout.close()
    opener.stdin.close()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{lane}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{lane}").exists()


def test_the_whole_demo(
    prepared: Prepared,
    tmp_path: Path,
    suite: Suite,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WorkerPool, "scores_eight_bit", lambda self, run: False)
    lines = prepared.corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    prepared.corpus.write_text("".join(lines[::8]), encoding="utf-8")  # texts enough of every domain
    assert demo.run_demo(tmp_path, suite=suite) == 0
    said = capfd.readouterr()
    assert said.err.index("pretrained  micro-seed1 ") < said.err.index("pretrained  micro-seed1-finetuned ")
    assert "Open it:  kltui" in said.err
    assert "Warning" not in said.err, "what a library advises programmers of"
    assert "micro-seed1" in said.out
    with Workspace.open(tmp_path) as ws:
        rows = {row.name: row for row in ws.checkpoints()}
        llama = {"llama-tiny@24", "llama-tiny@24+gguf-q4_0"}
        lora = {f"micro-seed1-lora@{k}" for k in (1, 2, 3, 4)}
        assert llama | lora <= set(rows) and len(rows) == suite.n_checkpoints() + len(llama) + len(lora)
        assert {rows[name].checkpoint.parent for name in lora} == {"micro-seed1@24"}
        assert all(row.scored for row in rows.values())
        assert rows["micro-seed1@24"].layers > 0
        assert rows["micro-seed1@0"].layers == 0
        assert rows["micro-seed1@24"].mean_loglik > rows["micro-seed1@0"].mean_loglik
        assert rows["micro-seed1-finetuned@4"].checkpoint.parent == "micro-seed1@24"
        assert {"code", "docstring"} <= set(ws.domains())


def test_a_finished_training_is_not_done_again(
    tmp_path: Path, texts_folder: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "WorkerPool", None)
    monkeypatch.setattr(demo, "is_finished", lambda workspace, run: True)
    jobs = write_jobs(texts_folder, suite, eight_bit=False, workers=1)
    assert demo._pretrained(texts_folder, suite, Reporter(False), 2) == jobs
    with pytest.raises(UsageError, match="other settings"):
        demo._pretrained(texts_folder, replace(suite, batch=3), Reporter(False), 2)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, suite: Suite) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="contains other files"):
        demo.run_demo(tmp_path, suite=suite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is a file"):
        demo.run_demo(tmp_path / "thesis.tex", suite=suite)


def test_only_one_demo_works_in_a_folder(tmp_path: Path, suite: Suite) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    with demo._locked(folder), pytest.raises(StoreError, match="Another kltui --demo"):
        demo.run_demo(folder, suite=suite)


def test_a_full_disk_is_said_before_the_start(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Suite, "n_bytes", lambda self: 1 << 60)
    with pytest.raises(KltuiError, match="MB free"):
        demo.run_demo(tmp_path / "demo", suite=suite)


def test_lines_are_told_where_there_is_no_terminal(suite: Suite) -> None:
    out, err = io.StringIO(), io.StringIO()
    with TrainingReporter(Reporter(True, out, err), suite.runs) as training:
        training.moved(None)
        training.moved(RunProgress("micro-seed1", 3, 6.25))
        training.moved(RunProgress("micro-seed1", 24, float("nan"), done=True))
    assert err.getvalue() == "pretrained  micro-seed1 24/24 loss nan\n"
    [event] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert event["loss_nats_per_token"] is None
    assert (event["step"], event["steps"], event["status"]) == (24, 24, "done")
