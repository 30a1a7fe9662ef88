"""The Trainer's callback: figures of every saved checkpoint come through the Trainer's own logger."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import run_code
from documents import blocks, commands, words_of
from tiny_models import build_model, build_tokenizer

import kltui
from kltui.cli import main
from kltui.errors import UsageError
from kltui.jobs.jobfile import load_job

PAGE = "tutorial.md"
LESS = {
    "max_steps=200": "max_steps=4",
    "save_steps=20": "save_steps=2",
    'sysconfig.get_paths()["stdlib"]': '"lib"',
    "vocab_size=2048": "vocab_size=300",
}
TEXTS = [f"text {i}: the quick brown fox jumps over {'lazy ' * (i % 7)}dogs" for i in range(30)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(TEXTS))
    return path


def trainer_of(folder: Path, steps: int = 4) -> Any:
    """A Trainer of a tiny model on CPU that saves every other step, its tokenizer with it."""
    import torch
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(folder), max_steps=steps, save_steps=2, logging_steps=1, per_device_train_batch_size=2, use_cpu=True,
        report_to=[], disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    rows = [{"input_ids": torch.arange(5, 13), "labels": torch.arange(5, 13)} for _ in range(8)]
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return Trainer(build_model("gpt_neox"), arguments, train_dataset=rows, processing_class=tokenizer)


@pytest.mark.slow
def test_each_saved_checkpoint_is_logged_with_its_errors(tmp_path: Path, texts: Path) -> None:
    from kltui.integrations import ScoreCheckpoints

    trainer = trainer_of(tmp_path / "run")
    trainer.add_callback(ScoreCheckpoints(trainer, texts, sample=20))
    trainer.train()
    found = [row for row in trainer.state.log_history if "kltui/step" in row]
    assert [row["kltui/step"] for row in found] == [2, 4]
    assert "kltui/kl_consecutive" not in found[0] and found[1]["kltui/kl_consecutive"] > 0
    with kltui.open(tmp_path / "run" / "kltui") as ws:
        m = ws.map()
        assert m.names == ["run@2", "run@4"]
        assert found[1]["kltui/kl_consecutive"] == pytest.approx(m.pair("run@2", "run@4").value)
        loss = -np.nansum(m.loglik_KN, axis=1) / m.text_bytes_N.sum() / np.log(2)
        assert [row["kltui/bits_per_byte"] for row in found] == pytest.approx(loss.tolist())
    assert all(row["kltui/bits_per_byte_se"] > 0 for row in found)


def test_a_mistake_is_told_before_training_begins(tmp_path: Path, texts: Path) -> None:
    from kltui.integrations import ScoreCheckpoints

    with pytest.raises(UsageError, match=r"scoring\.dtype"):
        ScoreCheckpoints(trainer_of(tmp_path / "run"), texts, scoring={"dtype": "float8"})


WITHOUT_TRANSFORMERS = (
    "import sys, types; sys.modules['transformers'] = types.ModuleType('transformers');"
    "found = sys.modules['transformers.trainer_callback'] = types.ModuleType('transformers.trainer_callback');"
    "found.TrainerCallback = object;"
)
STARTS_NOTHING = (
    "import multiprocessing, subprocess, sys, threading; subprocess.Popen = None;"
    "assert 'kltui.integrations' not in sys.modules; import kltui.integrations;"
    "assert threading.active_count() == 1 and not multiprocessing.active_children()"
)


def test_importing_it_starts_nothing(tmp_path: Path) -> None:
    """Nor does what it imports: all of kltui in a new interpreter, what is new of transformers in a fork that has torch."""
    program = [sys.executable, "-P", "-c", WITHOUT_TRANSFORMERS + STARTS_NOTHING]
    alone = subprocess.run(program, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    done = run_code(STARTS_NOTHING, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_tutorial_is_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a reader follows it, with fewer texts and steps: train, score, report, export, and the notebook's lines."""
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    Path("lib").mkdir()
    for name in ("abc", "bisect", "cmd", "code", "copy", "heapq", "keyword", "queue", "sched", "shelve"):
        shutil.copy(Path(sysconfig.get_paths()["stdlib"], f"{name}.py"), "lib")
    train, notebook = (text for page, text in blocks("python") if page == PAGE)
    for shown, less in LESS.items():
        assert shown in train
        train = train.replace(shown, less)
    for seed in "12":
        monkeypatch.setattr(sys, "argv", ["train.py", seed])
        exec(compile(train, "train.py", "exec"), {})
    (job,) = (text for page, text in blocks("toml") if page == PAGE)
    Path("job.toml").write_text(job.replace("sample = 200", "sample = 20"))
    for page, command in commands():
        words = words_of(command)
        if page == PAGE and words[:1] in (["--batch"], ["--report"], ["--export"]):
            assert main(words) == 0, capsys.readouterr().err
    exec(compile(notebook.replace("@200", "@4"), "notebook", "exec"), {})
    assert "KL(" in capsys.readouterr().out


