"""A job in a workspace of imported vectors takes the map's texts and settings; what it says itself wins, and is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kltui.cli import main
from kltui.corpus.corpus import Corpus
from kltui.errors import UsageError
from kltui.jobs.jobfile import load_job
from kltui.jobs.plan import make_plan
from kltui.registry.checkpoint import Checkpoint, LocalSource
from kltui.store import Store

TEXTS = [f"text number {i} " * (i % 3 + 1) for i in range(12)]
MODEL = '[[models]]\npath = "{suite}/alpha/step4"\n'


@pytest.fixture
def folder(tmp_path: Path, suite: Path) -> Path:
    """A workspace `map` of two imported vectors with bos=never, in float16."""
    np.savez(
        tmp_path / "v.npz",
        loglik=np.random.default_rng(1).normal(-60, 9, (2, 12)),
        names=np.array(["a", "b"]),
    )
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    declared = ["--declare", "bos=never", "--declare", "dtype=float16", "--declare", "overlong=window"]
    files = ["--import", str(tmp_path / "v.npz"), "--import", str(tmp_path / "texts.json")]
    assert main([*files, *declared, str(tmp_path / "map")]) == 0
    return tmp_path


def job(folder: Path, suite: Path, text: str = "", workspace: str = "map") -> Path:
    path = folder / "job.toml"
    path.write_text(f'workspace = "{workspace}"\n{text}\n{MODEL.format(suite=suite)}')
    return path


def test_texts_and_settings_are_the_map_s(folder: Path, suite: Path) -> None:
    found = load_job(job(folder, suite))
    plan = make_plan(found)
    assert list(plan.corpus.texts) == TEXTS and found.corpus.source.startswith("map:")
    assert (found.scoring.bos, found.scoring.dtype, found.scoring.overlong) == ("never", "float16", "window")
    assert (
        plan.notes[-1]
        == "taken from the map of 2 imported vectors: bos=never, dtype=float16, overlong=window, texts"
    )


def test_what_the_job_says_wins_and_is_told(folder: Path, suite: Path) -> None:
    path = job(folder, suite, '[scoring]\ndtype = "float32"\n')
    notes = make_plan(load_job(path)).notes
    assert "the job has dtype=float32, the map has dtype=float16" in notes
    assert not any("share no map" in note for note in notes)
    plan = make_plan(load_job(path, ["scoring.bos=always"]))
    assert plan.settings.bos == "always"
    (refusal,) = [note for note in plan.notes if "share no map with the 2 imported vectors" in note]
    assert "bos is never or always" in refusal and "--set scoring.bos=never" in refusal


def test_some_of_the_map_s_texts_are_drawn_as_from_a_file(folder: Path, suite: Path) -> None:
    own = make_plan(load_job(job(folder, suite, "[corpus]\nsample = 5\nseed = 3\n"))).corpus
    named = make_plan(
        load_job(job(folder, suite, '[corpus]\nsource = "texts.json"\nsample = 5\nseed = 3\n'))
    ).corpus
    assert own.texts == named.texts and len(own) == 5


def test_own_vectors_lend_their_texts_and_no_settings(tmp_path: Path, suite: Path) -> None:
    store = Store.write(tmp_path / "own")
    with store.atomic():
        corpus = store.corpora.add(Corpus(tuple(TEXTS)), "texts.json")
        row = store.checkpoints.upsert(Checkpoint("m", LocalSource(Path("/m"))))
        store.checkpoints.set_weights(row, "w")
        settings = "bos=always dtype=float32 overlong=error"
        store.vectors.put(
            row, corpus, None, {"weights": "w"}, settings, np.zeros(12) - 9.0, np.ones(12, np.int32), None
        )
    store.close()
    found = load_job(job(tmp_path, suite, workspace="own"))
    assert found.scoring.bos == "auto" and list(make_plan(found).corpus.texts) == TEXTS


def test_without_a_map_the_texts_are_asked_for(tmp_path: Path, suite: Path) -> None:
    with pytest.raises(UsageError, match="corpus: missing"):
        load_job(job(tmp_path, suite, workspace="nowhere"))
    with pytest.raises(UsageError, match="the workspace has no vectors"):
        load_job(job(tmp_path, suite, '[corpus]\nsource = "map"\n', workspace="nowhere"))


def test_texts_that_the_workspace_has_not_are_said(folder: Path, suite: Path) -> None:
    with pytest.raises(UsageError, match="map:0000 matches 0 corpora"):
        make_plan(load_job(job(folder, suite, '[corpus]\nsource = "map:0000"\n')))
