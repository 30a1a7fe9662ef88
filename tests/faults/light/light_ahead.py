"""Stands where kltui.scoring.ahead stands: nothing is imported or put into ids, and a worker makes its own scorer."""

from __future__ import annotations


def import_libraries() -> None: ...


def tokenize(*arguments: object) -> None: ...


def ready_scorer(*arguments: object) -> None: ...
