"""A suite small enough to train in seconds, on the real standard library."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from kltui.demo.prepared import Prepared, prepare
from kltui.demo.suite import PlannedRun, Size, Suite, checkpoint_steps
from kltui.demo.texts import CorpusText, corpus_items

MICRO = Size("micro", hidden=32, layers=1, heads=1, learning_rate=2e-2)


@pytest.fixture(scope="session")
def suite() -> Suite:
    """One run of 24 steps with checkpoints at 0, 1, 2, 4, 8, 16, 24, and a fine-tune of its end."""
    parent = PlannedRun("micro-seed1", MICRO, 1, checkpoint_steps(24, 8))
    child = PlannedRun("micro-seed1-finetuned", MICRO, 1, (4,), parent="micro-seed1")
    return Suite((parent, child), training_bytes=400_000, vocabulary=512, length=64, warmup=4)


@pytest.fixture(scope="session")
def corpus() -> list[CorpusText]:
    """The demo's corpus, for which a sixth of the standard library is parsed."""
    return corpus_items()


@pytest.fixture(scope="session")
def texts_folder(tmp_path_factory: pytest.TempPathFactory, suite: Suite, corpus: list[CorpusText]) -> Path:
    """A workspace whose texts are prepared and whose runs are not trained."""
    workspace = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kltui.demo.prepared.corpus_items", lambda root: corpus)
        prepare(workspace, suite)
    return workspace


@pytest.fixture
def prepared(tmp_path: Path, texts_folder: Path, suite: Suite) -> Prepared:
    """The prepared texts in this test's own workspace, `tmp_path`."""
    shutil.copytree(texts_folder / "pretraining", tmp_path / "pretraining")
    return prepare(tmp_path, suite)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    if "torch" in sys.modules:  # not imported for the tests that do without
        sys.modules["torch"].set_num_threads(1)
