"""A workspace and a release for the figures' tests, each made once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kltui.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))  # published_release
sys.path.insert(0, str(Path(__file__).parents[1] / "view"))  # small_workspace

from published_release import TYPES, write_repository
from short_tsne import one_thread, short_tsne  # noqa: F401 - fixtures of every test here
from small_workspace import Builder
from small_workspace import suite as made_suite


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of runs, seeds, a fine-tune, variants and layers."""
    path = tmp_path_factory.mktemp("figures") / "work"
    made_suite(path).close()
    return path


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Models of six types with benchmark scores, tags and sizes."""
    made = Builder(tmp_path_factory.mktemp("scored") / "work")
    direction = made.rng.standard_normal(made.n_texts)
    scores = {}
    for i in range(24):
        skill, kind = float(made.rng.standard_normal()), TYPES[i % 6]
        checkpoint = made.checkpoint(
            f"m{i}", type=kind, size=("1b", "7b")[i % 2], tags=(("chat",) if i % 3 else ())
        )
        noise = 5.0 * made.rng.standard_normal(made.n_texts)
        made.add(checkpoint, made.base_N + 30 * skill * direction + noise)
        scores[f"m{i}"] = {"task": 50 + 12 * skill, "other": 40 + 9 * skill}
    with made.store.atomic():
        made.store.benchmark_scores.put(scores)
    with made.open() as ws:
        yield ws


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the papers' repository."""
    return write_repository(tmp_path_factory.mktemp("repo"), n_texts=100, n_steps=24, n_models=42, n_tasks=1)
