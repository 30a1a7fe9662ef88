"""A job over a served model: scored, kept, resumed after kill -9, on one map with local ones, and named for what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Cli, start
from served_server import ServedModel

import kltui
from kltui.cli import main

JOB = """\
workspace = "ws"
[corpus]
source = "texts.json"
[[models]]
endpoint = "{url}"
model = "org/model"
tokenizer = "{tokenizer}"
run = "served"
concurrency = 2
"""


@pytest.fixture
def server(suite: Path) -> Iterator[ServedModel]:
    with ServedModel(suite / "alpha" / "step0") as server:
        yield server


@pytest.fixture
def job(server: ServedModel, tmp_path: Path) -> Path:
    texts = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 7)}dogs" for i in range(30)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(url=server.url, tokenizer=server.folder))
    return path


def test_torch_is_never_imported_for_a_served_model() -> None:
    code = (
        "import sys, kltui.scoring.served; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def outcome(stdout: str) -> str:
    (event,) = [e for line in stdout.splitlines() if (e := json.loads(line))["event"] == "checkpoint"]
    return str(event["status"])


def test_a_served_model_is_scored_and_kept_and_stands_beside_local_ones(
    cli: Cli, server: ServedModel, job: Path
) -> None:
    first = cli("--batch", str(job), "--json")
    assert first.returncode == 0, first.stderr
    assert outcome(first.stdout) == "done"
    asked = len(server.prompts)
    server.stop()  # on another port it is the same model
    server._port = 0
    server.start()
    job.write_text(job.read_text().replace(job.read_text().split('"')[5], server.url))
    assert outcome(cli("--batch", str(job), "--json").stdout) == "kept"
    assert len(server.prompts) == asked
    local = f'[[models]]\npath = "{server.folder}"\nrun = "local"\n'
    job.write_text(job.read_text() + local)
    assert cli("--batch", str(job), "--json").returncode == 0
    with kltui.open(job.parent / "ws") as ws:
        m = ws.map()
        assert sorted(m.names) == ["local@0", "served"]
        np.testing.assert_allclose(m.loglik_KN[0], m.loglik_KN[1], atol=1e-4)
    report = cli("--report", str(job.parent / "ws"), "--section", "overview").stdout
    assert "served: weights not seen" in " ".join(report.split())


def test_kill_minus_nine_and_again(cli: Cli, server: ServedModel, job: Path) -> None:
    server.delay_s = 0.05
    process = start("--batch", str(job), "--json", cwd=job.parent, env=os.environ)
    while len(server.prompts) < 8:
        assert process.poll() is None
    process.kill()
    process.communicate()
    server.delay_s = 0.0
    again = cli("--batch", str(job), "--json")
    assert again.returncode == 0 and outcome(again.stdout) == "done"
    with kltui.open(job.parent / "ws") as ws:
        assert np.isfinite(ws.map().loglik_KN).all()


def test_a_server_without_such_a_model_is_a_failure_in_words(
    cli: Cli, server: ServedModel, job: Path
) -> None:
    job.write_text(job.read_text().replace('model = "org/model"', 'model = "org/other"'))
    done = cli("--batch", str(job), "--json")
    assert done.returncode == 1
    (event,) = [e for line in done.stdout.splitlines() if (e := json.loads(line))["event"] == "checkpoint"]
    assert "does not serve the model org/other" in event["error"] and "org/model" in event["hint"]


def test_a_dry_run_says_whether_the_server_answers_and_how(
    server: ServedModel, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its model, version and dialect, once it answers; never more than a moment is waited, and nothing is scored."""

    def planned(*more: str) -> tuple[dict[str, Any], list[str]]:
        assert main(["--batch", str(job), "--dry-run", "--json", *more]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return events[0], events[-1]["warnings"]

    step, warnings = planned()
    assert step["answers"] is True and "org/model (version 0.9), by prompt_logprobs" in step["server"]
    assert len(server.prompts) == 3 and not warnings
    server.dialect = "echo1"
    assert "by echo, 1 generated" in planned()[0]["server"]
    server.dialect = "none"
    step, warnings = planned()
    assert "does not return log-probabilities" in step["problem"] and "will fail" in warnings[0]
    server.stop()
    step, warnings = planned()
    assert step["answers"] is False and "does not respond" in warnings[0] and not step["problem"]
    assert not (job.parent / "ws").exists()
