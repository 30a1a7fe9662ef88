"""A batch from the outside: what it stores, tells and returns, and how it survives being killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from command import Cli, start
from forked import Started
from tiny_models import build_tokenizer, write_run
from undisturbed import Undisturbed

import kltui
from kltui.store import Store
from kltui.workspace import Workspace

ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def vectors(folder: Path) -> dict[str, bytes]:
    """Every vector's bytes by name."""
    with kltui.open(folder) as ws:
        m = ws.map(layers=True)
        return {name: m.loglik_KN[k].tobytes() for k, name in enumerate(m.names)}


def events(stdout: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_scores_everything_then_nothing_again(cli: Cli, job: Path, undisturbed: Undisturbed) -> None:
    done = undisturbed.process
    assert done.returncode == 0, done.stderr
    undisturbed.copy_to(job.parent / "ws")
    ends = [e for e in events(done.stdout) if e["event"] == "checkpoint"]
    assert [e["status"] for e in ends] == ["done"] * 8
    assert {e["name"] for e in ends} == {f"{run}@{s}" for run in ("alpha", "beta") for s in (0, 1, 2, 4)}
    assert all("time" in e and not e.get("kept") for e in ends)
    (device,) = [e for e in events(done.stdout) if e["event"] == "device"]
    assert device["device"] in ("cpu", "cuda:0") and device["name"] and device["torch"]
    assert f"device  {device['device']}: {device['name']}" in done.stderr
    assert {e["dtype"] for e in ends} == {device["dtype"]} == {"float32"}
    first = vectors(job.parent / "ws")
    assert len(first) == 8

    again = cli("--batch", str(job), "--json")
    assert again.returncode == 0
    assert all(e["schema"] == 1 for e in events(again.stdout))
    ends = [e for e in events(again.stdout) if e["event"] == "checkpoint"]
    assert [(e["status"], e["kept"]) for e in ends] == [("kept", True)] * 8
    assert vectors(job.parent / "ws") == first


def test_a_job_that_is_done_is_seen_to_be_done_without_torch(job: Path, undisturbed: Undisturbed) -> None:
    undisturbed.copy_to(job.parent / "ws")
    code = (
        "import subprocess, sys; subprocess.Popen = None; from kltui.cli import main; code = main(['--batch', sys.argv[1], '--json']); import kltui.view.summary;"
        " heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'textual', 'kltui.jobs.dry_run', 'kltui.view.sections.tree'};"
        " there = heavy & set(sys.modules); sys.exit(str(there) if there else code)"
    )
    command = [sys.executable, "-P", "-c", code, str(job)]
    done = subprocess.run(command, env=ENV, cwd=job.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [e["status"] for e in events(done.stdout) if e["event"] == "checkpoint"] == ["kept"] * 8


def test_layers_and_tokens_are_stored_and_add_up(cli: Cli, job: Path) -> None:
    done = cli("--batch", str(job), "--json", "--set", "scoring.layers=all", "--set", "scoring.tokens=true")
    assert done.returncode == 0, done.stderr
    from safetensors.numpy import load_file

    with kltui.open(job.parent / "ws") as ws:
        m = ws.map(names=["alpha@4"], layers=True)
        depth = len(m.names) - 2
        assert m.names == [*(f"alpha@4#{k}" for k in range(depth + 1)), "alpha@4"]
        np.testing.assert_allclose(m.loglik_KN[depth], m.loglik_KN[-1], atol=1e-4)
        path = ws.token_logprobs("alpha@4")
        assert path is not None
        kept = load_file(path)
        sums = [
            part.sum(dtype=np.float64) for part in np.split(kept["logprobs"], np.cumsum(kept["lengths"])[:-1])
        ]
        np.testing.assert_allclose(sums, m.loglik_KN[-1], atol=1e-3)
    again = cli("--batch", str(job), "--json", "--set", "scoring.layers=all", "--set", "scoring.tokens=true")
    assert all(e["kept"] for e in events(again.stdout) if e["event"] == "checkpoint")


def test_a_bad_checkpoint_fails_alone_and_says_why(cli: Cli, job: Path, suite: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(suite / "alpha", broken)
    weights = broken / "step2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with job.open("a") as file:
        file.write(f'[[models]]\npath = "{broken}"\n')
    done = cli("--batch", str(job), "--json")
    assert done.returncode == 1, done.stderr
    failed = [e for e in events(done.stdout) if e.get("status") == "failed" and e["event"] == "checkpoint"]
    assert [e["name"] for e in failed] == ["broken@2"]
    assert failed[0]["error"]
    with kltui.open(job.parent / "ws") as ws:
        states = {r.name: r for r in ws.checkpoints()}
        assert states["broken@2"].status == "failed" and states["broken@2"].error
        assert states["broken@4"].scored and not states["broken@2"].scored
    shutil.copy(suite / "alpha" / "step2" / "model.safetensors", weights)
    mended = cli("--batch", str(job), "--json")
    assert mended.returncode == 0, mended.stderr
    assert [e["name"] for e in events(mended.stdout) if e["event"] == "checkpoint" and not e.get("kept")] == [
        "broken@2"
    ]


def test_dry_run_writes_nothing(cli: Cli, job: Path) -> None:
    done = cli("--batch", str(job), "--dry-run")
    assert done.returncode == 0
    assert "alpha@4" in done.stdout and "8 checkpoints, 30 texts" in done.stdout and not done.stderr
    assert not (job.parent / "ws").exists()


def test_usage_errors_exit_two_and_list_all(cli: Cli, job: Path) -> None:
    done = cli("--batch", str(job), "--set", "models.0.path=nowhere", "--set", "corpus.source=missing.json")
    assert done.returncode == 2
    assert "models[0]" in done.stderr and "corpus" in done.stderr and "Traceback" not in done.stderr


def test_second_batch_exits_three_naming_the_first(cli: Cli, job: Path) -> None:
    store = Store.write(job.parent / "ws")
    done = cli("--batch", str(job))
    store.close()
    assert done.returncode == 3
    assert f"process {os.getpid()}" in done.stderr


def wait_for_stored(process: Started, n: int) -> None:
    """Reads the batch's events until n checkpoints are stored."""
    assert process.stdout is not None
    ends = (line for line in process.stdout if json.loads(line)["event"] == "checkpoint")
    assert len(list(islice(ends, n))) == n, "it ended before"


def stored(folder: Path) -> int:
    with kltui.open(folder) as ws:
        return sum(r.scored for r in ws.checkpoints())


@pytest.mark.parametrize("after", [1, 5])
def test_kill_9_then_resume_gives_the_same_bits_and_scores_nothing_twice(
    cli: Cli, job: Path, tmp_path: Path, undisturbed: Undisturbed, after: int
) -> None:
    process = start("--batch", str(job), "--json", cwd=tmp_path, env=ENV)
    wait_for_stored(process, after)
    process.kill()
    process.communicate()
    before = stored(tmp_path / "ws")
    with Workspace.open(tmp_path / "ws") as ws:
        assert ws.jobs()[0].status == "lost"
    resumed = cli("--batch", str(job), "--json")
    assert resumed.returncode == 0, resumed.stderr
    kept = [e for e in events(resumed.stdout) if e["event"] == "checkpoint" and e.get("kept")]
    assert len(kept) == before >= after
    assert vectors(tmp_path / "ws") == vectors(undisturbed.workspace)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_stop_it_with_their_code_and_keep_what_is_done(
    job: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start("--batch", str(job), "--json", cwd=tmp_path, env=ENV)
    wait_for_stored(process, 1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "run the job again" in stderr
    with kltui.open(tmp_path / "ws") as ws:
        (row,) = ws.jobs()
        assert row.status == "stopped" and row.done >= 1
        assert ws._store.writer() is None


def test_two_workers_give_the_bits_of_one(cli: Cli, job: Path, undisturbed: Undisturbed) -> None:
    assert cli("--batch", str(job), "--set", "engine.workers=2").returncode == 0
    assert vectors(job.parent / "ws") == vectors(undisturbed.workspace)


def test_a_tokenizer_that_changes_midway_is_said_where_it_does(cli: Cli, job: Path, tmp_path: Path) -> None:
    folders = write_run(tmp_path / "gamma", seed=3)
    for folder in folders[2:]:
        build_tokenizer(vocab=300).save_pretrained(folder)
    saved = json.loads((folders[1] / "tokenizer.json").read_text())
    saved["truncation"] = {"max_length": 9, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (folders[1] / "tokenizer.json").write_text(json.dumps(saved))  # an earlier use of it, which changes no id
    job.write_text(
        f'workspace = "ws"\n[corpus]\nsource = "texts.json"\n[[models]]\npath = "{tmp_path}/gamma"\n'
    )
    done = cli("--batch", str(job), "--json")
    assert done.returncode == 0, done.stderr
    said = {e["name"]: e["notes"] for e in events(done.stdout) if e.get("status") == "done" and "name" in e}
    words = "its tokenizer is not that of gamma@1: part of the KL between them comes from that"
    assert {name: words in notes for name, notes in said.items()} == {
        f"gamma@{step}": step == 2 for step in (0, 1, 2, 4)
    }
    assert f"gamma@2: {words}" in done.stderr
    with kltui.open(job.parent / "ws") as ws:
        assert ws.changed_tokenizers() == {"gamma@2": "gamma@1"}
