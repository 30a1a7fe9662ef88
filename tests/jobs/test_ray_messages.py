"""Messages of Ray's actors over a slow line, or past a head that is away: none is lost, and nobody is taken for dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kltui.jobs.executors import ray as ray_executor
from kltui.jobs.executors.ray import RayExecutor
from kltui.jobs.job_tables import EngineTable
from kltui.jobs.messages import Died, Setup, Task, TaskScored
from kltui.registry.reading import Hashed
from kltui.scoring.settings import ScoreResult, ScoringSettings, Vector


class RayError(Exception):
    """As Ray's."""


class GetTimeoutError(RayError, TimeoutError):
    """As Ray's: a kind of its errors."""


class Answer:
    """A reference: `get` raises each of `errors` first, then gives the value."""

    def __init__(self, value: object, *errors: Exception) -> None:
        self.value, self.errors = value, list(errors)


class Ray:
    """The part of the ray module that the executor uses, with one kind of actor: it gives `messages`."""

    exceptions = SimpleNamespace(
        RayError=RayError, GetTimeoutError=GetTimeoutError, OutOfMemoryError=MemoryError
    )

    def __init__(self, start: Answer, messages: list[Answer]) -> None:
        self.start, self.messages, self.started = start, messages, 0

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address="127.0.0.1:1")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def put(self, value: object) -> object:
        return value

    def remote(self, seat: type) -> SimpleNamespace:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, setup: object) -> SimpleNamespace:
        self.started += 1
        score = SimpleNamespace(remote=lambda task: iter(self.messages))
        return SimpleNamespace(
            host=SimpleNamespace(remote=lambda: self.start),
            score=SimpleNamespace(options=lambda **_: score),
        )

    def wait(self, awaited: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return awaited, []

    def get(self, answer: Answer, timeout: float | None = None) -> object:
        assert timeout is not None, "it would wait for ever"
        if answer.errors:
            raise answer.errors.pop(0)
        return answer.value

    def kill(self, actor: object, no_restart: bool) -> None: ...
    def shutdown(self) -> None: ...


class Head:
    """A head that is silent each time that `silent` says so, first to last, and then answers."""

    def __init__(self, address: str) -> None:
        self.silent: list[bool] = []

    def is_silent(self, *, at_once: bool = False) -> bool:
        return self.silent.pop(0) if self.silent and at_once else False


VALUES = np.array([-1.0, -2.0])
DONE = TaskScored(0, ScoreResult((Vector(None, VALUES, np.array([1, 2], np.int32)),), {}, {}))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Makes executors with one actor of a Ray that answers so."""
    monkeypatch.setattr(ray_executor, "check_ray", lambda: None)
    monkeypatch.setattr(ray_executor, "_Head", Head)
    made: list[RayExecutor] = []

    def make(ray: Ray) -> RayExecutor:
        monkeypatch.setattr(ray_executor, "_connect", lambda *_: ray)
        setup = Setup(("a", "b"), "sha", ScoringSettings(), tmp_path, 1)
        made.append(RayExecutor(setup, 1, EngineTable(kind="ray")))
        return made[-1]

    yield make
    for executor in made:
        executor.stop()


def until_idle(executor: RayExecutor) -> list[object]:
    """All messages until the executor has nothing to do."""
    heard: list[object] = []
    for _ in range(20):
        heard += executor.wait(0.0)
        if executor.idle:
            return heard
    raise AssertionError(f"still at work after {heard}")


def test_an_answer_that_is_slow_to_arrive_is_waited_for(started: Any, tmp_path: Path) -> None:
    late = GetTimeoutError("not here yet")
    ray = Ray(Answer("there", late), [Answer(DONE, late, late, late)])
    executor = started(ray)
    assert until_idle(executor) == []
    executor.submit(Task(0, Hashed(tmp_path, ""), "none"))
    assert until_idle(executor) == [DONE]
    assert ray.started == 1


def test_what_is_on_its_way_while_the_head_is_away_is_not_scored_again(started: Any, tmp_path: Path) -> None:
    ray = Ray(Answer("there"), [Answer(DONE, RayError("the head is away"))])
    executor = started(ray)
    until_idle(executor)
    executor._head.silent = [True]
    executor.submit(Task(0, Hashed(tmp_path, ""), "none"))
    assert until_idle(executor) == [DONE]
    assert ray.started == 1


def test_an_actor_whose_answer_is_lost_has_died(started: Any, tmp_path: Path) -> None:
    ray = Ray(Answer("there"), [Answer(DONE, RayError("the actor died"))])
    executor = started(ray)
    until_idle(executor)
    executor.submit(Task(0, Hashed(tmp_path, ""), "none"))
    assert until_idle(executor) == [Died(0, 1, "its Ray worker on there died")]
    assert ray.started == 2
