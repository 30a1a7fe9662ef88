"""Workspaces whose vectors or names are unusual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from fake_workspace import FakeWorkspace, checkpoints

from kltui.analysis.map import Map
from kltui.registry.checkpoint import Checkpoint


class OddWorkspace(FakeWorkspace):
    """`K` checkpoints of the usual runs over N texts; `odd` changes their values in place."""

    def __init__(
        self, K: int, N: int, odd: Callable[[np.ndarray], None], names: list[Checkpoint] | None = None
    ) -> None:
        super().__init__(n_texts=N, names=(names or checkpoints())[-K:])
        self.odd = odd

    def map(self, *given: Any, **chosen: Any) -> Map:
        """The usual map with odd values."""
        made = super().map(*given, **chosen)
        values = made.loglik_KN.copy()
        self.odd(values)
        return replace(made, loglik_KN=values)


def same(values: np.ndarray) -> None:
    values[:] = values[0]


def in_pairs(values: np.ndarray) -> None:
    values[1::2] = values[: len(values) // 2 * 2 : 2]


def with_gaps(values: np.ndarray) -> None:
    values[np.random.default_rng(0).random(values.shape) < 0.4] = np.nan


def as_is(values: np.ndarray) -> None:
    """Few models or texts are odd enough."""


def long_names() -> list[Checkpoint]:
    """The usual checkpoints with names of more than a hundred letters."""
    return [replace(c, run=f"{'x' * 100}-{c.run}") for c in checkpoints() if not c.parent]
