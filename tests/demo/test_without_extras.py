"""The demo without its optional libraries: it goes on, and says what to install for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import pytest

from kltui.demo import adapters, pretrain
from kltui.demo import run as demo
from kltui.demo.suite import PlannedRun, Suite
from kltui.jobs.progress_report import Reporter


class PoolWithoutExtras:
    """Trains nothing and answers as processes do in which neither bitsandbytes, gguf nor peft can be imported."""

    def __init__(self, folder: Path, suite: Suite, n_workers: int) -> None:
        self.folder, self.suite = folder, suite

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""

    def train(self, runs: list[PlannedRun]) -> list[None]:
        return []

    def scores_eight_bit(self, run: PlannedRun) -> bool:
        return False

    def writes_gguf(self) -> bool:
        return pretrain.writes_gguf(self.folder, None, self.suite)  # type: ignore[arg-type]

    def writes_adapters(self) -> bool:
        return adapters.writes_adapters(self.folder, None, self.suite)  # type: ignore[arg-type]


def test_what_is_missing_is_said_with_how_to_install_it(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    monkeypatch.setattr(pretrain, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "WorkerPool", PoolWithoutExtras)
    monkeypatch.setattr(demo, "_prepared", lambda *given: None)
    monkeypatch.setattr(demo, "_report_losses", lambda *given: None)
    (job, *_) = demo._pretrained(tmp_path, suite, Reporter(as_json=False), 1)
    said = capsys.readouterr().err
    assert "no GGUF variant" in said and "pip install '.[gguf]'" in said
    assert "no LoRA run" in said and "pip install '.[adapters]'" in said
    text = job.read_text(encoding="utf-8")
    assert "lora" not in text and "gguf" not in text