def callback_of(folder: Path, *arguments: Any, **more: Any) -> Any:
    """The callback of a Trainer that saves in `folder`; its first watch has ended."""
    from kltui.integrations import ScoreCheckpoints

    made = ScoreCheckpoints(SimpleNamespace(args=SimpleNamespace(output_dir=str(folder))), *arguments, **more)
    made._process, made._join = SimpleNamespace(poll=lambda: 0), lambda process: None
    return made


@pytest.mark.parametrize(
    ("code", "failed"),
    [(0, False), (128 + signal.SIGUSR1, False), (-signal.SIGUSR1, False), (3, True), (-9, True)],
)
def test_a_watch_that_failed_is_logged_with_the_place_of_its_messages(
    tmp_path: Path, texts: Path, caplog: pytest.LogCaptureFixture, code: int, failed: bool
) -> None:
    """A signal that kltui itself sends ends a watch as intended, also before it has installed its handler."""
    from kltui.integrations import ScoreCheckpoints

    made = ScoreCheckpoints(SimpleNamespace(args=SimpleNamespace(output_dir=str(tmp_path / "run"))), texts)
    made._reader = SimpleNamespace(join=lambda: None)
    made._join(SimpleNamespace(wait=lambda: code))
    assert (str(tmp_path / "run" / "kltui" / "watch.log") in caplog.text) == failed


def test_relative_paths_start_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at the folder that the watch's job file is written to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokens").mkdir()
    for corpus in ("texts.json", {"source": "texts.json"}):
        made = callback_of(Path("run"), corpus, tokenizer="tokens", watch={"command": ["./alert.sh"]})
        job = load_job(made._job_file())
        assert job.corpus.source == str(tmp_path / "texts.json")
        assert job.models[0].path == str(tmp_path / "run")
        assert job.models[0].tokenizer == str(tmp_path / "tokens")
        assert job.watch.command == (str(tmp_path / "alert.sh"),)


@pytest.mark.parametrize(
    ("saved", "there", "logged", "awaited"),
    [
        ({2, 4}, {2, 4}, {2}, ["4"]),
        ({2, 4}, {2, 4}, {2, 4}, []),
        ({2, 4}, {2}, {2}, []),  # the last one was deleted, or saved in another folder
        ({2, 4}, {2}, set(), ["2"]),
    ],
)
def test_training_waits_at_its_end_for_what_can_still_be_scored(
    tmp_path: Path, texts: Path, saved: set[int], there: set[int], logged: set[int], awaited: list[str]
) -> None:
    made = callback_of(tmp_path / "run", texts)
    started: list[str] = []
    made._started = lambda *arguments: started.append(arguments[-1])
    made._trainer.log = lambda found: None
    made._saved = saved
    for step in there:
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    for step in logged:  # events that have come and are not logged yet
        made._events.put({"event": "figures", "name": f"run@{step}", "bits_per_byte": 1.0, "step": step})
    made.on_train_end(None, None, None)
    assert started == awaited
