"""A run is watched while it is written: each checkpoint is scored as it lands, a planted spike raises the alert."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_models import write_model, write_run

import kltui
from kltui.errors import KltuiError
from kltui.jobs.import_vectors import import_vectors
from kltui.jobs.result_writer import ResultWriter
from kltui.watch.rules import Alert
from kltui.watch.run import _Watch, run_watch

JOB = """\
workspace = "ws"
[corpus]
source = "texts.json"
[[models]]
path = "run"
[scoring]
device = "cpu"
[watch]
alert_loss_se = 1000.0  # random weights rise and fall
settled_below = 0.0
command = ["{python}", "-c", "import os; open(os.environ['OUT'], 'a').write(os.environ['KLTUI_RULE'] + ' ' + os.environ['KLTUI_CHECKPOINT'] + '\\\\n')"]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six checkpoints that move little, and one of another model."""
    folder = tmp_path_factory.mktemp("made")
    steps = write_run(folder / "run", steps=(1, 2, 3, 4, 5))
    return [*steps, write_model(folder / "spike", "gpt_neox", seed=9)]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    texts = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 7)}dogs" for i in range(40)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(python=sys.executable))
    monkeypatch.setenv("OUT", str(tmp_path / "told.txt"))
    monkeypatch.setattr("kltui.watch.run.POLL_S", 0.05)
    yield path


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def _scored(workspace: Path) -> int:
    try:
        with kltui.open(workspace) as ws:
            return sum(row.scored and row.checkpoint.run == "run" for row in ws.checkpoints())
    except KltuiError:
        return 0


def _import_another(folder: Path, workspace: Path) -> None:
    """A run of the workspace that is not watched: its steps end no watch."""
    (folder / "other.json").write_text('["a text", "of another corpus"]')
    sizes = np.array([len("a text"), len("of another corpus")])
    rows, counts = np.full((1, 2), -9.0), np.ones((1, 2), np.int32)
    np.savez(
        folder / "other.npz", loglik=rows, names=np.array(["other@99"]), text_bytes=sizes, n_scored=counts
    )
    import_vectors([folder / "other.npz", folder / "other.json"], workspace, lambda line: None)


def test_checkpoints_are_scored_as_they_land_and_a_spike_is_told(
    job: Path, made: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, workspace = job.parent / "run", job.parent / "ws"
    _import_another(job.parent, workspace)

    def train() -> None:
        for k, source in enumerate(made[:4], 1):
            shutil.copytree(source, run / f"tmp-checkpoint-{k}")  # as a trainer does
            (run / f"tmp-checkpoint-{k}").rename(run / f"checkpoint-{k}")
        while _scored(workspace) < 4:
            time.sleep(0.05)
        shutil.copytree(made[-1], run / "checkpoint-9")

    trainer = threading.Thread(target=train, daemon=True)
    trainer.start()
    assert run_watch(job, until_step=9, as_json=True, settled_s=0.3) == 0
    trainer.join()
    found = events(capsys)
    done = [e["name"] for e in found if e["event"] == "checkpoint" and e["status"] == "done"]
    assert sorted(done) == ["run@1", "run@2", "run@3", "run@4", "run@9"] and done[-1] == "run@9"
    figures = {e["name"]: e for e in found if e["event"] == "figures"}
    assert figures["run@1"]["kl_consecutive"] is None and figures["run@2"]["kl_consecutive"] > 0
    reported = {(e["rule"], e["checkpoint"]) for e in found if e["event"] == "alert"}
    assert ("kl", "run@9") in reported and {c for _, c in reported} == {"run@9"}
    assert set((job.parent / "told.txt").read_text().split("\n")) - {""} == {f"{r} {c}" for r, c in reported}
    with kltui.open(workspace) as ws:
        assert {(r["rule"], r["checkpoint"]) for r in ws.records("alert").values()} == reported
        assert [j.status for j in ws.jobs()] == ["done"]


def test_ctrl_c_ends_a_watch_that_waits_for_a_folder(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert run_watch(job, as_json=True, settled_s=0.1) == 130
    assert [e["event"] for e in events(capsys)] == ["watch", "watch"]


def test_a_watch_that_is_paused_while_it_scores_ends_as_one_that_waits(
    job: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made[0], job.parent / "run" / "checkpoint-1")
    register = ResultWriter.register

    def paused(writer: ResultWriter, log: Path | None) -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        return register(writer, log)

    monkeypatch.setattr(ResultWriter, "register", paused)
    assert run_watch(job, as_json=True, settled_s=0.1) == 128 + signal.SIGUSR1
    with kltui.open(job.parent / "ws") as ws:
        assert [j.status for j in ws.jobs()] == ["paused"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sleep 30 &", []),
        ("echo why >&2; exit 3", ["watch.command ended with 3: why"]),
        ("exec sleep 30", ["timed out"]),
    ],
)
def test_a_command_that_fails_hangs_or_leaves_something_running_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, command: str, said: list[str]
) -> None:
    monkeypatch.setattr("kltui.watch.run.COMMAND_LIMIT_S", 0.2 if "exec" in command else 20.0)
    lines: list[str] = []
    job = SimpleNamespace(watch=SimpleNamespace(command=("sh", "-c", command)), workspace="ws")
    watch = SimpleNamespace(_job=job, _reporter=SimpleNamespace(say=lambda line, style: lines.append(line)))
    _Watch._run_command(watch, Alert("kl", "run", "run@1", 1.0, 0.5, "large"))  # type: ignore[arg-type]
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))


def test_a_watch_ends_where_the_last_checkpoint_cannot_be_scored(
    job: Path, made: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for ever for a step that has failed with the files it has."""
    run = job.parent / "run"
    shutil.copytree(made[0], run / "checkpoint-1")
    shutil.copytree(made[1], run / "checkpoint-2")
    config = json.loads((run / "checkpoint-2" / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (run / "checkpoint-2" / "config.json").write_text(json.dumps(config))
    overdue = threading.Timer(120, os.kill, (os.getpid(), signal.SIGINT))
    overdue.start()
    assert run_watch(job, until_step=2, as_json=True, settled_s=0.2) == 1
    overdue.cancel()
    ended = {e["name"]: e["status"] for e in events(capsys) if e["event"] == "checkpoint"}
    assert ended == {"run@1": "done", "run@2": "failed"}
