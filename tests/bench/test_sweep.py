"""The sweep over a run's checkpoints: both sides score the same files, and the figures add up."""

import json

import numpy as np
import pytest
import torch

from kltui.bench import shapes, sweep
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings

TINY = shapes.ModelShape("tiny", 32, 2, 4, 8)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shapes, "VOCABULARY", 1000)
    monkeypatch.setitem(sweep.TEXTS, "cpu", 6)


def test_a_job_beside_scoring_alone():
    found = sweep.bench_sweep(TINY, torch.device("cpu"), checkpoints=3)
    assert (found.checkpoints, found.texts, found.dtype) == (2, 6, "float32")
    assert found.tokens == sum(len(row) - 1 for row in shapes.random_texts(6))
    # A worker goes on before its last result is stored, from which the job's seconds count: they may be fewer than its own.
    assert min(found.seconds, found.alone_seconds, found.scoring_seconds, found.load_seconds) > 0
    assert found.over_own_scoring == pytest.approx(found.seconds / found.scoring_seconds)
    assert found.over_scoring == pytest.approx(found.seconds / found.alone_seconds)


def test_words_are_the_ids_and_checkpoints_differ(tmp_path):
    texts = sweep.write_texts(tmp_path / "texts.json", 3)
    assert json.loads((tmp_path / "texts.json").read_text()) == texts
    first, second = sweep.write_run(tmp_path / "run", TINY, 2)
    scorer = Scorer(texts, "c", ScoringSettings())
    results = [scorer.score(folder, "none", "w", lambda _: None) for folder in (first, second)]
    assert scorer._prepared is not None
    for ids, row in zip(scorer._prepared[1].ids, shapes.random_texts(3), strict=True):
        assert np.array_equal(ids, row)
    assert scorer._engine is not None, "the run's checkpoints share one model"
    a, b = (result.vectors[0].loglik_N for result in results)
    assert np.isfinite(a).all() and not np.array_equal(a, b)


def test_a_failed_checkpoint_ends_the_benchmark(tmp_path, monkeypatch):
    from kltui.errors import KltuiError

    sweep.write_texts(tmp_path / "texts.json", 2)
    first, _ = sweep.write_run(tmp_path / "run", TINY, 2)
    (first / "tokenizer.json").unlink()
    with pytest.raises(KltuiError, match="the sweep's job failed"):
        sweep._job(sweep._plan(tmp_path, "float32", torch.device("cpu")))
